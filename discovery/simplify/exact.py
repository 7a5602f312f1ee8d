"""The exact tier: what the language itself proves."""

from ..language import prune
from ..language.program import Program
from .graph import to_graph, to_program


def exact(program: Program) -> Program:
    """An equal program with no more statements; never longer than the program without its dead code and copies."""
    shortest = to_program(to_graph(program))
    rewritten = prune(program)
    return rewritten if len(rewritten.statements) < len(shortest.statements) else shortest
