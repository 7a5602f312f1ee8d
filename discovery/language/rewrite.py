"""`simplify_exact`: an equal program with as few statements as can be found."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from .canonical import prune
from .normal import NormalForm, emit, normal_form, with_scales
from .program import Program

MAX_SCALES = 64  # combinations of scales of the states that are tried


def simplify_exact(program: Program) -> Program:
    """An equal program in normal form: the same outputs to rounding wherever the original's values are finite.

    Constants are folded, identities applied, sums and products brought to one form, states that stay at zero, that nothing
    reads or that repeat another are dropped, and the others carried at the scale that takes the fewest statements. States
    keep their names. Rounding, overflow and underflow are left aside; see `normal`.

    >>> from .text import parse, to_text
    >>> print(to_text(simplify_exact(parse('''def train(w, g, m, v, lr):
    ...     m = interp(g, interp(g, m, 0.9), 1.1)
    ...     v = v * 0.5
    ...     update = (m + v) * lr * 2.0 * 0.1
    ...     return update, m, v'''))))
    def train(w, g, m, lr):
        m = interp(g, m, 0.99)
        t1 = lr * 0.2
        update = m * t1
        return update, m
    """
    pruned = prune(program)
    form = normal_form(pruned)
    candidates = [_printed(pruned, form, scales) for scales in _scales(form)]
    shortest = min([*candidates, pruned], key=lambda candidate: len(candidate.statements))
    return shortest


def _printed(program: Program, form: NormalForm, scales: dict[str, float]) -> Program:
    values = with_scales(program, form, scales)
    signature = tuple(state for state in program.states if state in values.states)
    return emit(values.update, values.states, replace(program, states=signature))


def _scales(form: NormalForm) -> Iterator[dict[str, float]]:
    """Scales worth trying: the program's own, that of the normal form, and the one that makes an interpolation of a sum."""
    choices = []
    for index, (state, value) in enumerate(form.states.items()):
        scale = form.scales[state]
        own = [1.0, scale]
        if value.node.op == "sum" and len(value.node.args) == 2:
            weights = [value.coefficient * c for c, node in value.node.args if node.args == (f"s{index}",)]
            own += [scale / (1 - weight) for weight in weights if weight != 1.0]
        choices.append(list(dict.fromkeys(own)))
    for count, combination in enumerate(product(*choices)):
        if count == MAX_SCALES:
            return
        yield dict(zip(form.states, combination, strict=True))
