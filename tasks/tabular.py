"""Proxies on tables of numbers."""

from .data import Rows, cancer, diabetes
from .ladder import rung
from .models import MLP
from .objectives import classification, regression
from .supervised import Supervised


def tabular(scale: int = 1) -> Supervised:
    """Tells malignant tumours from benign ones with a perceptron and dropout."""
    at = rung(scale)
    widths = (30, *[at.wide(32)] * (1 + at.layers), 2)
    return Supervised(
        name=at.name("tabular"),
        summary=f"scikit-learn breast cancer, 30 columns, perceptron {'-'.join(map(str, widths))} with dropout 0.1, cross-entropy",
        source=Rows(cancer.load, cancer.columns),
        model=MLP(widths, dropout=0.1),
        objective=classification,
        steps=at.long(100),
        batch_size=32,
    )


def tabular_regression(scale: int = 1) -> Supervised:
    """Tells how a disease will have progressed in a year with a perceptron and layer norm."""
    at = rung(scale)
    widths = (10, *[at.wide(32)] * (1 + at.layers), 1)
    return Supervised(
        name=at.name("tabular_regression"),
        summary=f"scikit-learn diabetes, 10 columns, perceptron {'-'.join(map(str, widths))} with layer norm, squared error",
        source=Rows(diabetes.load, diabetes.columns),
        model=MLP(widths, layer_norm=True),
        objective=regression,
        steps=at.long(100),
        batch_size=32,
        loss_threshold=100.0,
    )
