"""A program run over values in normal form, and what becomes of its states.

States are renamed s0, s1, ... in an order that their names do not influence, each carried at the scale at which its update
has the coefficient 1 where all states are zero. One whose update is zero while it is zero itself stays at zero, where every
state starts; states with equal updates become one.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby, islice, permutations, product
from typing import NamedTuple

from ..ops import Kind
from ..program import OBSERVED_INPUTS, OPTIONAL_INPUTS, Argument, Program, Statement
from .functions import apply
from .nodes import ZERO, Node, Value, constant, input_node, key
from .ring import scale

MAX_ORDERS = 24  # orders tried among states that look alike
MEMO_SIZE = 30_000  # calls

_INPUTS = {
    **{name: Value(1.0, input_node(name, Kind.ARRAY, False)) for name in ("w", "g")},
    **{name: Value(1.0, input_node(name, Kind.SCALAR, False)) for name in ("lr", *OPTIONAL_INPUTS, *OBSERVED_INPUTS)},
}

Call = tuple[str, tuple[Value, ...]]

# Caches alone: what `apply` returns depends on nothing else.
_memo: dict[Call, Value] = {}
_met: set[int] = set()  # hashes of calls


class NormalForm(NamedTuple):
    """What a program computes.

    Attributes:
        update: its value.
        states: name of a state -> its next value, for one of each class of equal states, in order of s0, s1, ...
        scales: state -> the factor by which the program's own state is larger than the one of the normal form.
        leaders: state of the program -> the one of its class, for those that the update depends on.
        digest: of update and states, 32 hexadecimal characters.
    """

    update: Value
    states: dict[str, Value]
    scales: dict[str, float]
    leaders: dict[str, str]
    digest: str


def evaluate(statements: Iterable[Statement], states: Mapping[str, Value]) -> dict[Argument, Value]:
    """All variables after one step from the given values of the states."""
    values: dict[Argument, Value] = {**_INPUTS, **states}
    if len(_met) > MEMO_SIZE:
        _memo.clear()
        _met.clear()
    for target, op, args in statements:
        call = (op, tuple([values[a] if isinstance(a, str) else constant(a) for a in args]))
        values[target] = _memo.get(call) or _applied(call)
    return values


def _applied(call: Call) -> Value:
    """The result, which is kept from the second time on: most calls come once, and what is kept costs memory and its collection."""
    result, met = apply(*call), hash(call)
    if met in _met:
        _memo[call] = result
    else:
        _met.add(met)
    return result


def normal_form(program: Program) -> NormalForm:
    """The normal form of a pruned program.

    >>> from ..text import parse
    >>> one = parse('''def train(w, g, m, lr):
    ...     m = interp(g, m, 0.9)
    ...     update = lr * m * 0.5
    ...     return update, m''')
    >>> other = parse('''def train(w, g, momentum, lr):
    ...     momentum = momentum * 0.9 + g
    ...     update = momentum * (lr * 0.05)
    ...     return update, momentum''')
    >>> normal_form(one).digest == normal_form(other).digest
    True
    """
    if not program.states:
        update = evaluate(program.statements, {})[program.outputs[0]]
        return NormalForm(update, {}, {}, {}, _hash([update]))
    groups, scales = _layers(program.states, _of_states(program))
    if all(len(group) == 1 for group in groups):
        return _in_order(program, [group[0] for group in groups], {group[0]: group[0] for group in groups}, scales)
    leaders = _merged(program, groups, scales)
    distinct = [[state for state in group if leaders[state] == state] for group in groups]
    orders = product(*(permutations(group) for group in distinct))
    forms = [_in_order(program, [state for group in order for state in group], leaders, scales) for order in islice(orders, MAX_ORDERS)]
    return min(forms, key=lambda form: form.digest)


@lru_cache(maxsize=10_000)  # most mutants leave the states as they were
def _layers(states: tuple[str, ...], statements: tuple[Statement, ...]) -> tuple[Sequence[Sequence[str]], Mapping[str, float]]:
    """States in groups that look alike, and their scales, given the statements that they depend on; those that stay at zero are left out.

    First come the states whose update is not zero where all states are, then those that these feed, and so on.
    """
    env: dict[str, Value] = dict.fromkeys(states, ZERO)
    scales: dict[str, float] = {}
    groups: list[list[str]] = []
    remaining = list(states)
    while remaining:
        values = evaluate(statements, env)
        ready = sorted((values[state].node.digest, state) for state in remaining if values[state].coefficient)
        if not ready:
            break
        for _, alike in groupby(ready, key=lambda pair: pair[0]):
            group = [state for _, state in alike]
            groups.append(group)
            for state in group:
                env[state] = Value(values[state].coefficient, _state(f"s{len(scales)}"))
                scales[state] = values[state].coefficient
        remaining = [state for state in remaining if state not in scales]
    return groups, scales


def _of_states(program: Program) -> tuple[Statement, ...]:
    """The statements that the next states depend on."""
    wanted: set[Argument] = set(program.states)
    kept: list[Statement] = []
    for statement in reversed(program.statements):
        if statement.target in wanted:
            wanted.discard(statement.target)
            wanted.update(statement.args)
            kept.append(statement)
    return tuple(reversed(kept))


@lru_cache(maxsize=64)
def _state(name: str) -> Node:
    return input_node(name, Kind.ARRAY, True)


def _in_order(program: Program, order: list[str], leaders: Mapping[str, str], scales: Mapping[str, float]) -> NormalForm:
    """The normal form with the states named in the given order; drops those that nothing reads."""
    while True:
        names = {state: f"s{index}" for index, state in enumerate(order)}
        values = evaluate(program.statements, _environment(program, leaders, names, scales))
        update = values[program.outputs[0]]
        read = update.node.states
        while len(read) < len(order):
            more = read.union(*[values[state].node.states for state in order if names[state] in read])
            if more == read:
                break
            read = more
        if len(read) == len(order):
            break
        order = [state for state in order if names[state] in read]
        leaders = {state: leader for state, leader in leaders.items() if leader in order}
    states = {state: scale(values[state], 1 / scales[state]) for state in order}
    return NormalForm(update, states, dict(scales), dict(leaders), _hash([update, *states.values()]))


def _environment(program: Program, leaders: Mapping[str, str], names: Mapping[str, str], scales: Mapping[str, float]) -> dict[str, Value]:
    """A state that is not led by any is dead, or zero for good."""
    return {state: Value(scales[state], _state(names[leaders[state]])) if state in leaders else ZERO for state in program.states}


def _merged(program: Program, groups: Sequence[Sequence[str]], scales: Mapping[str, float]) -> dict[str, str]:
    """State -> the first state that is equal to it up to scale.

    States that look alike are taken to be equal at first; what their updates tell apart is split until nothing is. States
    that are zero at the start and have equal updates while they are equal stay equal.
    """
    classes = groups
    while True:
        leaders = {state: group[0] for group in classes for state in group}
        names = {group[0]: f"s{index}" for index, group in enumerate(classes)}
        values = evaluate(program.statements, _environment(program, leaders, names, scales))
        finer: list[Sequence[str]] = []
        for group in classes:
            found: dict[bytes, list[str]] = {}
            for state in group:
                found.setdefault(key(scale(values[state], 1 / scales[state])), []).append(state)
            finer += found.values()
        if len(finer) == len(classes):
            return leaders
        classes = finer


def _hash(values: Iterable[Value]) -> str:
    return blake2b(b";".join(map(key, values)), digest_size=16).hexdigest()


def with_scales(program: Program, form: NormalForm, scales: Mapping[str, float]) -> NormalForm:
    """The normal form with its states under the program's own names, each carried at another scale."""
    names = {state: state for state in form.states}
    own = {state: scales.get(leader, 1.0) * form.scales[state] / form.scales[leader] for state, leader in form.leaders.items()}
    values = evaluate(program.statements, _environment(program, form.leaders, names, own))
    states = {state: scale(values[state], 1 / own[state]) for state in form.states}
    return form._replace(update=values[program.outputs[0]], states=states, scales=own)
