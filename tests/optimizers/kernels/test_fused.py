"""Fused rules equal optax's and are optax transformations like any other; what they are not made for says why."""

import inspect
import re
from functools import partial
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith import optimizers
from stepsmith.optimizers.kernels import SIGNED, Blockwise, FusedState, Rule, State, backend, bytes_moved, fuse

RNG = np.random.default_rng(0)
SHAPES = {"scalar": (), "empty": (0, 3), "odd": (3, 7), "over": (1025,), "none": None}


def _draw(shapes):
    return {name: None if shape is None else jnp.asarray(RNG.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def _steps(transformation, params, gradients):
    state = transformation.init(params)
    update = jax.jit(transformation.update)
    for g in gradients:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


def _in_place(optimizer, params, gradients):
    state, step = optimizer.init(params), jax.jit(optimizer.step)
    for g in gradients:
        params, state = step(params, g, state)
    return params, state


def _assert_close(a, b, **kwargs):
    chex.assert_trees_all_close(*jax.tree.map(lambda x: x.astype(jnp.float32), (a, b)), **kwargs)


MASKS = {"matrices": lambda p: jax.tree.map(lambda x: x.ndim > 1, p), "prefix": {"a": True, "b": False}}
CASES = {
    "as it is": ({}, None),
    "decay of matrices": ({}, MASKS["matrices"]),
    "decay of a subtree": ({"b1": 0.8, "b2": 0.9}, MASKS["prefix"]),
    "bfloat16 average": ({"mu_dtype": jnp.bfloat16}, None),
    "decay by a schedule": ({"weight_decay": lambda count: 0.1 / (count + 1)}, None),
}


@pytest.mark.parametrize(("kwargs", "mask"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", ["lion", "adamw"])
def test_fused_equals_optax(name, kwargs, mask):
    kwargs = {"weight_decay": 0.3, "mask": mask, **kwargs}
    params, gradients = ({"a": _draw(SHAPES), "b": _draw({"c": (20, 5)})} for _ in range(2))
    gradients = [jax.tree.map(lambda x, i=i: x * (i + 1), gradients) for i in range(3)]
    schedule = optax.linear_schedule(0.1, 0.0, 5)
    theirs = _steps(getattr(optax, name)(schedule, **kwargs), params, gradients)
    tolerance = 2e-2 if "mu_dtype" in kwargs and name == "adamw" else 2e-6
    _assert_close(_steps(getattr(optimizers, name)(schedule, **kwargs, fused=True), params, gradients), theirs, atol=tolerance)
    _assert_close(_in_place(getattr(optimizers, f"fused_{name}")(schedule, **kwargs), params, gradients)[0], theirs, atol=tolerance)


def test_adamw_equals_its_equations_in_float64():
    w = np.array([0.5, -2.0, 0.0])
    m = v = np.zeros(3)
    optimizer = optimizers.fused_adamw(0.1, b1=0.8, b2=0.95, eps=1e-3, eps_root=1e-4, weight_decay=0.2)
    params, state = jnp.asarray(w, jnp.float32), optimizer.init(jnp.zeros(3))
    for t in range(1, 5):
        g = np.array([1.0, -0.3, 2.0]) / t
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        w = w - 0.1 * (m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.95**t) + 1e-4) + 1e-3) + 0.2 * w)
        params, state = optimizer.step(params, jnp.asarray(g, jnp.float32), state)
    np.testing.assert_allclose(params, w, rtol=1e-5)


def test_stochastic_rounding_lets_small_steps_add_up():
    rule = Rule(lambda w, g, states, s: (-1e-3 * g, ()), (), lambda count: {})
    params = jnp.ones(4096, jnp.bfloat16)
    nearest, random = (_in_place(fuse(rule, stochastic_rounding=on), params, [jnp.ones(4096)] * 50)[0] for on in (False, True))
    assert (nearest == 1).all(), "a step of 0.001 is below half of bfloat16's last digit at 1"
    np.testing.assert_allclose(random.astype(jnp.float32).mean(), 0.95, atol=2e-3)


@pytest.mark.parametrize("make", [optimizers.lion_8bit, optimizers.adamw_8bit])
def test_eight_bit_states_follow_the_full_ones(make):
    plain = {optimizers.lion_8bit: optax.lion, optimizers.adamw_8bit: optax.adamw}[make]
    target = jnp.asarray(RNG.normal(size=(64, 128)), jnp.float32)

    def losses(transformation):
        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(lambda p: jnp.mean((p - target) ** 2))(params)
            updates, state = transformation.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        params = jnp.zeros_like(target)
        return np.asarray(jax.jit(lambda p: jax.lax.scan(step, (p, transformation.init(p)), length=200)[1])(params))

    rate = optax.linear_schedule(0.02, 0.0, 200)
    full, coded = losses(plain(rate)), losses(make(rate))
    assert full[-1] < 0.05 * full[0]
    np.testing.assert_allclose(coded, full, atol=0.02 * full[0])


def _fused(name, **kwargs):
    return lambda **more: getattr(optimizers, f"fused_{name}")(**more, **kwargs).transformation


PASSED_ON = {
    **{name: (getattr(optimizers, name), getattr(optax, name)) for name in ("lion", "adamw")},
    **{f"{name} fused": (partial(getattr(optimizers, name), fused=True), _fused(name)) for name in ("lion", "adamw")},
    **{f"{name}_8bit": (getattr(optimizers, f"{name}_8bit"), _fused(name, eight_bit=True)) for name in ("lion", "adamw")},
}
OTHER = {
    **{"learning_rate": 0.2, "b1": 0.5, "b2": 0.6, "eps": 0.1, "eps_root": 0.1, "weight_decay": 0.3},
    **{"mu_dtype": jnp.bfloat16, "mask": {"a": True, "b": False}, "nesterov": True},
}


@pytest.mark.parametrize("name", PASSED_ON)
def test_every_argument_is_passed_on(name):
    """Each has an effect, the same as where it is passed to."""
    ours, theirs = PASSED_ON[name]
    params, gradients = (_draw({"a": (64, 64), "b": (3,)}) for _ in range(2))

    def two_steps(transformation):
        first, state = transformation.update(gradients, transformation.init(params), params)
        return first, *transformation.update(jax.tree.map(jnp.square, gradients), state, params)

    default = two_steps(ours(learning_rate=0.1))
    for argument in [
        each for each in inspect.signature(ours).parameters if each != "fused" and (name, each) != ("adamw fused", "nesterov")
    ]:
        given = {"learning_rate": 0.1, argument: OTHER[argument]}
        changed = two_steps(ours(**given))
        chex.assert_trees_all_equal(changed, two_steps(theirs(**given)))
        with pytest.raises(AssertionError):
            chex.assert_trees_all_equal(changed, default)


@pytest.mark.parametrize("name", ["lion", "adamw", "lion_8bit", "adamw_8bit"])
def test_a_fused_rule_is_an_optax_transformation(name):
    def make(learning_rate, weight_decay=0.2):
        fused = {} if name.endswith("8bit") else {"fused": True}
        return getattr(optimizers, name)(learning_rate, weight_decay=weight_decay, **fused)

    params, gradients = (_draw({"a": (70, 80), "b": (3,)}) for _ in range(2))
    plain = _steps(make(learning_rate=0.1, weight_decay=0.2), params, [gradients] * 2)
    injected = optax.inject_hyperparams(make)(learning_rate=0.1, weight_decay=0.2)
    _assert_close(_steps(injected, params, [gradients] * 2), plain, atol=1e-6)
    chained = _steps(optax.chain(optax.clip_by_global_norm(1e9), make(learning_rate=0.1, weight_decay=0.2)), params, [gradients] * 2)
    _assert_close(chained, plain, atol=1e-6)
    masked = _steps(optax.masked(make(learning_rate=0.1, weight_decay=0.2), {"a": False, "b": True}), params, [gradients] * 2)
    _assert_close(masked["a"], params["a"] + 2 * gradients["a"], atol=1e-6)
    nothing = _steps(optax.masked(make(learning_rate=0.1), {"a": False, "b": False}), params, [gradients])
    _assert_close(nothing, jax.tree.map(jnp.add, params, gradients), atol=1e-6)


def test_one_compilation_serves_all_steps():
    optimizer, params = optimizers.fused_adamw(optax.linear_schedule(0.1, 0.0, 5)), _draw({"a": (3,)})
    step, state = jax.jit(chex.assert_max_traces(optimizer.step, 1)), optimizer.init(params)
    for _ in range(3):
        params, state = step(params, params, state)
    assert int(state.count) == 3 and isinstance(state, FusedState)


def test_bytes_moved_by_lion_and_adamw():
    params, bf16 = (jnp.zeros((256, 1024), dtype) for dtype in (jnp.float32, jnp.bfloat16))

    def each(make, params, **kwargs):
        return bytes_moved(params, params, jax.eval_shape(make(0.1, **kwargs).init, params)) / params.size

    lion, adamw = optimizers.fused_lion, optimizers.fused_adamw
    assert [each(lion, params), each(adamw, params)] == [20, 28]
    assert [each(lion, params, eight_bit=True), each(adamw, params, eight_bit=True)] == [14 + 8 / 256, 16 + 16 / 256]
    assert [each(lion, bf16, eight_bit=True), each(lion, bf16, mu_dtype=jnp.float32)] == [8 + 8 / 256, 14]


PLATFORMS = {"cuda": "gpu", "rocm": "gpu", "gpu": "gpu", "tpu": "tpu", "cpu": "cpu", "cuda,cpu": "gpu", "cpu,cuda": "cpu"}


@pytest.mark.parametrize("named", [*PLATFORMS, "", None])
def test_platform_is_what_jax_was_told_or_finds(named, monkeypatch):
    told = SimpleNamespace(values={"jax_platforms": named}, jax_default_device=None)
    monkeypatch.setattr(backend, "jax", SimpleNamespace(config=told, default_backend=lambda: "what jax finds"))
    assert backend.platform() == PLATFORMS.get(named, "what jax finds")
    for device in (SimpleNamespace(platform="tpu"), "tpu"):
        told.jax_default_device = device
        assert backend.platform() == "tpu"


def test_the_default_device_comes_before_the_platforms():
    with jax.default_device(jax.devices("cpu")[0]):
        assert backend.platform() == jax.config.jax_default_device.platform == "cpu"


def test_what_cannot_run_says_why(monkeypatch):
    assert backend.resolve("auto") == "xla"
    with pytest.raises(backend.BackendError, match="pallas-triton.*NVIDIA GPU.*cpu.*backend='auto'.*interpret-triton"):
        optimizers.fused_lion(0.1, backend="pallas-triton")
    with pytest.raises(backend.BackendError, match="a TPU.*interpret-tpu"):
        optimizers.fused_adamw(0.1, eight_bit=True, backend="pallas-tpu")
    with pytest.raises(backend.BackendError, match="unknown backend 'cuda'; known are xla"):
        fuse(Rule(lambda w, g, states, s: (g, ()), (), lambda count: {}), backend="cuda")
    monkeypatch.setattr(backend, "platform", lambda: "gpu")
    assert backend.resolve("auto") == backend.resolve("pallas-triton") == "pallas-triton"
    monkeypatch.setattr(backend, "platform", lambda: "tpu")
    assert backend.resolve("auto") == backend.resolve("pallas-tpu") == "pallas-tpu"
    with pytest.raises(backend.BackendError, match="pallas-triton.*NVIDIA GPU.*tpu"):
        backend.resolve("pallas-triton")
    with pytest.raises(ValueError, match="Nesterov"):
        optimizers.adamw(0.1, fused=True, nesterov=True)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_kernel_runs_where_it_is_asked_for_and_plain_xla_else(platform, monkeypatch):
    """fused=True asks for the kernel where there is one; a code of the states alone does not."""
    monkeypatch.setattr(backend, "platform", lambda: platform)
    params = {"a": jax.ShapeDtypeStruct((256, 512), jnp.float32)}

    def has_kernel(rule):
        return "pallas_call" in str(jax.make_jaxpr(rule.update)(params, jax.eval_shape(rule.init, params), params))

    for plain, eight_bit, fused in (
        (optimizers.lion, optimizers.lion_8bit, optimizers.fused_lion),
        (optimizers.adamw, optimizers.adamw_8bit, optimizers.fused_adamw),
    ):
        assert not any(map(has_kernel, (plain(0.1), eight_bit(0.1), fused(0.1).transformation)))
        asked = (plain(0.1, fused=True), eight_bit(0.1, fused=True), fused(0.1, backend="auto").transformation)
        assert [has_kernel(rule) for rule in asked] == [platform != "cpu"] * 3


def test_a_kernel_that_takes_no_array_says_so(monkeypatch):
    monkeypatch.setattr(backend, "platform", lambda: "tpu")
    small, large = jnp.ones((64, 64)), jax.ShapeDtypeStruct((256, 512), jnp.float32)

    def step(backend, params):
        optimizer = optimizers.fused_lion(0.1, backend=backend)
        return jax.eval_shape(optimizer.step, params, params, jax.eval_shape(optimizer.init, params))

    with pytest.warns(UserWarning, match="^none of these 2 parameter arrays goes to the kernel for TPUs, plain XLA .*65,536 elements"):
        step("pallas-tpu", [small, small])
    for name, params in (("auto", [small]), ("interpret-tpu", [small]), ("pallas-tpu", [small, large]), ("pallas-tpu", [])):
        step(name, params)  # a warning is an error in these tests


W7, ONES = np.arange(7.0), np.ones((5, 7))
MIXED = {
    "reduce_sum": lambda g: g / jnp.sum(g),
    "reduce_max": lambda g: jnp.where(g > 0, g / jnp.max(jnp.abs(g), -1, keepdims=True), g),
    "argmax": lambda g: g * jnp.argmax(g, 0),
    "dot_general": lambda g: jax.lax.dot_general(g, g, (((0, 1), (0, 1)), ((), ()))) * g,
    "cumsum": lambda g: jax.jit(lambda x: jnp.cumsum(x, 0))(g),
    "sort": lambda g: jnp.sort(g),
    "rev": lambda g: g[::-1],
    "iota": lambda g: g * jax.lax.iota(jnp.float32, 1)[0],
    "random_": lambda g: g * jax.random.bernoulli(jax.random.key(0), 0.5, g.shape),
    "(squeeze|dynamic_slice|slice|gather)": lambda g: g[0] + g,
    r"a constant array of shape \(7,\)": lambda g: g * W7,
    r"a constant array of shape \(5, 7\)": lambda g: g * ONES,
    "transpose": lambda g: g + g.T.T,
    "reshape": lambda g: g.reshape(-1).reshape(g.shape),
    "reduce_and": lambda g: jax.lax.cond(jnp.all(g > 0), lambda: g, lambda: -g),
}


@pytest.mark.parametrize("name", MIXED)
def test_rules_that_mix_elements_are_refused(name):
    for update in (lambda w, g, states, s: (MIXED[name](g), ()), lambda w, g, states, s: (g, (MIXED[name](g),))):
        rule = Rule(update, (), lambda count: {})
        with pytest.raises(ValueError, match=f"^this rule is not elementwise, it uses {name}[^\n]*GradientTransformation instead"):
            fuse(rule)


def test_elementwise_rules_are_taken():
    """Also with branches, loops, functions of jax.numpy that are made of several, and numbers of their own."""

    def update(w, g, states, s):
        x = jnp.where(jnp.isfinite(g), jnp.clip(g, -1, 1), jnp.full_like(g, 2)) + jnp.logaddexp(w, g) + jax.nn.gelu(w) * np.float32(3)
        x = jax.lax.cond(s["rate"] > 0, lambda: x * 0.5, lambda: x) + jnp.sinc(w) + jnp.hypot(w, g) + jnp.mod(w, 0.3)
        return jax.lax.fori_loop(0, 3, lambda i, y: y * i, x), (states[0] + 1, 0.0)

    fuse(Rule(update, (State(), State()), lambda count: {"rate": optax.linear_schedule(1.0, 0.0, 5)}))


@pytest.mark.parametrize("make", [optimizers.fused_lion, optimizers.fused_adamw])
def test_a_state_has_a_dtype_or_a_code(make):
    with pytest.raises(ValueError, match=r"^a state is kept as bfloat16 or in a code of one byte.*\(mu_dtype\) or the code \(eight_bit\)$"):
        make(0.1, mu_dtype=jnp.bfloat16, eight_bit=True)
    with pytest.raises(ValueError, match="float32 or in a code"):
        State(jnp.float32, SIGNED)


def test_what_cannot_be_updated_says_why():
    rule = optimizers.lion(0.1, fused=True)
    with pytest.raises(ValueError, match="int32.*optax.masked"):
        rule.init({"a": jnp.arange(3)})
    with pytest.raises(ValueError, match="needs the parameters"):
        rule.update(jnp.ones(3), rule.init(jnp.ones(3)))


@pytest.mark.parametrize("name", ["xla", "interpret-triton", "interpret-tpu"])
def test_arrays_that_are_not_shaped_like_the_parameters_are_refused(name):
    optimizer, plain = optimizers.fused_lion(0.1, eight_bit=True, backend=name), optimizers.fused_lion(0.1, backend=name)
    params = {"layer": [jnp.ones((64, 64)), jnp.ones(3)]}
    state = optimizer.init(params)
    for wrong in ((64, 63), (4096,), (64, 64, 1), ()):
        gradients = {"layer": [jnp.ones(wrong), jnp.ones(3)]}
        said = re.escape(f"['layer'][0] has the shape {wrong} and the parameter (64, 64): give gradients")
        with pytest.raises(ValueError, match=said):
            optimizer.step(params, gradients, state)
        with pytest.raises(ValueError, match=said):
            optimizer.transformation.update(gradients, state, params)
    longer = {"layer": [jnp.ones((64, 64)), jnp.ones(4)]}
    for rule, other in ((optimizer, optimizer.init(longer)), (plain, state)):
        with pytest.raises(ValueError, match=r"the state of the parameter \['layer'\]\[[01]\] .*give the state that init makes"):
            rule.step(params, params, other)


@pytest.mark.parametrize("name", ["xla", "interpret-triton", "interpret-tpu"])
def test_arrays_of_more_elements_than_32_bits_can_number(name):
    """They are updated where no element needs its number, and refused where one does. Shapes alone: the arrays would take gigabytes."""

    def step(shape, dtype, **settings):
        optimizer, params = optimizers.fused_lion(0.1, backend=name, **settings), {"a": jax.ShapeDtypeStruct(shape, dtype)}
        return jax.eval_shape(optimizer.step, params, params, jax.eval_shape(optimizer.init, params))[0]["a"].shape

    for shape in ((2**31,), (2**16, 2**15)):
        assert step(shape, jnp.float32, stochastic_rounding=True) == step(shape, jnp.bfloat16) == shape
        for settings in ({"eight_bit": True}, {"stochastic_rounding": True}):
            with pytest.raises(ValueError, match=r"\['a'\] has 2,147,483,648 elements: .* up to 2,147,483,647; split it"):
                step(shape, jnp.bfloat16, **settings)
    largest = (2**31 - 1,)
    assert step(largest, jnp.bfloat16, eight_bit=True) == step(largest, jnp.bfloat16, stochastic_rounding=True) == largest


def test_seeds_have_32_bits():
    params = jnp.asarray(RNG.normal(size=1000), jnp.bfloat16)

    def stepped(seed):
        optimizer = optimizers.fused_lion(1e-3, stochastic_rounding=True, seed=seed)
        return optimizer.step(params, params, optimizer.init(params))[0].tobytes()

    assert len({stepped(seed) for seed in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)}) == 5
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=f"^the seed must be from 0 to 2\\*\\*32 - 1, got {seed}$"):
            optimizers.fused_lion(0.1, seed=seed)


def test_coded_states_are_where_they_pay():
    state = optimizers.adamw_8bit(0.1).init({"large": jnp.ones((64, 64)), "small": jnp.ones(4095)})
    assert [isinstance(x, Blockwise) for tree in state.states for x in (tree["large"], tree["small"])] == [True, False] * 2
