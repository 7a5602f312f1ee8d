"""The one place where update rules are listed by name.

Learning rates are what each rule's authors or optax suggest for small models; they are where a tuning grid is centred,
not tuned values.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import optax
from optax import contrib

from .adamw import adamw, adamw_8bit
from .discovered import muon_rows
from .lion import lion, lion_8bit

_CALLED = {"b1": ("b1", "momentum", "beta"), "b2": ("b2",), "weight_decay": ("weight_decay",)}


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A row of the registry.

    Attributes:
        name: what users type.
        factory: learning rate (a number, a traced scalar or an optax schedule) and keyword arguments -> transformation.
        summary: the rule in one line, with its source.
        learning_rate: default learning rate, centre of the grid.
    """

    name: str
    factory: Callable[..., optax.GradientTransformation]
    summary: str
    learning_rate: float

    def setting(self, quantity: str) -> str | None:
        """What this rule calls 'b1' (weight of the last momentum), 'b2' (of the last square) or 'weight_decay'; None where it has none.

        Example:
            >>> get("momentum").setting("b1"), get("adamw").setting("b1"), get("sgd").setting("weight_decay")
            ('momentum', 'b1', None)
        """
        parameters = inspect.signature(self.factory).parameters
        return next((name for name in _CALLED[quantity] if name in parameters), None)

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The default tuning grid: five points around `learning_rate`, in steps of sqrt(10), ascending.

        Example:
            >>> get("adam").learning_rates
            (0.0001, 0.000316228, 0.001, 0.00316228, 0.01)
        """
        return tuple(float(f"{self.learning_rate * 10 ** (index / 2):.6g}") for index in range(-2, 3))


def _momentum(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, weight_decay: float | None = None, nesterov: bool = False
) -> optax.GradientTransformation:
    """The decay, if any, is part of the gradient that the momentum averages, as is usual for this rule."""
    rule = optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)
    return rule if weight_decay is None else optax.chain(optax.add_decayed_weights(weight_decay), rule)


def _nesterov(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, weight_decay: float | None = None
) -> optax.GradientTransformation:
    return _momentum(learning_rate, momentum, weight_decay, nesterov=True)


def _muon(
    learning_rate: optax.ScalarOrSchedule, beta: float = 0.95, weight_decay: float = 0.0, **kwargs: Any
) -> optax.GradientTransformation:
    """One decay for the matrices and for what AdamW moves."""
    return contrib.muon(learning_rate, beta=beta, weight_decay=weight_decay, adam_weight_decay=weight_decay, **kwargs)


def _prodigy(
    learning_rate: optax.ScalarOrSchedule = 1.0, b1: float = 0.9, b2: float = 0.999, weight_decay: float = 0.0, **kwargs: Any
) -> optax.GradientTransformation:
    return contrib.prodigy(learning_rate, betas=(b1, b2), weight_decay=weight_decay, **kwargs)


_ROWS = (
    Optimizer("sgd", optax.sgd, "gradient descent (Robbins and Monro, 1951)", 0.1),
    Optimizer("momentum", _momentum, "gradient descent with momentum 0.9 (Polyak, 1964)", 0.03),
    Optimizer("nesterov", _nesterov, "Nesterov's momentum 0.9 (Sutskever et al., 2013)", 0.03),
    Optimizer("adam", optax.adam, "moments of the gradient and its square (Kingma and Ba, arXiv:1412.6980)", 1e-3),
    Optimizer("adamw", adamw, "Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)", 1e-3),
    Optimizer("nadamw", optax.nadamw, "AdamW with Nesterov's momentum (Dozat, 2016)", 1e-3),
    Optimizer("lion", lion, "sign of interpolated momentum (Chen et al., arXiv:2302.06675)", 3e-4),
    Optimizer("lion_8bit", lion_8bit, "Lion with a momentum of one byte an element (block-wise: Dettmers et al., arXiv:2110.02861)", 3e-4),
    Optimizer("adamw_8bit", adamw_8bit, "AdamW with averages of one byte an element (block-wise: Dettmers et al., arXiv:2110.02861)", 1e-3),
    Optimizer("rmsprop", optax.rmsprop, "gradient over its running root mean square (Hinton, 2012)", 1e-3),
    Optimizer("adagrad", optax.adagrad, "gradient over the root of the sum of its squares (Duchi et al., 2011)", 0.03),
    Optimizer("adafactor", optax.adafactor, "Adam with factored second moments (Shazeer and Stern, arXiv:1804.04235)", 0.01),
    Optimizer("lamb", optax.lamb, "Adam scaled per layer by the weights' norm (You et al., arXiv:1904.00962)", 0.01),
    Optimizer("lars", optax.lars, "momentum scaled per layer by the weights' norm (You et al., arXiv:1708.03888)", 1.0),
    Optimizer("sign_sgd", optax.sign_sgd, "sign of the gradient (Bernstein et al., arXiv:1802.04434)", 1e-3),
    Optimizer("signum", optax.signum, "sign of the momentum (Bernstein et al., arXiv:1802.04434)", 1e-3),
    Optimizer("adabelief", optax.adabelief, "Adam with the gradient's deviation from its mean (Zhuang et al., arXiv:2010.07468)", 1e-3),
    Optimizer("yogi", optax.yogi, "Adam with additive second moment (Zaheer et al., 2018)", 0.01),
    Optimizer("radam", optax.radam, "Adam with rectified warm-up (Liu et al., arXiv:1908.03265)", 3e-3),
    Optimizer("adamax", optax.adamax, "Adam with the infinity norm (Kingma and Ba, arXiv:1412.6980, section 7.1)", 2e-3),
    Optimizer("amsgrad", optax.amsgrad, "Adam with the largest second moment so far (Reddi et al., arXiv:1904.09237)", 1e-3),
    Optimizer("novograd", optax.novograd, "Adam with one second moment per layer (Ginsburg et al., arXiv:1905.11286)", 0.01),
    Optimizer("muon", _muon, "orthogonalised momentum for matrices, AdamW elsewhere (Jordan et al., 2024)", 0.01),
    Optimizer(
        "muon_rows",
        muon_rows,
        "orthogonalised momentum times the root of the rows, Adam's direction elsewhere (found here; its card: optimizers/discovered)",
        0.0147,
    ),
    Optimizer(
        "schedule_free_adamw",
        contrib.schedule_free_adamw,
        "AdamW with averaging in place of a schedule (Defazio et al., arXiv:2405.15682); the parameters it moves are not its averaged ones",
        3e-3,
    ),
    Optimizer(
        "prodigy",
        _prodigy,
        "Adam that estimates its learning rate; the one given is a factor (Mishchenko and Defazio, arXiv:2306.06101)",
        1.0,
    ),
)

OPTIMIZERS: dict[str, Optimizer] = {row.name: row for row in _ROWS}


def names() -> tuple[str, ...]:
    """The names that `get` knows, in the order of the table.

    Example:
        >>> names()[:3]
        ('sgd', 'momentum', 'nesterov')
    """
    return tuple(OPTIMIZERS)


def get(name: str) -> Optimizer:
    """The row of that name.

    Raises:
        ValueError: where the name is not known.

    Example:
        >>> get("lion").learning_rate
        0.0003
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def create(name: str, learning_rate: optax.ScalarOrSchedule | None = None, **kwargs: Any) -> optax.GradientTransformation:
    """Makes the transformation of that name.

    Args:
        name: one of `names()`.
        learning_rate: a number, a traced scalar or an optax schedule; the rule's default where None.
        **kwargs: settings of the rule, such as `weight_decay`.

    Raises:
        ValueError: where the name is not known, or the rule has no such setting.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = create("sgd", 0.5)
        >>> updates, _ = rule.update(jnp.array(2.0), rule.init(jnp.array(0.0)))
        >>> float(updates)
        -1.0
    """
    row = get(name)
    signature = inspect.signature(row.factory)
    try:
        signature.bind(learning_rate, **kwargs)
    except TypeError as error:
        raise ValueError(f"optimizer {name!r}: {error}; its settings are {', '.join(signature.parameters)}") from error
    return row.factory(row.learning_rate if learning_rate is None else learning_rate, **kwargs)
