"""A program as its data flow, where every value has one name: the form in which simplification edits programs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..export.separate import unique_names
from ..language.program import Argument, Program, Statement


class Graph(NamedTuple):
    """A program without reassignment.

    Attributes:
        nodes: each target is assigned once and is no input; arguments are inputs, constants or earlier targets.
        outputs: the values of ``update`` and of the states' new values.
        states: names of the states' old values.
        extra: optional inputs.
    """

    nodes: tuple[Statement, ...]
    outputs: tuple[Argument, ...]
    states: tuple[str, ...]
    extra: tuple[str, ...]


def to_graph(program: Program) -> Graph:
    """The data flow of what a program computes, without dead code."""
    unique, outputs = unique_names(program)
    return Graph(unique.statements, outputs, unique.states, unique.extra)


def substitute(graph: Graph, name: str, value: Argument) -> Graph:
    """The graph with another value wherever the named one is read; its own node, if any, goes."""

    def now(argument: Argument) -> Argument:
        return value if argument == name else argument

    nodes = tuple(Statement(t, op, tuple(map(now, args))) for t, op, args in graph.nodes if t != name)
    return graph._replace(nodes=nodes, outputs=tuple(map(now, graph.outputs)))


def redefine(graph: Graph, name: str, nodes: Sequence[Statement]) -> Graph:
    """The graph with the node of that name replaced by nodes, the last of which assigns it."""
    at = next(index for index, node in enumerate(graph.nodes) if node.target == name)
    return graph._replace(nodes=(*graph.nodes[:at], *nodes, *graph.nodes[at + 1 :]))


def fresh(graph: Graph, stem: str) -> str:
    """A name that no value has."""
    used = {"update", "lr", "w", "g", *graph.states, *graph.extra, *(node.target for node in graph.nodes)}
    return next(name for i in range(len(used) + 1) if (name := f"{stem}_{i}") not in used)


def to_program(graph: Graph) -> Program:
    """The program of a graph, with as few copies as can be: values are ordered so that each state is overwritten after its last use.

    >>> from ..language import load, to_text
    >>> print(to_text(to_program(to_graph(load("lion")))))
    def train(w, g, m, lr):
        c = interp(g, m, 0.9)
        m = interp(g, m, 0.99)
        t1 = sign(c)
        t2 = w * 0.1
        t3 = t1 + t2
        t4 = lr * 0.0003
        update = t3 * t4
        return update, m
    """
    graph = _with_distinct_outputs(graph)
    names = dict(zip(("update", *graph.states), map(str, graph.outputs), strict=True))
    needs = {node.target: [a for a in node.args if isinstance(a, str)] for node in graph.nodes}
    parked: list[Statement] = []
    for state in graph.states:
        readers = [node.target for node in graph.nodes if state in node.args and node.target != names[state]]
        if names[state] == state:  # never assigned
            continue
        if any(_reaches(needs, reader, names[state]) for reader in readers):  # read beside or after the new value: assigned at the end
            parked.append(Statement(state, "copy", (names[state],)))
        else:
            needs[names[state]] = [*needs[names[state]], *readers]
    parked_states = {copy.target for copy in parked}
    renames = {target: name for name, target in names.items() if name not in parked_states}
    taken = {*graph.states, *graph.extra, "update"}
    renames |= {node.target: fresh(graph, node.target) for node in graph.nodes if node.target in taken and node.target not in renames}
    by_name = {node.target: node for node in graph.nodes}
    ordered = [by_name[name] for name in _in_order(needs, [*map(str, graph.outputs[1:]), str(graph.outputs[0])], by_name)]
    statements = [_renamed(node, renames) for node in (*ordered, *parked)]
    return Program(tuple(statements), graph.states, graph.extra)


def _renamed(node: Statement, renames: Mapping[str, str]) -> Statement:
    args = tuple(renames.get(a, a) if isinstance(a, str) else a for a in node.args)
    return Statement(renames.get(node.target, node.target), node.op, args)


def _with_distinct_outputs(graph: Graph) -> Graph:
    """The graph with a node of its own for each output; an input, a constant or a value put out twice is copied."""
    nodes, outputs = list(graph.nodes), list[Argument]()
    targets = {node.target for node in nodes}
    for name, output in zip(("update", *graph.states), graph.outputs, strict=True):
        if output != name and (output not in targets or output in outputs):
            copy = fresh(graph._replace(nodes=tuple(nodes)), "out")
            nodes.append(Statement(copy, "copy", (output,)))
            output = copy
        outputs.append(output)
    return graph._replace(nodes=tuple(nodes), outputs=tuple(outputs))


def _reaches(needs: Mapping[str, Sequence[str]], start: str, goal: str) -> bool:
    """Whether `start` needs `goal`, directly or not."""
    seen, waiting = {start}, [start]
    while waiting:
        for name in needs.get(waiting.pop(), ()):
            if name == goal:
                return True
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return False


def _in_order(needs: Mapping[str, Sequence[str]], roots: Sequence[str], nodes: Mapping[str, Statement]) -> list[str]:
    """The nodes that the roots need, each after what it needs itself, root by root."""
    done: list[str] = []

    def visit(name: str) -> None:
        if name in nodes and name not in done:
            for needed in needs[name]:
                visit(needed)
            done.append(name)

    for root in roots:
        visit(root)
    return done
