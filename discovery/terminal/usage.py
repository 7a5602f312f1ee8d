"""The command line as tyro reads it, with every refusal in one line."""

import contextlib
import functools
import io
import operator
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import tyro

from ..language.message import one_line

_WIDE = "10000"  # columns: the box around a refusal then breaks none of its lines
_BORDER = "│╰╯ "  # only spaces where the output has no such characters; a bottom line is then a rule
_RULE = re.compile(r"[─-]{3,}")
# What Python says about a value -> what the user should read.
_PLAIN = (
    (re.compile(r"^Error parsing (.*?): invalid literal for int\(\) with base 10: (.*)$"), r"\1: \2 is no whole number"),
    (re.compile(r"^Error parsing (.*?): could not convert string to float: (.*)$"), r"\1: \2 is no number"),
    (re.compile(r"^Error parsing (.*?): (.*)$"), r"\1: \2"),
    (re.compile(r"^Missing from .*?: (.*)$"), r"missing: \1"),
    (re.compile(r"^Expected one of {(.*)}\.$"), r"a command is missing; there are \1"),
    (re.compile(r"^Unrecognized options?: (.*)$"), r"unknown: \1"),
    (re.compile(r"^invalid choice (.*) for argument '(.*?)'\. Expected one of \((.*)\)\.$"), r"\2: \1 is none of \3"),
    (re.compile(r"^Missing value for argument '(.*?)'.*$"), r"\1: its value is missing"),
    (re.compile(r" ?\(required\)"), ""),
    (re.compile(r"\.$"), ""),
)


class UsageError(ValueError):
    """A command line that cannot be understood; says in one line what and where to read on."""


def parse(program: str, commands: Mapping[str, Any], arguments: Sequence[str], description: str) -> Any:
    """Reads a command line.

    Args:
        program: the command's name.
        commands: name of the subcommand -> its dataclass, or an instance that holds the defaults.
        arguments: what follows the program's name.
        description: of the program, for its help.

    Returns:
        An instance of the chosen subcommand's dataclass.

    Raises:
        UsageError: an unknown command or option, a missing or malformed value. SystemExit(0) after printing a help text.

    >>> import dataclasses
    >>> Walk = dataclasses.make_dataclass("Walk", [("steps", int, 1)])
    >>> Sit = dataclasses.make_dataclass("Sit", [])
    >>> parse("dog", {"walk": Walk, "sit": Sit}, ["walk", "--steps", "3"], "A dog.").steps
    3
    >>> parse("dog", {"walk": Walk, "sit": Sit}, ["walk", "--steps", "far"], "A dog.")
    Traceback (most recent call last):
    stepsmith.discovery.terminal.usage.UsageError: --steps: 'far' is no whole number; see dog walk --help
    """
    said = io.StringIO()
    width = contextlib.nullcontext() if {"-h", "--help"} & set(arguments) else _wide()
    try:
        with contextlib.redirect_stderr(said), width:
            return tyro.cli(
                functools.reduce(operator.or_, (_subcommand(name, command) for name, command in commands.items())),
                args=arguments,
                prog=program,
                description=description,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as ended:
        if not ended.code:
            raise
    place = f"{program} {arguments[0]}" if arguments and arguments[0] in commands else program
    raise UsageError(f"{_refusal(said.getvalue())}; see {place} --help")


def _subcommand(name: str, command: Any) -> Any:
    if isinstance(command, type):
        return Annotated[command, tyro.conf.subcommand(name)]
    return Annotated[type(command), tyro.conf.subcommand(name, default=command)]


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDE
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _refusal(box: str) -> str:
    """The first section of tyro's box, and what it proposes instead."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:  # the first holds the title
        text = line.strip(_BORDER)
        if _RULE.fullmatch(text):
            sections.append([])
        elif text:
            sections[-1].append(text)
    message, *others = [section for section in sections if section] or [["this command line cannot be read"]]
    refusal = one_line(" ".join(message))
    for pattern, plain in _PLAIN:
        refusal = pattern.sub(plain, refusal)
    for section in others:
        if section[0].startswith("Perhaps you meant") and len(section) > 1:
            refusal += f"; perhaps {section[1].split()[0]}"
        elif section[0].startswith("Available subcommands: "):
            refusal += f"; there are {section[0].partition(': ')[2]}"
    return refusal
