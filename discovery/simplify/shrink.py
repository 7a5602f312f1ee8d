"""Evolution with insertion disabled: walks of a few mutations that end at a shorter program, tried in random order.

It finds what one change at a time does not: two statements that only go together, or one that may go once an argument of
another has changed.
"""

from collections.abc import Iterator
from random import Random

from ..language import Program, ProgramError, canonical_hash, infer, is_live
from ..search import MutationConfig, mutant
from .exact import exact

LONGEST_WALK = 3
DELETING = MutationConfig(insert=0.0)


def shorter_mutants(program: Program, random: Random, num: int) -> Iterator[tuple[Program, str]]:
    """Distinct shorter programs, and what was done, from ``num`` walks of 1 to `LONGEST_WALK` mutations."""
    seen = {canonical_hash(program)}
    for _ in range(num):
        walked, what = program, []
        for _ in range(1 + int(random.random() * LONGEST_WALK)):
            candidate, mutation = mutant(walked, random, DELETING)
            try:
                infer(candidate)
            except ProgramError:
                continue
            walked = candidate
            what.append(mutation)
        if not is_live(walked):
            continue
        shorter = exact(walked)
        key = canonical_hash(shorter)
        if key not in seen and len(shorter.statements) < len(program.statements):
            seen.add(key)
            yield shorter, ", ".join(what)
