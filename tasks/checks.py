"""Whether a task keeps the rules that searches rely on: `check`, for tasks of one's own."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from .base import SPLITS, Batch, Data, HostFed, PyTree, Task, load_on_device
from .training import OK, STATUS_NAMES, make_runner
from .version import edited

CAPTURED_BYTES = 1024  # of constants that a compiled function may hold; data are larger
SMALL_LEARNING_RATE = 1e-4  # with which no sound task diverges within a chunk of steps
CHUNK = 20


class TaskError(ValueError):
    """A task breaks a rule; the message says which, what came and how to mend it."""


@dataclasses.dataclass(frozen=True)
class _Subject:
    """A task with what the checks need of it, made once."""

    task: Task
    data: Data

    def start(self, seed: int = 0) -> tuple[PyTree, PyTree]:
        return self.task.init(jax.random.key(seed))

    def batch(self, key: Array) -> Batch:
        if isinstance(self.task, HostFed):
            return next(self.task.stream(self.data, int(jax.random.randint(key, (), 0, 2**30)), 0))
        return self.task.batch(self.data, key, "train")


def check(task: Task) -> tuple[str, ...]:
    """Checks a task; takes some seconds.

    Args:
        task: any implementation of `Task`.

    Returns:
        What was checked, a line each.

    Raises:
        TaskError: every rule that is broken, a line each.
        DataError: where the data are missing.

    Example:
        >>> from stepsmith.tasks import get
        >>> check(get("quadratic"))[0]
        'the settings are those of a frozen dataclass'
    """
    broken = list(_attributes(task))
    if broken:
        raise TaskError(_report(task, broken))
    subject = _Subject(task, load_on_device(task))
    for rule in RULES:
        try:
            broken += [f"{rule.__doc__}: {what}" for what in rule(subject)]
        except Exception as error:  # a user's code may raise anything, and the other rules are still worth checking
            broken.append(f"{rule.__doc__}: {type(error).__name__}: {error}")
    if broken:
        raise TaskError(_report(task, broken))
    return ("the settings are those of a frozen dataclass", *(str(rule.__doc__) for rule in RULES))


def _report(task: Task, broken: list[str]) -> str:
    name = getattr(task, "name", type(task).__name__)
    return "\n".join([f"task {name!r} breaks {len(broken)} rule(s):", *(f"- {line}" for line in broken)])


def _attributes(task: Task) -> Iterator[str]:
    """What is not even there, or of a wrong type: without it nothing else can be asked."""
    frozen = dataclasses.is_dataclass(task) and cast(Any, type(task)).__dataclass_params__.frozen
    if not frozen:
        yield f"{type(task).__name__} is no frozen dataclass; put @dataclasses.dataclass(frozen=True) over it, its fields are its settings"
    for attribute, kind in (("name", str), ("summary", str), ("steps", int), ("batch_size", int), ("loss_threshold", int | float)):
        value: Any = getattr(task, attribute, None)
        if not isinstance(value, kind) or isinstance(value, bool):
            yield f"{attribute} must be of type {getattr(kind, '__name__', 'float')}, got {value!r}"
        elif not isinstance(value, str) and value <= 0:
            yield f"{attribute} must be above 0, got {value!r}"
    for method in ("load", "init", "batch", "examples", "loss", "metric"):
        if not callable(getattr(task, method, None)):
            yield f"it has no method {method}(); see stepsmith.tasks.Task"
    if frozen:
        try:
            hash(task)
        except TypeError as error:
            yield f"it cannot be hashed ({error}); make its fields tuples, numbers and strings instead of lists, dicts and arrays"


def _splits(subject: _Subject) -> Iterator[str]:
    """load() gives numpy arrays of numbers for the splits train, validation and test"""
    data = subject.task.load()
    if sorted(data) != sorted(SPLITS):
        yield f"got the splits {sorted(data)}"
        return
    for split in SPLITS[1:] if isinstance(subject.task, HostFed) else SPLITS:
        for leaf in jax.tree.leaves(data[split]):
            if np.asarray(leaf).dtype.kind not in "biuf" or np.size(leaf) == 0:
                yield f"{split} holds an array of {np.asarray(leaf).dtype} with {np.size(leaf)} elements"


def _init(subject: _Subject) -> Iterator[str]:
    """init(key) gives finite float parameters, the same for the same key, others for another"""
    params, _ = subject.start()
    leaves = jax.tree.leaves(params)
    if not leaves or any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        yield f"the parameters are {[str(leaf.dtype) for leaf in leaves]}; an optimizer needs floats"
    if any(not bool(jnp.isfinite(leaf).all()) for leaf in leaves):
        yield "some parameters are not finite"
    if not _same(params, subject.start()[0]):
        yield "two calls with one key differ; draw from the key alone"
    if _same(params, subject.start(1)[0]):
        yield "another key gives the same parameters, so that seeds would not differ; draw them from the key"


def _batches(subject: _Subject) -> Iterator[str]:
    """batch(data, key, split) is fixed by its key, and other keys give other batches"""
    batch = subject.batch(jax.random.key(0))
    if not _same(batch, subject.batch(jax.random.key(0))):
        yield "two calls with one key differ; draw from the key alone"
    if _same(batch, subject.batch(jax.random.key(1))):
        yield "two keys give the same batch"
    if not isinstance(subject.task, HostFed):
        others = {split: jax.tree.map(jnp.zeros_like, subject.data[split]) if split != "train" else subject.data[split] for split in SPLITS}
        if not _same(batch, subject.task.batch(others, jax.random.key(0), "train")):
            yield "a training batch changes with the data of another split; read data[split] alone"


def _gradients(subject: _Subject) -> Iterator[str]:
    """loss() is one finite number with finite gradients, and hands on a state of the same shape"""
    params, state = subject.start()
    batch = subject.batch(jax.random.key(0))
    measure = jax.jit(jax.value_and_grad(subject.task.loss, has_aux=True))  # one compilation: op by op there would be hundreds
    (loss, new_state), gradients = measure(params, state, batch, jax.random.key(1))
    if not bool(jnp.isfinite(loss)):
        yield f"the loss of fresh parameters is {float(loss)}"
    if float(loss) > subject.task.loss_threshold:
        yield f"the loss of fresh parameters is {float(loss):.4g}, above loss_threshold {subject.task.loss_threshold:g}"
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        if not bool(jnp.isfinite(leaf).all()):
            yield f"the gradient of {jax.tree_util.keystr(path)} is not finite"
    if all(not bool(jnp.any(leaf)) for leaf in jax.tree.leaves(gradients)):
        yield "all gradients are zero: the loss does not depend on the parameters"
    if _shapes(state) != _shapes(new_state):
        yield f"the state was {_shapes(state)} and became {_shapes(new_state)}"


def _metrics(subject: _Subject) -> Iterator[str]:
    """metric() gives 'loss' and other finite single numbers on the fixed examples of every split"""
    params, state = subject.start()
    metric = jax.jit(subject.task.metric)
    for split in SPLITS[1:] if isinstance(subject.task, HostFed) else SPLITS:
        examples = subject.task.examples(subject.data, split)
        if not _same(examples, subject.task.examples(subject.data, split)):
            yield f"the examples of {split} change between two calls"
        found = metric(params, state, examples)
        if "loss" not in found:
            yield f"on {split} it has no 'loss', got {sorted(found)}"
        for name, value in found.items():
            if jnp.shape(value) != () or not bool(jnp.isfinite(value)):
                yield f"{name!r} on {split} has shape {jnp.shape(value)} and value {value}"


def _captured(subject: _Subject) -> Iterator[str]:
    """data are arguments of the compiled functions, never captured by them"""
    task, key = subject.task, jax.random.key(0)
    params, state = subject.start()
    batch = subject.batch(key)
    traced: dict[str, Callable[[], Any]] = {
        "loss": lambda: jax.make_jaxpr(task.loss)(params, state, batch, key),
        "metric": lambda: jax.make_jaxpr(task.metric)(params, state, task.examples(subject.data, "validation")),
    }
    if not isinstance(task, HostFed):
        traced["batch"] = lambda: jax.make_jaxpr(lambda data: task.batch(data, key, "train"))(dict(subject.data))
    for name, trace in traced.items():
        size = sum(np.asarray(constant).nbytes for constant in trace().consts if not jnp.issubdtype(constant.dtype, jax.dtypes.prng_key))
        if size > CAPTURED_BYTES:
            yield f"{name}() captures {size} bytes of constants; take them from load() through the batch"


def _trains(subject: _Subject) -> Iterator[str]:
    """a chunk of training steps with a small learning rate works when compiled, and gives the same twice"""
    runner = make_runner(subject.task, optax.adam, steps=CHUNK)
    first, second = (runner(subject.data, SMALL_LEARNING_RATE, 0) for _ in range(2))
    if int(first.status) != OK:
        status = STATUS_NAMES[int(first.status)]
        yield f"Adam with learning rate {SMALL_LEARNING_RATE} ends after {int(first.steps)} steps with status {status}"
    if not _same(first.params, second.params):
        yield "two runs of one seed differ"


def _version(subject: _Subject) -> Iterator[str]:
    """the version is a text that changes with the settings and with the code"""
    task: Any = subject.task
    version = task.version
    if not isinstance(version, str) or not version or version != task.version:
        yield f"got {version!r}, then {task.version!r}"
    if dataclasses.replace(task, steps=task.steps + CHUNK).version == version:
        yield "it does not change with `steps`; make it with stepsmith.tasks.digest(self)"
    with edited():
        if task.version == version:
            yield "it does not change with the code; make it with stepsmith.tasks.digest(self, *modules)"


RULES: tuple[Callable[[_Subject], Iterator[str]], ...] = (_splits, _init, _batches, _gradients, _metrics, _captured, _trains, _version)


def _same(one: PyTree, other: PyTree) -> bool:
    """Equal structure and equal bits."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def _shapes(tree: PyTree) -> list[tuple[tuple[int, ...], str]]:
    return [(jnp.shape(leaf), str(jnp.asarray(leaf).dtype)) for leaf in jax.tree.leaves(tree)]
