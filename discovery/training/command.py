"""`stepsmith train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..terminal.options import option
from ..terminal.output import out


@dataclass(frozen=True)
class Train:
    """Train a task with an update rule; with a folder, killed runs go on."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """a task's name, or module:attribute"""
    optimizer: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")]
    """an optax rule, a shipped program (program:NAME where both have the name), a program file, or an exported best.py"""
    schedule: Annotated[str, tyro.conf.arg(metavar="NAME|FILE|plateau|autolrs|pbt")] = "linear"
    """learning-rate schedule (see `stepsmith schedules`), a file (.csv, .json, .py:FUNCTION), plateau (falls where the training loss
    does not), or one to be found around the learning rate: autolrs (meanwhile, after the paper), autolrs:cooled (meanwhile, each candidate
    judged behind a fall to zero), pbt or pbt:MEMBERS (by population-based training)"""
    learning_rate: Annotated[float | None, option("FLOAT", "the rule's own")] = None
    """the highest; of a program that holds its rate inside its formula, a factor of it"""
    weight_decay: Annotated[float | None, option("FLOAT", "the rule's own")] = None
    """decoupled, times the learning rate"""
    steps: Annotated[int | None, option("INT", "the task's")] = None
    """length of the run"""
    seed: int = 0
    """of the initial parameters and the batches"""
    checkpoint: Annotated[Path | None, option("DIR", "nothing is written")] = None
    """a folder for checkpoints and curves; the same command goes on there"""
    checkpoint_every: Annotated[int | None, option("INT", "a tenth of the run")] = None
    """steps from one checkpoint, and validation, to the next"""
    save_schedule: Annotated[Path | None, option("FILE", "beside the checkpoints")] = None
    """where the schedule that was found is written, .csv or .json"""
    json: bool = False
    """print the result as JSON, and nothing else"""

    def __call__(self) -> int:
        from . import train  # orbax takes a second to import, which no other command owes

        job = train.make_job(
            self.task,
            self.optimizer,
            schedule=self.schedule,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.steps,
            seed=self.seed,
            save_schedule=self.save_schedule,
        )
        return train.command(out, job, self.checkpoint, self.checkpoint_every, self.json)
