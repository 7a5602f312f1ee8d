"""Random programs for the machines."""

from random import Random

import pytest

from stepsmith.discovery.language import canonical_hash, extended_operations, load, names
from stepsmith.discovery.search import MutationConfig, mutate


@pytest.fixture(scope="session")
def random_programs():
    """Mutants of shipped programs, some of them many times mutated; of all programs where `extended`, else of the paper's language."""

    def make(count, mutations, extended=False):
        config = MutationConfig(max_statements=48 if extended else 20)
        shipped = [name for name in names() if extended or not extended_operations(load(name))]
        for index in range(count):
            random = Random(index)
            program = load(shipped[index % len(shipped)])
            for _ in range(1 + int(random.random() * mutations)):
                program = mutate(program, canonical_hash(program), random, config, extended).program
            yield program

    return make
