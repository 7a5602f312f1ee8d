"""Small searches, the command as a process of its own, and programs on recorded gradients: interpreted, by the machine, exported."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stepsmith.discovery import SearchConfig, search
from stepsmith.discovery.cli import main
from stepsmith.discovery.language import as_transformation, extended_operations
from stepsmith.discovery.search import EvolutionConfig
from stepsmith.discovery.vm import Clock, assemble, register_machine

STEPS = 10
SHAPES = {"a": (2, 3), "b": (4,), "c": ()}
LOSSES = 8 / (1 + np.arange(STEPS, dtype=np.float32))


@pytest.fixture
def stepsmith(monkeypatch, capsys):
    """Runs the command in this process; returns exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["stepsmith", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


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

    def start(*arguments, prelude="import stepsmith.discovery.recorder as r; r.COMMIT_SECONDS = 0.02"):
        code = f"{prelude}\nfrom stepsmith.discovery.cli import main\nmain()"
        environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def _flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.fixture(scope="session")
def record():
    """Gradients and parameters of ten steps, away from zero and of both signs."""
    rng = np.random.default_rng(7)

    def draw():
        return {
            name: jnp.asarray(rng.choice([-1, 1], (STEPS, *s)) * rng.uniform(0.05, 0.95, (STEPS, *s)), jnp.float32)
            for name, s in SHAPES.items()
        }

    return draw(), draw()


@pytest.fixture(scope="session")
def interpret(record):
    """Program -> its updates by the reference, operation by operation. # [steps, elements]"""

    def run(program, nudge=0.0):
        gradients, params = record
        transformation = as_transformation(program, optax.linear_schedule(1.0, 0.0, STEPS), STEPS)
        state, rows = transformation.init(jax.tree.map(lambda x: x[0], params)), []
        for step in range(STEPS):
            g, w = jax.tree.map(lambda x, step=step: x[step] * (1 + nudge), gradients), jax.tree.map(lambda x, step=step: x[step], params)
            updates, state = transformation.update(g, state, w, value=LOSSES[step])
            rows.append(_flat(updates))
        return np.asarray(rows)

    return run


@pytest.fixture(scope="session")
def machine(record):
    """Program -> its updates; one executable for all of a language. # [steps, elements]"""
    gradients, params = record

    @partial(jax.jit, static_argnums=1)
    def run(code, extended):
        transformation = register_machine(code, extended)

        def step(state, inputs):
            updates, state = transformation.update(inputs[0], state, inputs[1], value=inputs[2])
            return state, updates

        return jax.lax.scan(step, transformation.init(jax.tree.map(lambda x: x[0], params)), (gradients, params, LOSSES))[1]

    def updates(program, factor=1.0):
        extended = bool(extended_operations(program))
        tree = run(assemble(program, Clock.create(1 - np.arange(STEPS) / STEPS), factor, extended), extended)
        return np.concatenate([np.asarray(x).reshape(STEPS, -1) for x in jax.tree.leaves(tree)], 1)

    return updates


@pytest.fixture
def load_module(tmp_path):
    """Writes the text of a module to a file and imports it."""

    def load(text, name):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(f"exported_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
