"""Kernels equal plain XLA: simulated on any machine, compiled where the device is; what a launch is made of."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from stepsmith import optimizers
from stepsmith.optimizers.kernels import SIGNED, UNSIGNED, Blockwise, Rule, State, fuse, gpu, tpu, xla
from stepsmith.optimizers.kernels.blockwise import BLOCK
from stepsmith.optimizers.kernels.rule import Leaf

INTERPRETED = ("interpret-triton", "interpret-tpu")
COMPILED = [
    pytest.param(("pallas-triton",), marks=pytest.mark.gpu, id="gpu"),
    pytest.param(("pallas-tpu",), marks=pytest.mark.tpu, id="tpu"),
]
KERNELS = [pytest.param(INTERPRETED, id="interpreted"), *COMPILED]
SHAPES = {"scalar": (), "empty": (0, 3), "one": (1,), "odd": (3, 7), "cell": (1024,), "over": (1025,), "none": None}
# Whole tiles, odd rows, three axes; cut in blocks, or not.
LARGE = {
    **{"whole": (256, 512), "odd": (257, 300), "cube": (9, 16, 512), "tall": (70000, 1), "narrow": (30, 16, 250)},
    **{"uneven": (264, 512), "deep": (9, 32, 512)},
}
# What the kernel for TPUs takes of them, of states as arrays and of states as bytes; XLA has the rest, and all of SHAPES.
FITS = {False: set(LARGE), True: {"whole", "uneven", "deep"}}
LION, ADAMW = optimizers.fused_lion, optimizers.fused_adamw
# Every mix of rule, states and dtype is compiled on a device; the interpreter, slow to compile, takes half of them.
FUSED = [
    *((LION, False, jnp.bfloat16), (LION, True, jnp.float32), (ADAMW, False, jnp.float32), (ADAMW, True, jnp.bfloat16)),
    *((LION, False, jnp.float32), (LION, True, jnp.bfloat16), (ADAMW, False, jnp.bfloat16), (ADAMW, True, jnp.float32)),
]


def _draw(rng, shapes, dtype=jnp.float32):
    return {name: None if shape is None else jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


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


def _not_finite(x):
    """With NaN and infinity in front."""
    return x if x.size < 4 else x.reshape(-1).at[:3].set(jnp.array([jnp.nan, jnp.inf, -jnp.inf])).reshape(x.shape)


def _taken(params, gradients, state):
    """Names of the arrays that go to the kernel for TPUs."""

    def leaf(key):
        own = [tree[key] for tree in state.states]
        coded = tuple(SIGNED if isinstance(each, Blockwise) else None for each in own)
        return Leaf((params[key], gradients[key], *jax.tree.leaves(own)), coded, 0, True)

    return {key for key in params if params[key] is not None and tpu.fits(leaf(key))}


def _tail(shape):
    """Which elements lie in a last row, cell or block, whole or partial, of either kernel."""
    tail = np.zeros(shape, bool)
    tail.reshape(-1)[-gpu.TILE :] = True
    if len(shape) > 1:
        rows = tail.reshape(-1, shape[-1])
        rows[(len(rows) - 1) // tpu.ROWS * tpu.ROWS :] = True
        rows[:, (shape[-1] - 1) // BLOCK * BLOCK :] = True
    return tail


def _assert_equal(ours, reference, what=""):
    """Up to rounding; where that flips a sign or a branch, up to one in a thousand elements, none of them in the tail."""
    assert (ours.shape, ours.dtype) == (reference.shape, reference.dtype)
    # XLA may contract a product and a sum in one and not in the other: a rounding may then fall on the other side.
    tolerance = {"bfloat16": (1e-2, 1e-30), "int8": (0, 1), "uint8": (0, 1)}.get(ours.dtype.name, (1e-4, 1e-6))
    a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    wrong = ~np.isclose(a, b, *tolerance, equal_nan=True)
    tail = wrong & _tail(wrong.shape)
    assert not tail.any(), (what, "tail", a[tail], b[tail])
    assert wrong.sum() <= wrong.size / 1000, (what, a[wrong], b[wrong])


def _check(make, names, dtype, seed, shapes, both_ways, taken):
    """The kernels of `make(backend)` against plain XLA, the second step of a run; gradients with NaN and infinity.

    `taken` are the arrays that the kernel for TPUs is to see: of the others XLA would be compared with itself there.
    """
    rng = np.random.default_rng(seed)
    params, gradients = (_draw(rng, shapes, kind) for kind in (dtype, jnp.float32))
    gradients = jax.tree.map(_not_finite, gradients)
    mask = {key: None if shape is None else bool(rng.integers(2)) for key, shape in shapes.items()}
    made = {name: make(backend=name, mask=mask, stochastic_rounding=True, seed=seed) for name in ("xla", *names)}
    steps = {name: jax.jit(optimizer.step, compiler_options=QUICK) for name, optimizer in made.items()}
    _, state = steps["xla"](params, gradients, made["xla"].init(params))
    assert _taken(params, gradients, state) == taken
    results = {name: [step(params, gradients, state)] for name, step in steps.items()}
    if both_ways:
        for name, optimizer in made.items():
            results[name].append(jax.jit(optimizer.transformation.update, compiler_options=QUICK)(gradients, state, params))
    for name in names:
        for ours, reference in zip(jax.tree.leaves(results[name]), jax.tree.leaves(results["xla"]), strict=True):
            _assert_equal(ours, reference, name)


def _check_fused(make, eight_bit, dtype, names):
    large = ("uneven", "odd") if eight_bit else ("cube", "narrow")
    shapes = SHAPES | {"coded": (5000,)} | {f"large {key}": LARGE[key] for key in large}
    taken = {f"large {key}" for key in large if key in FITS[eight_bit]}
    _check(partial(make, 0.1, eight_bit=eight_bit), names, dtype, 1, shapes, dtype is jnp.float32, taken)


@pytest.mark.parametrize(("make", "eight_bit", "dtype"), FUSED[:4])
def test_lion_and_adamw_equal_plain_xla(make, eight_bit, dtype):
    _check_fused(make, eight_bit, dtype, INTERPRETED)


@pytest.mark.parametrize("names", COMPILED)
@pytest.mark.parametrize(("make", "eight_bit", "dtype"), FUSED)
def test_compiled_lion_and_adamw_equal_plain_xla(make, eight_bit, dtype, names):
    _check_fused(make, eight_bit, dtype, names)


@pytest.mark.parametrize("names", KERNELS)
@pytest.mark.parametrize("seed", range(10))
def test_random_compositions_equal_plain_xla(seed, names, monkeypatch):
    """Of which a rule has many, so that they share what is compiled."""
    monkeypatch.setattr(tpu, "INTERPRET", True)  # the simulation of memory, slow to compile, is for the tests above
    coded = seed % 3 == 0
    large = ("uneven", "deep")[seed % 2] if coded else ("whole", "odd", "cube", "narrow")[seed % 4]
    rule, dtype = _random_rule(seed, coded), (jnp.float32, jnp.bfloat16)[seed // 4 % 2]
    _check(partial(fuse, rule), names, dtype, seed, {"odd": (3, 7), "large": LARGE[large]}, False, {"large"})


PLANTED = {
    "the last element": ("a", (-1, -1)),
    "the last row": ("a", (-1,)),
    "the last cell": ("a", (-1, slice(-76, None))),  # 77,100 elements end 300 into a cell of 1,024
    "the last block of columns": ("a", (5, slice(-44, None))),
    "the end of three axes": ("b", (-1, -1, -1)),
    "more than rounding explains": ("a", (slice(0, 4), slice(0, 40))),
}


@pytest.mark.parametrize("place", [None, *PLANTED])
@pytest.mark.parametrize(("error", "eight_bit"), [(0.5, False), (np.nan, False), (2, True)])
def test_the_comparison_notices_what_is_wrong(place, error, eight_bit, monkeypatch):
    """An error planted in what a kernel gives, which is plain XLA's own here."""

    def planted(*args, **_):
        results = xla.run(*args)
        if place:
            array, where = PLANTED[place]
            number, output = "ab".index(array), 1 if eight_bit else 0
            wrong = results[number][output]
            # Away from zero a code stays in its range.
            results[number][output] = wrong.at[where].add(jnp.where(wrong[where] > 0, -error, error).astype(wrong.dtype))
        return results

    monkeypatch.setattr(gpu, "run", planted)
    shapes = {"a": LARGE["odd"], "b": LARGE["narrow"]}
    make = partial(optimizers.fused_lion, 0.1, eight_bit=eight_bit)
    check = partial(_check, make, INTERPRETED[:1], jnp.float32, 0, shapes, False, set() if eight_bit else set(shapes))
    if place is None:
        return check()
    with pytest.raises(AssertionError, match="interpret-triton"):
        check()


