"""Functions out of Python files that a user names as 'file.py' or 'file.py:function'. The file is imported: it is trusted."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


class ModuleError(ValueError):
    """A file cannot be imported, or has no such function."""


def is_python(name: str) -> bool:
    """Whether a name means a Python file, or a function in one.

    >>> is_python("runs/best.py:found"), is_python("best.json")
    (True, False)
    """
    return name.endswith(".py") or ".py:" in name


def function_of(name: str, argument: str) -> tuple[Callable[..., Any], str]:
    """The function that a user names, and the digest of its file.

    Args:
        name: 'file.py:function', or 'file.py' where it has a single public function with that argument.
        argument: that the function must have.

    Raises:
        ModuleError: the file cannot be imported, or has no such function, or several.
    """
    path, function = (Path(name), "") if name.endswith(".py") else (Path(name.rpartition(":")[0]), name.rpartition(":")[2])
    module = _imported(path)
    return _function(module, path, function, argument), digest_of(path.read_bytes())


def said(error: Exception) -> str:
    """What an error of the user's own code says."""
    return f"{type(error).__name__}: {error}"


def digest_of(content: bytes) -> str:
    """Two contents of the same digest are the same."""
    return hashlib.sha256(content).hexdigest()[:16]


def _imported(path: Path) -> ModuleType:
    """The module in a file, under a name that meets no other."""
    if not path.is_file():
        raise ModuleError(f"{path}: no such file")
    module_name = f"stepsmith_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise ModuleError(f"{path}: cannot be imported: {said(error)}") from error
    return module


def _function(module: ModuleType, path: Path, function: str, argument: str) -> Callable[..., Any]:
    """The function of that name; the single public one with the argument where it is empty."""
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and argument in inspect.signature(value).parameters
    }
    public = [name for name in found if not name.startswith(("_", "scale_by_"))]
    if function in found:
        return found[function]
    if function:
        raise ModuleError(f"{path}: has no function {function!r} with a {argument}; it has {', '.join(found) or 'none'}")
    if len(public) != 1:
        what = f"several functions with a {argument} ({', '.join(public)})" if public else f"no public function with a {argument}"
        raise ModuleError(f"{path}: has {what}; name one as {path.name}:FUNCTION")
    return found[public[0]]
