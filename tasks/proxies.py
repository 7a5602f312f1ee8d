"""The two proxies of the paper on Lion, at their full size, on the user's own ImageNet and LM1B.

Source: X. Chen et al., Symbolic discovery of optimization algorithms, 2023, arXiv:2302.06675, on proxy tasks. The paper
gives the sizes used here; images are neither cropped nor flipped at random. Scale 1 sees 10 % of ImageNet, as there, the
others all of it.
"""

import jax.numpy as jnp
from jax import Array

from .base import Batch
from .data.records import Field, Files
from .ladder import rung
from .models import Transformer, ViT
from .objectives import classification, next_token
from .supervised import Streamed

SIZE, CLASSES, TENTH = 64, 1000, 128_116
CONTEXT, VOCABULARY = 32, 3000


def imagenet_vit(scale: int = 1) -> Streamed:
    """Classifies images of 64 x 64 pixels with a transformer over 16 patches of 16 x 16.

    The folder `imagenet64` below STEPSMITH_DATA has the data; `data.records` says how.

    Example:
        >>> task = imagenet_vit()
        >>> task.model.width, task.model.num_layers, task.model.num_heads, task.batch_size, task.steps
        (96, 3, 3, 64, 30000)
    """
    at = rung(scale)
    width, layers = at.wide(96, multiple=12), 3 + at.layers
    fields = (Field("image", "{split}_images.npy", (SIZE, SIZE, 3), 256), Field("label", "{split}_labels.npy", (), CLASSES))
    return Streamed(
        name=at.name("imagenet_vit"),
        summary=f"your own ImageNet at 64 x 64, vision transformer of width {width} with {layers} layers, 16 patches, cross-entropy",
        source=Files("imagenet64", fields, pixels, num_train=TENTH if scale == 1 else None),
        model=ViT(width, layers, num_heads=3, patch=16, size=SIZE, channels=3, classes=CLASSES),
        objective=classification,
        steps=at.long(30_000),
        loss_threshold=30.0,  # that of a uniform guess is 6.9
    )


def lm1b_transformer(scale: int = 1) -> Streamed:
    """Predicts the next of 3,000 tokens with a transformer that sees 32.

    The folder `lm1b` below STEPSMITH_DATA has the data; `data.records` says how.

    Example:
        >>> task = lm1b_transformer()
        >>> task.model.width, task.model.num_layers, task.model.num_heads, task.batch_size, task.steps
        (128, 2, 2, 64, 20000)
    """
    at = rung(scale)
    width, layers = at.wide(128, multiple=8), 2 + at.layers
    return Streamed(
        name=at.name("lm1b_transformer"),
        summary=f"your own LM1B in 3,000 tokens, transformer of width {width} with {layers} layers, context {CONTEXT}",
        source=Files("lm1b", (Field("tokens", "{split}.npy", (CONTEXT + 1,), VOCABULARY),), all_but_last),
        model=Transformer(width, layers, num_heads=2, context=CONTEXT, vocabulary=VOCABULARY),
        objective=next_token,
        steps=at.long(20_000),
        loss_threshold=30.0,  # that of a uniform guess is 8.0
    )


def pixels(batch: Batch) -> Array:
    """Images with values in [-1, 1], float32 [B, 64, 64, 3]."""
    return batch["image"].astype(jnp.float32) / 127.5 - 1


def all_but_last(batch: Batch) -> Array:
    """All tokens of a window but the last, [B, 32]."""
    return batch[:, :-1]
