"""Options that several subcommands share, and the exit codes of all."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from ..config import ConfigError
from ..evaluate import Devices

FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def option(metavar: str, default: str, *aliases: str) -> Any:
    """An option that may be left out, with its default in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})", aliases=aliases or None)


# The options themselves, each a field's type.
RunFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Workers = Annotated[int, tyro.conf.arg(help_behavior_hint="(default: one a core, gpu or tpu)")]
WorkersOn = Annotated[tyro.conf.OmitArgPrefixes[Devices], tyro.conf.arg(name="devices")]


def check_workers(workers: int) -> None:
    """Refuses a number of workers below 0.

    Raises:
        ConfigError: it is.
    """
    if workers < 0:
        raise ConfigError(f"workers must be 0 (one a core) or more, got {workers}")
