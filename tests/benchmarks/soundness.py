"""Whether simplification keeps outputs, over random programs.

    python tests/benchmarks/soundness.py [--programs 100000] [--first 0] [--extended]

Each program is a random walk of mutations from a shipped one, of the paper's language or the extended one. It and its simplified
form are run over several steps, with states, on inputs with zeros, tiny and huge values, and must agree to 1e-5 wherever the
original's intermediate values are finite and its output is no rounding noise: noise of 1e-13 put on every intermediate value
must not show in it.
"""

import argparse
import sys
import time
from random import Random

from stepsmith.discovery.language import (
    ProgramError,
    canonical_hash,
    extended_operations,
    infer,
    is_live,
    load,
    names,
    prune,
    to_text,
)
from stepsmith.discovery.language.equality import differs
from stepsmith.discovery.language.rewrite import simplify_exact
from stepsmith.discovery.search import MutationConfig, mutant

PAPER = [name for name in names() if not extended_operations(load(name))]


def walk(seed, extended=False):
    """A well-typed program of the paper's language, or of the extended one, far from a shipped one."""
    random = Random(seed)
    program = load(random.choice(names() if extended else PAPER))
    config = MutationConfig(constant=random.choice((0.2, 0.5)), max_statements=random.choice((10, 20, 30)))
    for _ in range(random.randrange(1, 60)):
        candidate, _ = mutant(program, random, config, extended)
        try:
            infer(candidate)
        except ProgramError:
            continue
        if is_live(candidate):
            program = candidate
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--extended", action="store_true")
    options = parser.parse_args()
    wrong, before, after, start = 0, 0, 0, time.perf_counter()
    for seed in range(options.first, options.first + options.programs):
        program = walk(seed, options.extended)
        simple = simplify_exact(program)
        before, after = before + len(prune(program).statements), after + len(simple.statements)
        fault = differs(program, simple, seed)
        if fault or canonical_hash(simple) != canonical_hash(program):
            wrong += bool(fault)
            print(f"program {seed}: {fault or 'another hash'}\n{to_text(prune(program))}\n{to_text(simple)}")
    print(
        f"soundness programs={options.programs} wrong={wrong} statements={before} after={after} seconds={time.perf_counter() - start:.0f}"
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
