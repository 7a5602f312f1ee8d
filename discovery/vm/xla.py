"""The register machine in plain XLA: any program as a run-time input of one compiled transformation."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from .bytecode import G_ROW, NUM_ROWS, UPDATE_ROW, W_ROW, Bytecode
from .opcodes import Branch, branches


class RegisterMachineState(NamedTuple):
    """Registers live from step to step: the states of a program are rows of the file."""

    registers: Float[Array, "rows parameters"]
    count: Int[Array, ""]  # steps taken  # pyright: ignore[reportIncompatibleMethodOverride]


def register_machine(code: Bytecode, extended: bool = False) -> optax.GradientTransformationExtraArgs:
    """The transformation that executes the given bytecode, one `lax.switch` an instruction.

    The form is what measured best on a CPU: the file is carried across steps, each leaf is written into its row by
    a static-offset `dynamic_update_slice`, operands are sliced inside the branches and the result is written outside
    of them. Not for `vmap` over programs on a CPU: a batched switch runs every branch.

    Args:
        code: the program; its arrays may be traced, so one executable serves all programs.
        extended: whether the machine has the operations of the extended language; without them it compiles faster. It
            must be what the program was assembled for.

    Returns:
        A transformation over float32 parameters whose updates are ``-update`` of the program. To one that is not told the loss, as in
        ``update(gradients, state, params, value=loss)``, it is NaN.
    """

    def init_fn(params: optax.Params) -> RegisterMachineState:
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        return RegisterMachineState(jnp.zeros((NUM_ROWS, size), jnp.float32), jnp.zeros((), jnp.int32))

    def update_fn(
        updates: optax.Updates,
        state: RegisterMachineState,
        params: optax.Params | None = None,
        *,
        value: jax.Array | float = math.nan,
        **_: Any,
    ) -> tuple[optax.Updates, RegisterMachineState]:
        gradients, treedef = jax.tree.flatten(updates)
        sizes = [leaf.size for leaf in gradients]
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        functions = branches(tuple(leaf.shape for leaf in gradients), extended, value)
        registers = state.registers
        for w, g, offset in zip(jax.tree.leaves(params), gradients, offsets, strict=True):
            registers = lax.dynamic_update_slice(registers, w.reshape(1, -1), (W_ROW, offset))
            registers = lax.dynamic_update_slice(registers, g.reshape(1, -1), (G_ROW, offset))
        registers = _execute(code, state.count, registers, functions)
        steps = [
            -lax.slice(registers, (UPDATE_ROW, offset), (UPDATE_ROW + 1, offset + leaf.size)).reshape(leaf.shape)
            for offset, leaf in zip(offsets, gradients, strict=True)
        ]
        return jax.tree.unflatten(treedef, steps), RegisterMachineState(registers, state.count + 1)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)  # pyright: ignore[reportArgumentType]


def _execute(
    code: Bytecode, count: Int[Array, ""], registers: Float[Array, "rows parameters"], functions: list[Branch]
) -> Float[Array, "rows parameters"]:
    scalars = lax.dynamic_index_in_dim(jnp.asarray(code.scalars), count, 0, keepdims=False)
    table = jnp.asarray(code.instructions)

    def body(index: Int[Array, ""], registers: Float[Array, "rows parameters"]) -> Float[Array, "rows parameters"]:
        instruction = table[index]
        s, t = scalars[instruction[4]], scalars[instruction[5]]
        row = lax.switch(instruction[0], functions, registers, instruction[2], instruction[3], s, t)
        return lax.dynamic_update_index_in_dim(registers, row, instruction[1], 0)

    return lax.fori_loop(0, code.length, body, registers)
