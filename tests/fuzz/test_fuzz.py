"""Every input from outside: valid, or refused in one line by the documented error."""

import shutil

import fuzz_commands
import fuzz_configs
import fuzz_ledgers
import fuzz_programs
import pytest
from fuzz_outcome import REFUSED, VALID, fuzz

pytestmark = pytest.mark.heavy

KINDS = {kind.name: kind for kind in (*fuzz_programs.KINDS, *fuzz_configs.KINDS, *fuzz_commands.KINDS)}
LEDGER_KINDS = ("ledger, random bytes", "ledger, bytes flipped", "ledger, truncated", "ledger, rows edited")


@pytest.mark.parametrize("name", KINDS)
def test_input_is_valid_or_refused(name):
    outcomes = fuzz(KINDS[name], 40 if name == "command line" else 250).outcomes
    assert outcomes[VALID] and outcomes[REFUSED], "inputs of one outcome alone try little"


@pytest.fixture(scope="module")
def ledger():
    made = fuzz_ledgers.damaged_ledger()
    yield {kind.name: kind for kind in made.kinds()}
    shutil.rmtree(made.folder.parent)


@pytest.mark.parametrize("name", LEDGER_KINDS)
def test_damaged_ledger_is_valid_or_refused(ledger, name):
    assert fuzz(ledger[name], 25).outcomes[REFUSED]
