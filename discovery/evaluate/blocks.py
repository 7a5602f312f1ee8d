"""Blocks of seeds are not equally hard, and differ by as much as programs do: how much is measured, and taken off.

A program's score on a block is taken to be the program's plus the block's plus noise. The first programs of a search are scored on
every block, whatever they are worth: had they been chosen for a good score on the first block, their luck there would pass for the
block's ease. From then on each score is brought to the first block, so that a program seen on four blocks and one seen on the first
alone can be compared.
"""

import statistics
from typing import Any

from .fitness import Outcome

CALIBRATORS = 8  # programs; with the noise that was seen, 0.2 to 0.3, they leave an error of about 0.1


class Blocks:
    """By how much each block is harder than the first.

    Args:
        count: of the blocks.
        state: what `to_json` gave; empty at the start of a search.

    >>> from .fitness import Status
    >>> blocks = Blocks(2, {})
    >>> for number in range(CALIBRATORS):
    ...     blocks.observe(f"program {number}", (0.1 * number, 0.1 * number + 0.5))
    >>> blocks.calibrating, blocks.corrected(Outcome(Status.OK, (1.0,)), 1).scores
    (False, (0.5,))
    """

    def __init__(self, count: int, state: dict[str, Any]):
        self._count = count
        self._effects: list[float] = state.get("effects", [])
        self.calibrators: dict[str, tuple[float, ...]] = {h: tuple(scores) for h, scores in state.get("calibrators", {}).items()}

    @property
    def calibrating(self) -> bool:
        """Whether programs are still scored on every block to find out."""
        return self._count > 1 and not self._effects

    def observe(self, program_hash: str, scores: tuple[float, ...]) -> None:
        """Takes in a program's uncorrected scores on all blocks; the last one needed settles the differences."""
        self.calibrators[program_hash] = scores
        if len(self.calibrators) >= CALIBRATORS and not self._effects:
            rises = zip(*([score - each[0] for score in each] for each in self.calibrators.values()), strict=True)
            self._effects = [statistics.median(rise) for rise in rises]

    def corrected(self, outcome: Outcome, first: int = 0) -> Outcome:
        """The outcome with its scores, on blocks from `first` on, brought to the first block; as it is while calibrating."""
        if not self._effects:
            return outcome
        effects = self._effects[first : first + len(outcome.scores)]
        return outcome._replace(scores=tuple(score - effect for score, effect in zip(outcome.scores, effects, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """For the state of a run."""
        return {"effects": self._effects, "calibrators": self.calibrators}
