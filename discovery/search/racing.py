"""What a search is told about racing; `evaluate.extrapolate` does it."""

from dataclasses import dataclass

from ..language.message import shown

MIN_CALIBRATION = 20  # programs; fewer leave too few runs to fit a line to
MAX_CALIBRATION = 10_000  # they are part of every commit until the limits are set


@dataclass(frozen=True)
class RacingConfig:
    """Whether and how strictly runs are stopped whose end can be foreseen from their training loss.

    The limits are set once, from the first programs of the run, and then hold for all later ones.
    """

    enabled: bool = False  # stop runs that are predicted to end too badly
    calibration: int = 200  # programs evaluated in full before the limits are set
    keep: float = 0.3  # share of the calibration's programs that are good enough; a run is stopped where it cannot equal theirs
    confidence: float = 2.0  # standard deviations that a prediction must be worse by than what is good enough

    def check(self) -> "RacingConfig":
        """The config itself; a ValueError where a setting is outside its range."""
        if not MIN_CALIBRATION <= self.calibration <= MAX_CALIBRATION:
            raise ValueError(f"racing.calibration must be {MIN_CALIBRATION} to {MAX_CALIBRATION}, got {shown(self.calibration)}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"racing.keep must be above 0 and at most 1, got {self.keep}")
        if not 0 <= self.confidence <= 100:
            raise ValueError(f"racing.confidence must be 0 to 100, got {self.confidence}")
        return self
