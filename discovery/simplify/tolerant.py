"""The tolerant tier: changes that are not exact and make a program shorter, for a judge to accept or refuse.

Two sources. By form: a value becomes one of its arguments, 0 or 1; a state becomes 0 or another state. By what the values are on
recorded gradients of one of the tasks: where a value is, but for a factor, another value or its sign, it becomes that, in whatever
spelling it was written (``m / sqrt(m * m)`` is ``sign(m)``).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..language import Kind, Program, ProgramError, Statement, infer, is_live, to_text
from ..language.message import one_line
from .exact import exact
from .graph import Graph, fresh, redefine, substitute, to_graph, to_program
from .probe import FAR, Recording, change, updates

ALIKE = 0.05  # relative distance up to which a value is taken for another
MAX_VALUES = 24  # compared with each other; more would take long and mean little


class Proposal(NamedTuple):
    """A shorter program."""

    program: Program
    change: float  # of the updates, relative, on recorded gradients of the task where it is largest
    what: str  # was done


def proposals(program: Program, recordings: Sequence[Recording]) -> list[Proposal]:
    """All changes that make the program shorter and leave it a rule that learns; those that change its updates least come first.

    Args:
        program: the program to shorten.
        recordings: of each task; a change counts as what it is where it is largest.
    """
    references = [updates(program, recording) for recording in recordings]
    graph = to_graph(program)
    found: dict[str, Proposal] = {}
    for changed, what in (*_by_form(graph), *(found for recording in recordings for found in _by_value(graph, recording))):
        shorter = _valid(changed)
        if shorter is None or len(shorter.statements) >= len(program.statements):
            continue
        key = to_text(shorter)
        if key not in found:
            changes = [change(shorter, reference, recording) for reference, recording in zip(references, recordings, strict=True)]
            found[key] = Proposal(shorter, max(changes), what)
    possible = [proposal for proposal in found.values() if proposal.change < FAR]
    return sorted(possible, key=lambda proposal: (proposal.change, len(proposal.program.statements)))


def _valid(graph: Graph) -> Program | None:
    try:
        program = to_program(graph)
        infer(program)
        program = exact(program)
        infer(program)
    except ProgramError:
        return None
    return program if is_live(program) else None


def _by_form(graph: Graph) -> Iterator[tuple[Graph, str]]:
    for node in graph.nodes:
        for value in dict.fromkeys([*node.args, 0.0, 1.0]):
            yield substitute(graph, node.target, value), f"{written(node)} becomes {shown(value)}"
    for state in graph.states:
        rest = graph._replace(
            states=tuple(s for s in graph.states if s != state),
            outputs=tuple(o for s, o in zip(("update", *graph.states), graph.outputs, strict=True) if s != state),
        )
        for value in (0.0, *rest.states):
            yield substitute(rest, state, value), f"state {state} becomes {shown(value)}"


def _by_value(graph: Graph, recording: Recording) -> Iterator[tuple[Graph, str]]:
    """Values that are a factor times another value or its sign; the factor is a constant, or a constant times a scalar of the program."""
    whole = Program((*graph.nodes, Statement("update", "copy", graph.outputs[:1])), graph.states, graph.extra)
    kinds = dict(zip((node.target for node in graph.nodes), infer(whole), strict=False))
    values = {name: _value(graph, name, recording) for name in ("w", "g", *graph.states, *(n.target for n in graph.nodes))[:MAX_VALUES]}
    scalars = {"lr": _value(graph, "lr", recording)[:, 0]}
    scalars |= {name: value[:, 0] for name, value in values.items() if kinds.get(name) is Kind.SCALAR}
    order = list(values)
    for node in graph.nodes:
        if node.target not in values or node.target in scalars:
            continue
        before = order[: order.index(node.target)]
        known = {name: scalar for name, scalar in scalars.items() if name == "lr" or name in before}
        for other in before:
            if other in scalars:
                continue
            for sign in (True, False):
                base = np.sign(values[other]) if sign else values[other]
                factor = _factor(values[node.target], base)
                for name, value in _as_scalars(factor, known):
                    written_out = _product(graph, node.target, other, sign, name, value)
                    text = f"sign({other})" if sign else other
                    parts = [text] + ([] if name is None else [name]) + ([] if value == 1.0 else [f"{value:.6g}"])
                    yield redefine(graph, node.target, written_out), f"{written(node)} is {' * '.join(parts)}"


def _value(graph: Graph, name: str, recording: Recording) -> np.ndarray:
    return updates(to_program(graph._replace(outputs=(name, *graph.outputs[1:]))), recording)


def _factor(value: np.ndarray, base: np.ndarray) -> np.ndarray | None:
    """Step by step the number c for which value is c * base; None where there is none. # [steps]"""
    if not (np.isfinite(value).all() and np.isfinite(base).all()):
        return None
    squares = (base * base).sum(1)
    if not squares.all():
        return None
    factor = (value * base).sum(1) / squares
    off = np.linalg.norm(value - factor[:, None] * base, axis=1)
    return factor if (off <= ALIKE * np.linalg.norm(value, axis=1)).all() and factor.all() else None


def _as_scalars(factor: np.ndarray | None, scalars: dict[str, np.ndarray]) -> Iterator[tuple[str | None, float]]:
    """The scalars of the program, None for no scalar, to which the factors are proportional; of those that need no constant, if any."""
    if factor is not None:
        found = list(_proportional(factor, scalars))
        yield from [pair for pair in found if pair[1] == 1.0] or found


def _proportional(factor: np.ndarray, scalars: dict[str, np.ndarray]) -> Iterator[tuple[str | None, float]]:
    for name, scalar in ((None, np.ones_like(factor)), *scalars.items()):
        used = scalar != 0
        if used.any() and not factor[~used].any():
            ratios = factor[used] / scalar[used]
            if np.ptp(ratios) <= ALIKE * np.abs(ratios.mean()):
                mean = float(ratios.mean())
                yield name, 1.0 if abs(mean - 1) < ALIKE else mean


def _product(graph: Graph, target: str, other: str, sign: bool, scalar: str | None, factor: float) -> list[Statement]:
    """Nodes that assign ``other``, or its sign, times the scalar times the factor to the target."""
    nodes = [Statement(target, "sign" if sign else "copy", (other,))]
    for by in (*([] if scalar is None else [scalar]), *([] if factor == 1.0 else [factor])):
        inner = fresh(graph._replace(nodes=(*graph.nodes, *nodes)), "part")
        nodes[-1] = nodes[-1]._replace(target=inner)
        nodes.append(Statement(target, "multiply", (inner, by)))
    return nodes


def written(node: Statement) -> str:
    """A statement's right side."""
    return one_line(f"{node.op}({', '.join(map(shown, node.args))})")


def shown(value: str | float) -> str:
    """A name, or a constant of at most six digits."""
    return value if isinstance(value, str) else f"{value:.6g}"
