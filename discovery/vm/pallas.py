"""The register machine as one kernel launch for a population: a program of its own for each candidate.

The grid is (candidate, block of parameters). A cell reads its candidate's bytecode from scalar memory, keeps the rows of the
register file of its block on the chip and takes a real branch at each instruction, by a binary tree of conditions. Where
the rows live differs: on a TPU in scratch memory, on a GPU, where Triton has none, in registers, of which a tree of selects
picks the operand.

A reduction over parameters (`norm`, `global_norm`, `dot`, `cosine_sim`, `clip`) needs all blocks. It is done in passes: a
second kernel runs the programs up to their last reduction and writes of each the sums over its block; XLA adds them up; the next
launch finds the results in a table. Rows are not kept between passes but computed again, which is cheaper than to store them. A
population takes as many passes as its longest chain of reductions that wait for each other, and none where it has no reductions.
Operations of the extended language, on matrices, are not the kernel's: `packing.unsupported` says so, and such programs run one by
one on `xla.py`, the reference of this kernel.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from ...optimizers.kernels import backend, substitutes
from .bytecode import FIRST_STATE_ROW, G_ROW, NUM_ROWS, NUM_SCALARS, UPDATE_ROW, W_ROW
from .opcodes import ELEMENTWISE, EXTENDED, OPCODES
from .packing import LANES, MAX_REDUCTIONS, WORDS, Layout, Programs

Target = Literal["gpu", "tpu"]
Refs = Sequence[Any]

_SUMS = 3  # of a reduction of rows a and b: a*a, a*b, b*b
# 2 numbers of each of the 32 rows in a thread: 64 of its 255 registers, the rest for operands and to have several blocks on a core.
_GPU_BLOCK_ROWS, _GPU_WARPS = 2, 4
_TPU_BLOCK_ROWS = (64, 32, 16, 8)  # 8 rows are a tile of its vector memory; the register file of 64 takes 1 MiB of it
_PADDING = 1.25  # how many times the smallest blocks' memory larger ones may take


def available() -> Target | None:
    """What this process's default device is to the kernel; None where it has no kernel."""
    found = backend.platform()
    return found if found in ("gpu", "tpu") else None


def require(interpret: Any = False) -> Target:
    """The target of an explicit request for the kernel.

    Raises:
        BackendError: it cannot run here; the message says why.
    """
    found = available()
    if found is None and interpret is False:
        raise backend.BackendError(
            f"the population kernel runs on a gpu (Triton) or a tpu (Mosaic), jax has the {backend.platform()} here; "
            "leave the choice to the device, or pass interpret=True to simulate it"
        )
    return found or "tpu"


def layout(shapes: Sequence[tuple[int, ...]], target: Target) -> Layout:
    """The blocks that suit a model: on a TPU the largest ones that waste little memory in padding."""
    if target == "gpu":
        return Layout(tuple(shapes), _GPU_BLOCK_ROWS)
    candidates = [Layout(tuple(shapes), rows) for rows in _TPU_BLOCK_ROWS]
    return next(each for each in candidates if each.num_rows <= _PADDING * candidates[-1].num_rows)


def update(
    layout: Layout,
    programs: Programs,
    scalars: Float[Array | np.ndarray, "candidates scalars"],
    params: Float[Array, "candidates rows lanes"],
    gradients: Float[Array, "candidates rows lanes"],
    states: Float[Array, "candidates states rows lanes"],
    target: Target,
    interpret: Any = False,
) -> tuple[Float[Array, "candidates rows lanes"], Float[Array, "candidates states rows lanes"]]:
    """One step of every candidate: its program's update, which is to be subtracted, and the program's new states.

    Args:
        layout: of the parameters, from `layout`.
        programs: from `packing.pack`.
        scalars: this step's row of each program's table of scalars.
        params: from `Layout.flatten`.
        gradients: likewise.
        states: as many as the programs keep at most (`packing.num_states`); zero before the first step.
        target: what to compile for.
        interpret: simulate the kernel on any device: True, or a `pltpu.InterpretParams` for the TPU's memories.

    Example:
        >>> from .bytecode import Clock, assemble
        >>> from .packing import pack
        >>> from ..language import load
        >>> codes = [assemble(load(name), Clock.create(np.ones(1))) for name in ("sgd", "lion")]
        >>> blocks = layout([(3,)], "gpu")
        >>> w, g = (blocks.flatten([jnp.full((2, 3), value, jnp.float32)]) for value in (1.0, 0.5))
        >>> scalars, states = np.stack([code.scalars[0] for code in codes]), jnp.zeros((2, 1, *w.shape[1:]))
        >>> step, _ = update(blocks, pack(codes), scalars, w, g, states, "gpu", interpret=True)
        >>> [f"{number:.4g}" for number in blocks.unflatten(step)[0][:, 0]]
        ['0.05', '0.00033']
    """
    if layout.num_rows == 0:
        return gradients, states
    launch = partial(_launch, layout, programs, scalars, params, gradients, states, target=target, interpret=interpret)

    def one_pass(_: Any, results: Array) -> Array:
        return _combine(layout, programs, launch(results, sums=True)[0])

    none = jnp.zeros((len(params), len(layout.shapes), MAX_REDUCTIONS), jnp.float32)
    results = lax.fori_loop(0, jnp.max(jnp.asarray(programs.depths)), one_pass, none)
    updates, new_states = launch(results, sums=False)
    return updates, new_states


