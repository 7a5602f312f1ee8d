"""Searches that race: what repeats, whoever computes it and whenever it is killed."""

import dataclasses

import pytest

from stepsmith.discovery import resume, search
from stepsmith.discovery.coordinator import Coordinator
from stepsmith.discovery.ledger import Ledger
from stepsmith.discovery.search import RacingConfig

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def config(small_config):
    """Limits after 80 of 140 programs."""
    return dataclasses.replace(small_config, budget="140", racing=RacingConfig(True, calibration=80, keep=0.3, confidence=1.0))


@pytest.fixture(scope="module")
def raced(config, tmp_path_factory):
    return search(config, tmp_path_factory.mktemp("raced") / "run", workers=1)


def limits_of(run):
    with Ledger.open(run.folder / "ledger.sqlite") as ledger:
        return ledger.state()["racing"]


def test_stopped_programs_are_no_result(raced):
    status = raced.status()
    assert status["statuses"].get("stopped", 0) > 0
    with Ledger.open(raced.folder / "ledger.sqlite") as ledger:
        rows = [row for program in ledger.outcomes() for row in ledger.evaluations(program)]
        first = ledger.state()["racing"]["from_birth"]
        births = {birth.hash: birth.index for birth in reversed(ledger.births())}
        events = [event.message for event in ledger.events() if event.kind == "racing"]
    assert events == [f"5 limits of training losses hold from birth {first} on"]
    stopped = [row for row in rows if row.status == "stopped"]
    assert all(row.loss is None and row.steps < 200 and births[row.hash] >= first for row in stopped)
    assert not {row.hash for row in stopped} & {finalist.hash for finalist in raced.hall_of_fame()}


def test_the_number_of_workers_changes_nothing(config, raced, tmp_path):
    again = search(config, tmp_path / "two", workers=2)
    assert again.digest() == raced.digest()
    assert limits_of(again) == limits_of(raced)


@pytest.mark.parametrize("births", [40, 110], ids=["while it calibrates", "once limits hold"])
def test_a_search_that_dies_and_is_resumed_ends_the_same(config, raced, tmp_path, monkeypatch, births):
    told = []

    def dies(self, *arguments):
        tell(self, *arguments)
        self._commit()
        told.append(1)
        if len(told) == births:
            raise KeyboardInterrupt

    tell = Coordinator._tell
    with monkeypatch.context() as patched:
        patched.setattr(Coordinator, "_tell", dies)
        with pytest.raises(KeyboardInterrupt):
            search(config, tmp_path / "run", workers=1)
    run = resume(tmp_path / "run", workers=2)
    assert run.digest() == raced.digest()
    assert limits_of(run) == limits_of(raced)


def test_a_race_without_an_end_of_its_calibration_changes_nothing(small_config, finished_run, tmp_path):
    config = dataclasses.replace(small_config, racing=RacingConfig(True, calibration=1000))
    assert search(config, tmp_path / "run", workers=2).digest() == finished_run.digest()
