"""Fused rules equal optax's, kernels equal plain XLA, and a fused rule is an optax transformation like any other."""

import inspect
import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.pallas import tpu as pltpu

from stepsmith import optimizers
from stepsmith.optimizers.kernels import SIGNED, UNSIGNED, Blockwise, FusedState, Rule, State, backend, bytes_moved, fuse, gpu, tpu
from stepsmith.optimizers.kernels.rule import Leaf

RNG = np.random.default_rng(0)
INTERPRETED = ("interpret-triton", "interpret-tpu")
SHAPES = {"scalar": (), "empty": (0, 3), "one": (1,), "odd": (3, 7), "cell": (1024,), "over": (1025,), "none": None}
# Large enough for the kernel of TPUs, and not: whole tiles, odd rows, three axes; cut in blocks, or not.
LARGE = {"whole": (256, 512), "odd": (257, 300), "cube": (9, 16, 512), "tall": (70000, 1), "narrow": (30, 16, 250)}


def _draw(shapes, dtype=jnp.float32, scale=1.0):
    return {k: None if s is None else jnp.asarray(RNG.normal(size=s) * scale, dtype) for k, s in shapes.items()}


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


UNARY = (jnp.sin, jnp.tanh, jnp.exp, jnp.sign, jnp.abs, jnp.arctan, jnp.arcsinh, jnp.square, jnp.expm1, lambda x: jnp.sqrt(jnp.abs(x)))
QUICK = {"xla_backend_optimization_level": 0}  # compiling is most of what these tests do
BINARY = (jnp.add, jnp.subtract, jnp.multiply, jnp.maximum, jnp.minimum, lambda a, b: a / (b + 1e-8), jnp.power)


def _compose(rng, values):
    """A few random operations on the values, one after the other."""
    values = list(values)
    for _ in range(rng.integers(2, 6)):
        function, other = (UNARY + BINARY)[rng.integers(len(UNARY + BINARY))], values[rng.integers(len(values))]
        values.append(function(values[-1], other) if function in BINARY else function(other))
    return values[-1]


def _random_rule(seed, coded):
    """Twenty random compositions over w, g, states and numbers: the update and four states have four each, by the signs of w and g."""
    codes = [(SIGNED, UNSIGNED)[i % 2] if coded else None for i in range(4)]

    def update(w, g, states, scalars):
        rng = np.random.default_rng(seed)

        def result(code=None):
            a, b, c, d = (_compose(rng, [w, g, *states, *scalars.values()]) for _ in range(4))
            chosen = jnp.where(w > 0, jnp.where(g > 0, a, b), jnp.where(g > 0, c, d))
            return jnp.abs(chosen) if code is UNSIGNED else chosen

        return result(), tuple(map(result, codes))

    return Rule(update, tuple(State(code=code) for code in codes), lambda count: {"rate": 0.3 / (count + 1.0), "weight_decay": 0.1})


def _check_kernels(rule, dtype, seed, shapes, both_ways):
    """Each kernel, interpreted, against plain XLA, the second step of a run; gradients with NaN and infinity."""
    rng = np.random.default_rng(seed)
    params, gradients = (_draw(shapes, kind) for kind in (dtype, jnp.float32))
    gradients["odd"] = gradients["odd"].at[0, :3].set(jnp.array([jnp.nan, jnp.inf, -jnp.inf]))
    mask = {key: None if shape is None else bool(rng.integers(2)) for key, shape in shapes.items()}
    optimizers = {name: fuse(rule, mask, name, stochastic_rounding=True, seed=seed) for name in ("xla", *INTERPRETED)}
    steps = {name: jax.jit(optimizer.step, compiler_options=QUICK) for name, optimizer in optimizers.items()}
    _, state = steps["xla"](params, gradients, optimizers["xla"].init(params))
    results = {name: [step(params, gradients, state)] for name, step in steps.items()}
    if both_ways:
        for name, optimizer in optimizers.items():
            results[name].append(jax.jit(optimizer.transformation.update, compiler_options=QUICK)(gradients, state, params))
    for name in INTERPRETED:
        for ours, reference in zip(jax.tree.leaves(results[name]), jax.tree.leaves(results["xla"]), strict=True):
            assert (ours.shape, ours.dtype) == (reference.shape, reference.dtype)
            # XLA may contract a product and a sum in one and not in the other: a rounding may then fall on the other side.
            tolerance = {"bfloat16": (1e-2, 1e-30), "int8": (0, 1), "uint8": (0, 1)}.get(ours.dtype.name, (1e-4, 1e-6))
            a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
            close = np.isclose(a, b, *tolerance, equal_nan=True)
            assert close.mean() > 0.99 if close.size > 100 else close.all(), (name, a[~close], b[~close])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("code", [None, SIGNED], ids=["plain", "coded"])
def test_kernels_equal_plain_xla(code, dtype):
    def update(w, g, states, s):
        average = 0.9 * states[0] + 0.1 * jnp.sin(g)
        return -s["rate"] * (jnp.arctan(average) + s["weight_decay"] * w), (average,)

    rule = Rule(update, (State(code=code),), lambda count: {"rate": 0.3 / (count + 1.0), "weight_decay": 0.1})
    large = {f"large {key}": LARGE[key] for key in (("whole", "odd") if code else ("cube", "narrow"))}
    _check_kernels(rule, dtype, 1, SHAPES | {"coded": (5000,)} | large, both_ways=dtype is jnp.float32)


