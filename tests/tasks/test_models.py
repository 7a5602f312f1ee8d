"""The settings of the models that no task uses by default."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepsmith.tasks.data import Windows, diabetes, stdlib_text
from stepsmith.tasks.models import CNN, GRU, MLP, Transformer, split
from stepsmith.tasks.objectives import next_token, regression

pytestmark = pytest.mark.usefixtures("quick_compile")

X = jax.random.normal(jax.random.key(1), (5, 6))


def _weights(params, index):
    return params[f"linear_{index}"]["kernel"], params[f"linear_{index}"]["bias"]


def test_a_perceptron_with_layer_norm_and_gelu_is_its_formula():
    model = split(MLP((6, 7, 3), activation="gelu", layer_norm=True).build)
    params, state = model.init(jax.random.key(0))
    (w0, b0), (w1, b1) = _weights(params, 0), _weights(params, 1)
    hidden = X @ w0 + b0
    normal = (hidden - hidden.mean(-1, keepdims=True)) / jnp.sqrt(hidden.var(-1, keepdims=True) + 1e-6)
    expected = jax.nn.gelu(normal * params["norm_0"]["scale"] + params["norm_0"]["bias"]) @ w1 + b1
    np.testing.assert_allclose(model.apply(params, state, X, None)[0], expected, rtol=1e-5, atol=1e-6)
    assert "norm_1" not in params


def test_the_scale_of_the_start_is_a_variance():
    wide = MLP((400, 500, 2), init_scale=4.0)
    usual = split(MLP((400, 500, 2)).build).init(jax.random.key(0))[0]["linear_0"]["kernel"]
    scaled = split(wide.build).init(jax.random.key(0))[0]["linear_0"]["kernel"]
    np.testing.assert_allclose(scaled, 2 * usual, rtol=1e-5)
    assert np.std(usual) == pytest.approx(400**-0.5, rel=0.01)


def test_group_norm_looks_at_one_image_alone():
    images = jax.random.normal(jax.random.key(2), (3, 8, 8, 1))
    for norm, alone in (("group", True), ("batch", False)):
        model = split(CNN((8, 8), (2, 2), 1, 4, norm=norm).build)
        params, state = model.init(jax.random.key(0))
        assert bool(state) is not alone
        together, single = (model.apply(params, state, batch, jax.random.key(3))[0][0] for batch in (images, images[:1]))
        assert bool(jnp.allclose(together, single, atol=1e-5)) is alone
    with pytest.raises(ValueError, match="norm must be batch or group"):
        split(CNN((8,), (2,), 1, 4, norm="layer").build)


@pytest.mark.parametrize("settings", [GRU(8, 16, 1, 256, vocabulary=256), Transformer(8, 1, 2, 16, activation="gelu")], ids=["gru", "gelu"])
def test_a_text_model_sees_no_later_token_and_learns(settings):
    model, source = split(settings.build), Windows(stdlib_text.load, 16, 32)
    params, state = model.init(jax.random.key(0))
    windows = source.draw(source.load(), "train", jax.random.key(1), 8)
    tokens = source.inputs(windows)
    changed = tokens.at[:, 9].set((tokens[:, 9] + 1) % 256)
    before, after = (model.apply(params, state, each, None)[0] for each in (tokens, changed))
    assert before.shape == (8, 16, 256)
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    assert not np.allclose(before[:, 9:], after[:, 9:])

    @jax.jit
    def step(params):
        loss, gradient = jax.value_and_grad(lambda p: next_token(model.apply(p, state, tokens, None)[0], tokens, windows)["loss"])(params)
        return loss, jax.tree.map(lambda w, g: w - 0.5 * g, params, gradient)

    losses = []
    for _ in range(60):
        loss, params = step(params)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_the_diabetes_table_is_standardised_and_predictable():
    data = diabetes.load()
    assert [len(data[split]["target"]) for split in ("train", "validation", "test")] == [266, 88, 88]
    train = {"features": jnp.asarray(data["train"]["features"]), "target": jnp.asarray(data["train"]["target"])}
    x, y = np.asarray(diabetes.columns(train), np.float64), np.asarray(train["target"], np.float64)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-3)
    # Least squares on these columns explains about half of the variance (Efron et al. 2004, table 1 and section 7).
    weights, *_ = np.linalg.lstsq(x, y, rcond=None)
    residual = regression(jnp.asarray(x @ weights)[:, None], jnp.asarray(x), train)["loss"]
    assert 0.4 < float(residual) < 0.6
