"""Programs as Python-looking text: `parse` reads what people write, `to_text` prints it; neither ever executes it."""

import ast
import math
import warnings
from dataclasses import replace

from .ops import ALIASES, INFIX, OPS
from .program import MAX_STATEMENTS, OPTIONAL_INPUTS, SCHEDULE, Argument, Program, ProgramError, Statement, check_signature
from .types import infer

MAX_CHARACTERS = 50_000
MAX_DEPTH = 20

_OPERATORS: dict[type, str] = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power"}


def parse(text: str, where: str | None = None) -> Program:
    """Reads a program from text.

    Args:
        text: one function, ``def train(w, g, m, v, lr): ...``, of assignments and a final
            ``return update, m, v``. Between ``g`` and ``lr`` stand the states, after ``lr`` optionally ``step``, ``progress`` and
            ``budget``. Or a schedule, ``def schedule(progress): ...`` with ``return multiplier``, whose inputs are of these three,
            ``loss`` and ``gradient_norm``.
            Expressions may be nested; they become one statement an operation.
        where: a file name for error messages.

    Returns:
        The program, with its kinds checked.

    Raises:
        ProgramError: with line and reason, if the text is no program of the language.

    >>> print(to_text(parse('''
    ... def train(w, g, m, lr):
    ...     m = interp(g, m, 0.9)
    ...     update = m * (lr * 0.1)
    ...     return update, m
    ... ''')))
    def train(w, g, m, lr):
        m = interp(g, m, 0.9)
        t1 = lr * 0.1
        update = m * t1
        return update, m
    """
    try:
        return _parse(text)
    except ProgramError as error:
        raise ProgramError(error.reason, error.line, where) from None
    except RecursionError:  # Python's own, met where the text of a message is made
        raise ProgramError(f"nested deeper than {MAX_DEPTH}; split the expression over several lines", where=where) from None


