"""The one training loop: any task, any optax transformation.

`make_run` is for searches: one pure function from data and a run-time argument to an outcome, to be jitted once;
`make_runner` wraps it, and does the same for tasks whose batches the host feeds. `train` is for people: it returns the
curve and can be resumed. All advance by the same `_step`.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from .base import Batch, Data, HostFed, PyTree, Split, Task, load_on_device

OK, DIVERGED, NONFINITE, STOPPED = 0, 1, 2, 3
CHUNK = 20  # steps between two tests
STATUS_NAMES = ("ok", "diverged", "nonfinite", "stopped")


class TrainState(NamedTuple):
    """All that the next step needs.

    Attributes:
        params: the model's parameters.
        state: the task's own state, such as batch statistics.
        opt_state: the transformation's state.
        step: steps done, int32 [].
        key: the run's key; step t draws from `fold_in(key, t)`, so a run can be resumed anywhere.
    """

    params: PyTree
    state: PyTree
    opt_state: PyTree
    step: Array
    key: Array


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        status: 0 ok, 1 diverged, 2 nonfinite, 3 stopped at a limit (`STATUS_NAMES`), int32 [].
        loss: validation loss, float32 []; NaN unless the status is 0, for a failure is no number.
        steps: steps done, int32 []; fewer than asked where the run was stopped early.
        params: the parameters at the end.
        state: the task's own state at the end.
        curve: mean training loss of each chunk of steps, float32 [chunks]; NaN where it was not run.
    """

    status: Array
    loss: Array
    steps: Array
    params: PyTree
    state: PyTree
    curve: Array


class Trained(NamedTuple):
    """What `train` returns.

    Attributes:
        train_state: where training ended; hand it to `train` again to go on.
        losses: the training loss of every step done by this call, float32 [num_steps].
        status: 0 ok, 1 diverged, 2 nonfinite.
    """

    train_state: TrainState
    losses: np.ndarray
    status: int


def start(task: Task, transformation: optax.GradientTransformation, seed_key: Array) -> TrainState:
    """The state before the first step."""
    init_key, run_key = jax.random.split(seed_key)
    params, state = task.init(init_key)
    return TrainState(params, state, transformation.init(params), jnp.zeros((), jnp.int32), run_key)


def _step(
    task: Task, transformation: optax.GradientTransformationExtraArgs, carry: TrainState, make_batch: Callable[[Array], Batch]
) -> tuple[TrainState, Array]:
    batch_key, loss_key = jax.random.split(jax.random.fold_in(carry.key, carry.step))
    batch = make_batch(batch_key)
    (loss, state), gradients = jax.value_and_grad(task.loss, has_aux=True)(carry.params, carry.state, batch, loss_key)
    updates, opt_state = transformation.update(gradients, carry.opt_state, carry.params, value=loss)
    params = optax.apply_updates(carry.params, updates)
    return TrainState(params, state, opt_state, carry.step + 1, carry.key), loss


def take_steps(
    task: Task, transformation: optax.GradientTransformation, data: Data, carry: TrainState, length: int
) -> tuple[TrainState, Array, Array]:
    """Takes `length` steps on batches drawn from the data; pure, to be jitted.

    Returns:
        The new state, the training losses float32 [length], and the status that the last of them gives, int32 [].
    """
    extended = optax.with_extra_args_support(transformation)

    def advance(carry: TrainState, _: None) -> tuple[TrainState, Array]:
        return _step(task, extended, carry, lambda key: task.batch(data, key, "train"))

    carry, losses = jax.lax.scan(advance, carry, length=length)
    return carry, losses, _status(losses[-1], task.loss_threshold)


def take_fed_steps(
    task: Task, transformation: optax.GradientTransformation, batches: Batch, carry: TrainState
) -> tuple[TrainState, Array, Array]:
    """The same on batches from the host, stacked along a first axis [length, ...]."""
    extended = optax.with_extra_args_support(transformation)
    carry, losses = jax.lax.scan(lambda carry, batch: _step(task, extended, carry, lambda key: batch), carry, batches)
    return carry, losses, _status(losses[-1], task.loss_threshold)


def pieces(task: Task, data: Data, seed: int, first: int, steps: int, longest: int) -> Iterator[tuple[int, Data | Batch]]:
    """Lengths of calls that make the steps from `first` on, and what each takes its batches from.

    For `take_steps` that is the data; for `take_fed_steps`, where the host feeds the task, the call's batches, stacked.
    """
    stream = task.stream(data, seed, first) if isinstance(task, HostFed) else None
    for done in range(0, steps, longest):
        length = min(longest, steps - done)
        yield length, data if stream is None else _stacked(stream, length)


