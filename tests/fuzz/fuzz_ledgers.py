"""Ledgers: random bytes, and a real one after damage."""

import contextlib
import json
import math
import shutil
import sqlite3
import tempfile
from pathlib import Path

from fuzz_outcome import VALID, Kind, refusal
from hypothesis import strategies as st

from stepsmith.discovery import Run, SearchConfig, search
from stepsmith.discovery.config import ConfigError
from stepsmith.discovery.language import ProgramError
from stepsmith.discovery.ledger import Ledger, LedgerError
from stepsmith.discovery.ledger.models import metadata
from stepsmith.discovery.search import EvolutionConfig

CONFIG = SearchConfig(
    tasks=("digits_mlp",), seeds_per_task=1, budget="12", evolution=EvolutionConfig(6, 2), finalists=3, finalist_seeds=1, in_flight=2
)
COLUMNS = [(table.name, column.name) for table in metadata.sorted_tables for column in table.columns] + [("alembic_version", "version_num")]
GARBAGE = st.sampled_from(
    ["", "{", "[1, 2", "null", "3", "[]", "{}", '"x"', "NaN", "[" * 5_000, '{"finalists": 3}', '{"finalists": [[[], 1]]}']
)
GARBAGE |= st.sampled_from(
    ['{"counters": []}', '{"counters": 3}', '{"seed": "x"}', '{"finalists": [["a"]]}', '{"counters": {"told": "x"}}', "\x00", "9" * 5_000]
)
VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8) | GARBAGE
ROW_EDITS = st.lists(st.tuples(st.sampled_from(COLUMNS), VALUES, st.booleans()), min_size=1, max_size=3)
TABLE_EDITS = st.sampled_from(
    [f"{verb} {table}" for verb in ("DROP TABLE", "DELETE FROM") for table in sorted({name for name, _ in COLUMNS})]
)
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=20)
HEADER_FLIPS = st.lists(st.tuples(st.floats(0, 0.002), st.integers(1, 255)), min_size=1, max_size=4)


class DamagedLedger:
    """Checks what can be read of a real ledger after damage to it."""

    def __init__(self, folder):
        """Makes the ledger by a search of 12 programs."""
        run = search(CONFIG, folder / "whole", workers=1)
        self.whole = (run.folder / "ledger.sqlite").read_bytes()
        self.folder = folder / "damaged"
        self.path = self.folder / "ledger.sqlite"
        assert self._outcome() == "no ledger" and self._write(self.whole) is None and self._outcome() == VALID

    def kinds(self):
        return (
            Kind(
                "ledger, random bytes",
                st.binary(max_size=300) | st.binary(max_size=300).map(lambda b: self.whole[:100] + b),
                self.check_bytes,
            ),
            Kind("ledger, bytes flipped", FLIPS | HEADER_FLIPS, self.check_flips),
            Kind("ledger, truncated", st.floats(0, 1), self.check_truncated),
            Kind("ledger, rows edited", ROW_EDITS | TABLE_EDITS, self.check_edited),
        )

    def check_bytes(self, data):
        self._write(data)
        return self._outcome()

    def check_flips(self, flips):
        data = bytearray(self.whole)
        for at, mask in flips:
            data[int(at * len(data))] ^= mask
        self._write(bytes(data))
        return self._outcome()

    def check_truncated(self, share):
        self._write(self.whole[: int(share * len(self.whole))])
        return self._outcome()

    def check_edited(self, edits):
        self._write(self.whole)
        connection = sqlite3.connect(self.path)
        connection.execute("PRAGMA ignore_check_constraints = ON")
        with contextlib.suppress(sqlite3.IntegrityError):  # NULL where the table wants none
            if isinstance(edits, str):
                connection.execute(edits)
            else:
                for (table, column), value, all_rows in edits:
                    with contextlib.suppress(sqlite3.IntegrityError, UnicodeEncodeError):
                        which = "" if all_rows else f' WHERE "{column}" = (SELECT "{column}" FROM "{table}" LIMIT 1)'
                        connection.execute(f'UPDATE OR REPLACE "{table}" SET "{column}" = ?{which}', (value,))
        connection.commit()
        connection.close()
        return self._outcome()

    def _write(self, data):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.path.write_bytes(data)

    def _outcome(self):
        outcomes = set()
        for read in (self._ledger, self._config, self._status, self._hall_of_fame, self._digest):
            try:
                read()
            except (LedgerError, ConfigError, ProgramError) as error:
                outcomes.add(refusal(error))
                if "there is no ledger" in str(error):
                    return "no ledger"
        return outcomes.pop() if outcomes else VALID

    def _ledger(self):
        with Ledger.open(self.path) as ledger:
            json.dumps([ledger.state(), ledger.outcomes(), ledger.births(), ledger.events(), ledger.run()])
            ledger.lineage(3)
            ledger.evaluations(ledger.births()[0].hash if ledger.births() else "")

    def _config(self):
        assert isinstance(Run(self.folder).config(), SearchConfig)

    def _status(self):
        status = Run(self.folder).status()
        json.dumps(status)
        assert math.isfinite(status["elapsed"]) and isinstance(status["status"], str) and isinstance(status["programs"], int)
        assert status.get("cached", 0) / max(status.get("told", 0), 1) >= 0 and status["evaluated"] >= 0

    def _hall_of_fame(self):
        for finalist in Run(self.folder).hall_of_fame():
            assert f"{finalist.fitness:+.4f} {finalist.hash[:8]} {finalist.statements:d}"
            assert finalist.confirmed is None or f"{finalist.confirmed:+.4f}" != "+nan"
            assert finalist.program is not None

    def _digest(self):
        assert len(Run(self.folder).digest()) == 64


def damaged_ledger():
    """A `DamagedLedger` in a folder of its own."""
    return DamagedLedger(Path(tempfile.mkdtemp(prefix="fuzz-ledger-")))
