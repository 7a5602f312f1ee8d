"""Small searches, and the command as a process of its own."""

import dataclasses
import os
import subprocess
import sys

import pytest

from stepsmith.discovery import SearchConfig, search
from stepsmith.discovery.search import EvolutionConfig


@pytest.fixture(scope="session")
def small_config():
    """A search of 40 evaluations; takes a second once its workers have started."""
    return SearchConfig(
        tasks=("digits_mlp",),
        seeds_per_task=1,
        budget="40",
        evolution=EvolutionConfig(population_size=12, tournament_size=3),
        finalists=3,
        finalist_seeds=2,
    )


@pytest.fixture(scope="session")
def finished_run(small_config, tmp_path_factory):
    """A finished run of one worker. Read it only."""
    return search(small_config, tmp_path_factory.mktemp("runs") / "finished", workers=1)


@pytest.fixture(scope="session")
def small_toml(small_config, tmp_path_factory):
    """The same search as a config file."""
    tomli_w = pytest.importorskip("tomli_w")
    path = tmp_path_factory.mktemp("configs") / "small.toml"
    path.write_text(tomli_w.dumps(dataclasses.asdict(small_config)))
    return path


@pytest.fixture(scope="session")
def start_command():
    """Starts `stepsmith ARGUMENTS` as a process that commits often; both its outputs come as one text."""

    def start(*arguments, prelude="import stepsmith.discovery.coordinator as c; c.COMMIT_SECONDS = 0.02"):
        code = f"{prelude}\nfrom stepsmith.discovery.cli import main\nmain()"
        environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start
