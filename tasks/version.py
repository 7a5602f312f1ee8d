"""The version of a task: a digest over its settings, its code and its data, so that an edited task never meets stale results."""

import ast
import dataclasses
import functools
import hashlib
import inspect
import io
import sys
import tokenize
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from .base import SPLITS, PyTree, Task

_edition = ""  # appended to the code of every module; `edited` sets it


def digest(task: Task, *modules: types.ModuleType, data: str | None = None) -> str:
    """Twelve hexadecimal digits of the SHA-256 over a task's settings, code and data; computed once per task.

    The code is the source, without comments and docstrings, of the task's own module, of the modules given, and of every
    module that a function or a dataclass among the settings comes from.

    Args:
        task: a frozen dataclass; fields that its repr leaves out (`repr=False`) are no part of the version.
        modules: further modules that the task is made of.
        data: what stands for the data where they are too large to read through; by default every byte of `task.load()`.

    Returns:
        A version that changes whenever a field, the code of one of the modules or one byte of the data does.

    Raises:
        ValueError: where the task is no dataclass, or its code has no file to be read from.

    Example:
        >>> from stepsmith.tasks import get
        >>> task = get("digits_mlp")
        >>> task.version == get("digits_mlp").version
        True
        >>> task.version == dataclasses.replace(task, steps=100).version
        False
    """
    return _digest(task, tuple(module.__name__ for module in modules), data, _edition)


@contextmanager
def edited() -> Iterator[None]:
    """Inside, every module reads as if a line had been added: a version that does not change then ignores the code."""
    global _edition
    _edition = "\nedited"
    try:
        yield
    finally:
        _edition = ""


@functools.lru_cache(maxsize=64)
def _digest(task: Task, module_names: tuple[str, ...], data: str | None, edition: str) -> str:
    if not dataclasses.is_dataclass(task):
        raise ValueError(f"a task is a frozen dataclass, got {type(task).__name__}; its fields are the settings that its version covers")
    found = dict.fromkeys(module_names)  # in order and each once
    described = _describe(task, found)
    state = hashlib.sha256(described.encode())
    for name in sorted(found):
        state.update((_module_code(name) + edition).encode())
    if data is not None:
        state.update(data.encode())
        return state.hexdigest()[:12]
    loaded = task.load()
    for split in SPLITS:
        _update_with_arrays(state, split, loaded[split])
    return state.hexdigest()[:12]


def _describe(value: Any, modules: dict[str, None]) -> str:
    """A text of the value that is the same in every process; the modules it comes from are added to `modules`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        modules[type(value).__module__] = None
        fields = [f"{field.name}={_describe(getattr(value, field.name), modules)}" for field in dataclasses.fields(value) if field.repr]
        return f"{type(value).__qualname__}({', '.join(fields)})"
    if isinstance(value, functools.partial):
        arguments = [value.func, *value.args, *sorted(value.keywords.items())]
        return f"partial({', '.join(_describe(argument, modules) for argument in arguments)})"
    if isinstance(value, tuple):
        return f"({', '.join(_describe(item, modules) for item in value)})"
    if callable(value):
        value = inspect.unwrap(value)  # a cached loader is its function
        modules[value.__module__] = None
        return value.__qualname__
    return repr(value)


def _module_code(name: str) -> str:
    try:
        return code(inspect.getsource(sys.modules[name]))
    except (OSError, TypeError) as error:
        raise ValueError(f"the code of a task must be in a file, but module {name!r} has none; write it to one and import it") from error


def code(source: str) -> str:
    """Python source without its comments, docstrings and empty lines: what is said about code does not change a result.

    Example:
        >>> code("def f(x):\\n    'Doubles.'\\n\\n    return 2 * x  # twice\\n")
        'def f(x):\\n    return 2 * x'
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            lines[text.lineno - 1 : text.end_lineno] = [""] * ((text.end_lineno or text.lineno) - text.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _update_with_arrays(state: "hashlib._Hash", name: str, tree: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        state.update(f"{name}{jax.tree_util.keystr(path)}:{array.dtype}:{array.shape}".encode())
        state.update(array.tobytes())
