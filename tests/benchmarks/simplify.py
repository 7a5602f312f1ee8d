"""What `simplify` makes of programs whose short form is known.

    python tests/benchmarks/simplify.py exact                    (obfuscated rules, no training)
    python tests/benchmarks/simplify.py tasks [--programs ...]   (the paper's programs on digits_mlp and digits_autoencoder)

exact: AdamW, Lion and PowerSign after 30 changes that leave their outputs as they were, half of them mutations of the search, half
rewritings; 10 each. tasks: each program with all stages.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from random import Random

sys.path.append(str(Path(__file__).parents[1] / "discovery" / "simplify"))  # its module stands beside the tests, not in the package

from obfuscation import obfuscate, outputs, same

from stepsmith.discovery import simplify
from stepsmith.discovery.language import load, prune
from stepsmith.discovery.simplify import Settings, to_short_text

RULES = ("adamw", "lion", "powersign")
PROGRAMS = ("lion_raw", "paper_regularizing", "paper_adagrad_like", "paper_adabelief_like")


def exact(arguments: argparse.Namespace) -> None:
    print("| rule | statements | obfuscated | without dead code | simplified, worst | back to the rule's own | ms, median |")
    print("|---|---|---|---|---|---|---|")
    for name in RULES:
        program, rows, times = load(name), [], []
        for seed in range(arguments.repeats):
            long = obfuscate(program, Random(seed), arguments.changes, rewritten=True)
            start = time.perf_counter()
            short = simplify(long).program
            times.append(1e3 * (time.perf_counter() - start))
            assert same(outputs(program), outputs(short))
            rows.append((len(long.statements), len(prune(long).statements), len(short.statements)))
        long, alive, short = zip(*rows, strict=True)
        size = len(program.statements)
        back = f"{sum(s <= size for s in short)} of {len(short)}"
        means = f"{statistics.mean(long):.1f} | {statistics.mean(alive):.1f}"
        print(f"| {name} | {size} | {means} | {max(short)} | {back} | {statistics.median(times):.0f} |", flush=True)


def on_tasks(arguments: argparse.Namespace) -> None:
    settings = Settings(seed=arguments.seed, mutants=arguments.mutants)
    for name in arguments.programs:
        program = load(name)
        done = simplify(program, arguments.tasks, settings)
        print(f"\n{name}: {len(program.statements)} statements -> {len(done.program.statements)}, {done.runs} runs, {done.seconds:.0f} s")
        for step in done.steps:
            verdict = "" if step.verdict is None else "{:+.3f} ({:+.3f} to {:+.3f}, {} seeds)".format(*step.verdict[1:])
            print(f"  {step.stage:10}{step.before:3} -> {step.after:2}  {verdict:36} {step.what}")
        if done.confirmed is not None:
            print("  new seeds: {:+.3f} ({:+.3f} to {:+.3f}, {} seeds)".format(*done.confirmed[1:]))
        print(to_short_text(done.program), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["exact", "tasks"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS))
    parser.add_argument("--tasks", nargs="+", default=["digits_mlp", "digits_autoencoder"])
    parser.add_argument("--mutants", type=int, default=Settings.mutants)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    (exact if arguments.what == "exact" else on_tasks)(arguments)


if __name__ == "__main__":
    main()
