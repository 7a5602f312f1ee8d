"""From a program to a file.

Start with `to_python`; `optax_file.py` writes the module of a rule, `schedule_file.py` that of a schedule, `pallas_file.py` that of a rule
as a kernel; `separate.py` finds learning rate and weight decay in a rule, `emit.py` writes its arithmetic over pytrees.
"""

from ..language.program import SCHEDULE, Program
from .optax_file import to_optax
from .pallas_file import to_pallas
from .provenance import Provenance
from .schedule_file import to_schedule
from .separate import Separated, separate

__all__ = ["Provenance", "Separated", "separate", "to_optax", "to_pallas", "to_python", "to_schedule"]


def to_python(program: Program, name: str = "discovered", provenance: Provenance | None = None) -> str:
    """The text of a module for optax: of a rule with a transformation, of a schedule with a function from the step to the rate.

    Raises:
        ProgramError: the name is no Python identifier, or one that the file needs itself.
    """
    write = to_schedule if program.kind == SCHEDULE else to_optax
    return write(program, name, provenance)
