"""Scores on different blocks of seeds: what makes them comparable is found from programs that nobody chose."""

import json

import numpy as np
import pytest

from stepsmith.discovery.evaluate import Blocks, Outcome, Status
from stepsmith.discovery.evaluate.blocks import CALIBRATORS

EFFECTS = np.array([0.3, -0.4, 1.1, 0.0])


def _calibrated(rng, noise=0.0):
    blocks = Blocks(len(EFFECTS), {})
    for number in range(CALIBRATORS):
        assert blocks.calibrating
        blocks.observe(str(number), tuple(rng.normal() * 5 + EFFECTS + noise * rng.normal(size=4)))
    return blocks


def test_every_block_is_brought_to_the_first():
    blocks = _calibrated(np.random.default_rng(0))
    assert not blocks.calibrating
    ok = Outcome(Status.OK, tuple(-2.0 + EFFECTS))
    np.testing.assert_allclose(blocks.corrected(ok).scores, -2.0 + EFFECTS[0], atol=1e-12)
    for block, effect in enumerate(EFFECTS):
        assert blocks.corrected(Outcome(Status.OK, (effect,)), block).scores == pytest.approx((EFFECTS[0],))
    assert blocks.corrected(Outcome(Status.DIVERGED)) == Outcome(Status.DIVERGED)


def test_noise_of_the_calibrators_averages_out_and_one_of_them_out_of_line_does_not_matter():
    errors = []
    for seed in range(200):
        blocks = _calibrated(np.random.default_rng(seed), noise=0.25)
        errors.append(blocks.corrected(Outcome(Status.OK, tuple(EFFECTS))).scores - EFFECTS[0])
    assert np.std(errors) < 0.2 and abs(np.mean(errors)) < 0.03
    outlying = Blocks(2, {})
    for number in range(CALIBRATORS):
        outlying.observe(str(number), (0.0, 100.0 if number == 3 else 0.5))
    assert outlying.corrected(Outcome(Status.OK, (1.0,)), 1).scores == (0.5,)


def test_until_then_scores_stay_and_nothing_is_lost_on_the_way_to_a_ledger():
    blocks = Blocks(2, {})
    for number in range(CALIBRATORS - 1):
        blocks.observe(str(number), (0.1 * number, 1.0 + 0.1 * number))
    assert blocks.calibrating and blocks.corrected(Outcome(Status.OK, (3.0,)), 1).scores == (3.0,)
    resumed = Blocks(2, json.loads(json.dumps(blocks.to_json())))
    for one in (blocks, resumed):
        one.observe("last", (0.0, 1.0))
    assert resumed.to_json() == blocks.to_json() and not resumed.calibrating
    assert json.loads(json.dumps(resumed.to_json())) == json.loads(json.dumps(Blocks(2, resumed.to_json()).to_json()))


def test_a_search_of_one_block_has_nothing_to_compare():
    assert not Blocks(1, {}).calibrating
