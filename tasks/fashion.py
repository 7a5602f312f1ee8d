"""Proxies on Fashion-MNIST: a perceptron, a convolutional network with batch norm, a vision transformer with dropout."""

from .data import Rows, fashion
from .ladder import rung
from .models import CNN, MLP, ViT
from .objectives import classification
from .supervised import Supervised


def fashion_mlp(scale: int = 1) -> Supervised:
    """Classifies articles of clothing with a perceptron."""
    at = rung(scale)
    widths = (784, *[at.wide(64)] * (1 + at.layers), 10)
    return Supervised(
        name=at.name("fashion_mlp"),
        summary=f"Fashion-MNIST, perceptron {'-'.join(map(str, widths))}, cross-entropy",
        source=Rows(fashion.load, fashion.flat, num_examples=2_000),
        model=MLP(widths),
        objective=classification,
        steps=at.long(200),
    )


def fashion_cnn(scale: int = 1) -> Supervised:
    """Classifies articles of clothing with convolutions and batch norm."""
    at = rung(scale)
    widths = (at.wide(8), *[at.wide(16)] * (1 + at.layers))
    strides = (2, 2, *[1] * at.layers)
    return Supervised(
        name=at.name("fashion_cnn"),
        summary=f"Fashion-MNIST, convolutions {'-'.join(map(str, widths))} with batch norm, cross-entropy",
        source=Rows(fashion.load, fashion.image, num_examples=1_000),
        model=CNN(widths, strides, channels=1, classes=10),
        objective=classification,
        steps=at.long(200),
    )


def fashion_vit(scale: int = 1) -> Supervised:
    """Classifies articles of clothing with a transformer over 16 patches of 7 x 7, with dropout."""
    at = rung(scale)
    width, layers = at.wide(32, multiple=4), 2 + at.layers
    return Supervised(
        name=at.name("fashion_vit"),
        summary=f"Fashion-MNIST, vision transformer of width {width} with {layers} layers, 16 patches, dropout 0.1, cross-entropy",
        source=Rows(fashion.load, fashion.image, num_examples=1_000),
        model=ViT(width, layers, num_heads=2, patch=7, size=28, channels=1, classes=10, dropout=0.1),
        objective=classification,
        steps=at.long(200),
        batch_size=32,
    )