def _combine(layout: Layout, programs: Programs, sums: Array) -> Array:
    """What the reductions give, from the sums over blocks: a number for each parameter array. # [candidates, leaves, reductions]"""
    sums = sums.reshape(*sums.shape[:2], MAX_REDUCTIONS, _SUMS)
    starts = np.cumsum((0, *layout.blocks))
    leaves = jnp.stack([jnp.sum(sums[:, start : start + n], 1) for start, n in zip(starts, layout.blocks, strict=False)], 1)
    aa, ab, bb = jnp.moveaxis(jnp.broadcast_to(jnp.sum(leaves, 1, keepdims=True), leaves.shape), -1, 0)
    opcode = jnp.asarray(programs.reducers)[:, None]
    found = jnp.where(opcode == OPCODES["norm"], jnp.sqrt(leaves[..., 0]), jnp.sqrt(aa))  # of `clip` too: how it clips is in the kernel
    found = jnp.where(opcode == OPCODES["dot"], ab, found)
    return jnp.where(opcode == OPCODES["cosine_sim"], ab / (jnp.sqrt(aa) * jnp.sqrt(bb)), found)


def _launch(
    layout: Layout,
    programs: Programs,
    scalars: Any,
    params: Array,
    gradients: Array,
    states: Array,
    results: Array,
    target: Target,
    interpret: Any,
    sums: bool,
) -> Sequence[Array]:
    candidates, blocks, rows = len(params), len(layout.counts), layout.block_rows
    small = partial(pl.BlockSpec, memory_space=pltpu.SMEM) if target == "tpu" else pl.BlockSpec
    vectors = pl.BlockSpec((1, rows, LANES), lambda c, b: (c, b, 0))
    several = pl.BlockSpec((1, states.shape[1], rows, LANES), lambda c, b: (c, 0, b, 0))

    def of_candidate(width: int) -> pl.BlockSpec:
        return small((1, 1, width), lambda c, b: (c, 0, 0))

    def of_cell(width: int) -> pl.BlockSpec:
        return small((1, 1, 1, width), lambda c, b: (c, b, 0, 0))

    words, heads = (jnp.asarray(each)[:, None] for each in (programs.words, programs.heads))
    in_specs = [
        of_candidate(words.shape[2]),
        of_candidate(heads.shape[2]),
        of_candidate(NUM_SCALARS),
        of_cell(MAX_REDUCTIONS),
        small((1, 1, 1), lambda c, b: (b, 0, 0)),
        *(vectors, vectors, several),
    ]
    if sums:
        out_specs = [of_cell(MAX_REDUCTIONS * _SUMS)]
        out_shape = [jax.ShapeDtypeStruct((candidates, blocks, 1, MAX_REDUCTIONS * _SUMS), jnp.float32)]
    else:
        out_specs, out_shape = [vectors, several], [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (gradients, states)]
    return pl.pallas_call(
        partial(_kernel, _functions(target), sums),
        out_shape,
        grid=(candidates, blocks),
        in_specs=in_specs,
        out_specs=out_specs,
        scratch_shapes=[pltpu.VMEM((NUM_ROWS, rows, LANES), jnp.float32)] if target == "tpu" else [],
        input_output_aliases={} if sums else {6: 0, 7: 1},
        compiler_params=_compiler_params(target),
        interpret=interpret,
        name="population_sums" if sums else "population_update",
    )(
        *(words, heads, jnp.asarray(scalars)[:, None], results[:, layout.leaf_of_block, None]),
        *(jnp.asarray(layout.counts)[:, None, None], params, gradients, states),
    )


def _compiler_params(target: Target) -> Any:
    if target == "gpu":
        return triton.CompilerParams(num_warps=_GPU_WARPS, num_stages=1)
    return pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"))


