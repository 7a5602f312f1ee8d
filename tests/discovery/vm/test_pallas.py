"""The population kernel computes what the plain machine does, and compiles for what it is made for."""

import re
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

from stepsmith.discovery.language import canonical_hash, extended_operations, load, names, parse
from stepsmith.discovery.vm import Bytecode, Clock, assemble, packing, pallas, register_machine
from stepsmith.discovery.vm.bytecode import G_ROW, MAX_INSTRUCTIONS, NUM_SCALARS, UPDATE_ROW, W_ROW
from stepsmith.discovery.vm.opcodes import EXTENDED, OPCODES
from stepsmith.discovery.vm.population import Candidates, population_machine
from stepsmith.optimizers.kernels import backend

TARGETS = ("gpu", "tpu")
# Target and whether it is simulated; compiled only where the device is.
RUNS = [
    *(pytest.param(target, True, id=f"{target} simulated") for target in TARGETS),
    *(pytest.param(target, False, marks=getattr(pytest.mark, target), id=f"{target} compiled") for target in TARGETS),
]
STEPS = 3
CLOCK = Clock.create(np.linspace(1, 0.4, STEPS))
SUMS = {"dot": 2e-4, "cosine_sim": 2e-4}  # relative errors of sums that cancel
# An odd size of several blocks on either target, an empty array, and one of one element.
SHAPES = ((2, 3), (0, 4), (1101,), ())
MODEL = ((64, 32), (32,), (32, 10), (10,))  # of digits_mlp
LARGE = ((64, 1024),)  # for the largest blocks
TRACES = Counter()  # by target
CANDIDATES = 64  # in a launch, so that all tests share what is compiled
NUDGES = (1e-6, -1e-6, 3e-6)


def _program(*lines):
    return parse("\n    ".join(["def train(w, g, m, v, lr):", *lines, "return update, m, v"]))


def _draw(shapes=SHAPES, seed=7, steps=STEPS):
    """Parameters, and gradients of some steps, away from zero and of both signs."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.choice([-1, 1], shape) * rng.uniform(0.05, 0.95, shape), jnp.float32)

    return [draw(*shape) for shape in shapes], [draw(steps, *shape) for shape in shapes]


def _updates(machine, params, gradients):
    """A machine's updates, in a row. # [steps, elements]"""

    def step(state, g):
        updates, state = machine.update(g, state, params)
        return state, jnp.concatenate([x.reshape(-1) for x in updates])

    return jax.lax.scan(step, machine.init(params), gradients)[1]


@jax.jit
def _reference(codes, params, gradients):
    """Of each program on its own, with real branches. # [candidates, steps, elements]"""
    return jax.lax.map(lambda code: _updates(register_machine(code), params, gradients), codes)


@cache
def _kernel(target, interpret=True):
    """Candidates, parameters and gradients to updates. # [candidates, steps, elements]"""

    @jax.jit
    def run(candidates, params, gradients):
        TRACES[target] += 1
        return jax.vmap(lambda one: _updates(population_machine(one, 6, target, interpret), params, gradients))(candidates)

    return run


def _alone(opcode):
    """Bytecode of one instruction."""
    code = np.zeros((MAX_INSTRUCTIONS, 6), np.int32)
    code[0] = (opcode, UPDATE_ROW, G_ROW, W_ROW, 1, 2)
    scalars = np.zeros((STEPS, NUM_SCALARS), np.float32)
    scalars[:, 1:3] = 0.7, -0.4
    return Bytecode(code, np.int32(1), scalars)


def _in_launches(run, codes):
    """What `run` makes of the codes, as many at a time as a launch has. # [codes, steps, elements]"""
    filled = [*codes, *[_alone(OPCODES["fill"])] * (-len(codes) % CANDIDATES)]
    parts = [filled[first : first + CANDIDATES] for first in range(0, len(filled), CANDIDATES)]
    return np.concatenate([run(part) for part in parts])[: len(codes)]


def _by_reference(codes, params, gradients):
    return _in_launches(lambda part: _reference(_stacked(part), params, gradients), codes)


def _by_kernel(codes, params, gradients, target, interpret=True):
    return _in_launches(lambda part: _kernel(target, interpret)(Candidates.of(part), params, gradients), codes)


def _stacked(codes):
    return jax.tree.map(lambda *each: np.stack(each), *codes)


