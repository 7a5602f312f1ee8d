"""From an evolved program to a short readable one, without a hand in it.

Start with `pipeline.py`, the stages in their order. `exact.py` is what can be proved, `tolerant.py` proposes what cannot,
`shrink.py` too, by mutation, `rounding.py` shortens constants; `judge.py` decides by training. `graph.py` is the form in which
programs are edited, `probe.py` their values on real gradients; `naming.py`, `parity.py` and `layout.py` make the result readable.
"""

from .layout import to_short_text
from .pipeline import Settings, Simplified, Step, simplify

__all__ = ["Settings", "Simplified", "Step", "simplify", "to_short_text"]
