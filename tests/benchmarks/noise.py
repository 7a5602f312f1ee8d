"""Which rule is best when each is tuned, and does the noise of small batches change it? What a search's fitness at one rate cannot see.

    python tests/benchmarks/noise.py [TASKS]

Each rule at the best of five rates, a factor of 3 apart, mean validation loss of two seeds at the end, for batches of 64, 16 and 4. The
rules: AdamW, Muon, the start of discovery/configs/muon_tuned.toml, and what searches from it at one rate came to, the orthogonalised
gradient with no memory.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np

from stepsmith import tasks
from stepsmith.discovery.language import load, parse
from stepsmith.discovery.vm import Clock, assemble, register_machine

BATCHES, FACTORS, SEEDS = (64, 16, 4), (0.1, 0.3, 1.0, 3.0, 10.0), (0, 1)
START = Path(__file__).parents[2] / "discovery" / "configs" / "muon_rows.txt"
NO_MEMORY = """def train(w, g, m, lr):
    update = orthogonalize(g) * sqrt(num_rows()) * (lr * 0.0097)
    return update, m
"""


def main():
    rules = {"adamw": load("adamw"), "muon": load("muon"), "muon_rows": parse(START.read_text()), "no memory": parse(NO_MEMORY)}
    for name in sys.argv[1:] or ["digits_gru~500", "digits_mlp~500"]:
        for batch in BATCHES:
            task = dataclasses.replace(tasks.get(name), batch_size=batch)
            data, clock = tasks.load_on_device(task), Clock.create(1 - np.arange(task.steps) / task.steps)
            run = tasks.make_runner(task, partial(register_machine, extended=True))

            def loss(rule, factor, run=run, data=data, clock=clock):
                code = jax.device_put(assemble(rule, clock, factor, extended=True))
                return float(np.mean([float(run(data, code, seed).loss) for seed in SEEDS]))

            best = {rule: min((loss(program, factor), factor) for factor in FACTORS) for rule, program in rules.items()}
            print(
                f"{name}, batch {batch}: " + ", ".join(f"{rule} {found:.4f} (at {factor:g})" for rule, (found, factor) in best.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
