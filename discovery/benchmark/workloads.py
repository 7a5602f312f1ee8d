"""What training algorithms are compared on: eight workloads of four families, and two sets of variants of each.

A workload is a task whose run takes one to three seconds on a core, evaluated 40 times on its way. Its target, a validation
loss, is in targets.json, see `targets.py`. The variants change what a tuned rule should not be tuned to: activation,
normalisation, width, initialisation, batch size and budget. Those named NAME_meta are for selection; those named NAME_final are
looked at when everything has been chosen, and every look is counted (`looks.py`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from ...tasks.data import Rows, Windows, cancer, diabetes, digits, fashion, stdlib_text
from ...tasks.models import CNN, GRU, MLP, Transformer
from ...tasks.objectives import classification, next_token, reconstruction, regression
from ...tasks.supervised import Supervised

EVALUATIONS = 40  # in a run; the steps of every workload are a multiple of it
META, FINAL = "meta", "final"
CONTEXT = 32  # bytes that a text model sees


class WorkloadError(ValueError):
    """No such workload; says which there are."""


class Workload(NamedTuple):
    """A task to be compared on.

    Attributes:
        name: BASE, BASE_meta or BASE_final.
        base: name of the workload that it is, or is a variant of.
        kind: 'base', 'meta' or 'final'.
        task: its steps are the budget of a tuned rule.
    """

    name: str
    base: str
    kind: str
    task: Supervised


def names(kind: str = "base") -> tuple[str, ...]:
    """The workloads of a kind.

    Example:
        >>> len(names()), names("final")[0]
        (8, 'images_mlp_final')
    """
    return tuple(_BASES) if kind == "base" else tuple(f"{name}_{kind}" for name in _BASES)


def get(name: str) -> Workload:
    """The workload of that name.

    Raises:
        WorkloadError: there is none.

    Example:
        >>> get("text_gru_meta").task.batch_size, get("text_gru").task.batch_size
        (32, 16)
    """
    base, _, kind = name.rpartition("_")
    if kind not in (META, FINAL):
        base, kind = name, "base"
    if base not in _BASES:
        raise WorkloadError(f"unknown workload {name!r}; there are {', '.join(_BASES)}, each also as NAME_{META} and NAME_{FINAL}")
    task = _BASES[base]()
    changes = _VARIANTS[base].get(kind, {})
    model = dataclasses.replace(task.model, **changes.get("model", {}))  # pyright: ignore[reportArgumentType]
    others = {setting: value for setting, value in changes.items() if setting != "model"}
    return Workload(name, base, kind, dataclasses.replace(task, name=name, model=model, **others))


def is_final(task: Any) -> bool:
    """Whether a task is one of the final variants, whatever it is called and however it was made."""
    return any(dataclasses.replace(task, name=name) == get(name).task for name in names(FINAL)) if isinstance(task, Supervised) else False


def __getattr__(name: str) -> Callable[[], Supervised]:
    """Each workload as a task, as in `--tasks stepsmith.discovery.benchmark.workloads:text_gru_meta`."""
    try:
        found = get(name)
    except WorkloadError as error:
        raise AttributeError(str(error)) from None
    return lambda: found.task


def _images_mlp() -> Supervised:
    source = Rows(fashion.load, fashion.flat, num_examples=2_000)
    return Supervised("", "Fashion-MNIST, perceptron", source, MLP((784, 128, 128, 10)), classification, steps=3_000)


def _images_cnn() -> Supervised:
    source = Rows(fashion.load, fashion.image, num_examples=500)
    model = CNN((8, 16), (2, 2), channels=1, classes=10)
    return Supervised("", "Fashion-MNIST, convolutions with batch norm", source, model, classification, steps=200)


def _text_transformer() -> Supervised:
    model = Transformer(width=32, num_layers=2, num_heads=2, context=CONTEXT)
    return _text("this Python's standard library as bytes, transformer", model, 400)


def _text_gru() -> Supervised:
    model = GRU(num_inputs=32, width=64, num_layers=1, classes=256, vocabulary=256)
    return _text("this Python's standard library as bytes, gated recurrent units", model, 600)


def _text(summary: str, model: Transformer | GRU, steps: int) -> Supervised:
    source = Windows(stdlib_text.load, CONTEXT, num_examples=96)
    return Supervised("", summary, source, model, next_token, steps, batch_size=16, loss_threshold=20.0)


def _table_classes() -> Supervised:
    model = MLP((30, 256, 256, 256, 2), dropout=0.3)
    return Supervised("", "breast cancer, perceptron with dropout", Rows(cancer.load, cancer.columns), model, classification, 120, 256)


def _table_values() -> Supervised:
    source, model = Rows(diabetes.load, diabetes.columns), MLP((10, 256, 256, 256, 1), dropout=0.3)
    return Supervised("", "diabetes, perceptron with dropout, squared error", source, model, regression, 120, 256, loss_threshold=100.0)


def _digits_autoencoder() -> Supervised:
    model = MLP((64, 256, 256, 16, 256, 256, 64))
    source = Rows(digits.load, digits.pixels)
    return Supervised("", "digits, autoencoder, squared error", source, model, reconstruction, 2_000, loss_threshold=2.0)


def _digits_sequence() -> Supervised:
    model = GRU(num_inputs=8, width=48, num_layers=1, classes=10)
    return Supervised("", "digits row by row, gated recurrent units", Rows(digits.load, digits.rows), model, classification, 2_000)


_BASES: dict[str, Callable[[], Supervised]] = {
    "images_mlp": _images_mlp,
    "images_cnn": _images_cnn,
    "text_transformer": _text_transformer,
    "text_gru": _text_gru,
    "table_classes": _table_classes,
    "table_values": _table_values,
    "digits_autoencoder": _digits_autoencoder,
    "digits_sequence": _digits_sequence,
}

# What the variants change: settings of the model, and of the task beside it.
_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "images_mlp": {
        META: {"model": {"activation": "gelu", "layer_norm": True}, "steps": 2_000},
        FINAL: {"model": {"widths": (784, 64, 64, 64, 10), "activation": "tanh"}, "batch_size": 32},
    },
    "images_cnn": {
        META: {"model": {"norm": "group"}, "batch_size": 32},
        FINAL: {"model": {"widths": (12, 12), "activation": "gelu"}, "steps": 160},
    },
    "text_transformer": {
        META: {"model": {"activation": "gelu"}, "batch_size": 24},
        FINAL: {"model": {"width": 48, "num_layers": 1}, "steps": 320},
    },
    "text_gru": {
        META: {"batch_size": 32, "steps": 400},
        FINAL: {"model": {"width": 48, "num_layers": 2}, "steps": 400},
    },
    "table_classes": {
        META: {"model": {"layer_norm": True}},
        FINAL: {"model": {"activation": "tanh", "init_scale": 4.0}, "batch_size": 128},
    },
    "table_values": {
        META: {"model": {"activation": "gelu", "widths": (10, 256, 256, 1)}},
        FINAL: {"model": {"layer_norm": True}, "batch_size": 128},
    },
    "digits_autoencoder": {
        META: {"model": {"activation": "tanh"}, "steps": 1_200},
        FINAL: {"model": {"activation": "gelu", "init_scale": 2.0, "layer_norm": True}, "batch_size": 128, "steps": 1_200},
    },
    "digits_sequence": {
        META: {"model": {"width": 64}, "batch_size": 16},
        FINAL: {"model": {"width": 32, "num_layers": 2}, "steps": 1_600},
    },
}
