"""Many candidates at once, for accelerators: gradients under `vmap`, the update by the population kernel.

Between chunks of steps the host looks which runs have ended, for under `vmap` they cost as much as those that go on. Once half of
a batch has ended, runs that wait take the free places; when none waits, those that go on are moved together into half the shape.
The shape decides the last bits of a result, so with `fixed` a batch keeps it, filled up with copies and with as many rows of states
as any program has, and a result does not depend on what is beside it.

What the kernel has no form of runs alone on the machine of `training_run.evaluate`: programs with operations on matrices
(`vm.packing.unsupported`), and tasks that the host feeds.
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...tasks.base import HostFed
from ...tasks.training import CHUNK, OK, chunk_length, start, take_steps
from ..language import load
from ..language.program import MAX_STATES, Program, ProgramError
from ..vm import Bytecode, packing, pallas, register_machine
from ..vm.population import Candidates, population_machine
from .extrapolate import Limits, at_checkpoints, chunk_limits
from .fitness import Evaluation, Status
from .training_run import OUTCOMES, BatchError, Prepared, bytecode, evaluate, out_of_memory

Machine = Literal["pallas", "xla"]

LARGEST = 4096  # runs in a batch
SHAPES = 3  # of a batch: full, half, quarter; each is compiled
_STATES = (2, MAX_STATES)  # rows of states that a batch without a fixed shape may carry; each is compiled
_SHARE = 0.6  # of the free memory; the rest is for moving runs together and for what the estimate does not see
_SAMPLE = 8  # runs whose memory is measured


class Trial(NamedTuple):
    """One training run to be done."""

    program: Program
    seed: int
    learning_rate_factor: float = 1.0
    limits: Limits = ()  # of the training loss, as `training_run.evaluate` has them
    curve: bool = False  # whether the evaluation holds the training losses at the checkpoints


class Batched(NamedTuple):
    """A task ready to train many programs at once."""

    prepared: Prepared
    capacity: int  # runs in a batch
    fixed: bool  # whether a batch keeps its shape
    machine: Machine
    chunk: int  # steps
    begin: Callable[..., Any]  # (argument, keys, number of states) -> the runs' training states
    advance: Any  # a jitted function: (data, argument, training states) -> the same, mean losses [runs], statuses [runs]
    finish: Callable[..., Any]  # (data, training states) -> validation losses [runs]

    @property
    def shapes(self) -> tuple[int, ...]:
        """Sizes of batches, the largest first."""
        return (self.capacity,) if self.fixed else tuple(max(self.capacity >> i, 1) for i in range(SHAPES))

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Rows of states that a batch may carry, the fewest first; the reference machine carries all in any case."""
        return (MAX_STATES,) if self.fixed or self.machine == "xla" else _STATES

    @property
    def identity(self) -> dict[str, str]:
        """What of a batch decides the last bits of its results, for `identity.identity`."""
        return {"batch": f"{self.capacity} {'fixed' if self.fixed else 'compacted'}", "machine": self.machine}


def prepare_batch(
    prepared: Prepared, capacity: int = 0, fixed: bool = False, machine: Machine = "pallas", interpret: Any = False
) -> Batched:
    """The functions that train a batch; each compiles at its first run with a shape.

    Args:
        prepared: the task, from `training_run.prepare`.
        capacity: runs in a batch; 0: the largest power of two up to 4,096 that fits into the device's free memory.
        fixed: whether every batch has the full shape to its end.
        machine: the kernel, or its reference under `vmap`, which runs every branch at each instruction.
        interpret: simulates the kernel on any device, slowly; as of `vm.pallas.update`.

    Raises:
        BackendError: this process has no device that the kernel runs on. ValueError: the task is fed by the host.
    """
    task = prepared.task
    if isinstance(task, HostFed):
        raise ValueError(f"task {prepared.name} is fed by the host and cannot be trained in batches; train its programs one at a time")
    target = pallas.require(interpret) if machine == "pallas" else None
    length = chunk_length(task.steps, CHUNK)

    def transformation(argument: Any, num_states: int) -> Any:
        if target is None:
            return register_machine(argument, prepared.extended)
        return population_machine(argument, num_states, target, interpret)

    @partial(jax.jit, static_argnums=2)
    def begin(argument: Any, keys: Any, num_states: int) -> Any:
        return jax.vmap(lambda each, key: start(task, transformation(each, num_states), key))(argument, keys)

    @partial(jax.jit, donate_argnums=2)
    def advance(data: Any, argument: Any, carries: Any) -> Any:
        # The number of states matters where they are made, not here.
        step = jax.vmap(lambda each, carry: take_steps(task, transformation(each, 1), data, carry, length))
        carries, losses, statuses = step(argument, carries)
        return carries, jnp.mean(losses, 1), statuses

    @jax.jit
    def finish(data: Any, carries: Any) -> Any:
        batch = task.examples(data, "validation")
        return jax.vmap(lambda carry: task.metric(carry.params, carry.state, batch)["loss"])(carries)

    batched = Batched(prepared, capacity, fixed, machine, length, begin, advance, finish)
    return batched if capacity else batched._replace(capacity=_fitting(batched))


