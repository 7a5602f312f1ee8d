"""Programs and parameters of a population in the form in which one kernel launch reads them.

Programs become one array of words and one of heads. The parameter arrays of a candidate lie one after the other in rows of
128 numbers; each begins at a block of its own, so that a block of the grid belongs to one array and what `norm` gives is one
number in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .bytecode import FIRST_FREE_ROW, FIRST_STATE_ROW, MAX_INSTRUCTIONS, NUM_ROWS, Bytecode
from .opcodes import EXTENDED, OPCODES, REDUCTIONS, ROWS_READ

LANES = 128
MAX_REDUCTIONS = 16  # in one program
WORDS = 7  # of an instruction: opcode, destination, a, b, column of s, column of t, number of the reduction or -1
_READS = np.array(list(ROWS_READ.values()))  # by opcode
_REDUCES = np.isin(np.arange(len(OPCODES)), [OPCODES[name] for name in REDUCTIONS])
_EXTENDED = np.isin(np.arange(len(OPCODES)), [OPCODES[name] for name in EXTENDED])


class Programs(NamedTuple):
    """A population's programs; the arrays may be traced, so one executable serves all populations of a size."""

    words: Int[Array | np.ndarray, "candidates words"]  # MAX_INSTRUCTIONS times WORDS
    heads: Int[Array | np.ndarray, "candidates 2"]  # instructions, and how many of them to the last reduction
    reducers: Int[Array | np.ndarray, "candidates reductions"]  # opcode of each reduction
    depths: Int[Array | np.ndarray, "candidates"]  # reductions that wait for each other


def unsupported(code: Bytecode) -> str:
    """Why the kernel cannot run a program; empty where it can.

    >>> from ..language import load
    >>> from .bytecode import Clock, assemble
    >>> unsupported(assemble(load("muon"), Clock.create(np.ones(1)), extended=True))
    'has num_columns, num_rows, on_matrices, orthogonalize, of the extended language'
    """
    found = code.instructions[: int(code.length), 0]
    names = list(OPCODES)
    if extended := sorted({names[opcode] for opcode in found if _EXTENDED[opcode]}):
        return f"has {', '.join(extended)}, of the extended language"
    if (count := int(_REDUCES[found].sum())) > MAX_REDUCTIONS:
        return f"has {count} reductions over parameters, the kernel keeps {MAX_REDUCTIONS}"
    return ""


def num_states(code: Bytecode) -> int:
    """States that a program keeps: up to the last row of a state that it touches."""
    rows = code.instructions[: int(code.length), 1:4]
    return int(np.max(rows, where=(rows >= FIRST_STATE_ROW) & (rows < FIRST_FREE_ROW), initial=FIRST_STATE_ROW - 1)) - FIRST_STATE_ROW + 1


def pack(codes: Sequence[Bytecode]) -> Programs:
    """The programs of a population as arrays.

    Args:
        codes: for none of which `unsupported` has a reason.
    """
    code = np.stack([each.instructions for each in codes])  # [candidates, instructions, 6]
    lengths = np.array([each.length for each in codes])
    live = np.arange(MAX_INSTRUCTIONS) < lengths[:, None]
    reduces = _REDUCES[code[..., 0]] & live
    slots = np.where(reduces, np.cumsum(reduces, 1) - 1, -1)
    last = np.max(np.where(reduces, np.arange(1, MAX_INSTRUCTIONS + 1), 0), 1)
    reducers = np.zeros((len(codes), MAX_REDUCTIONS), np.int32)
    candidate, instruction = np.nonzero(reduces)
    reducers[candidate, slots[candidate, instruction]] = code[candidate, instruction, 0]
    words = np.concatenate([code, slots[..., None]], 2).astype(np.int32).reshape(len(codes), -1)
    return Programs(words, np.stack([lengths, last], 1).astype(np.int32), reducers, _depths(code, last, reduces))


def _depths(code: np.ndarray, last: np.ndarray, reduces: np.ndarray) -> np.ndarray:
    """Of each program the longest chain of reductions of which each needs the one before."""
    everyone = np.arange(len(code))
    depth = np.zeros((len(code), NUM_ROWS), np.int32)  # of what each row holds
    deepest = np.zeros(len(code), np.int32)
    for index in range(int(last.max())):
        opcode, destination, a, b = code[:, index, :4].T
        left, right = (np.where(_READS[opcode] > position, depth[everyone, row], 0) for position, row in enumerate((a, b)))
        found = np.maximum(left, right) + reduces[:, index]
        live = index < last
        depth[everyone[live], destination[live]] = found[live]
        deepest = np.maximum(deepest, found * live)
    return deepest


@dataclass(frozen=True)
class Layout:
    """Where the parameter arrays of a candidate lie.

    Attributes:
        shapes: of the parameter arrays.
        block_rows: rows of 128 numbers in a block.
    """

    shapes: tuple[tuple[int, ...], ...]
    block_rows: int

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each parameter array."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of each parameter array."""
        return tuple(-(-size // (self.block_rows * LANES)) for size in self.sizes)

    @property
    def num_rows(self) -> int:
        """Rows of 128 numbers of a candidate."""
        return sum(self.blocks) * self.block_rows

    @property
    def flat_shape(self) -> tuple[int, int]:
        """Of a candidate's parameters in blocks."""
        return self.num_rows, LANES

    @cached_property
    def leaf_of_block(self) -> np.ndarray:
        """Which array each block belongs to. # [blocks]"""
        return np.repeat(np.arange(len(self.shapes)), self.blocks)

    @cached_property
    def counts(self) -> np.ndarray:
        """Numbers of the array in each block; behind them is padding. # [blocks]"""
        full = self.block_rows * LANES
        return np.array([min(full, size - i * full) for size, n in zip(self.sizes, self.blocks, strict=True) for i in range(n)], np.int32)

    def flatten(self, leaves: Sequence[Any]) -> Float[Array, "candidates rows lanes"]:
        """Arrays [candidates, *shape] in blocks, padded with zeros."""
        full = self.block_rows * LANES
        padded = [
            jnp.pad(leaf.reshape(leaf.shape[0], -1), ((0, 0), (0, n * full - size)))
            for leaf, n, size in zip(leaves, self.blocks, self.sizes, strict=True)
        ]
        return jnp.concatenate(padded, 1).reshape(padded[0].shape[0], self.num_rows, LANES)

    def unflatten(self, flat: Float[Array, "candidates rows lanes"]) -> list[Array]:
        """Arrays [candidates, *shape] out of their blocks."""
        flat = flat.reshape(flat.shape[0], -1)
        starts = np.cumsum((0, *self.blocks)) * self.block_rows * LANES
        return [
            flat[:, start : start + size].reshape(-1, *shape) if size else jnp.zeros((flat.shape[0], *shape), flat.dtype)
            for start, size, shape in zip(starts, self.sizes, self.shapes, strict=False)
        ]
