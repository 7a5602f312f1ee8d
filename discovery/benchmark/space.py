"""The space that every rule is tuned in: the same points for all, and no knowledge of the workloads.

A point is four numbers in the unit cube, of a scrambled Halton sequence. What a rule does not have is left out of its settings:

    learning rate    the rule's own x 10^-1.5 to 10^1.5
    weight decay     10^-6 to 10^-3 / the rule's own learning rate, so that the decay of a step is alike for all rules
    1 - b1           0.02 to 0.5, the weight of the newest gradient in the momentum
    1 - b2           0.002 to 0.2, that of the newest square

All are uniform in their logarithm. A rule's own learning rate is the one its authors suggest (or that was found with it).
"""

import numpy as np
from jaxtyping import Float

from ..training.rules import Source

QUANTITIES = ("learning_rate", "weight_decay", "b1", "b2")
LEARNING_RATE_DECADES = 1.5  # to each side
DECAY = (1e-6, 1e-3)  # of the parameters in a step at the rule's own learning rate
FORGETTING = {"b1": (0.02, 0.5), "b2": (0.002, 0.2)}
_SEED = 20_231_206


def points(num: int) -> Float[np.ndarray, "num 4"]:
    """The first points; more of them begin with the same.

    Example:
        >>> bool((points(8)[:3] == points(3)).all()), points(3).shape
        (True, (3, 4))
    """
    from scipy.stats import qmc  # loads for half a second

    return qmc.Halton(len(QUANTITIES), scramble=True, rng=np.random.default_rng(_SEED)).random(num)


def settings(source: Source, point: np.ndarray) -> dict[str, float]:
    """What a point of the cube means for a rule.

    Example:
        >>> from stepsmith.discovery.training.rules import find
        >>> {name: round(value, 6) for name, value in settings(find("lion"), np.full(4, 0.5)).items()}
        {'learning_rate': 0.0003, 'weight_decay': 0.105409, 'b1': 0.9, 'b2': 0.98}
    """
    if not source.learning_rate > 0:
        raise ValueError(f"a rule to be tuned needs a learning rate of its own above 0, got {source.learning_rate}")
    rate, decay, *forgetting = (float(number) for number in point)
    least, most = DECAY
    found = {
        "learning_rate": source.learning_rate * 10 ** (LEARNING_RATE_DECADES * (2 * rate - 1)),
        "weight_decay": least * (most / least) ** decay / source.learning_rate,
    }
    for (name, (low, high)), number in zip(FORGETTING.items(), forgetting, strict=True):
        found[name] = 1 - low * (high / low) ** number
    return {name: value for name, value in found.items() if name == "learning_rate" or name in source.settings}


def own_settings(source: Source) -> dict[str, float]:
    """What a self-tuning rule runs with: its learning rate, and all else as its authors left it."""
    return {"learning_rate": source.learning_rate}