def evaluate_batch(batched: Batched, trials: Sequence[Trial]) -> list[Evaluation]:
    """Training runs side by side; each comes to what `training_run.evaluate` makes of it, up to rounding.

    Args:
        batched: the task, from `prepare_batch`.
        trials: any number; beyond the capacity they wait for free places.

    Returns:
        An evaluation for each trial, in their order. Its seconds are its share of the batch's.

    Raises:
        BatchError: there is too little memory for the shape that every batch has; without such a shape the batch is halved.

    Example:
        >>> from ..language import load
        >>> from .training_run import prepare
        >>> batched = prepare_batch(prepare("quadratic", "linear"), 2, machine="xla")
        >>> runs = evaluate_batch(batched, [Trial(load("sgd"), 0), Trial(load("lion"), 1)])
        >>> [(run.seed, str(run.status), run.steps) for run in runs]
        [(0, 'ok', 200), (1, 'ok', 200)]
    """
    codes = _assembled(batched, trials)
    together = [index for index, code in enumerate(codes) if code is not None]
    found = _train_or_halve(batched, [codes[i] for i in together], [trials[i] for i in together])
    results = dict(zip(together, found, strict=True))
    alone = (index for index in range(len(trials)) if index not in results)
    results.update((index, evaluate(batched.prepared, *trials[index])) for index in alone)
    return [results[index] for index in range(len(trials))]


def warm_up(batched: Batched, program: Program) -> float:
    """Compiles every shape of a batch and returns the seconds that a full one takes with the program, or the program alone if more.

    Every program of the extended language may be one that runs alone: with it that is the time of as many as fill a batch.
    """
    (own,) = _assembled(batched, [Trial(program, 0)])
    code, trial = _usual_code(batched.prepared) if own is None else own, Trial(program, 0)
    for size in batched.shapes:
        for num_states in batched.state_sizes:
            _train_or_halve(batched, [code] * size, [trial] * size, num_states)
    alone = [evaluate(batched.prepared, program, 0).seconds for _ in range(2)][1]  # the first one compiles
    begin = time.perf_counter()
    _train_or_halve(batched, [code] * batched.capacity, [trial] * batched.capacity)
    most_alone = batched.capacity if batched.machine == "pallas" and batched.prepared.extended else 1
    return max(time.perf_counter() - begin, alone * most_alone)


def _assembled(batched: Batched, trials: Sequence[Trial]) -> list[Bytecode | None]:
    """The bytecode of each trial; None for what runs alone, or fails there."""

    @cache
    def of(program: Program, factor: float) -> Bytecode | None:
        try:
            code = bytecode(batched.prepared, program, factor)
        except ProgramError:
            return None
        return None if batched.machine == "pallas" and packing.unsupported(code) else code

    return [of(trial.program, trial.learning_rate_factor) for trial in trials]


