"""Runs the examples in the docstrings of the installed packages.

`pytest --doctest-modules` cannot follow the mapping from the folders to `stepsmith.*`, so the modules are found with pkgutil.
"""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

FOLDERS = ("stepsmith.discovery", "stepsmith.optimizers", "stepsmith.schedules", "stepsmith.tasks")
# Alembic's environment runs a migration when it is imported, and the revisions are only meaningful to Alembic.
MIGRATIONS = "stepsmith.discovery.ledger.migrations"


def _fail(name: str) -> None:
    raise ImportError(f"cannot import the package {name}")


def _modules() -> Iterator[str]:
    """Names of the four packages and of every module below them, in a fixed order (pytest-xdist compares it)."""
    for folder in FOLDERS:
        yield folder
        package = importlib.import_module(folder)
        for module in pkgutil.walk_packages(package.__path__, folder + ".", onerror=_fail):
            if not module.name.startswith(MIGRATIONS):
                yield module.name


MODULES = sorted(_modules())


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    # A name ending in __main__ would start the command.
    if name.endswith("__main__"):
        pytest.skip("runs the command when imported")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples failed, see the captured output"


def test_some_examples_exist():
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(name) for name in MODULES if not name.endswith("__main__")]
    assert sum(len(test.examples) for module in modules for test in finder.find(module)) > 0
