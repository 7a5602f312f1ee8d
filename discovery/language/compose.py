"""A rule with a schedule: one program, which is how a schedule is run and where a search for both begins."""

from .program import OPTIONAL_INPUTS, SCHEDULE, Argument, Program, ProgramError, Statement

_OBSERVED: dict[str, tuple[str, tuple[Argument, ...]]] = {"loss": ("batch_loss", ()), "gradient_norm": ("global_norm", ("g",))}


def with_schedule(rule: Program, schedule: Program) -> Program:
    """The rule with its ``lr`` multiplied by the schedule; what that observes is said in the rule's own operations.

    Raises:
        ProgramError: the first is no update rule, or the second no schedule.

    >>> from .shipped import load
    >>> from .text import to_text
    >>> print(to_text(with_schedule(load("sgd"), load("linear"))))
    def train(w, g, lr, progress):
        s1 = 1.0 - progress
        lr = lr * s1
        t1 = lr * 0.1
        update = g * t1
        return update
    """
    if rule.kind == SCHEDULE or schedule.kind != SCHEDULE:
        raise ProgramError(f"expected an update rule and a schedule, got {rule.kind} and {schedule.kind}")
    taken = {*rule.inputs, *(statement.target for statement in rule.statements), *OPTIONAL_INPUTS}
    fresh = (name for i in range(1, len(taken) + len(schedule.extra) + len(schedule.statements) + 2) if (name := f"s{i}") not in taken)
    names: dict[Argument, str] = {}
    statements = []
    for observed in schedule.extra:
        if observed in _OBSERVED:
            names[observed] = next(fresh)
            statements.append(Statement(names[observed], *_OBSERVED[observed]))
    for target, op, args in schedule.statements:
        renamed = tuple(names.get(argument, argument) for argument in args)
        names[target] = next(fresh)
        statements.append(Statement(names[target], op, renamed))
    statements.append(Statement("lr", "multiply", ("lr", names[schedule.outputs[0]])))
    extra = tuple(name for name in OPTIONAL_INPUTS if name in (*rule.extra, *schedule.extra))
    return Program((*statements, *rule.statements), rule.states, extra)


def holds_schedule(rule: Program) -> bool:
    """Whether a rule changes its ``lr`` with the time, as one that `with_schedule` made does.

    >>> from .shipped import load
    >>> holds_schedule(with_schedule(load("lion"), load("rex"))), holds_schedule(load("adamw_corrected"))
    (True, False)
    """
    timed = {"step", "progress"}
    for target, _, args in rule.statements:
        changes = not timed.isdisjoint(args)
        if changes and target == "lr":
            return True
        timed = timed | {target} if changes else timed - {target}
    return False
