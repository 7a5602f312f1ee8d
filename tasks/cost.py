"""What a task costs: parameters, floating-point operations and memory from its shapes, time from a run."""

import math
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr

from .base import HostFed, PyTree, Task, load_on_device
from .supervised import Streamed
from .training import make_advance, start


@runtime_checkable
class Shaped(Protocol):
    """What a `supervised.Stream` has besides where the shapes of its batches are known without the data."""

    def batch_shapes(self, batch_size: int) -> PyTree:
        """A training batch as `jax.ShapeDtypeStruct`s."""
        ...


class Cost(NamedTuple):
    """What one run of a task takes.

    Attributes:
        parameters: numbers that are trained.
        parameter_bytes: their size; every state of an optimizer, such as a momentum, takes as much again.
        state_bytes: of the task's own state, such as batch statistics.
        step_flops: floating-point operations of the matrix products and convolutions in a loss and its gradient on one
            mini-batch, a multiplication and an addition each counted as one; the rest is small beside them.
        run_flops: the same for all steps of a run.
    """

    parameters: int
    parameter_bytes: int
    state_bytes: int
    step_flops: int
    run_flops: int


def cost(task: Task) -> Cost:
    """The cost of a task, from shapes alone: nothing is trained.

    Example:
        >>> from stepsmith.tasks import get
        >>> cost(get("digits_mlp")).parameters == 64 * 32 + 32 + 32 * 10 + 10
        True
    """
    key = jax.random.key(0)
    params, state = jax.eval_shape(task.init, key)
    if isinstance(task, Streamed) and isinstance(task.source, Shaped):
        batch = task.source.batch_shapes(task.batch_size)
    elif isinstance(task, HostFed):
        batch = next(task.stream(task.load(), 0, 0))
    else:
        batch = jax.eval_shape(lambda data: task.batch(data, key, "train"), dict(task.load()))
    gradient = jax.make_jaxpr(jax.value_and_grad(task.loss, has_aux=True))(params, state, batch, key)
    step_flops = _flops(gradient.jaxpr)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Cost(size, _bytes(params), _bytes(state), step_flops, step_flops * task.steps)


def seconds_per_step(task: Task, num_chunks: int = 5, chunk: int = 20) -> float:
    """Median time of a training step with AdamW on this machine's first device, compilation apart, in seconds.

    Example:
        >>> from stepsmith.tasks import get
        >>> 0 < seconds_per_step(get("quadratic")) < 0.1
        True
    """
    transformation = optax.adamw(1e-4)
    data = load_on_device(task)
    carry = jax.jit(lambda key: start(task, transformation, key))(jax.random.key(0))
    advance = make_advance(task, transformation, data, 0, 0, chunk)
    carry, _, _ = jax.block_until_ready(advance(carry))  # compiles
    times = []
    for _ in range(num_chunks):
        began = time.perf_counter()
        carry, _, _ = jax.block_until_ready(advance(carry))
        times.append(time.perf_counter() - began)
    return statistics.median(times) / chunk


def _flops(jaxpr: Any) -> int:
    """Of the products in a jaxpr and those inside it; a scan's body counts as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * kernel.size // outputs
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(_flops(inner) for value in equation.params.values() for inner in _jaxprs(value))
    return total


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
    """Those in one parameter of an equation, some of which are tuples of branches."""
    for item in value if isinstance(value, tuple | list) else (value,):
        if isinstance(item, ClosedJaxpr | Jaxpr):
            yield item.jaxpr if isinstance(item, ClosedJaxpr) else item


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