def _parse(text: str) -> Program:
    if len(text) > MAX_CHARACTERS:
        raise ProgramError(f"{len(text)} characters, at most {MAX_CHARACTERS} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = ast.parse(text)
    except SyntaxError as error:
        raise ProgramError(f"not Python syntax: {error.msg}", error.lineno) from None
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or "nested too deep"  # the parser's MemoryError, which has no text of its own
        raise ProgramError(f"not Python syntax: {reason}") from None
    body = [node for node in module.body if not _is_docstring(node)]
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        raise ProgramError("expected one function, `def train(w, g, m, v, lr):`, and nothing else", body[0].lineno if body else 1)
    function = body[0]
    empty = _signature(function)
    lines = [node for node in function.body if not _is_docstring(node)]
    if not lines or not isinstance(lines[-1], ast.Return):
        raise ProgramError(f"the last line must be `return {', '.join(empty.outputs)}`", function.end_lineno)
    reader = _Reader({node.id for node in ast.walk(function) if isinstance(node, ast.Name)} | {*empty.inputs})
    for node in lines[:-1]:
        reader.assignment(node)
    program = replace(empty, statements=tuple(reader.statements))
    check_signature(program)
    _check_return(lines[-1], program)
    infer(program, reader.lines, function.end_lineno)
    return program


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _signature(function: ast.FunctionDef) -> Program:
    """The program that has yet to get its statements."""
    spec = function.args
    names = [argument.arg for argument in spec.args]
    if spec.posonlyargs or spec.kwonlyargs or spec.vararg or spec.kwarg or spec.defaults or function.decorator_list:
        raise ProgramError("the inputs are plain names, without defaults, `*` or decorators", function.lineno)
    if function.name == SCHEDULE:
        return Program((), (), tuple(names), SCHEDULE)
    if names[:2] != ["w", "g"] or "lr" not in names:
        raise ProgramError(
            f"the inputs are w, g, the states, lr and optionally {' and '.join(OPTIONAL_INPUTS)}; got {', '.join(names)}", function.lineno
        )
    at = names.index("lr")
    return Program((), tuple(names[2:at]), tuple(names[at + 1 :]))


def _check_return(node: ast.Return, program: Program) -> None:
    elements = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    names = tuple(element.id if isinstance(element, ast.Name) else "?" for element in elements)
    if names != program.outputs:
        raise ProgramError(f"must be `return {', '.join(program.outputs)}`", node.lineno)


class _Reader:
    """Turns assignments into statements, one operation each."""

    def __init__(self, taken: set[str]):
        self.statements: list[Statement] = []
        self.lines: list[int] = []
        self._taken = taken

    def assignment(self, node: ast.stmt) -> None:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            raise ProgramError("expected an assignment to one name, `x = f(y)`", node.lineno)
        target = node.targets[0].id
        if target in OPS or target in ALIASES:
            raise ProgramError(f"{target!r} is a function of the language and cannot be assigned", node.lineno)
        start = len(self.statements)
        value = self._value(node.value, 0)
        if len(self.statements) > start and isinstance(value, str) and value == self.statements[-1].target and value not in self._taken:
            self.statements[-1] = self.statements[-1]._replace(target=target)
        else:
            self._add(target, "copy", (value,), node.lineno)
        # Temporaries of this line were numbered past the result's own place; give them out afresh.
        self._taken |= {statement.target for statement in self.statements[start:]}

    def _add(self, target: str, op: str, args: tuple[Argument, ...], line: int) -> None:
        if len(self.statements) >= MAX_STATEMENTS:
            raise ProgramError(f"more than {MAX_STATEMENTS} statements", line)
        self.statements.append(Statement(target, op, args))
        self.lines.append(line)

    def _fresh(self) -> str:
        used = self._taken | {statement.target for statement in self.statements}
        return next(name for name in (f"t{i}" for i in range(1, len(used) + 2)) if name not in used)

    def _value(self, node: ast.expr, depth: int) -> Argument:
        if depth > MAX_DEPTH:
            raise ProgramError(f"nested deeper than {MAX_DEPTH}; split the expression over several lines", node.lineno)
        if isinstance(node, ast.Name):
            return node.id
        constant = _constant(node)
        if constant is not None:
            return constant
        name, operands = _operation(node)
        args = tuple(self._value(operand, depth + 1) for operand in operands)
        target = self._fresh()
        self._add(target, name, args, node.lineno)
        return target


def _constant(node: ast.expr) -> float | None:
    sign = 1
    while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -sign, node.operand
    if not isinstance(node, ast.Constant):
        return None
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise ProgramError(f"{node.value!r} is not a number", node.lineno)
    try:
        value = float(node.value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ProgramError("a constant must be finite", node.lineno)
    return sign * value


def _operation(node: ast.expr) -> tuple[str, list[ast.expr]]:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)], [node.left, node.right]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return "negative", [node.operand]
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.keywords:
        raise ProgramError(
            f"`{ast.unparse(node)[:60]}` is no expression of the language (names, numbers, + - * / ** and its functions)", node.lineno
        )
    name = ALIASES.get(node.func.id, node.func.id)
    if name not in OPS:
        raise ProgramError(f"unknown function {node.func.id!r}; known: {', '.join(sorted(OPS))}", node.lineno)
    if len(node.args) != OPS[name].arity:
        raise ProgramError(f"{name} takes {OPS[name].arity} argument(s), got {len(node.args)}", node.lineno)
    return name, node.args


def to_text(program: Program) -> str:
    """Prints a program; ``parse(to_text(p))`` is p."""
    lines = [f"def {SCHEDULE if program.kind == SCHEDULE else 'train'}({', '.join(program.inputs)}):"]
    lines += [f"    {statement.target} = {_expression(statement)}" for statement in program.statements]
    lines.append(f"    return {', '.join(program.outputs)}")
    return "\n".join(lines)


def _expression(statement: Statement) -> str:
    args = [argument if isinstance(argument, str) else repr(argument) for argument in statement.args]
    op = OPS[statement.op]
    if op.name == "copy":
        return args[0]
    if op.infix and op.infix in INFIX:
        return f"{args[0]} {op.infix} {args[1]}"
    return f"{op.name}({', '.join(args)})"
