"""Command lines: read, not run."""

import contextlib
import io

from fuzz_outcome import VALID, Kind, refusal
from hypothesis import strategies as st

from stepsmith.discovery import ConfigError, cli
from stepsmith.discovery.terminal.usage import UsageError

OPTIONS = [
    "--config",
    "--run",
    "--workers",
    "--tasks",
    "--budget",
    "--seed",
    "--mode",
    "--insert",
    "--population-size",
    "--json",
    "--no-json",
    "--help",
]
OPTIONS += [
    "-h",
    "--as",
    "--rank",
    "--name",
    "-o",
    "--output",
    "--folder",
    "--version",
    "--",
    "-",
    "--seed=3",
    "--seed=",
    "--taks",
    "--settings.seed",
]
ANYTHING = st.text(max_size=12) | st.sampled_from(
    ["lion", "runs/a", "3", "-1", "1.5", "nan", "9" * 5_000, "", " ", "a\nb", "\x1b[31m", "[/b]", "\udcff", "{a,b}", "─" * 5]
)
ARGUMENTS = st.lists(st.sampled_from(OPTIONS) | ANYTHING, max_size=5)
COMMANDS = st.sampled_from(sorted(cli.COMMANDS)) | ANYTHING


def check_command(arguments):
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            cli.read_command(list(arguments))
    except (UsageError, ConfigError) as error:
        return refusal(error)
    except SystemExit as ended:  # a help text
        assert not ended.code
    assert not said.getvalue()
    return VALID


KINDS = (
    Kind("command line", st.tuples(COMMANDS, ARGUMENTS).map(lambda case: [case[0], *case[1]]), check_command, ([], ["search", "--config"])),
)
