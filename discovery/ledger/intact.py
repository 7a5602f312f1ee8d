"""What rows must hold, whoever wrote them last: SQLite itself keeps any value in any column."""

import json
import math
from typing import Any

from sqlalchemy import Boolean, Column, ColumnElement, Connection, Double, Integer, case, func, or_, select

from .database import LedgerError
from .models import metadata

_LARGEST = 1.7976931348623157e308


def check_rows(connection: Connection) -> None:
    """Raises `LedgerError` where a value is of another type than its column (a server does not let it in)."""
    if connection.dialect.name != "sqlite":
        return
    for table in metadata.sorted_tables:
        wrong = {column.name: _is_wrong(column) for column in table.columns}
        first = select(case(*((condition, name) for name, condition in wrong.items()))).where(or_(*wrong.values())).limit(1)
        if (name := connection.execute(first).scalar()) is not None:
            raise LedgerError(f"damaged: a value of {table.name}.{name} is of another type than it was written with")


def _is_wrong(column: Column[Any]) -> ColumnElement[bool]:
    found = func.typeof(column)
    kinds = (
        ("integer",)
        if isinstance(column.type, Integer | Boolean)
        else ("real", "integer")
        if isinstance(column.type, Double)
        else ("text",)
    )
    conditions: list[ColumnElement[bool]] = [found.not_in([*kinds, "null"] if column.nullable else kinds)]
    if isinstance(column.type, Double):
        conditions.append(func.abs(column) > _LARGEST)
    if isinstance(column.type, Boolean):
        conditions.append(func.abs(column) > 1)
    return or_(*conditions)


def decoded(text: str, what: str) -> dict[str, Any]:
    """The table that a column of JSON holds.

    Raises:
        LedgerError: no JSON, or JSON of something else.

    >>> decoded('{"seed": 3}', "config")
    {'seed': 3}
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"damaged: its {what} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise LedgerError(f"damaged: its {what} is a {type(value).__name__}, not a table")
    return value


def decoded_state(text: str) -> dict[str, Any]:
    """A search's state; what readers of a run use of it, its counters and finalists, has its form."""
    state = decoded(text, "search state")
    counters, finalists = state.get("counters", {}), state.get("finalists", [])
    if not isinstance(counters, dict) or not all(type(count) is int and count >= 0 for count in counters.values()):
        raise LedgerError("damaged: the counters of its search state are not numbers by name")
    if not isinstance(finalists, list) or not all(_is_finalist(finalist) for finalist in finalists):
        raise LedgerError("damaged: the finalists of its search state are not pairs of a hash and a fitness")
    return state


def decoded_scores(text: str) -> tuple[float, ...]:
    """The fitness of a program on each block of seeds.

    >>> decoded_scores("[-1.5, 0.25]")
    (-1.5, 0.25)
    """
    try:
        scores = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"damaged: the scores of an outcome are no JSON ({error})") from error
    if not isinstance(scores, list) or not all(type(score) in (int, float) and math.isfinite(score) for score in scores):
        raise LedgerError("damaged: the scores of an outcome are not a list of numbers")
    return tuple(map(float, scores))


def _is_finalist(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and type(value[1]) in (int, float)
        and value[1] == value[1]
    )
