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
        draft, change = Draft.from_parts(program, infer(program), reaching(program).states), _change(program, candidate)
        assert draft.changed(change) == candidate
        expected, kinds = _kinds(candidate), _kinds_after(draft, change)
        if isinstance(expected, str):
            assert kinds == "invalid"
            seen["invalid"] += 1
            continue
        assert kinds == expected
        neutral = draft.is_neutral(change)
        seen["neutral" if neutral else "other"] += 1
        if neutral:
            assert prune(candidate) == prune(program) and canonical_hash(candidate) == canonical_hash(program)
            after, anew = draft.after(change, expected), Draft.from_parts(candidate, expected, reaching(candidate).states)
            assert (after.program, after.kinds, after.needed, after.states) == (anew.program, anew.kinds, anew.needed, anew.states)
            for position, scope in after.scopes.items():
                assert list(scope.items()) == list(anew.scope(position).items())
        if neutral or is_live(candidate):
            program = candidate
    assert min(seen.values()) > 10, seen
