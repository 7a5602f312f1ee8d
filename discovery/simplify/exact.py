"""The exact tier: what the language itself proves."""

from ..language import Program, simplify_exact
from .graph import to_graph, to_program


def exact(program: Program) -> Program:
    """An equal program with no more statements; never longer than the program without its dead code and copies."""
    plain, rewritten = to_program(to_graph(program)), simplify_exact(program)
    return rewritten if len(rewritten.statements) < len(plain.statements) else plain
