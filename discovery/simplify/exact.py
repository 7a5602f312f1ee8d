"""The exact tier: what the language itself proves."""

from ..language import Program, simplify_exact
from .graph import to_graph, to_program


def exact(program: Program) -> Program:
    """An equal program with no more statements, or as many and fewer states, than the program without its dead code and copies."""
    plain, rewritten = to_program(to_graph(program)), simplify_exact(program)
    return min(plain, rewritten, key=lambda found: (len(found.statements), len(found.states)))
