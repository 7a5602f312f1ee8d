"""The register machine: runs any program without compiling it.

`opcodes.py` makes the instruction set from the language's table, `bytecode.py` turns a program into integers and a table
of scalars, `xla.py` executes them inside a jitted training loop. For accelerators `pallas.py` runs a program of its own for each
candidate of a population in one kernel launch; `packing.py` has its inputs, and `population.py` makes it a transformation.
"""

from .bytecode import Bytecode, Clock, assemble
from .xla import RegisterMachineState, register_machine

__all__ = ["Bytecode", "Clock", "RegisterMachineState", "assemble", "register_machine"]
