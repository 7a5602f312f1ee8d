"""A noisy, ill-conditioned quadratic whose axes are rotated: the simplest landscape with everything that makes steps hard.

It is written against the protocol itself, without a model or real data: the example of a task that is not `Supervised`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .base import SPLITS, Batch, Data, PyTree, Split
from .ladder import rung
from .version import digest

NUM_NOISE = 4096  # rows of noise in a split


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """f(w) = 1/2 sum_i (eigenvalue_i (q_i . (w - optimum))^2), with noise of the optimum in every mini-batch.

    The eigenvalues fall geometrically from 1 to 1 / `condition`, the axes q_i are a random rotation, so that rules which
    treat coordinates one by one cannot undo the conditioning. A mini-batch shifts the optimum by the mean of its rows of
    noise; the score is f itself, and 0 at the optimum.

    Attributes:
        size: number of parameters.
        condition: ratio of the largest eigenvalue to the smallest.
        noise: standard deviation of one row of noise, in every coordinate.
    """

    size: int = 64
    condition: float = 1e3
    noise: float = 1.0
    steps: int = 200
    batch_size: int = 64
    loss_threshold: float = 1e4
    name: str = "quadratic"
    summary: str = dataclasses.field(default="noisy rotated quadratic of 64 dimensions, condition number 1,000", repr=False)

    @property
    def version(self) -> str:
        """Digest of the settings and the code; all data are drawn from them."""
        return digest(self, data="drawn")

    def load(self) -> Data:
        """For each split 'root', float32 [size, size], 'optimum' [size], and 'noise' [4096, size]; only the noise differs."""
        generator = np.random.default_rng(0)
        rotation = np.linalg.qr(generator.normal(size=(self.size, self.size)))[0]
        eigenvalues = self.condition ** -np.linspace(0, 1, self.size)
        shared = {
            "root": (np.sqrt(eigenvalues)[:, None] * rotation.T).astype(np.float32),
            "optimum": generator.normal(size=self.size).astype(np.float32),
        }
        noise = {split: self.noise * generator.normal(size=(NUM_NOISE, self.size)) for split in SPLITS}
        return {split: shared | {"noise": rows.astype(np.float32)} for split, rows in noise.items()}

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """A random point of about the optimum's norm; there is no state."""
        return {"w": jax.random.normal(key, (self.size,))}, ()

    def batch(self, data: Data, key: Array, split: Split) -> Batch:
        """The root of the matrix and the optimum, shifted by the mean of `batch_size` rows of noise."""
        arrays = data[split]
        rows = jax.random.randint(key, (self.batch_size,), 0, NUM_NOISE)
        return {"root": arrays["root"], "optimum": arrays["optimum"] + jnp.asarray(arrays["noise"])[rows].mean(axis=0)}

    def examples(self, data: Data, split: Split) -> Batch:
        """The root of the matrix and the optimum itself, the same for every split."""
        return {"root": data[split]["root"], "optimum": data[split]["optimum"]}

    def loss(self, params: PyTree, state: PyTree, batch: Batch, key: Array) -> tuple[Array, PyTree]:
        """f with the batch's optimum; `key` is not needed."""
        del key
        return self.metric(params, state, batch)["loss"], state

    def metric(self, params: PyTree, state: PyTree, batch: Batch) -> dict[str, Array]:
        """'loss', f."""
        del state
        offset = jnp.asarray(batch["root"]) @ (params["w"] - batch["optimum"])
        return {"loss": 0.5 * jnp.sum(jnp.square(offset))}


def quadratic(scale: int = 1) -> Quadratic:
    """The quadratic at a scale; its cost grows with the square of its size."""
    at = rung(scale)
    size = round(64 * scale**0.25)
    summary = f"noisy rotated quadratic of {size} dimensions, condition number 1,000"
    return Quadratic(size=size, steps=at.long(200), name=at.name("quadratic"), summary=summary)
