"""Feeds random inputs of every kind to whatever reads something from outside, and counts what they come to.

The properties are those of tests/fuzz, which a test run tries a few hundred times each: an input is valid, or refused by the
documented error in one line. Damaged ledgers are a twentieth of all inputs, command lines another.

    python tests/benchmarks/fuzz.py 100000 --seed 1
"""

import argparse
import sys
import traceback
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))  # its modules stand beside the tests, not in the package

import fuzz_commands
import fuzz_configs
import fuzz_ledgers
import fuzz_programs
from fuzz_outcome import REFUSED, VALID, fuzz

SLOW_SHARE = 0.05  # of the ledgers, which are opened five times each, and of the command lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=int, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ledgers, commands = fuzz_ledgers.damaged_ledger().kinds(), fuzz_commands.KINDS
    fast = (*fuzz_programs.KINDS, *fuzz_configs.KINDS)
    slow = int(SLOW_SHARE * arguments.inputs)
    counts = [(kind, slow // len(group)) for group in (ledgers, commands) for kind in group]
    rest = arguments.inputs - sum(count for _, count in counts)
    counts += [(kind, rest // len(fast) + (i < rest % len(fast))) for i, kind in enumerate(fast)]
    print(f"{'kind':26} {'inputs':>7} {VALID:>7} {REFUSED:>7} {'slowest':>9}")
    total, failed = 0, 0
    for kind, count in counts:
        try:
            tally = fuzz(kind, count, arguments.seed)
        except Exception:
            failed += 1
            print(f"{kind.name:26} FAILED")
            traceback.print_exc()
            continue
        done = sum(tally.outcomes.values())
        total += done
        print(f"{kind.name:26} {done:7} {tally.outcomes[VALID]:7} {tally.outcomes[REFUSED]:7} {tally.slowest:7.2f} s", flush=True)
    print(f"{total} inputs, {failed} kind(s) failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
