"""Comparisons of a rule that kills its workers, and of one whose file is edited meanwhile."""

import numpy as np
import pytest

from stepsmith.discovery.benchmark import space
from stepsmith.discovery.benchmark.evaluate import evaluate
from stepsmith.discovery.benchmark.record import EvaluateConfig, read
from stepsmith.discovery.benchmark.trial import entry
from stepsmith.discovery.benchmark.worker import TrialJob, competitor
from stepsmith.discovery.config import ConfigError
from stepsmith.discovery.ledger import Ledger
from stepsmith.discovery.training.rules import RuleError

pytestmark = pytest.mark.heavy

SMALL = "table_values"
DEADLY = """
import os
import jax
import optax


def die_above(rate):
    if rate > BOUND:
        os._exit(1)


def mine(learning_rate=1e-3):
    def update(updates, state, params=None):
        jax.debug.callback(die_above, learning_rate(0))
        return updates, state

    return optax.chain(optax.GradientTransformation(lambda params: optax.EmptyState(), update), optax.adam(learning_rate))
"""


def test_a_trial_that_kills_its_workers_takes_no_other_with_it(tmp_path):
    rates = 1e-3 * 10 ** (1.5 * (2 * space.points(3)[:, 0] - 1))
    bound, killer = np.sort(rates)[-2:].mean(), int(np.argmax(rates))
    rule = tmp_path / "deadly.py"
    rule.write_text(DEADLY.replace("BOUND", repr(float(bound))))
    done = evaluate(EvaluateConfig((str(rule),), (SMALL,), trials=3), tmp_path / "run", workers=1)
    assert [(row.trial, row.status, row.steps) for row in done.rows] == [
        (trial, "crashed", 0) if trial == killer else (trial, "ok", 120) for trial in range(3)
    ]
    with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
        assert ledger.run().status == "finished"
        assert [event.message.split("linear ")[1] for event in ledger.events()] == [
            f"{SMALL} (0, 1, 2) cost its workers",
            f"{SMALL} ({killer},) cost its workers",
        ]


RULE = "import optax\n\n\ndef mine(learning_rate=0.01):\n    return optax.adam(learning_rate)\n"


@pytest.mark.parametrize("edit", [RULE.replace("adam", "sgd"), "def mine("], ids=["another rule", "broken"])
def test_an_edited_rule_ends_the_comparison_and_what_was_done_is_kept(tmp_path, edit):
    rule, path = tmp_path / "mine.py", tmp_path / "run"
    rule.write_text(RULE)
    config = EvaluateConfig((str(rule),), (SMALL,), trials=10)

    def on_progress(done, total, seconds):
        if done == 5:
            rule.write_text(edit)

    with pytest.raises(
        ConfigError, match=r"mine.py@linear was edited while it was compared; the trials until then are kept in .*/run: undo"
    ):
        evaluate(config, path, 1, on_progress)
    assert len(read(path).rows) == 5
    if "sgd" in edit:
        with pytest.raises(ConfigError, match="holds another comparison: rules"):
            evaluate(config, path, 1)
        rule.write_text(RULE)
        again = evaluate(config, path, 1)
        assert again.missing == 0 and len({row.rule for row in again.rows}) == 1


def test_a_worker_trains_no_other_rule_than_was_asked_for(tmp_path):
    (tmp_path / "mine.py").write_text(RULE)
    found = entry(str(tmp_path / "mine.py"))
    job = TrialJob(0, found.label, SMALL, (0,), ({"learning_rate": 0.01},), (0,), found.source.digest)
    assert competitor(job.entry, job.rule).source.digest == found.source.digest
    (tmp_path / "mine.py").write_text(RULE.replace("adam", "sgd"))
    with pytest.raises(RuleError, match="mine.py@linear is another file than when the comparison began"):
        competitor(job.entry, job.rule)
