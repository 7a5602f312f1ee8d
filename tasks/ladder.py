"""Size ladders: every family of tasks at scales 1, 10 and 100, and how a learning rate is carried up.

A run at scale s costs about s times as much as one at scale 1. The cost is shared between the width of the model, its
depth and the number of steps.
"""

import math
from typing import NamedTuple

SCALES = (1, 10, 100)
STEPS_MULTIPLE = 20  # steps that the training loop takes between two tests
EXPONENTS = {"sgd": (0.0, 0.5), "adamw": (1.0, 0.5), "lion": (1.0, 0.75)}  # a and b of `transfer`


class Rung(NamedTuple):
    """How a scale grows a task.

    Attributes:
        scale: cost of a run relative to scale 1, about.
        width: factor of the model's widths, scale**0.2.
        layers: layers added to the model, log10(scale).
        steps: factor of the number of steps, scale**0.5.
    """

    scale: int
    width: float
    layers: int
    steps: float

    def wide(self, width: int, multiple: int = 1) -> int:
        """A width of scale 1 at this scale, rounded to a multiple.

        Example:
            >>> rung(10).wide(32), rung(10).wide(32, multiple=4)
            (51, 52)
        """
        return multiple * max(1, round(width * self.width / multiple))

    def long(self, steps: int) -> int:
        """A number of steps of scale 1 at this scale.

        Example:
            >>> [rung(scale).long(200) for scale in SCALES]
            [200, 640, 2000]
        """
        return steps if self.scale == 1 else STEPS_MULTIPLE * round(steps * self.steps / STEPS_MULTIPLE)

    def name(self, family: str) -> str:
        """The name of a family's task at this scale.

        Example:
            >>> rung(1).name("digits_mlp"), rung(10).name("digits_mlp")
            ('digits_mlp', 'digits_mlp@10')
        """
        return family if self.scale == 1 else f"{family}@{self.scale}"


def rung(scale: int) -> Rung:
    """The rung of a scale.

    Raises:
        ValueError: where the scale is none of `SCALES`.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r}: the ladder has the scales {', '.join(map(str, SCALES))}")
    return Rung(scale, scale**0.2, round(math.log10(scale)), scale**0.5)


def transfer(learning_rate: float, scale_from: int, scale_to: int, rule: str = "adamw") -> float:
    """A peak learning rate tuned at one scale, carried to another: learning_rate * width**-a * steps**-b, both as ratios.

    For SGD a = 0 and b = 1/2, the optimal rate of stochastic convex descent over a known horizon; for rules with steps of
    a fixed size, such as AdamW, a = 1 and b = 1/2 (with the hidden layers' rate of G. Yang et al., Tensor programs V, 2022,
    arXiv:2203.03466, table 3); for Lion b = 3/4, fitted on digits_mlp and digits_autoencoder. EXPERIMENTS.md compares all
    with rates tuned at the larger scale: most lie within a factor of 2, those of `tabular`, which overfits, do not.

    Args:
        learning_rate: tuned at `scale_from`.
        scale_from, scale_to: any of `SCALES`.
        rule: 'sgd' (with or without momentum), 'adamw' or 'lion'; for another rule, the one whose steps are most like it.

    Raises:
        ValueError: for another rule or scale.

    Example:
        >>> round(transfer(0.01, 1, 10), 5), round(transfer(0.01, 10, 1), 4)
        (0.00355, 0.0282)
    """
    if rule not in EXPONENTS:
        raise ValueError(f"no transfer is known for {rule!r}; known are {', '.join(EXPONENTS)}")
    old, new = rung(scale_from), rung(scale_to)
    of_width, of_steps = EXPONENTS[rule]
    return learning_rate * (old.width / new.width) ** of_width * (old.steps / new.steps) ** of_steps
