"""Tables as plain text, readable on a narrow terminal: no name or number is ever cut."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

TEXT = "what"  # the column that holds a sentence
LEAST_TEXT = 30  # characters; a narrower column of text is hard to read
INDENT = 4

Row = Mapping[str, Any]


def table_lines(rows: Sequence[Row], width: int | None) -> tuple[list[str], list[str]]:
    """The lines of a table: its heading, and its rows.

    Args:
        rows: of the same keys, which head the columns.
        width: of the terminal: the sentence comes last, in lines, below its row where little room is left beside it. None
            for a pipe, which has no edge: one line a row.

    >>> rows = [{"name": "lion", "what": "sign of interpolated momentum"}]
    >>> table_lines(rows, None)
    (['name  what'], ['lion  sign of interpolated momentum'])
    >>> table_lines(rows, 26)[1]
    ['lion', '    sign of interpolated', '    momentum']
    """
    heading, lines = _aligned(rows, in_lines=width is not None)
    if TEXT not in rows[0]:
        return [line.rstrip() for line in heading], [line.rstrip() for line in lines]
    texts = [str(row[TEXT]) for row in rows]
    left = len(heading[-1]) + 2
    if width is None or width - left >= LEAST_TEXT:
        body = [line for row, text in zip(lines, texts, strict=True) for line in _beside(row, text, width and width - left)]
        return [*(line.rstrip() for line in heading[:-1]), f"{heading[-1]}  {TEXT}"], body
    below = max(width - INDENT, 1)
    body = [line for row, text in zip(lines, texts, strict=True) for line in (row.rstrip(), *_below(text, below))]
    return [line.rstrip() for line in heading], body


def _aligned(rows: Sequence[Row], in_lines: bool) -> tuple[list[str], list[str]]:
    """All columns but the sentence's, numbers to the right; the words of a heading stand in lines of their own."""
    columns = [column for column in rows[0] if column != TEXT]
    words = [column.split("_") if in_lines else [column] for column in columns]
    depth = max(map(len, words))
    heading = list(zip(*([""] * (depth - len(word)) + word for word in words), strict=True))
    cells = [["" if row[column] is None else str(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*heading, *cells, strict=True)]
    right = [all(row[column] is None or isinstance(row[column], int | float) for row in rows) for column in columns]

    def line(values: Sequence[str]) -> str:
        padded = zip(values, widths, right, strict=True)
        return "  ".join(value.rjust(size) if number else value.ljust(size) for value, size, number in padded)

    return [line(values) for values in heading], [line(values) for values in cells]


def _beside(row: str, text: str, width: int | None) -> list[str]:
    first, *others = _wrapped(text, width) if width else [text]
    return [f"{row}  {first}", *(" " * (len(row) + 2) + line for line in others)]


def _below(text: str, width: int) -> list[str]:
    return [" " * INDENT + line for line in _wrapped(text, width)]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
