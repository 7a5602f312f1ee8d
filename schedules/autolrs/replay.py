"""What AutoLRS found as an optax schedule: a linear warm-up, a constant rate a stage, perhaps a linear fall to zero.

`save_recorded` writes it to a file.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike


class ReplayError(ValueError):
    """Pieces that make no schedule."""


class Piece(NamedTuple):
    """A constant rate.

    Attributes:
        start: its first step.
        rate: the learning rate from there on.
    """

    start: int
    rate: float


class Found(NamedTuple):
    """A schedule in pieces.

    Attributes:
        warmup_steps: of the linear warm-up, which the first piece follows.
        warmup_rate: that it leads to; step t has (t + 1)/`warmup_steps` of it.
        pieces: by their first steps, rising.
        cooldown: steps of the linear fall to zero that ends the last piece; 0 for none.
        end: the step that it ends before, where the rate is 0.
        search_steps: steps that finding it took, beside the run's own.
    """

    warmup_steps: int
    warmup_rate: float
    pieces: tuple[Piece, ...]
    cooldown: int = 0
    end: int = 0
    search_steps: int = 0


def to_schedule(found: Found) -> optax.Schedule:
    """step -> learning rate, for traced steps too; after the end the last rate, or 0 after a cooldown.

    Raises:
        ReplayError: no pieces, pieces that do not follow each other, or a rate that is none.

    Example:
        >>> schedule = to_schedule(Found(10, 0.2, (Piece(10, 0.3), Piece(50, 0.1))))
        >>> [round(float(schedule(step)), 3) for step in (0, 9, 10, 49, 50, 1000)]
        [0.02, 0.2, 0.3, 0.3, 0.1, 0.1]
    """
    starts, rates = [piece.start for piece in found.pieces], [piece.rate for piece in found.pieces]
    if not starts or starts[0] != found.warmup_steps or any(a >= b for a, b in zip(starts[:-1], starts[1:], strict=True)):
        raise ReplayError(f"pieces must begin where the warm-up of {found.warmup_steps} steps ends and then rise, got starts {starts}")
    if not all(math.isfinite(rate) and rate >= 0 for rate in (*rates, found.warmup_rate)):
        raise ReplayError(f"rates must be finite and at least 0, got {[found.warmup_rate, *rates]}")
    if found.cooldown < 0 or (found.cooldown and found.end - found.cooldown <= starts[-1]):
        raise ReplayError(
            f"a cooldown of {found.cooldown} steps that ends at {found.end} begins no later than the last piece, at {starts[-1]}"
        )

    def schedule(step: ArrayLike) -> Array:
        index = jnp.searchsorted(jnp.asarray(starts[1:], jnp.int32), jnp.asarray(step), side="right")
        constant = jnp.asarray(rates, jnp.float32)[index]
        if found.cooldown:
            constant = constant * jnp.clip((found.end - jnp.asarray(step, jnp.float32)) / found.cooldown, 0.0, 1.0)
        if not found.warmup_steps:
            return constant
        share = (jnp.asarray(step, jnp.float32) + 1) / found.warmup_steps
        return jnp.where(jnp.asarray(step) < found.warmup_steps, found.warmup_rate * share, constant)

    return schedule  # pyright: ignore[reportReturnType]  # optax's own type of a schedule leaves out traced steps
