"""Which of what searches found holds: a funnel of larger tasks, and whether a search has overfitted.

Start with `levels.py`, what a config says, and `placing.py`, which training runs a program needs and who goes on; `baselines.py` has
what finalists are compared with; `funnel.py` runs them, `result.py` reads what they left, `validation.py` tells when a search began
to overfit its tasks, `command.py` is `stepsmith select`.
"""

from .levels import LevelConfig, SelectionConfig

__all__ = ["LevelConfig", "SelectionConfig"]