def _stacked(stream: Iterator[Batch], length: int) -> Batch:
    """The next `length` batches as one pytree of arrays [length, ...]."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *itertools.islice(stream, length))


def _status(loss: Array, threshold: float) -> Array:
    status = jnp.where(loss > threshold, DIVERGED, OK)
    return jnp.where(jnp.isfinite(loss), status, NONFINITE).astype(jnp.int32)


def chunk_length(steps: int, chunk: int) -> int:
    """The longest chunk, at most `chunk`, that divides `steps`."""
    if steps < 1 or chunk < 1:
        raise ValueError(f"steps and chunk must be at least 1, got {steps} and {chunk}")
    return next(length for length in range(min(chunk, steps), 0, -1) if steps % length == 0)


def make_run(
    task: Task,
    make_transformation: Callable[[Any], optax.GradientTransformation],
    steps: int | None = None,
    chunk: int = CHUNK,
) -> Callable[[Data, Any, Array], Outcome]:
    """Makes the pure function that trains and scores once; jit it, and one executable serves every argument.

    Chunks of steps are a scan inside a while loop; the loop tests once per chunk whether the last training loss is
    finite and not above the task's threshold, and whether the chunk's mean is at most a limit. Testing at every step would
    cost a third more.

    Args:
        task: what to train.
        make_transformation: called while tracing, with the argument below.
        steps: length of the run; the task's where None.
        chunk: steps between two tests; where it does not divide `steps`, the next smaller number that does.

    Returns:
        `run(data, argument, seed_key, limits=None) -> Outcome`. The argument is a pytree of run-time inputs, such as a
        learning rate; the seed key gives the initial parameters and the batches; a run whose mean training loss in a chunk
        is above that chunk's limit, float32 [chunks], is stopped there.

    Raises:
        ValueError: where `steps` or `chunk` is below 1.

    Example:
        >>> from stepsmith.tasks import get
        >>> task = get("digits_mlp")
        >>> run = jax.jit(make_run(task, optax.adam))
        >>> outcome = run(task.load(), 0.01, jax.random.key(0))
        >>> int(outcome.status), int(outcome.steps), bool(outcome.loss < 0.5), outcome.curve.shape
        (0, 200, True, (10,))
    """
    steps = task.steps if steps is None else steps
    length = chunk_length(steps, chunk)

    def run(data: Data, argument: Any, seed_key: Array, limits: Array | None = None) -> Outcome:
        transformation = make_transformation(argument)

        def unfinished(loop: _Loop) -> Array:
            return (loop.carry.step < steps) & (loop.status == OK)

        def advance(loop: _Loop) -> _Loop:
            carry, losses, status = take_steps(task, transformation, data, loop.carry, length)
            return _judged(loop, carry, losses, status, limits)

        first = _Loop.create(start(task, transformation, seed_key), steps // length)
        return _outcome(task, data, jax.lax.while_loop(unfinished, advance, first))

    return run


class _Loop(NamedTuple):
    """Between two chunks."""

    carry: TrainState
    status: Array  # int32 []
    curve: Array  # mean training losses, float32 [chunks]

    @classmethod
    def create(cls, first: TrainState, num_chunks: int) -> "_Loop":
        return cls(first, jnp.zeros((), jnp.int32), jnp.full(num_chunks, jnp.nan, jnp.float32))


def _judged(loop: _Loop, carry: TrainState, losses: Array, status: Array, limits: Array | None) -> _Loop:
    """The loop after a chunk, which its mean loss may end."""
    index, mean = loop.carry.step // losses.size, jnp.mean(losses)
    if limits is not None:
        status = jnp.where((status == OK) & (mean > limits[index]), STOPPED, status)
    return _Loop(carry, status, loop.curve.at[index].set(mean))


def _outcome(task: Task, data: Data, loop: _Loop) -> Outcome:
    carry = loop.carry
    loss = task.metric(carry.params, carry.state, task.examples(data, "validation"))["loss"]
    status = jnp.where((loop.status == OK) & ~jnp.isfinite(loss), NONFINITE, loop.status)
    return Outcome(status, jnp.where(status == OK, loss, jnp.nan), carry.step, carry.params, carry.state, loop.curve)


def make_runner(
    task: Task,
    make_transformation: Callable[[Any], optax.GradientTransformation],
    steps: int | None = None,
    chunk: int = CHUNK,
) -> Callable[..., Outcome]:
    """As `make_run`, but compiled, given a seed in place of its key, and for host-fed tasks too.

    Those advance in a Python loop over jitted chunks, of which the next one's batches are read while the device works.

    Returns:
        `runner(data, argument, seed, limits=None) -> Outcome`.

    Example:
        >>> from stepsmith.tasks import get
        >>> task = get("quadratic")
        >>> runner = make_runner(task, optax.sgd)
        >>> bool(runner(load_on_device(task), 0.3, 0).loss < runner(load_on_device(task), 0.003, 0).loss)
        True
    """
    if not isinstance(task, HostFed):
        run = jax.jit(make_run(task, make_transformation, steps, chunk))
        return lambda data, argument, seed, limits=None: run(data, argument, jax.random.key(seed), limits)
    total = task.steps if steps is None else steps
    length = chunk_length(total, chunk)
    begin = jax.jit(lambda argument, key: _Loop.create(start(task, make_transformation(argument), key), total // length))
    finish = jax.jit(functools.partial(_outcome, task))

    @jax.jit
    def advance(argument: Any, batches: Batch, loop: _Loop, limits: Array | None) -> _Loop:
        return _judged(loop, *take_fed_steps(task, make_transformation(argument), batches, loop.carry), limits)

    def run_fed(data: Data, argument: Any, seed: int, limits: Array | None = None) -> Outcome:
        loop = begin(argument, jax.random.key(seed))
        stream = task.stream(data, seed, 0)
        for _ in range(total // length):
            batches = _stacked(stream, length)  # read before the status is asked for, while the last chunk still runs
            if int(loop.status) != OK:
                break
            loop = advance(argument, batches, loop, limits)
        scored = {split: arrays for split, arrays in data.items() if split != "train"}
        return finish(scored, loop)

    return run_fed


def train(
    task: Task,
    transformation: optax.GradientTransformation,
    seed: int = 0,
    steps: int | None = None,
    on_chunk: Callable[[TrainState, np.ndarray], None] | None = None,
    *,
    data: Data | None = None,
    resume_from: TrainState | None = None,
    chunk: int = CHUNK,
) -> Trained:
    """Trains in a plain loop over jitted chunks and keeps the curve; stops early exactly where `make_run` does.

    Args:
        task: what to train.
        transformation: any optax transformation.
        seed: gives the initial parameters and the batches, as `jax.random.key(seed)` does in `make_run`.
        steps: length of the whole run, counted from step 0; the task's where None.
        on_chunk: called after every chunk with the new state and the chunk's losses, to log or to save.
        data: what `task.load()` returns; loaded where None.
        resume_from: the state to go on from instead of step 0.
        chunk: steps between two tests; where it does not divide the steps to do, the next smaller number that does.

    Example:
        >>> from stepsmith.tasks import get
        >>> task = get("digits_mlp")
        >>> half = train(task, optax.adam(0.01), steps=100)
        >>> whole = train(task, optax.adam(0.01), steps=200, resume_from=half.train_state)
        >>> half.losses.shape, whole.losses.shape, int(whole.train_state.step)
        ((100,), (100,), 200)
    """
    steps = task.steps if steps is None else steps
    data = load_on_device(task) if data is None else data
    carry = resume_from
    if carry is None:
        carry = jax.jit(functools.partial(start, task, transformation))(jax.random.key(seed))
    first = int(carry.step)
    if first >= steps:
        return Trained(carry, np.zeros(0, np.float32), OK)
    length = chunk_length(steps - first, chunk)
    advance = make_advance(task, transformation, data, seed, first, length)
    curve = []
    status = OK
    while status == OK and int(carry.step) < steps:
        carry, losses, code = advance(carry)
        curve.append(np.asarray(losses))
        status = int(code)
        if on_chunk is not None:
            on_chunk(carry, curve[-1])
    return Trained(carry, np.concatenate(curve), status)


def make_advance(
    task: Task, transformation: optax.GradientTransformation, data: Data, seed: int, first: int, length: int
) -> Callable[[TrainState], tuple[TrainState, Array, Array]]:
    """What takes `length` more steps; called again and again from step `first` on."""
    if not isinstance(task, HostFed):
        jitted = jax.jit(lambda data, carry: take_steps(task, transformation, data, carry, length))
        return lambda carry: jitted(data, carry)
    fed = jax.jit(functools.partial(take_fed_steps, task, transformation))
    stream = task.stream(data, seed, first)
    return lambda carry: fed(_stacked(stream, length), carry)


def scores(task: Task, params: PyTree, state: PyTree, data: Data, split: Split) -> dict[str, float]:
    """The task's metrics on the fixed examples of a split.

    Example:
        >>> from stepsmith.tasks import get
        >>> task = get("digits_mlp")
        >>> trained = train(task, optax.adam(0.01)).train_state
        >>> scores(task, trained.params, trained.state, task.load(), "test")["accuracy"] > 0.9
        True
    """
    scored = {split: data[split]}  # the training data of a host-fed task are no arrays
    return {name: float(value) for name, value in _metric(task, split, params, state, scored).items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _metric(task: Task, split: Split, params: PyTree, state: PyTree, data: Data) -> dict[str, Array]:
    return task.metric(params, state, task.examples(data, split))
