"""The tables of a budget study out of its cells, without running it again.

    python tests/benchmarks/budgets.py [FILE.csv] [--only SCHEDULE ...] [--reference SCHEDULE] [--losses]

FILE.csv is the `cells.csv` of `stepsmith evaluate --budgets`, with three trials a rate; the stored study where none is given. With `--only`
these schedules are ranked among themselves. Printed: places and mean ranks, over all settings, for each rule and for each workload; shares
of first and of first three places at each budget; where there is a reference, how much higher the log loss of the others is, over
all settings, for each rule and for each workload; with `--losses` the mean loss in each cell.
"""

import argparse
from pathlib import Path

from stepsmith.discovery.benchmark.budgets import table
from stepsmith.discovery.terminal.output import out, print_table

STORED = Path(__file__).parent / "results" / "schedules" / "budgets.csv"


def parts(cells):
    """Name -> cells: all, and where there are several those of each rule and of each workload."""
    found = {"all settings": cells}
    for field in ("rule", "workload"):
        names = dict.fromkeys(getattr(cell, field) for cell in cells)
        if len(names) > 1:
            found |= {name: [cell for cell in cells if getattr(cell, field) == name] for name in names}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=STORED)
    parser.add_argument("--only", nargs="+", metavar="SCHEDULE")
    parser.add_argument("--reference", metavar="SCHEDULE")
    parser.add_argument("--losses", action="store_true")
    arguments = parser.parse_args()
    try:
        cells = table.read_csv(arguments.file)
        cells = table.only(cells, arguments.only) if arguments.only else cells
    except ValueError as error:
        parser.error(str(error))
    for name, part in parts(cells).items():
        out.print(f"{name}: mean rank of each schedule, 1 is best", style="bold")
        print_table([table.as_text(row) for row in table.rows(part)], False)
    out.print("shares of first and of first three places at each budget", style="bold")
    print_table([table.shares_as_text(row) for row in table.shares(cells)], False)
    for name, part in parts(cells).items() if arguments.reference else ():
        out.print(f"{name}: log loss minus that of {arguments.reference}, mean over settings with 95 % interval", style="bold")
        print_table(
            [{k: f"{v:+.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in table.against(part, arguments.reference)],
            False,
        )
    if arguments.losses:
        out.print("mean validation loss at each budget", style="bold")
        print_table([table.losses_as_text(row) for row in table.losses(cells)], False)


if __name__ == "__main__":
    main()
