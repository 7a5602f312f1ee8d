"""An elementwise update rule, and what it does to one tile of one parameter array: the arithmetic that every backend shares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from .blockwise import Code
from .rounding import derive, random16, stochastic_bfloat16

Elementwise = Callable[
    [jax.Array, jax.Array, tuple[jax.Array, ...], Mapping[str, jax.Array]], tuple[jax.typing.ArrayLike, tuple[jax.typing.ArrayLike, ...]]
]


@dataclass(frozen=True)
class State:
    """How a state is kept between steps.

    Attributes:
        dtype: of the array; None means the parameter's.
        code: one byte an element instead, see `blockwise`.

    Raises:
        ValueError: both are given.
    """

    dtype: jax.typing.DTypeLike | None = None
    code: Code | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.code is not None:
            raise ValueError(
                f"a state is kept as {jnp.dtype(self.dtype).name} or in a code of one byte, both were asked for: "
                "leave out the dtype (mu_dtype) or the code (eight_bit)"
            )


@dataclass(frozen=True)
class Rule:
    """An update rule that treats every element alike.

    Attributes:
        update: ``update(w, g, states, scalars) -> (u, new_states)`` in plain jax, where ``w + u`` is the new parameter. It sees one
            piece of a parameter array after another, in float32 (float64 where the parameters are) whatever is stored, so it may
            use no reduction, no index and no constant array (`elementwise.py` asks).
        states: one entry a state; they start at zero.
        scalars: steps taken so far -> the numbers that `update` reads, or schedules for them; all that changes from step to step
            or may be traced must come this way. ``weight_decay``, if there is one, is 0 in parameter arrays that the mask leaves out.
    """

    update: Elementwise
    states: tuple[State, ...]
    scalars: Callable[[jax.Array], Mapping[str, jax.typing.ArrayLike | optax.Schedule]]


def numbers(rule: Rule, count: jax.Array, dtype: jax.typing.DTypeLike) -> dict[str, jax.Array]:
    """A rule's numbers after `count` steps, schedules asked."""
    return {name: jnp.asarray(value(count) if callable(value) else value, dtype) for name, value in rule.scalars(count).items()}


class Mode(NamedTuple):
    """What a step gives back.

    Attributes:
        in_place: the new parameters, instead of the updates to add to them.
        stochastic: whether new bfloat16 parameters are rounded stochastically.
    """

    in_place: bool
    stochastic: bool = False


class Leaf(NamedTuple):
    """A parameter array with what its step reads.

    Attributes:
        arrays: parameter, gradient, then each state: one array, or codes and scales.
        codes: how each state is coded in this array; None where it is an array.
        number: place among the parameter arrays.
        decayed: whether its weights decay.
    """

    arrays: tuple[jax.Array, ...]
    codes: tuple[Code | None, ...]
    number: int
    decayed: bool


class Site(NamedTuple):
    """Where a tile lies."""

    key: jax.Array  # int32 # [], of this step
    array: jax.Array | int  # number of the parameter array
    decayed: jax.Array | bool  # 1 where the parameter array's weights decay, else 0
    size: jax.Array | int  # elements of the parameter array; the tile may reach beyond them
    position: Callable[[], jax.Array]  # index of each element in its parameter array, int32


def compute_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """What a parameter array of that dtype is updated in."""
    return jnp.promote_types(dtype, jnp.float32)


def update_tile(
    rule: Rule, codes: Sequence[Code | None], tiles: Sequence[jax.Array], scalars: Mapping[str, jax.Array], site: Site, mode: Mode
) -> list[jax.Array]:
    """One step of a rule on one tile.

    Args:
        rule: the rule.
        codes: how each state is coded here.
        tiles: parameter, gradient, then each state: one array, or codes and scales. # [...], with codes [..., 256] and [..., 1]
        scalars: the rule's numbers of this step. # []
        site: where the tile lies.
        mode: what to give back.

    Returns:
        The new parameter or the update, then each state's new tiles, in their stored dtypes.
    """
    dtype = compute_dtype(tiles[0].dtype)
    w, g = tiles[0].astype(dtype), tiles[1].astype(dtype)
    scalars = {name: value.astype(dtype) for name, value in scalars.items()}
    if "weight_decay" in scalars:
        scalars["weight_decay"] = scalars["weight_decay"] * jnp.asarray(site.decayed, dtype)
    parts = split(codes, tiles[2:])
    states = tuple(code.decode(*part).astype(dtype) if code else part[0].astype(dtype) for code, part in zip(codes, parts, strict=True))
    update, new_states = rule.update(w, g, states, scalars)
    wide = [jnp.broadcast_to(jnp.asarray(value, dtype), w.shape) for value in (update, *new_states)]
    key = derive(site.key, site.array)
    outputs = [_stored(w + wide[0], tiles[0].dtype, key, site, mode) if mode.in_place else wide[0].astype(tiles[0].dtype)]
    for number, (new, code, part) in enumerate(zip(wide[1:], codes, parts, strict=True), 1):
        if code is None:
            outputs.append(new.astype(part[0].dtype))
        else:
            position = site.position()
            inside = jnp.where(position < site.size, new.astype(jnp.float32), 0.0)
            outputs += code.encode(inside, random16(key, position, number))
    return outputs


def split(codes: Sequence[Code | None], arrays: Sequence[jax.Array]) -> list[tuple[jax.Array, ...]]:
    """The arrays of all states, state by state."""
    rest = iter(arrays)
    return [(next(rest), next(rest)) if code else (next(rest),) for code in codes]


def _stored(w: jax.Array, dtype: jnp.dtype, key: jax.Array, site: Site, mode: Mode) -> jax.Array:
    if mode.stochastic and dtype == jnp.bfloat16:
        return stochastic_bfloat16(w, random16(key, site.position(), 0))
    return w.astype(dtype)
