"""Does a found rule hold on new seeds? Against AdamW and Lion, each tuned as hard as the rule itself.

    python tests/benchmarks/holdout.py RUN|RULE.py ... [--tasks digits_mlp ...] [-o FILE.csv] [--quick]

RULE.py is an exported file with a function `discovered`; of a RUN it is best.py. For each task and rule the learning rate is
tuned on the same number of points (half a decade apart, the grid moved while its best is at an edge) and seeds (3000..3004) by
validation loss; then it runs on twenty new seeds (5000..5019), scored on validation and on the test split, which no search
reads. Differences to AdamW, in log loss and negative where AdamW is worse, are paired by seed, with a 95 % bootstrap interval. One
executable serves all rates of a rule. The last line is of the test split.
"""

import argparse
import csv
import importlib.util
import inspect
import math
from pathlib import Path

import jax
import numpy as np
import optax

from stepsmith.tasks import load_on_device, registry
from stepsmith.tasks.training import OK, make_run

POINTS, FLOOR, FAILED = 7, 1e-6, 1e3  # a failed run counts as a loss of 1,000
CENTRES = {"adamw": 1e-2, "lion": 1e-3}


def exported(path):
    """The function `discovered` of a file, as (rate, steps) -> transformation, and the rate that it was found with."""
    spec = importlib.util.spec_from_file_location("rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    signature = inspect.signature(module.discovered).parameters

    def discovered(learning_rate, steps):
        return module.discovered(learning_rate=learning_rate, **({"total_steps": steps} if "total_steps" in signature else {}))

    return discovered, signature["learning_rate"].default


def rules(paths):
    """Name -> (rule, centre of its grid); a single file is `discovered`, several go by their own names."""
    files = {path.name if path.is_dir() else str(path): path / "best.py" if path.is_dir() else path for path in paths}
    found = {name if len(files) > 1 else "discovered": exported(file) for name, file in files.items()}
    return found | {
        "adamw": (lambda rate, steps: optax.adamw(rate, weight_decay=0.01), CENTRES["adamw"]),
        "lion": (lambda rate, steps: optax.lion(rate, b1=0.9, b2=0.99, weight_decay=0.1), CENTRES["lion"]),
    }


def runner(task, make_rule):
    """(rate, seed) -> (validation loss, test loss), compiled once."""
    steps, data = task.steps, load_on_device(task)
    loop = make_run(task, lambda rate: make_rule(lambda step: rate * (1 - step / steps), steps))

    @jax.jit
    def run(data, rate, seed):
        outcome = loop(data, rate, jax.random.key(seed))
        return outcome.status, outcome.loss, task.metric(outcome.params, outcome.state, task.examples(data, "test"))["loss"]

    def losses(rate, seed):
        status, validation, test = run(data, np.float32(rate), seed)
        return (float(validation), float(test)) if int(status) == OK and math.isfinite(float(test)) else (FAILED, FAILED)

    return losses


def tuned(losses, centre, seeds):
    """The best rate of seven points or more, by mean log validation loss."""

    def score(index):
        if index not in known:
            rate = centre * 10 ** (index / 2)
            known[index] = float(np.mean([math.log(max(losses(rate, seed)[0], FLOOR)) for seed in seeds]))
        return known[index]

    known: dict[int, float] = {}
    half = POINTS // 2
    best = min(range(-half, half + 1), key=score)
    while best in (min(known), max(known)) and len(known) < 2 * POINTS:
        score(best - 1), score(best + 1)
        best = min(known, key=score)
    return centre * 10 ** (best / 2)


def interval(differences, draws=10_000):
    generator = np.random.default_rng(0)
    means = generator.choice(differences, (draws, len(differences))).mean(axis=1)
    return float(np.mean(differences)), *(float(x) for x in np.quantile(means, (0.025, 0.975)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rules", type=Path, nargs="+")
    parser.add_argument("--tasks", nargs="+", default=list(registry.available()))
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    tuning, new = (range(3000, 3001), range(5000, 5004)) if options.quick else (range(3000, 3005), range(5000, 5020))
    rows, summary = [], []
    for name in options.tasks:
        task, logs = registry.get(name), {}
        for rule, (make_rule, centre) in rules(options.rules).items():
            losses = runner(task, make_rule)
            rate = tuned(losses, centre, tuning)
            found = [losses(rate, seed) for seed in new]
            rows += [(rule, name, rate, seed, *pair) for seed, pair in zip(new, found, strict=True)]
            logs[rule] = np.log(np.maximum(found, FLOOR)).T  # [validation and test, seeds]
            validation, test = logs[rule].mean(axis=1)
            failed = sum(pair[1] == FAILED for pair in found)
            means = f"mean log loss {validation:+.4f} validation, {test:+.4f} test"
            print(f"{name:20} {rule:12} learning rate {rate:9.3g}  {means}; {failed} of {len(found)} failed")
        for rule in (rule for rule in logs if rule != "adamw"):
            for split, ours, adamw in zip(("validation", "test"), logs[rule], logs["adamw"], strict=True):
                mean, low, high = interval(ours - adamw)
                wins = int(np.sum(ours < adamw))
                print(f"{name:20} {rule:12} - adamw, {split:10} {mean:+.4f} [{low:+.4f}, {high:+.4f}], better on {wins} of {len(new)}")
            if rule != "lion":  # the last interval is that of the test split
                prefix = "" if rule == "discovered" else f"{rule}:"
                summary.append(f"{prefix}{name}={mean:+.4f}[{low:+.4f},{high:+.4f}]")
    if options.output:
        with options.output.open("w", newline="") as file:
            csv.writer(file).writerows([("rule", "task", "learning_rate", "seed", "validation_loss", "test_loss"), *rows])
    print("holdout " + " ".join(summary))


if __name__ == "__main__":
    main()