@pytest.mark.parametrize("seed", range(10))
def test_kernels_equal_plain_xla_on_random_compositions(seed):
    """Of which a rule has many, so that they share what is compiled."""
    shapes = {"odd": (3, 7), "large": LARGE[("whole", "odd", "cube", "narrow")[seed % 4]]}
    rule, dtype = _random_rule(seed, coded=seed % 3 == 0), (jnp.float32, jnp.bfloat16)[seed // 4 % 2]
    _check_kernels(rule, dtype, seed, shapes, both_ways=False)


@pytest.mark.parametrize("name", INTERPRETED)
def test_every_element_is_updated(name, monkeypatch):
    """An element that no cell writes is not a number, keeps its zero, or keeps the gradient where the update should be."""
    monkeypatch.setattr(tpu, "INTERPRET", True)  # without the simulation of memory, which takes 12 s for the tall array alone
    shapes = SHAPES | {f"large {key}": shape for key, shape in LARGE.items()}
    zeros, gradients = jax.tree.map(jnp.zeros_like, _draw(shapes)), _draw(shapes)
    optimizer = fuse(Rule(lambda w, g, states, s: (-g, (g,)), (State(),), lambda count: {}), backend=name)
    params, state = jax.jit(optimizer.step, compiler_options=QUICK)(zeros, gradients, optimizer.init(zeros))
    updates, again = jax.jit(optimizer.transformation.update, compiler_options=QUICK)(gradients, optimizer.init(zeros), zeros)
    negative = jax.tree.map(jnp.negative, gradients)
    chex.assert_trees_all_equal((params, state.states[0], updates, again.states[0]), (negative, gradients, negative, gradients))


@pytest.mark.parametrize("size", [1, 7, 1023, 1024, 1025, gpu.LONG - 1, gpu.LONG, gpu.LONG + 5, gpu.ALONE + 1024])
def test_the_cells_of_a_launch_divide_its_arrays(size):
    sizes = (size, 1, size)
    segments, cells = gpu._segments([Leaf((jax.ShapeDtypeStruct((n,), jnp.float32),), (), i, True) for i, n in enumerate(sizes)])
    ends = [segment.first for segment in segments[1:]] + [cells]
    covered = [0] * len(sizes)
    for segment, end in zip(segments, ends, strict=True):
        assert segment.offset == covered[segment.array], "a segment begins where the one before it ends"
        reached = segment.offset + (end - segment.first) * gpu.TILE
        covered[segment.array] = min(reached, sizes[segment.array])
        assert segment.masked or reached <= sizes[segment.array], "what reaches over the end is masked"
    assert tuple(covered) == sizes


def test_kernel_for_tpus_has_no_races(monkeypatch):
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call  # the one place where jax says what it found

    monkeypatch.setattr(tpu, "INTERPRET", pltpu.InterpretParams(detect_races=True))
    optimizer, params = optimizers.fused_adamw(0.1, eight_bit=True, backend="interpret-tpu"), _draw({"a": (264, 512)})
    new, _ = jax.block_until_ready(jax.jit(optimizer.step)(params, params, optimizer.init(params)))
    assert np.isfinite(new["a"]).all()
    assert not interpret_pallas_call.races.races_found


def test_many_small_arrays_share_launches_and_large_ones_do_not():
    sizes = [100] * 20 + [gpu.ALONE + 1, gpu.ALONE]
    params = [jax.ShapeDtypeStruct((size,), jnp.bfloat16 if i % 2 else jnp.float32) for i, size in enumerate(sizes)]
    leaves = [Leaf((param, param), (), number, True) for number, param in enumerate(params)]
    groups = list(gpu.launches(leaves))
    assert sorted(leaf.number for group in groups for leaf in group) == list(range(22))
    assert all(len({leaf.arrays[0].dtype for leaf in group}) == 1 for group in groups)
    assert sorted(map(len, groups)) == [1, 2, 3, 8, 8]


def test_results_do_not_depend_on_how_arrays_are_grouped(monkeypatch):
    params = [jnp.asarray(RNG.normal(size=5000), jnp.bfloat16) for _ in range(3)]
    optimizer = optimizers.fused_lion(0.1, eight_bit=True, backend="interpret-triton", stochastic_rounding=True)
    together = optimizer.step(params, params, optimizer.init(params))
    monkeypatch.setattr(gpu, "TOGETHER", 1)
    monkeypatch.setattr(gpu, "LONG", 1000)
    chex.assert_trees_all_equal(optimizer.step(params, params, optimizer.init(params)), together)


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


def test_what_cannot_run_says_why(monkeypatch):
    assert backend.resolve(None) == "xla"
    with pytest.raises(backend.BackendError, match="pallas-triton.*NVIDIA GPU.*cpu.*backend=None.*interpret-triton"):
        optimizers.fused_lion(0.1, backend="pallas-triton")
    with pytest.raises(backend.BackendError, match="a TPU.*interpret-tpu"):
        optimizers.fused_adamw(0.1, eight_bit=True, backend="pallas-tpu")
    with pytest.raises(backend.BackendError, match="unknown backend 'cuda'; known are xla"):
        fuse(Rule(lambda w, g, states, s: (g, ()), (), lambda count: {}), backend="cuda")
    monkeypatch.setattr(backend, "platform", lambda: "gpu")
    assert backend.resolve(None) == backend.resolve("pallas-triton") == "pallas-triton"
    with pytest.raises(ValueError, match="Nesterov"):
        optimizers.adamw(0.1, fused=True, nesterov=True)


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


@pytest.mark.parametrize("name", ["xla", *INTERPRETED])
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


def test_coded_states_are_where_they_pay():
    state = optimizers.adamw_8bit(0.1).init({"large": jnp.ones((64, 64)), "small": jnp.ones(4095)})
    assert [isinstance(x, Blockwise) for tree in state.states for x in (tree["large"], tree["small"])] == [True, False] * 2
