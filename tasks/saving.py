"""Training states on disk, by orbax: what a checkpoint holds and how it is proved whole.

A state is kept as one flat mapping from a leaf's path, such as `.params['kernel']`, to its numpy array. So a checkpoint
names what it holds, and no kind of optimizer state needs a handler of its own.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from .base import PyTree
from .training import TrainState

KEPT = 2  # the latest checkpoint, and the one before it in case the latest is damaged


class CheckpointError(ValueError):
    """A folder of checkpoints cannot be used for this run."""


class Store:
    """The checkpoints in a folder; a context manager.

    Each is written beside the others and renamed when it is complete, so a kill leaves a whole one or none.

    Example:
        >>> import tempfile
        >>> state = TrainState({"w": jnp.ones(3)}, {}, (), jnp.asarray(5), jax.random.key(0))
        >>> with Store(Path(tempfile.mkdtemp())) as store:
        ...     store.save(state, {"seconds": 1.0})
        ...     restored, notes = store.restore(state)
        >>> int(restored.step), restored.params["w"].tolist(), notes
        (5, [1.0, 1.0, 1.0], {'seconds': 1.0})
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, cleanup_tmp_directories=True, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the latest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def save(self, train_state: TrainState, notes: dict[str, Any]) -> None:
        """Writes the state and notes of JSON's own types, and drops the oldest of more than two checkpoints."""
        arrays = to_arrays(train_state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),  # pyright: ignore[reportCallIssue]
            notes=ocp.args.JsonSave({**notes, "digest": _digest(arrays)}),  # pyright: ignore[reportCallIssue]
        )
        self._manager.save(int(train_state.step), args=items)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state, in the form of `like`, and its notes.

        Args:
            like: a state of the same task and rule, or what `jax.eval_shape` says of one.

        Raises:
            CheckpointError: where there is none, it is damaged, or it is one of another model or rule.
        """
        step = self.latest
        if step is None:
            raise CheckpointError(f"{self.folder}: holds no checkpoint")
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(_blank(like)),  # pyright: ignore[reportCallIssue]
            notes=ocp.args.JsonRestore(),
        )
        try:
            found = self._manager.restore(step, args=items)
            arrays, notes = dict(found["state"]), dict(found["notes"])
        except Exception as error:  # orbax raises what its readers raise: KeyError, JSONDecodeError, XlaRuntimeError, ...
            raise self._damaged(step, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        if _digest(arrays) != notes.pop("digest", None):
            raise self._damaged(step, "its numbers are not those that were written")
        return from_arrays(arrays, like), notes

    def _damaged(self, step: int, reason: str) -> CheckpointError:
        before = [other for other in self._manager.all_steps() if other < step]
        mend = f"delete it to go on from step {max(before)}" if before else "delete the run's folder to start again"
        return CheckpointError(f"{self.folder / str(step)}: the checkpoint is damaged; {mend} ({reason})")


def to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Path of each leaf -> its numbers on the host; keys as their data, empty arrays left out, for orbax takes neither.

    Example:
        >>> to_arrays({"a": jnp.zeros(2), "b": jnp.zeros((0, 3))})
        {"['a']": array([0., 0.], dtype=float32)}
    """
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    arrays = {name: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for name, leaf in named}
    return {name: array for name, array in arrays.items() if array.size}


def from_arrays(arrays: dict[str, np.ndarray], like: PyTree) -> PyTree:
    """The inverse of `to_arrays` for a tree of the form of `like`, arrays or what `jax.eval_shape` says of them.

    No leaf is weakly typed afterwards: a state that was saved and one that never was lead to the same executable.
    """

    def leaf_at(path: tuple[Any, ...], leaf: Any) -> Any:
        empty = jnp.empty((0,), leaf.dtype)
        if not math.prod(leaf.shape):
            return empty.reshape(leaf.shape)
        array = jnp.asarray(arrays[jax.tree_util.keystr(path)])
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(empty)) if _is_key(leaf) else array

    return jax.tree_util.tree_map_with_path(leaf_at, like)


def _blank(like: PyTree) -> dict[str, np.ndarray]:
    """Arrays of the shapes and types of `to_arrays(like)`, of any content."""

    def blank(leaf: Any) -> np.ndarray:
        shaped = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        return np.empty(shaped.shape, shaped.dtype)

    return to_arrays(jax.tree.map(blank, like))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
