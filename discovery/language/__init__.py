"""Update rules and schedules as programs.

Start with `ops.py`, the one table of operations; `program.py` says what a program is, `text.py` reads and prints it,
`types.py` checks it, `canonical.py` tells equal programs from different ones, `rewrite.py` simplifies (both through the normal
form in `normal/`), `interpret.py` is the plain reference for what a program does, `matrices.py` the formulas of the extended
operations, `compose.py` puts a rule and a schedule together. `programs/` holds the shipped rules and schedules.
"""

from .canonical import canonical_hash, is_live, prune
from .compose import holds_schedule, with_schedule
from .interpret import as_transformation
from .ops import OPS, Kind, Op
from .program import SCHEDULE, UPDATE, Program, ProgramError, Statement, extended_operations
from .rewrite import simplify_exact
from .shipped import load, names, schedule_names
from .text import parse, to_text
from .types import infer, operations

__all__ = [
    "OPS",
    "SCHEDULE",
    "UPDATE",
    "Kind",
    "Op",
    "Program",
    "ProgramError",
    "Statement",
    "as_transformation",
    "canonical_hash",
    "extended_operations",
    "holds_schedule",
    "infer",
    "is_live",
    "load",
    "names",
    "operations",
    "parse",
    "prune",
    "schedule_names",
    "simplify_exact",
    "to_text",
    "with_schedule",
]
