"""Every look at the final variants, by whom and at what: repeated looks are paid for with wider intervals.

The record is a file of JSON lines in the user's data folder, one for all runs of this machine's user, or where STEPSMITH_LOOKS says.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

LEVEL = 0.05  # error that all looks together are to have


def path() -> Path:
    """Where looks are written."""
    if named := os.environ.get("STEPSMITH_LOOKS"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "stepsmith" / "looks.jsonl"


def record(reason: str, entries: Sequence[str], workloads: Sequence[str], folder: Path) -> None:
    """Writes a look down, before anything is computed; going on with the same comparison is the same look.

    Args:
        reason: who asks, and what for.
        entries: what is compared.
        workloads: on which final variants.
        folder: of the comparison.
    """
    if number(entries, workloads, folder):
        return
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "reason": reason,
        "entries": list(entries),
        "workloads": list(workloads),
        "folder": str(folder.absolute()),
    }
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry) + "\n")


def number(entries: Sequence[str], workloads: Sequence[str], folder: Path) -> int:
    """The number of a look that has been recorded, 0 if it has not."""
    same = {"entries": list(entries), "workloads": list(workloads), "folder": str(folder.absolute())}
    return next((place for place, look in enumerate(looks(), 1) if same.items() <= look.items()), 0)


def looks() -> list[dict[str, object]]:
    """All looks so far, oldest first.

    Raises:
        ValueError: the record cannot be read; it is not passed over, for intervals depend on it.
    """
    file = path()
    if not file.exists():
        return []
    try:
        return [dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file}: the record of looks at the final variants cannot be read: {error}; mend the file") from None


def corrected(p_value: float, num_looks: int) -> float:
    """A p-value that has paid for the looks as the intervals do; NaN stays NaN.

    Args:
        p_value: of one look.
        num_looks: as in `level`.

    Example:
        >>> [round(corrected(0.01, num_looks), 6) for num_looks in (0, 1, 2, 10)]
        [0.01, 0.02, 0.06, 1.0]
    """
    return min(p_value * LEVEL / level(num_looks), 1.0)


def level(num_looks: int) -> float:
    """Error that the intervals of one look may have; those of all looks, however many, add up to at most `LEVEL`.

    Args:
        num_looks: number of the look, from 1; 0 for a comparison without final variants.

    Example:
        >>> level(0), level(1), round(level(2), 6)
        (0.05, 0.025, 0.008333)
    """
    return LEVEL / (num_looks * (num_looks + 1)) if num_looks else LEVEL
