"""The runs of a job: which ones, in which order, and where they end."""

from collections.abc import Callable, Mapping, Sequence

from ..language.program import Program
from .fitness import Evaluation, Status, Yardstick, at_best_factors, mean_score
from .protocol import Job
from .training_run import Prepared, evaluate


def evaluate_all(prepared: Mapping[str, Prepared], yardsticks: Mapping[str, Yardstick], job: Job) -> list[Evaluation]:
    """The runs of a job, one after the other up to its end."""
    program = Program.from_json(job.program)

    def train(name: str, seed: int, factor: float) -> Evaluation:
        return evaluate(prepared[name], program, seed, factor, job.limits, job.curves)

    return in_order(train, tuple(prepared), yardsticks, job)


def in_order(
    train: Callable[[str, int, float], Evaluation], tasks: Sequence[str], yardsticks: Mapping[str, Yardstick], job: Job
) -> list[Evaluation]:
    """The runs of a job in a fixed order, up to the first failure or until their mean is above its hurdle.

    The factors of a seed belong together; the largest comes first, for it is the one that a rule most often fails at. Where the best
    factor counts, the smallest comes first, and a failure ends the job only if no smaller factor is left without one.

    Args:
        train: what makes a run of a task, a seed and a factor.
        tasks: of the worker, in its order.
        yardsticks: for jobs with a hurdle.
        job: what is asked.
    """
    done: list[Evaluation] = []
    for name in job.tasks or tasks:
        for seed in job.seeds:
            failed = False
            for factor in sorted(job.learning_rate_factors, reverse=not job.best_factor):
                done.append(train(name, seed, factor))
                failed = done[-1].status is not Status.OK
                if failed and not job.best_factor:
                    return done
            if failed and all(run.status is not Status.OK for run in done[-len(job.learning_rate_factors) :]):
                return done
            counting = at_best_factors(done) if job.best_factor else done
            if job.hurdle is not None and (not counting or mean_score(counting, yardsticks) > job.hurdle):
                return done
    return done
