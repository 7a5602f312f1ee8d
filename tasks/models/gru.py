"""A recurrent network that reads a sequence and classifies it, or predicts every next token of a text.

Source: K. Cho et al., Learning phrase representations using RNN encoder-decoder, 2014, arXiv:1406.1078, equations 5 to 8.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


@dataclasses.dataclass(frozen=True)
class GRU:
    """Layers of gated recurrent units over a sequence; the last state of the last one gives the logits.

    Of tokens every state gives logits, those of the next token.

    Attributes:
        num_inputs: size of one element of the sequence.
        width: size of the recurrent state.
        num_layers: layers, each reading the states of the one below.
        classes: number of logits.
        vocabulary: number of tokens where the elements are tokens, embedded in `num_inputs` numbers; else 0.

    Example:
        >>> GRU(num_inputs=8, width=16, num_layers=1, classes=10).build(nnx.Rngs(0))(jnp.zeros((3, 5, 8))).shape
        (3, 10)
    """

    num_inputs: int
    width: int
    num_layers: int
    classes: int
    vocabulary: int = 0

    def build(self, rngs: nnx.Rngs) -> "RecurrentNetwork":
        """Draws the weights."""
        return RecurrentNetwork(self, rngs)


class RecurrentNetwork(nnx.Module):
    """The module that `GRU` builds."""

    def __init__(self, settings: GRU, rngs: nnx.Rngs):
        self.num_layers, self.reads_tokens = settings.num_layers, settings.vocabulary > 0
        if self.reads_tokens:
            self.embed = nnx.Embed(settings.vocabulary, settings.num_inputs, rngs=rngs)
        sizes = (settings.num_inputs, *[settings.width] * (settings.num_layers - 1))
        for index, size in enumerate(sizes):
            setattr(self, f"layer_{index}", _Layer(size, settings.width, rngs))
        self.head = nnx.Linear(settings.width, settings.classes, rngs=rngs)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Maps x [B, T, num_inputs] to logits [B, classes], or tokens [B, T] to [B, T, classes]; deterministic."""
        del rngs
        if self.reads_tokens:
            x = self.embed(x.astype(jnp.int32))
        for index in range(self.num_layers):
            x = getattr(self, f"layer_{index}")(x)
        return self.head(x if self.reads_tokens else x[:, -1])


class _Layer(nnx.Module):
    def __init__(self, num_inputs: int, width: int, rngs: nnx.Rngs):
        self.width = width
        self.from_input = nnx.Linear(num_inputs, 3 * width, rngs=rngs)  # reset, update, candidate
        self.from_state = nnx.Linear(width, 3 * width, use_bias=False, kernel_init=nnx.initializers.orthogonal(), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Maps x [B, T, num_inputs] to the states [B, T, width]."""

        def advance(state: Array, inputs: Array) -> tuple[Array, Array]:
            reset_x, update_x, candidate_x = jnp.split(inputs, 3, axis=-1)
            reset_h, update_h, candidate_h = jnp.split(self.from_state(state), 3, axis=-1)
            reset, update = jax.nn.sigmoid(reset_x + reset_h), jax.nn.sigmoid(update_x + update_h)
            candidate = jnp.tanh(candidate_x + reset * candidate_h)
            state = update * state + (1 - update) * candidate
            return state, state

        first = jnp.zeros((x.shape[0], self.width), x.dtype)
        _, states = jax.lax.scan(advance, first, self.from_input(x).swapaxes(0, 1))  # one product for all positions
        return states.swapaxes(0, 1)
