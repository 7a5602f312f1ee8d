"""A draft's shortcuts, on walks of mutations through dead and live code, against working everything out anew."""

from random import Random

import pytest

from stepsmith.discovery.language import Program, ProgramError, canonical_hash, infer, is_live, load, prune
from stepsmith.discovery.language.canonical import reaching
from stepsmith.discovery.search import MutationConfig, mutant
from stepsmith.discovery.search.draft import Change, Draft

STEPS = 400


def _change(before: Program, after: Program) -> Change:
    """What made one program of another, by comparing their statements."""
    old, new = before.statements, after.statements
    at = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] is not pair[1]), min(len(old), len(new)))
    removed = old[at] if at < len(old) and len(new) <= len(old) else None
    return Change(at, removed, new[at] if at < len(new) and len(new) >= len(old) else None)


def _kinds(program):
    try:
        return infer(program)
    except ProgramError as error:
        return str(error)


def _kinds_after(draft, change):
    try:
        return draft.kinds_after(change)
    except ProgramError:
        return "invalid"


def _liveness(program):
    """The variables that reach the update from before each statement and from the end, and how many states do."""
    states = reaching(program).states
    needed = [{program.outputs[0], *states}]
    for target, _, args in reversed(program.statements):
        reads = {argument for argument in args if isinstance(argument, str)}
        needed.insert(0, needed[0] - {target} | reads if target in needed[0] else needed[0])
    return needed, len(states)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("name", ["adamw", "lion_raw", "muon", "linear"])
def test_kinds_and_liveness_after_a_change(name, extended):
    """Of each mutant along a walk: the kinds of all statements, or an error; and what is said to be neutral is so."""
    seen = {"invalid": 0, "neutral": 0, "other": 0}
    random, config = Random(1), MutationConfig(max_statements=24)
    program = load(name)
    for _ in range(STEPS):
        candidate, _ = mutant(program, random, config, extended)
        program = Program(program.statements, program.states, candidate.extra, program.kind)
        draft, change = Draft.of(program), _change(program, candidate)
        assert draft.changed(change) == candidate
        expected, kinds = _kinds(candidate), _kinds_after(draft, change)
        if isinstance(expected, str):
            assert kinds == "invalid"
            seen["invalid"] += 1
            continue
        neutral = draft.is_neutral(change)
        seen["neutral" if neutral else "other"] += 1
        draft.apply(change, *kinds)
        if neutral:
            assert prune(candidate) == prune(program) and canonical_hash(candidate) == canonical_hash(program)
        else:
            draft.follow(reaching(candidate).states)
        anew = Draft.of(candidate)
        assert draft.kinds == anew.kinds == expected
        assert (draft.program, draft.needed, draft.states) == (anew.program, anew.needed, anew.states) == (candidate, *_liveness(candidate))
        for at in range(len(candidate.statements) + 1):
            names, count = draft.variables(at)
            assert names[:count] == list(dict.fromkeys((*candidate.inputs, *(s.target for s in candidate.statements[:at]))))
        assert draft.fresh() == anew.fresh() not in names
        if neutral or is_live(candidate):
            program = candidate
    assert min(seen.values()) > 10, seen