def _random_shapes(seed, count, largest, taken=lambda shape: True):
    """Of up to four axes, sizes even in their logarithm, one in twenty empty; those that `taken` keeps."""
    rng, shapes = np.random.default_rng(seed), {}
    while len(shapes) < count:
        axes = rng.integers(0, 5)
        sizes = np.ceil((largest ** rng.uniform()) ** rng.dirichlet(np.ones(axes)) if axes else np.zeros(0)).astype(int)
        sizes[:1] *= rng.uniform() > 0.05
        if taken(tuple(sizes.tolist())):
            shapes[f"random {len(shapes)}"] = tuple(sizes.tolist())
    return shapes


def _fits(shape):
    like = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tpu.fits(Leaf((like, like, like), (None,), 0, True))


EVERY = {
    "chosen": SHAPES | {f"large {key}": shape for key, shape in LARGE.items()},
    "random": _random_shapes(0, 24, 5000) | {f"large {key}": shape for key, shape in _random_shapes(1, 6, 2**17, _fits).items()},
}


@pytest.mark.parametrize("shapes", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("name", INTERPRETED)
def test_every_element_is_updated(name, shapes, monkeypatch):
    """An element that no cell writes is not a number, keeps its zero, or keeps the gradient where the update should be."""
    monkeypatch.setattr(tpu, "INTERPRET", True)  # without the simulation of memory, which takes 12 s for the tall array alone
    gradients = _draw(np.random.default_rng(0), shapes)
    zeros = jax.tree.map(jnp.zeros_like, gradients)
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


@pytest.mark.parametrize("planted", [False, True])
def test_kernel_for_tpus_has_no_races(planted, two_threads, plant_a_race, monkeypatch):
    """Its cells on two cores; as a control, the race of cells that write the same block is found."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call  # the one place where jax says what it found

    if planted:
        plant_a_race(tpu)
    monkeypatch.setattr(tpu, "INTERPRET", pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2))
    optimizer = optimizers.fused_lion(0.1, eight_bit=True, backend="interpret-tpu")
    params = _draw(np.random.default_rng(0), {"a": (264, 512)})
    new, _ = jax.block_until_ready(jax.jit(optimizer.step)(params, params, optimizer.init(params)))
    assert interpret_pallas_call.races.races_found == planted
    assert planted or np.isfinite(new["a"]).all()


def test_many_small_arrays_share_launches_and_large_ones_do_not():
    sizes = [100] * 20 + [gpu.ALONE + 1, gpu.ALONE]
    params = [jax.ShapeDtypeStruct((size,), jnp.bfloat16 if i % 2 else jnp.float32) for i, size in enumerate(sizes)]
    leaves = [Leaf((param, param), (), number, True) for number, param in enumerate(params)]
    groups = list(gpu.launches(leaves))
    assert sorted(leaf.number for group in groups for leaf in group) == list(range(22))
    assert all(len({leaf.arrays[0].dtype for leaf in group}) == 1 for group in groups)
    assert sorted(map(len, groups)) == [1, 2, 3, 8, 8]


def test_results_do_not_depend_on_how_arrays_are_grouped(monkeypatch):
    params = [jnp.asarray(np.random.default_rng(i).normal(size=5000), jnp.bfloat16) for i in range(3)]
    optimizer = optimizers.fused_lion(0.1, eight_bit=True, backend="interpret-triton", stochastic_rounding=True)
    together = jax.jit(optimizer.step, compiler_options=QUICK)(params, params, optimizer.init(params))
    monkeypatch.setattr(gpu, "TOGETHER", 1)
    monkeypatch.setattr(gpu, "LONG", 1000)
    # Not the same function, of which jit would reuse what it has.
    apart = jax.jit(lambda *each: optimizer.step(*each), compiler_options=QUICK)(params, params, optimizer.init(params))
    chex.assert_trees_all_equal(apart, together)
