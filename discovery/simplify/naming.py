"""A program in its readable form: the rate as one factor at the end, statements in the order of the data flow, names by role."""

from collections.abc import Mapping

from ..export.separate import separate
from ..language import Program, Statement
from ..language.program import Argument
from .graph import Graph, fresh, to_graph, to_program
from .parity import Parity, parities

DIRECTION, DECAY, RATE, BLEND = "direction", "decay", "rate", "blend"
_STATE_NAMES = {Parity.ODD: "m", Parity.EVEN: "v", Parity.NEITHER: "s"}
_RESULTS = {
    "add": "total",
    "subtract": "difference",
    "multiply": "product",
    "divide": "ratio",
    "power": "raised",
    "maximum": "larger",
    "minimum": "smaller",
    "interp": BLEND,
    "dot": "alignment",
    "cosine_sim": "alignment",
    "get_pi": "pi",
    "get_e": "e",
    "get_eps": "eps",
    "copy": "same",
}


def readable(program: Program) -> Program:
    """The same rule, as ``lr * rate * (direction + decay)`` where it is of that form, with names that say what a value is.

    A state is called m where it changes its sign with the gradients (a mean of them), v where it does not (a mean of their
    squares), else s.

    >>> from ..language import load, to_text
    >>> print(to_text(readable(load("adamw"))))
    def train(w, g, m, v, lr):
        m = interp(g, m, 0.9)
        g2 = square(g)
        v = interp(g2, v, 0.999)
        sqrt_v = sqrt(v)
        direction = m / sqrt_v
        decay = w * 0.01
        total = direction + decay
        rate = lr * 0.001
        update = total * rate
        return update, m, v
    """
    graph = to_graph(program)
    gathered = rate_last(graph)
    if gathered is not None and len(to_program(gathered).statements) <= len(to_program(graph).statements):
        graph = gathered
    return to_program(_named(to_graph(to_program(graph))))  # what nothing reads would take a name


def rate_last(graph: Graph) -> Graph | None:
    """The graph as ``(direction + w * decay) * (lr * rate)``; None if it is not of that form."""
    parts = separate(to_program(graph))
    if parts is None:
        return None
    gathered = to_graph(parts.direction)

    def add(op: str, *args: Argument) -> str:
        nonlocal gathered
        name = fresh(gathered, "part")
        gathered = gathered._replace(nodes=(*gathered.nodes, Statement(name, op, args)))
        return name

    value = gathered.outputs[0]
    if parts.weight_decay:
        value = add("add", value, add("multiply", "w", parts.weight_decay) if parts.weight_decay != 1.0 else "w")
    rate = "lr" if parts.learning_rate == 1.0 else add("multiply", "lr", parts.learning_rate)
    update = add("multiply", value, rate)
    return gathered._replace(outputs=(update, *gathered.outputs[1:]))


def _named(graph: Graph) -> Graph:
    names = _state_names(graph)
    taken = {"w", "g", "lr", "update", *graph.extra, *names.values()}
    nodes = {node.target: node for node in graph.nodes}
    new_states = dict(zip(map(str, graph.outputs[1:]), (names[state] for state in graph.states), strict=True))
    roles = _roles(graph, nodes)
    inner: dict[str, str] = {}  # while states have their old names
    called: dict[str, str] = {**names, **new_states}  # what a value is called in the name of another
    for node in graph.nodes:
        stem = roles.get(node.target) or _stem(node, called)
        name = next(n for i in range(1, len(nodes) + len(taken) + 2) if (n := stem if i == 1 else f"{stem}_{i}") not in taken)
        taken.add(name)
        inner[node.target] = name
        called.setdefault(node.target, name)
    return _renamed(graph, names | inner)


def _state_names(graph: Graph) -> dict[str, str]:
    known = parities(graph)
    names: dict[str, str] = {}
    for state in graph.states:
        stem = _STATE_NAMES[known[state]]
        names[state] = next(n for i in range(1, len(graph.states) + 1) if (n := stem if i == 1 else f"{stem}{i}") not in names.values())
    return names


def _roles(graph: Graph, nodes: Mapping[str, Statement]) -> dict[str, str]:
    """Names of the parts of ``(direction + decay) * rate``."""
    roles = {node.target: RATE for node in graph.nodes if _is_scaled(node, "lr")}
    roles |= {node.target: DECAY for node in graph.nodes if _is_scaled(node, "w")}
    last = nodes.get(str(graph.outputs[0]))
    factors = [a for a in last.args if a != "lr" and roles.get(str(a)) != RATE] if last and last.op == "multiply" else []
    if len(factors) == 1:
        whole = nodes.get(str(factors[0]))
        terms = [a for a in whole.args if a != "w" and roles.get(str(a)) != DECAY] if whole and whole.op == "add" else []
        direction = str(terms[0] if len(terms) == 1 else factors[0])
        if direction in nodes:
            roles[direction] = DIRECTION
    return roles


def _is_scaled(node: Statement, name: str) -> bool:
    return node.op == "multiply" and name in node.args and any(isinstance(argument, float) for argument in node.args)


def _stem(node: Statement, called: Mapping[str, str]) -> str:
    if node.op in _RESULTS and not (node.op == "multiply" and node.args[0] == node.args[1]):
        return _RESULTS[node.op]
    if not node.args:
        return node.op
    argument = str(node.args[0]) if isinstance(node.args[0], str) else "constant"
    of = called.get(argument, argument)
    if node.op in ("square", "multiply"):
        return f"{of}2" if of == "g" else f"{of}_squared"
    return f"{of}_clipped" if node.op == "clip" else f"{node.op}_{of}"


def _renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    def now(argument: Argument) -> Argument:
        return names.get(argument, argument) if isinstance(argument, str) else argument

    nodes = tuple(Statement(names[t], op, tuple(map(now, args))) for t, op, args in graph.nodes)
    return Graph(nodes, tuple(map(now, graph.outputs)), tuple(names[state] for state in graph.states), graph.extra)
