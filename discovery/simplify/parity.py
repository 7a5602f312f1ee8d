"""How values answer to gradients of the other sign: it tells a mean of gradients from a mean of their sizes."""

import enum
from collections.abc import Mapping

from ..language.program import Argument
from .graph import Graph

_ODD_FUNCTIONS = {"sin", "tan", "arcsin", "arctan", "sinh", "tanh", "arcsinh", "arctanh", "sign", "cube", "cbrt", "reciprocal", "negative"}
_EVEN_FUNCTIONS = {"abs", "cos", "cosh", "square", "sqrt", "log", "log2", "log10", "norm", "global_norm"}
_PRODUCTS = {"multiply", "divide", "dot", "cosine_sim"}
_SUMS = {"add", "subtract", "interp", "maximum", "minimum"}


class Parity(enum.Enum):
    """What becomes of a value where all gradients so far have the other sign (`divide`'s 1e-8 apart)."""

    EVEN = "the same"
    ODD = "the other sign"
    NEITHER = "something else"


def parities(graph: Graph) -> dict[str, Parity]:
    """The parity of each value of a program, its states included.

    States start at zero, which is both; each is odd or even if that follows for its new value where it is assumed for the old.
    """
    states = dict.fromkeys(graph.states, Parity.ODD)
    for _ in range(2 * len(states) + 1):
        known = _of_values(graph, states)
        new = {state: _of(output, known) for state, output in zip(graph.states, graph.outputs[1:], strict=True)}
        changed = [state for state in graph.states if new[state] is not states[state]]
        if not changed:
            return known
        # One that is not odd may be even; one that was neither stays so.
        states = {s: p if s not in changed else Parity.EVEN if p is Parity.ODD else Parity.NEITHER for s, p in states.items()}
    return _of_values(graph, dict.fromkeys(graph.states, Parity.NEITHER))


def _of_values(graph: Graph, states: Mapping[str, Parity]) -> dict[str, Parity]:
    known = {"w": Parity.NEITHER, "g": Parity.ODD, "lr": Parity.EVEN, **states, **dict.fromkeys(graph.extra, Parity.EVEN)}
    for node in graph.nodes:
        known[node.target] = _result(node.op, [_of(argument, known) for argument in node.args], node.args)
    return known


def _of(argument: Argument, known: Mapping[str, Parity]) -> Parity:
    return known[argument] if isinstance(argument, str) else Parity.EVEN


def _result(op: str, args: list[Parity], written: tuple[Argument, ...]) -> Parity:
    if Parity.NEITHER in args:
        return Parity.NEITHER
    odd = args.count(Parity.ODD)
    if odd == 0 or op in _EVEN_FUNCTIONS:
        return Parity.EVEN
    if op in _ODD_FUNCTIONS or op in ("copy", "clip"):
        return args[0]
    if op in _PRODUCTS:
        return Parity.ODD if odd == 1 else Parity.EVEN
    if op in _SUMS and all(parity is Parity.ODD or value == 0.0 for parity, value in zip(args[:2], written[:2], strict=True)):
        return Parity.NEITHER if op in ("maximum", "minimum") else Parity.ODD
    return Parity.NEITHER
