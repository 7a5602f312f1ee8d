"""Predicts the next byte of Python source with a small transformer."""

from .data import Windows, stdlib_text
from .ladder import rung
from .models import Transformer
from .objectives import next_token
from .supervised import Supervised


def stdlib_lm(scale: int = 1) -> Supervised:
    """A language model over the bytes of this Python's standard library; its version differs between Pythons, as the text does.

    Example:
        >>> task = stdlib_lm()
        >>> task.examples(task.load(), "validation").shape
        (96, 33)
    """
    at = rung(scale)
    width, layers, context = at.wide(32, multiple=4), 2 + at.layers, 32
    return Supervised(
        name=at.name("stdlib_lm"),
        summary=f"this Python's standard library as bytes, transformer of width {width} with {layers} layers, context {context}",
        source=Windows(stdlib_text.load, context, num_examples=96 if scale == 1 else 384),
        model=Transformer(width=width, num_layers=layers, num_heads=2, context=context),
        objective=next_token,
        steps=at.long(200),
        batch_size=16,
        loss_threshold=20.0,  # that of a uniform guess is 5.5
    )