@pytest.fixture(scope="module")
def mutants(random_programs):
    """Random programs, their bytecode and what the reference makes of it; those with reductions last, so that few launches need passes."""
    programs = list(random_programs(320, 8))
    codes = [assemble(program, CLOCK) for program in programs]
    depths = packing.pack(codes).depths
    assert (depths > 0).sum() > 40 and depths.max() > 1
    order = np.argsort(depths, kind="stable")
    programs, codes = ([each[i] for i in order] for each in (programs, codes))
    return programs, codes, _by_reference(codes, *_draw())


@pytest.mark.parametrize(("target", "interpret"), RUNS)
def test_random_programs(mutants, target, interpret, close, at_an_edge):
    programs, codes, expected = mutants
    params, gradients = _draw()
    found = _by_kernel(codes, params, gradients, target, interpret)
    _assert_alike(programs, codes, params, gradients, expected, found, close, at_an_edge)


@pytest.mark.parametrize("target", TARGETS)
def test_random_shapes(mutants, target, close, at_an_edge):
    """Half of the programs with reductions; other shapes for each target."""
    rng = np.random.default_rng(3 + TARGETS.index(target))
    shapes = [tuple(rng.integers(0, 14, rng.integers(0, 4)).tolist()) for _ in range(8)]
    programs, codes = ([*each[: CANDIDATES // 2], *each[-CANDIDATES // 2 :]] for each in mutants[:2])
    params, gradients = _draw(tuple(shapes))
    expected, found = _by_reference(codes, params, gradients), _by_kernel(codes, params, gradients, target)
    _assert_alike(programs, codes, params, gradients, expected, found, close, at_an_edge)


def _assert_alike(programs, codes, params, gradients, expected, found, close, at_an_edge):
    """Few differ, and where it is rounding that makes the difference, a nudge of the gradients makes one too."""
    differ = [i for i in range(len(codes)) if not close(found[i], expected[i])]
    assert len(differ) <= len(codes) / 16
    nudged = [_by_reference([codes[i] for i in differ], params, [g * (1 + nudge) for g in gradients]) for nudge in NUDGES if differ]
    for place, i in enumerate(differ):
        steady = all(close(each[place], expected[i]) for each in nudged)
        assert not steady or at_an_edge(programs[i], found[i], expected[i]), programs[i]


@pytest.mark.parametrize("target", TARGETS)
def test_every_opcode_at_special_values(target):
    """Also at zero, infinity, what is not a number, and outside the domains."""
    opcodes = [name for name in OPCODES if name not in EXTENDED]
    values = np.float32([0.0, -0.0, 1.0, -1.0, 0.3, -0.3, 2.5, -2.5, 1e-5, -1e-5, 30.0, -30.0, 90.0, np.inf, -np.inf, np.nan])
    params, gradients = _draw()
    for leaf, x in zip((params, gradients), np.meshgrid(values, values), strict=True):
        leaf[2] = leaf[2].at[..., :256].set(x.reshape(-1))
    codes = [_alone(OPCODES[name]) for name in opcodes]
    expected, found = _by_reference(codes, params, gradients), _by_kernel(codes, params, gradients, target)
    for name, one, other in zip(opcodes, found[:, 0], expected[:, 0], strict=True):
        np.testing.assert_allclose(one, other, rtol=SUMS.get(name, 3e-6), atol=1e-37, err_msg=name)  # XLA's own cosh is off by 1.5e-6


@pytest.mark.parametrize(("target", "interpret"), RUNS)
def test_every_opcode_on_ordinary_values(target, interpret):
    opcodes = [name for name in OPCODES if name not in EXTENDED]
    codes = [_alone(OPCODES[name]) for name in opcodes]
    expected, found = _by_reference(codes, *_draw()), _by_kernel(codes, *_draw(), target, interpret)
    for name, one, other in zip(opcodes, found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=SUMS.get(name, 1e-5), err_msg=name)
        assert np.isfinite(other).any() or name == "arccosh"


REDUCTIONS = {
    "one after the other": (3, "x = g * norm(w)", "y = x * global_norm(x)", "update = y * dot(y, g)"),
    "side by side": (1, "update = g * norm(w) + w * norm(g) + cosine_sim(g, w)"),
    "clip at a bound of a reduction": (2, "update = clip(g, dot(g, g) * 0.1) + clip(w, 0.2)"),
    "of a state": (1, "m = interp(g, m, 0.9)", "update = m / norm(m)", "v = w * norm(v + g)"),
    "of a constant": (1, "update = g * norm(2.0)"),
}


@pytest.mark.parametrize(("target", "interpret"), RUNS)
def test_passes_of_reductions(target, interpret, close):
    codes = [assemble(_program(*lines), CLOCK) for _, *lines in REDUCTIONS.values()]
    assert packing.pack(codes).depths.tolist() == [depth for depth, *_ in REDUCTIONS.values()]
    expected, found = _by_reference(codes, *_draw()), _by_kernel(codes, *_draw(), target, interpret)
    for name, one, other in zip(REDUCTIONS, found, expected, strict=True):
        assert close(one, other, 3e-5), name
    alone = _by_kernel(codes[1:2], *_draw(), target, interpret)
    np.testing.assert_array_equal(alone[0], found[1])  # more passes than it needs change nothing


@pytest.mark.heavy
@pytest.mark.parametrize("planted", [False, True])
def test_no_data_races(planted, two_threads, plant_a_race, close):
    """Candidates on two cores; as a control, the race of candidates that write to the first one's memory is found."""
    codes = [assemble(load(name), CLOCK) for name in ("lion", "lamb", "adamw")]
    params, gradients = _draw(((3,),) if planted else ((9, 130), (3,)), steps=1)  # of several blocks jax finds the revisit before the race
    if planted:
        plant_a_race(pallas)
    run = _kernel.__wrapped__("tpu", pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2))
    found = np.asarray(run(Candidates.of(codes), params, gradients))
    assert interpret_pallas_call.races.races_found == planted
    if not planted:
        expected = np.asarray(_reference(_stacked(codes), params, gradients))
        assert all(close(one, other, 1e-5) for one, other in zip(found, expected, strict=True))


def _shapes_of_arguments(layout, candidates):
    def shape(*dims, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(dims, dtype)

    example = packing.pack([assemble(load("lion"), CLOCK)])
    programs = jax.tree.map(lambda x: shape(candidates, *x.shape[1:], dtype=x.dtype), example)
    flat = shape(candidates, *layout.flat_shape)
    return programs, shape(candidates, NUM_SCALARS), flat, flat, shape(candidates, 2, *layout.flat_shape)


@pytest.mark.parametrize("shapes", [MODEL, ((1,),)], ids=["model", "one number"])
def test_lowers_for_cuda(lower_for, shapes):
    layout = pallas.layout(shapes, "gpu")
    text = lower_for("cuda", lambda *each: pallas.update(layout, *each, "gpu"), *_shapes_of_arguments(layout, 4)).text
    assert "population_update" in text and "population_sums" in text
    aliases = re.findall(r"output_tuple_indices = \[(\d+)\], operand_index = (\d+)", text)
    assert aliases == [("0", "6"), ("1", "7")], "updates take the place of gradients, new states that of states"


def _count(jaxpr, name):
    """Equations of a primitive, in kernels, loops and branches as well."""
    inner = [each for equation in jaxpr.eqns for value in equation.params.values() for each in _jaxprs(value)]
    return sum(equation.primitive.name == name for equation in jaxpr.eqns) + sum(_count(each, name) for each in inner)


def _jaxprs(value):
    if isinstance(value, tuple | list):
        return [each for part in value for each in _jaxprs(part)]
    value = getattr(value, "jaxpr", value)  # of a closed one
    return [value] if hasattr(value, "eqns") else []


@pytest.mark.parametrize("target", TARGETS)
def test_each_candidate_takes_real_branches(target):
    """Under vmap too, which makes selects of conditions outside a kernel: a binary tree over the opcodes in each of the two kernels."""
    candidates, (params, gradients) = Candidates.of([assemble(load("lion"), CLOCK)] * 3), _draw(MODEL)

    def run(candidates):
        return jax.vmap(lambda one: _updates(population_machine(one, 2, target), params, gradients))(candidates)

    jaxpr = jax.make_jaxpr(run)(candidates).jaxpr
    assert _count(jaxpr, "pallas_call") == 2
    opcodes = len(OPCODES) - len(EXTENDED)
    assert _count(jaxpr, "cond") == 2 * (opcodes - 1) + 1, "and one for whether an instruction is a reduction"


def test_the_transformation_is_one_launch_for_all_candidates(lower_for):
    """Under vmap and inside a scan, as a batch trains: two kernels in the program whatever the number of candidates."""
    candidates = Candidates.of([assemble(load("lion"), CLOCK)] * 5)

    def run(candidates, *model):
        return jax.vmap(lambda one: _updates(population_machine(one, 2, "gpu"), *model))(candidates)

    text = lower_for("cuda", run, candidates, *_draw(MODEL)).text
    assert text.count("xla.gpu.triton") == 2


@pytest.mark.tpu_compiler
@pytest.mark.parametrize(
    ("topology", "shapes"),
    [("v4:2x2x1", LARGE), ("v5e:2x2", LARGE), ("v5e:2x2", MODEL), ("v6e:2x2", MODEL)],
    ids=lambda x: x if isinstance(x, str) else "large" if x is LARGE else "model",
)
def test_compiles_for_tpu(lower_for, topology, shapes):
    layout = pallas.layout(shapes, "tpu")
    arguments = _shapes_of_arguments(layout, 4)
    compiled = lower_for("tpu", lambda *each: pallas.update(layout, *each, "tpu"), *arguments, topology=topology).compiled
    assert compiled.memory_analysis().output_size_in_bytes > 4 * 3 * layout.num_rows * packing.LANES


@pytest.mark.heavy
def test_one_compile_for_a_thousand_programs(random_programs):
    codes = {canonical_hash(program): assemble(program, CLOCK) for program in random_programs(1700, 2)}
    codes = [code for code in codes.values() if not packing.unsupported(code)][:1024]
    launch, params, gradients, before = _kernel("gpu"), *_draw(), TRACES["gpu"]
    parts = [codes[first : first + CANDIDATES] for first in range(0, 1024, CANDIDATES)]
    outputs = {row.tobytes() for part in parts for row in np.asarray(launch(Candidates.of(part), params, gradients))}
    assert len(codes) == 1024 and len(outputs) > 400
    assert TRACES["gpu"] <= before + 1


def test_what_the_kernel_has_no_form_of():
    reasons = {name: packing.unsupported(assemble(load(name), CLOCK, extended=True)) for name in names()}
    assert all(bool(reason) == bool(extended_operations(load(name))) for name, reason in reasons.items())
    many = _program("x = g", *["x = x * norm(x)"] * 17, "update = x")
    assert packing.unsupported(assemble(many, CLOCK)) == "has 17 reductions over parameters, the kernel keeps 16"


@pytest.mark.parametrize(("platform", "target"), [("gpu", "gpu"), ("tpu", "tpu"), ("cpu", None), ("METAL", None)])
def test_the_device_decides_on_the_kernel(platform, target, monkeypatch):
    monkeypatch.setattr(backend, "platform", lambda: platform)
    assert pallas.available() == target


def test_a_kernel_that_cannot_run_here_says_why(monkeypatch):
    monkeypatch.setattr(backend, "platform", lambda: "cpu")
    with pytest.raises(backend.BackendError, match=r"runs on a gpu \(Triton\) or a tpu \(Mosaic\), jax has the cpu here"):
        pallas.require()
    assert pallas.require(interpret=True) == "tpu"


def test_states_counted():
    assert {name: packing.num_states(assemble(load(name), CLOCK)) for name in ("sgd", "lion", "adamw")} == {"sgd": 0, "lion": 1, "adamw": 2}


@given(st.lists(st.lists(st.integers(0, 40), max_size=3).map(tuple), min_size=1, max_size=5), st.sampled_from([2, 8]))
@settings(deadline=None, max_examples=10)
def test_blocks_hold_the_arrays(shapes, block_rows):
    layout = packing.Layout(tuple(shapes), block_rows)
    rng = np.random.default_rng(0)
    leaves = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in shapes]
    flat, again = jax.jit(lambda leaves: (flat := layout.flatten(leaves), layout.unflatten(flat)))(leaves)
    assert flat.shape == (2, *layout.flat_shape)
    for leaf, back in zip(leaves, again, strict=True):
        np.testing.assert_array_equal(leaf, back)
    blocks = np.asarray(flat).reshape(2, -1, block_rows * packing.LANES)
    assert layout.counts.sum() == sum(layout.sizes) and len(layout.counts) == blocks.shape[1] == len(layout.leaf_of_block)
    padding = np.arange(blocks.shape[2]) >= layout.counts[:, None]
    assert not blocks[:, padding].any()
