"""Forecasts: exact curves are continued, hopeless windows never crash, and the uncertainty is what it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stepsmith.schedules.autolrs.forecast import FEWEST, Forecast, compressed, forecast, smoothed, steadied

STEPS = np.arange(1, 101)


def _noise(size=100, scale=0.1, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(size)


@pytest.mark.parametrize("time", [20, 60, 150])
def test_an_exponential_is_continued(time):
    def curve(steps):
        return 2 * np.exp(-steps / time) + 0.5

    there = forecast(curve(STEPS), [200, 1000])
    np.testing.assert_allclose(there.loss, curve(np.array([200, 1000])), atol=0.06)


def test_an_exponential_under_noise_is_continued_within_its_deviation():
    far = []
    for seed in range(100):
        there = forecast(2 * np.exp(-STEPS / 40) + 0.5 + _noise(seed=seed), 1000)
        far.append((there.loss - (2 * np.exp(-25) + 0.5)) / there.deviation)
    # A normal variable is within two deviations 95 times in 100; a mixture has heavier tails.
    assert np.mean(np.abs(far) < 2) >= 0.85
    assert np.mean(np.abs(far) < 0.1) < 0.5


def test_a_faster_fall_is_preferred():
    slow, fast = (forecast(1.5 + fall * np.exp(-STEPS / 50) - fall + _noise(), 1000).loss for fall in (0.3, 1.0))
    assert fast < slow


def test_outliers_in_the_first_half_are_dropped():
    clean = 2 * np.exp(-STEPS / 40) + 0.5
    spoiled = clean + _noise(scale=0.01)
    spoiled[[5, 20, 33]] += [30, 50, 20]
    smooth, noise = smoothed(spoiled, STEPS.astype(float))
    np.testing.assert_allclose(smooth, clean, atol=0.05)
    assert noise < 0.02
    assert forecast(spoiled, 1000).loss == pytest.approx(0.5, abs=0.1)


def test_a_noisy_line_gives_a_number_that_does_not_run_away():
    there = forecast(3 - 0.005 * STEPS + _noise(), 1000)
    assert -0.5 < there.loss < 2.7
    assert 0.05 < there.deviation < 3


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_a_flat_window_stays_flat(scale):
    there = forecast(2.0 + _noise(scale=scale), 1000)
    assert there.loss == pytest.approx(2.0, abs=3 * scale + 1e-6)
    assert 0 <= there.deviation < 0.5


def test_a_rising_window_is_expected_to_rise():
    there = forecast(1 + 0.01 * STEPS + _noise(), 1000)
    assert there.loss > 2


@pytest.mark.parametrize("base", [1.1, 2.0, 1e2])
def test_a_diverging_window_is_worse_than_any_other(base):
    there = forecast(np.minimum(base ** STEPS.astype(float), 1e90), 1000)
    assert there.loss > forecast(2.0 + _noise(), 1000).loss + 10
    assert np.isfinite(there.deviation)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("place", [0, 50, 99])
def test_a_window_with_what_is_no_number_fails(value, place):
    losses = 2 * np.exp(-STEPS / 40)
    losses[place] = value
    there = forecast(losses, 1000)
    assert np.isnan(there.loss)
    assert np.isinf(there.deviation)


@pytest.mark.parametrize("points", range(FEWEST + 3))
def test_windows_of_few_points(points):
    there = forecast(2 - 0.1 * np.arange(points), 50)
    if not points:
        assert np.isnan(there.loss)
    else:
        assert there.loss <= 2
        assert there.deviation > 0
    if 0 < points < FEWEST:
        assert there.loss == pytest.approx(2 - 0.05 * (points - 1))


def test_points_need_not_be_evenly_spaced():
    steps = np.arange(50, 801, 50)
    there = forecast(2 * np.exp(-steps / 400) + 0.5, [1600, 8000], steps)
    np.testing.assert_allclose(there.loss, [2 * np.exp(-4) + 0.5, 0.5], atol=0.06)
    with pytest.raises(ValueError, match="16 losses and 3 steps"):
        forecast(np.ones(16), 1, [1, 2, 3])


@given(arrays(np.float64, st.integers(0, 60), elements=st.floats(width=64)), st.floats(1, 1e6))
@settings(max_examples=200, deadline=None)
def test_no_window_crashes(losses, at):
    there = forecast(losses, at)
    assert np.isfinite(there.loss) == np.isfinite(there.deviation)
    assert np.isfinite(there.loss) or not len(losses) or not (np.abs(losses) < 1e100).all()


@given(st.floats(0.01, 100), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_units_of_the_loss_do_not_matter(scale, shift):
    losses = 2 * np.exp(-STEPS / 40) + 0.5 + _noise()
    plain, moved = forecast(losses, 1000), forecast(scale * losses + shift, 1000)
    np.testing.assert_allclose(moved.loss, scale * plain.loss + shift, rtol=1e-3, atol=1e-3 * scale)
    np.testing.assert_allclose(moved.deviation, scale * plain.deviation, rtol=1e-2)


def test_above_the_start_forecasts_are_compressed_in_order():
    values = np.array([-1.0, 1.0, 2.0, 2.1, 5.0, 1e3, 1e90])
    told = compressed(Forecast(values, 0.5 * np.abs(values)), start=2.0)
    np.testing.assert_array_equal(told.loss[:3], values[:3])
    np.testing.assert_array_equal(told.deviation[:3], 0.5 * np.abs(values[:3]))
    assert (np.diff(told.loss) > 0).all()
    assert told.loss[-1] < 50
    assert (told.deviation[3:] < 1).all()


def test_what_the_batches_do_to_all_windows_alike_is_taken_out():
    shared = _noise(scale=0.3)
    reference = 2.0 + shared
    better, worse = (2 - fall * (1 - np.exp(-STEPS / 50)) + shared + _noise(scale=0.003, seed=1) for fall in (0.05, 0.03))
    loud = [forecast(losses, 1000) for losses in (better, worse)]
    quiet = [forecast(steadied(losses, reference), 1000) for losses in (better, worse)]
    assert quiet[0].loss < quiet[1].loss
    assert quiet[0].deviation < 0.2 * loud[0].deviation
    assert quiet[0].loss == pytest.approx(1.95, abs=0.02 + abs(shared.mean()))


def test_windows_on_other_batches_are_nearly_left_alone():
    losses = 2 - 0.01 * STEPS + _noise()
    changed = steadied(losses, 2 + _noise(seed=5)) - losses
    assert np.abs(changed).max() < 0.1
    broken = np.full(100, np.nan)
    assert steadied(losses, broken) is losses
    assert steadied(broken, losses) is broken