Function = Callable[..., Array]


def _functions(target: Target) -> list[Function]:
    """One function an opcode, ``(a, b, s, t, r) -> row``; r is what a reduction gave."""
    special = {
        **dict.fromkeys(("norm", "global_norm", "dot", "cosine_sim"), lambda a, b, s, t, r: r),
        "clip": lambda a, b, s, t, r: jnp.where(r > s, a * (s / r), a),
        "clip_row": lambda a, b, s, t, r: jnp.where(r > b, a * (b / r), a),
    }
    elementwise = {name: substitutes.replace(fn, substitutes.TPU) if target == "tpu" else fn for name, fn in ELEMENTWISE.items()}
    usual = {name: lambda a, b, s, t, r, fn=fn: fn(a, b, s, t) for name, fn in elementwise.items()}
    return [(usual | special)[name] for name in OPCODES if name not in EXTENDED]


def _kernel(functions: list[Function], sums: bool, *refs: Any) -> None:
    """One cell of the grid; with `sums` it writes what its block adds to each reduction, else its update and states."""
    words, heads, scalars, results, count, w, g, states, *rest = refs
    outputs, registers = (rest[:1], rest[1:]) if sums else (rest[:2], rest[2:])
    num_states = states.shape[1]
    first = {W_ROW: w[0], G_ROW: g[0], **{FIRST_STATE_ROW + i: states[0, i] for i in range(num_states)}}
    file = _start(registers, first)
    valid = _valid(count[0, 0, 0], w.shape[1:]) if sums else None

    def instruction(index: Array, file: Any) -> Any:
        opcode, destination, a, b, s, t, slot = (words[0, 0, index * WORDS + i] for i in range(WORDS))
        left, right = _read(registers, file, a), _read(registers, file, b)
        if sums:
            _write_sums(outputs[0], slot, left, right, valid)
        operands = (left, right, scalars[0, 0, s], scalars[0, 0, t], results[0, 0, 0, jnp.maximum(slot, 0)])
        return _write(registers, file, destination, _branch(functions, opcode, operands))

    file = lax.fori_loop(0, heads[0, 0, 1 if sums else 0], instruction, file)
    if not sums:
        outputs[0][0] = _at(registers, file, UPDATE_ROW)
        for i in range(num_states):
            outputs[1][0, i] = _at(registers, file, FIRST_STATE_ROW + i)


def _branch(functions: list[Function], opcode: Array, operands: tuple[Array, ...], first: int = 0) -> Array:
    """The function of the opcode by a binary tree of conditions: the TPU's compiler fails at a flat switch of many branches."""
    if len(functions) == 1:
        return jnp.broadcast_to(functions[0](*operands), operands[0].shape)
    half = len(functions) // 2
    return lax.cond(
        opcode < first + half,
        lambda *operands: _branch(functions[:half], opcode, operands, first),
        lambda *operands: _branch(functions[half:], opcode, operands, first + half),
        *operands,
    )


def _valid(count: Array, shape: tuple[int, ...]) -> Array:
    return lax.broadcasted_iota(jnp.int32, shape, 0) * LANES + lax.broadcasted_iota(jnp.int32, shape, 1) < count


def _write_sums(output: Any, slot: Array, a: Array, b: Array, valid: Any) -> None:
    @pl.when(slot >= 0)
    def _() -> None:
        for i, product in enumerate((a * a, a * b, b * b)):
            output[0, 0, 0, slot * _SUMS + i] = jnp.sum(jnp.where(valid, product, 0.0))


# The register file: rows of a scratch memory where the kernel has one, else values that the loop carries.


def _start(registers: Refs, first: dict[int, Array]) -> Any:
    if not registers:
        zero = jnp.zeros_like(first[W_ROW])
        return tuple(first.get(row, zero) for row in range(NUM_ROWS))
    for row, value in first.items():
        registers[0][row] = value
    return jnp.int32(0)  # a loop without a carried value does not compile for TPU


def _read(registers: Refs, file: Any, row: Array) -> Array:
    if registers:
        return registers[0][row]
    while len(file) > 1:
        odd = row % 2 == 1
        file = tuple(jnp.where(odd, high, low) for low, high in zip(file[::2], file[1::2], strict=True))
        row = row // 2
    return file[0]


def _at(registers: Refs, file: Any, row: int) -> Array:
    return registers[0][row] if registers else file[row]


def _write(registers: Refs, file: Any, row: Array, value: Array) -> Any:
    if not registers:
        return tuple(jnp.where(row == number, value, old) for number, old in enumerate(file))
    registers[0][row] = value
    return file
