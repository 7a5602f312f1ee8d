"""What every property says: an input is valid, or it is refused by the documented error in one line."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis.strategies import SearchStrategy

VALID, REFUSED = "valid", "refused"
MAX_MESSAGE = 1_500  # characters


class Kind(NamedTuple):
    """One sort of input.

    Attributes:
        name: in tables and test ids.
        inputs: hypothesis's strategy for it.
        check: input -> `VALID` or `REFUSED`; raises on anything else.
        examples: inputs that once broke something.
    """

    name: str
    inputs: SearchStrategy[Any]
    check: Callable[[Any], str]
    examples: tuple[Any, ...] = ()


def refusal(error: Exception) -> str:
    """`REFUSED`, if the message is one that a person can read."""
    message = str(error)
    assert message.strip(), f"{type(error).__name__} without a message"
    assert message.isprintable(), f"more than one line, or control characters: {message!r}"
    assert len(message) <= MAX_MESSAGE, f"a message of {len(message)} characters: {message[:200]!r}"
    return REFUSED


class Tally(NamedTuple):
    """What a number of inputs of one kind came to."""

    outcomes: Counter[str]
    slowest: float  # seconds of one input


def fuzz(kind: Kind, count: int, random_seed: int | None = None) -> Tally:
    """Checks `count` inputs of a kind and its examples; what fails is shrunk and raised. Without a seed they are always the same."""
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    def check(value: Any) -> None:
        nonlocal slowest
        start = time.perf_counter()
        outcomes[kind.check(value)] += 1
        slowest = max(slowest, time.perf_counter() - start)

    test = given(kind.inputs)(check)
    for value in kind.examples:
        test = example(value)(test)
    unhurried = settings(
        max_examples=count, deadline=None, derandomize=random_seed is None, database=None, suppress_health_check=list(HealthCheck)
    )
    if random_seed is not None:
        test = seed(random_seed)(test)
    unhurried(test)()
    return Tally(outcomes, slowest)
