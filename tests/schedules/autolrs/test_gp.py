"""The process against a float64 transcription of its equations in NumPy; one compilation however many points."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from stepsmith.schedules.autolrs import gp
from stepsmith.schedules.autolrs.settings import ExpectedImprovement, LowerConfidenceBound


def _example(count, capacity=16):
    generator = np.random.default_rng(0)
    points = generator.random((capacity, 2))
    values = np.sin(5 * points.sum(1))
    # Rows beyond the count hold numbers that must not matter.
    return gp.Data(points, values, 0.01 * generator.random(capacity), count)


PARTS = gp.Hyperparameters(np.asarray(0.3), np.asarray(-4.0), np.array([-1.0, 0.2]))


def _matern(a, b):
    r = np.sqrt(5) * cdist(a / np.exp(PARTS.length_scales), b / np.exp(PARTS.length_scales))
    return np.exp(PARTS.amplitude) * (1 + r + r**2 / 3) * np.exp(-r)


def _covariance(data):
    points = data.points[: data.filled]
    return _matern(points, points) + np.diag(gp.LEAST_NOISE + np.exp(PARTS.noise) + data.variances[: data.filled])


@pytest.mark.parametrize(("count", "capacity"), [(1, 16), (9, 64), (30, 64)])
def test_the_posterior_is_that_of_the_textbook(count, capacity):
    data, at = _example(count, capacity), np.random.default_rng(1).random((40, 2))
    mean, deviation = gp.predict(data, PARTS, at)
    cross, inverse = _matern(data.points[:count], at), np.linalg.inv(_covariance(data))
    np.testing.assert_allclose(mean, cross.T @ inverse @ data.values[:count], rtol=1e-7, atol=1e-9)
    variance = np.exp(PARTS.amplitude) - np.einsum("ij,ik,kj->j", cross, inverse, cross)
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-6)


def test_the_density_is_that_of_the_textbook_whatever_the_padding():
    densities = {}
    for capacity in (16, 64):
        for count in (5, 12):
            data = _example(count, capacity)
            with gp._float64():
                densities[capacity, count] = float(gp.log_density(data, PARTS)) - float(gp._log_prior(PARTS))
            values, covariance = data.values[:count], _covariance(data)
            exact = -0.5 * (values @ np.linalg.solve(covariance, values) + np.linalg.slogdet(covariance)[1])
            # tinygp's constant counts the empty rows too, which a fit does not see.
            assert densities[capacity, count] + 0.5 * capacity * np.log(2 * np.pi) == pytest.approx(exact, rel=1e-9)


def test_a_fit_is_a_maximum():
    data = _example(14)
    fitted = gp.fit(data)
    with gp._float64():
        highest = float(gp.log_density(data, fitted))
        for direction in np.eye(4):
            for size in (-0.3, 0.3):
                moved = gp.Hyperparameters(
                    fitted.amplitude + size * direction[0], fitted.noise + size * direction[1], fitted.length_scales + size * direction[2:]
                )
                assert float(gp.log_density(data, moved)) < highest + 1e-4


def test_noise_is_learned():
    generator = np.random.default_rng(3)
    points = generator.random((64, 2))
    clean = np.sin(6 * points[:, 0])
    silent = gp.fit(gp.Data(points, clean, np.zeros(64), 60))
    noisy = gp.fit(gp.Data(points, clean + 0.3 * generator.standard_normal(64), np.zeros(64), 60))
    assert np.exp(silent.noise) < 1e-4
    assert np.exp(noisy.noise) == pytest.approx(0.09, rel=0.5)


def test_known_noise_is_not_learned_again():
    generator = np.random.default_rng(3)
    points = generator.random((64, 2))
    values = np.sin(6 * points[:, 0]) + 0.3 * generator.standard_normal(64)
    told = gp.fit(gp.Data(points, values, np.full(64, 0.09), 60))
    assert np.exp(told.noise) < 0.05


def test_equal_points_do_not_break_the_factorisation():
    data = gp.Data(np.full((16, 2), 0.5), np.linspace(-1, 1, 16), np.zeros(16), 16)
    fitted = gp.fit(data)
    mean, deviation = gp.predict(data, fitted, np.array([[0.5, 0.5], [0.9, 0.1]]))
    assert np.isfinite([*mean, *deviation]).all()


def test_nothing_is_compiled_anew_as_points_are_added(monkeypatch):
    traced, density = [], gp.log_density
    monkeypatch.setattr(gp, "log_density", lambda *arguments: traced.append(1) or density(*arguments))
    capacity = 70  # of no other test here, so that the first call compiles
    generator = np.random.default_rng(0)
    points, values = generator.random((capacity, 1)), generator.standard_normal(capacity)
    proposals = gp._propose._cache_size()
    fitted = None
    after = []
    for count in (1, 5, 16, 17, 40, 64, 65, 70):
        data = gp.Data(points, values, np.zeros(capacity), count)
        fitted = gp.fit(data, fitted)
        gp.propose(data, fitted, LowerConfidenceBound(), [count])
        after.append(len(traced))
    assert after[0] > 0
    assert len(set(after)) == 1
    assert gp._propose._cache_size() - proposals == 1


@pytest.mark.parametrize("acquisition", [LowerConfidenceBound(), ExpectedImprovement()])
def test_a_proposal_is_as_promising_as_the_best_of_a_grid(acquisition):
    data = _example(8)
    parts = gp.fit(data)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 45)]), axis=-1).reshape(-1, 2)
    lowest = gp.predict(data, parts, data.points[:8])[0].min()
    point, mean = gp.propose(data, parts, acquisition, [0])
    worth, grid_worths = (np.asarray(acquisition(*gp.predict(data, parts, at), lowest)) for at in (point[None], grid))
    assert worth[0] >= grid_worths.max() - 1e-3 * np.ptp(grid_worths)
    assert mean == pytest.approx(gp.predict(data, parts, point[None])[0][0], abs=1e-6)


def test_jax_stays_as_it_was_set():
    import jax.numpy as jnp

    gp.fit(_example(5))
    assert jnp.ones(()).dtype == jnp.float32


def test_a_missing_library_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    gp._library.cache_clear()
    monkeypatch.setattr(gp.importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"needs the library tinygp: pip install 'stepsmith\[autolrs\]'"):
        gp.fit(_example(5))
