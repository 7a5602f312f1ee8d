"""Proxies on scikit-learn's digits: a run takes milliseconds."""

from .data import Rows, digits
from .data.random_features import RandomFeatures, features
from .ladder import rung
from .models import GRU, MLP
from .objectives import classification, reconstruction
from .supervised import Supervised


def digits_mlp(scale: int = 1) -> Supervised:
    """Classifies digits with a perceptron of one hidden layer: the reference proxy.

    Example:
        >>> digits_mlp().model.widths, digits_mlp(scale=10).model.widths
        ((64, 32, 10), (64, 51, 51, 10))
    """
    at = rung(scale)
    widths = (64, *[at.wide(32)] * (1 + at.layers), 10)
    return Supervised(
        name=at.name("digits_mlp"),
        summary=f"scikit-learn digits, 1,200 images of 8 x 8, perceptron {_dashed(widths)}, cross-entropy",
        source=Rows(digits.load, digits.pixels),
        model=MLP(widths),
        objective=classification,
        steps=at.long(200),
    )


def digits_autoencoder(scale: int = 1) -> Supervised:
    """Squeezes digits through 8 numbers and restores them, with squared error."""
    at = rung(scale)
    hidden = [at.wide(32)] * (1 + at.layers)
    widths = (64, *hidden, 8, *hidden, 64)
    return Supervised(
        name=at.name("digits_autoencoder"),
        summary=f"scikit-learn digits, autoencoder {_dashed(widths)}, squared error of pixels in [0, 1]",
        source=Rows(digits.load, digits.pixels),
        model=MLP(widths),
        objective=reconstruction,
        steps=at.long(200),
        loss_threshold=2.0,  # an output of zeros gives 0.2
    )


def digits_gru(scale: int = 1) -> Supervised:
    """Reads a digit row by row and classifies it: a recurrent network over sequences of 8."""
    at = rung(scale)
    width, layers = at.wide(32), 1 + at.layers
    return Supervised(
        name=at.name("digits_gru"),
        summary=f"scikit-learn digits as sequences of 8 rows, {layers} GRU layer(s) of width {width}, cross-entropy",
        source=Rows(digits.load, digits.rows),
        model=GRU(num_inputs=8, width=width, num_layers=layers, classes=10),
        objective=classification,
        steps=at.long(200),
    )


def logistic(scale: int = 1) -> Supervised:
    """Logistic regression on fixed random features of digits: convex, and larger with the number of features.

    There is no depth to grow: the number of features grows with the square root of the scale.
    """
    at = rung(scale)
    num_features = round(256 * scale**0.5)
    return Supervised(
        name=at.name("logistic"),
        summary=f"scikit-learn digits, logistic regression on {num_features} fixed random features, convex",
        source=Rows(RandomFeatures(num_features), features),
        model=MLP((num_features, 10)),
        objective=classification,
        steps=at.long(200),
    )


def _dashed(widths: tuple[int, ...]) -> str:
    return "-".join(map(str, widths))
