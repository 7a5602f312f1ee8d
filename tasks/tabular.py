"""A proxy on a table of numbers."""

from .data import Rows, cancer
from .ladder import rung
from .models import MLP
from .objectives import classification
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
