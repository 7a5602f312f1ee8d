"""What an error says about something that was read: one line, of bounded length, whatever was in it."""

from typing import Any

MAX_MESSAGE = 1_000  # characters; what was read may be one name of 50,000
MAX_VALUE = 60


def one_line(message: str) -> str:
    """A message that fits one line of any terminal, whatever was quoted in it.

    >>> one_line("a name\\n with \\x1b[31m colour")
    'a name with \\\\x1b[31m colour'
    """
    words = " ".join(message[: 2 * MAX_MESSAGE].split())
    printable = words if words.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)
    return printable if len(printable) <= MAX_MESSAGE else f"{printable[: MAX_MESSAGE - 3]}..."


def shown(value: Any) -> str:
    """A value for a message. Lists, tables and huge numbers are described: their own text can be endless or an error.

    >>> shown(1.5), shown([1, 2]), shown(10**5000)
    ('1.5', 'a list of 2', 'a number of 16610 bits')
    """
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."
