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


def record(reason: str, entries: Sequence[str], workloads: Sequence[str], folder: Path) -> int:
    """Writes a look down, before anything is computed; going on with the same comparison is the same look.

    Args:
        reason: who asks, and what for.
        entries: what is compared.
        workloads: on which final variants.
        folder: of the comparison.

    Returns:
        Looks up to this one, itself included.
    """
    file = path()
    earlier = looks()
    known = next((number for number, look in enumerate(earlier, 1) if look["folder"] == str(folder.absolute())), None)
    if known is not None:
        return known
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
    return len(earlier) + 1


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


def level(num_looks: int) -> float:
    """Error that one interval may have after so many looks (Bonferroni).

    Example:
        >>> level(1), level(5)
        (0.05, 0.01)
    """
    return LEVEL / max(num_looks, 1)
