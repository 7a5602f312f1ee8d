"""Random programs for the machines, and when two sides agree on one."""

from random import Random

import numpy as np
import pytest

from stepsmith.discovery.language import canonical_hash, extended_operations, load, names
from stepsmith.discovery.search import MutationConfig, mutate

RTOL = 2e-4
EDGES = {"arcsin", "arccos", "arctanh", "arccosh"}


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


@pytest.fixture(scope="session")
def close():
    """Whether updates [steps, elements] are equal to a share of the step's largest finite number, and alike where they are not finite."""

    def judge(found, expected, rtol=RTOL):
        finite = np.isfinite(expected)
        if not np.array_equal(np.where(finite, 0, expected), np.where(np.isfinite(found), 0, found), equal_nan=True):
            return False
        found, expected = np.where(finite, found, 0), np.where(finite, expected, 0)
        with np.errstate(over="ignore"):
            return bool(np.all(np.abs(found - expected) <= rtol * np.abs(expected).max(1, keepdims=True)))

    return judge


@pytest.fixture(scope="session")
def at_an_edge():
    """Whether a program is at the edge of an operation's domain, undefined on one side alone, such as the arccosine of a cosine of -1."""

    def judge(program, found, expected):
        one_sided = np.isnan(found) != np.isnan(expected)
        return bool(one_sided.any()) and any(statement.op in EDGES for statement in program.statements)

    return judge