def _train_or_halve(batched: Batched, codes: Sequence[Any], trials: Sequence[Trial], num_states: int = 0) -> list[Evaluation]:
    """Until the batch fits into memory it is halved; where a single run does not, each is tried alone, and fails by itself."""
    try:
        return _train(batched, codes, trials, num_states)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not out_of_memory(error):
            raise
        if batched.fixed:
            raise BatchError(
                f"a batch of {batched.capacity} runs of {batched.prepared.name} does not fit into the device's memory, and results of "
                f"another shape differ in their last bits; free memory and resume, or choose --batch {max(batched.capacity // 2, 1)}"
            ) from error
    if batched.capacity == 1:
        return [evaluate(batched.prepared, *trial) for trial in trials]
    return _train_or_halve(batched._replace(capacity=batched.capacity // 2), codes, trials, num_states)


def _train(batched: Batched, codes: Sequence[Bytecode], trials: Sequence[Trial], num_states: int = 0) -> list[Evaluation]:
    if not trials:
        return []
    begin = time.perf_counter()
    prepared, count, data = batched.prepared, len(trials), batched.prepared.data
    wanted = num_states or max(packing.num_states(code) for code in codes)
    rows = next(size for size in batched.state_sizes if size >= wanted)
    limits = np.stack([chunk_limits(t.limits, prepared.name, t.learning_rate_factor, prepared.num_chunks) for t in trials])
    curves = np.full((count, prepared.num_chunks), np.nan, np.float32)
    statuses, losses, chunks = np.full(count, OK), np.full(count, np.nan), np.zeros(count, int)
    places = np.full(_shape(batched, min(count, batched.capacity)), -1)  # which trial is where; -1: none, there a copy is trained
    started, argument, carries = 0, None, None
    while len(going := np.flatnonzero(places >= 0)) or started < count:
        waiting = count - started
        smaller = len(places) if batched.fixed else _shape(batched, min(len(going) + waiting, batched.capacity))
        if smaller < len(places):
            kept = np.resize(going, smaller)
            argument, carries = _taken((argument, carries), jnp.asarray(kept))
            places = np.where(np.arange(smaller) < len(going), places[kept], -1)
        free = np.flatnonzero(places < 0)[:waiting]
        if waiting and len(free) >= min(waiting, (smaller + 1) // 2):
            places[free] = np.arange(started, started + len(free))
            started += len(free)
            trained = np.maximum(places, 0)
            argument = _argument(batched, [codes[i] for i in trained])
            begun = batched.begin(argument, _keys([trials[i].seed for i in trained]), rows)
            carries = begun if carries is None else _filled(np.isin(np.arange(smaller), free), begun, carries)
        carries, means, found = batched.advance(data, argument, carries)
        going = np.flatnonzero(places >= 0)
        runs, means, found = places[going], np.asarray(means)[going], np.asarray(found)[going]
        curves[runs, chunks[runs]] = means
        stopped = (found == OK) & (means > limits[runs, chunks[runs]])
        statuses[runs] = np.where(stopped, OUTCOMES.index(Status.STOPPED), found)
        chunks[runs] += 1
        done = (statuses[runs] == OK) & (chunks[runs] == prepared.num_chunks)
        if done.any():
            losses[runs[done]] = np.asarray(batched.finish(data, carries))[going[done]]
        places[going[done | (statuses[runs] != OK)]] = -1
    seconds = (time.perf_counter() - begin) / count
    return [
        _evaluation(batched, trial, OUTCOMES[statuses[i]], float(losses[i]), int(chunks[i]), seconds, curves[i])
        for i, trial in enumerate(trials)
    ]


def _evaluation(batched: Batched, trial: Trial, status: Status, loss: float, chunks: int, seconds: float, curve: np.ndarray) -> Evaluation:
    if status is Status.OK and not np.isfinite(loss):
        status = Status.NONFINITE
    ok = status is Status.OK
    points = at_checkpoints(curve.tolist()) if trial.curve and ok else ()
    asked = (batched.prepared.name, trial.seed, trial.learning_rate_factor)
    return Evaluation(*asked, status, loss if ok else None, chunks * batched.chunk, seconds, points)


def _shape(batched: Batched, count: int) -> int:
    """The smallest shape that so many runs fit into."""
    return min(shape for shape in batched.shapes if shape >= count)


def _argument(batched: Batched, codes: Sequence[Bytecode]) -> Any:
    gathered = Candidates.of(codes) if batched.machine == "pallas" else jax.tree.map(lambda *each: np.stack(each), *codes)
    return jax.device_put(gathered)


def _keys(seeds: Sequence[int]) -> jax.Array:
    different = sorted(set(seeds))
    return jnp.stack([jax.random.key(seed) for seed in different])[np.searchsorted(different, seeds)]


@jax.jit
def _taken(tree: Any, places: jax.Array) -> Any:
    return jax.tree.map(lambda x: x[places], tree)


@partial(jax.jit, donate_argnums=2)
def _filled(new: jax.Array, begun: Any, carries: Any) -> Any:
    """The training states with those of new runs in their places."""
    chosen = jax.vmap(lambda is_new, first, second: jax.tree.map(lambda x, y: jnp.where(is_new, x, y), first, second))
    return chosen(new, begun, carries)


def _fitting(batched: Batched) -> int:
    """The largest power of two of runs that fits, by the memory that the compiler states for a few."""
    data = batched.prepared.data
    argument = _argument(batched, [_usual_code(batched.prepared)] * _SAMPLE)
    carries = batched.begin(argument, _keys([0] * _SAMPLE), MAX_STATES)
    memory = batched.advance.lower(data, argument, carries).compile().memory_analysis()
    shared = sum(leaf.nbytes for leaf in jax.tree.leaves(data))
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    fit = int(_SHARE * _free_memory()) * _SAMPLE // max(total - shared, 1)
    return 1 << min(max(fit, 1), LARGEST).bit_length() - 1


def _usual_code(prepared: Prepared) -> Bytecode:
    """Of a rule that every machine runs, also where the programs are schedules; what is compiled for it serves all."""
    return bytecode(prepared._replace(rule=None), load("adamw"), 1.0)


def _free_memory() -> int:
    """Bytes that the default device has left."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"  # macOS tells only what there is in all
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
