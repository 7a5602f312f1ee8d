"""The installed package is what the tree holds, and the folders depend on each other in one direction only."""

import ast
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("discovery", "optimizers", "schedules", "tasks")
LEAVES = ("optimizers", "schedules", "tasks")

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the repository: no pyproject.toml beside tests")


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _imported(source: str, package: str) -> set[str]:
    """Full names of what `source`, a module of `package`, imports, relative imports resolved."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            # `from stepsmith import tasks` names a package in the alias, so both parts count.
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def _folder_of(name: str) -> str | None:
    """The one of the four folders that the imported name lies in; None for anything else."""
    parts = name.split(".")
    # Without the prefix the import would only work by accident of the working directory: it counts as a crossing too.
    first = parts[1] if parts[0] == "stepsmith" and len(parts) > 1 else parts[0]
    return first if first in FOLDERS else None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ..tasks import base", {"stepsmith.tasks.base"}),
        ("from . import sibling", {"stepsmith.optimizers.sibling"}),
        ("from .. import discovery", {"stepsmith.discovery"}),
        ("from stepsmith import tasks", {"stepsmith.tasks"}),
        ("def f():\n    import stepsmith.discovery.vm", {"stepsmith.discovery.vm"}),
    ],
)
def test_imports_are_resolved(source, expected):
    assert _imported(source, "stepsmith.optimizers") == expected


def test_packages_listed_are_those_in_the_tree():
    in_tree = {
        "stepsmith." + ".".join(init.parent.relative_to(ROOT).parts) for folder in FOLDERS for init in (ROOT / folder).rglob("__init__.py")
    }
    listed = _project()["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == in_tree


def test_every_module_lies_in_a_package():
    outside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if not (path.parent / "__init__.py").is_file()]
    # Programs are data: text that reads as Python and is never imported.
    assert [str(path.relative_to(ROOT)) for path in outside if path.parent.name != "programs"] == []


def test_stepsmith_is_a_namespace_without_a_file():
    assert not (ROOT / "__init__.py").exists()
    assert not (ROOT / "stepsmith").exists()


@pytest.mark.parametrize("folder", LEAVES)
def test_leaves_import_no_other_folder(folder):
    crossings = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        package = "stepsmith." + ".".join(path.parent.relative_to(ROOT).parts)
        for name in sorted(_imported(path.read_text(encoding="utf-8"), package)):
            if _folder_of(name) not in (None, folder):
                crossings.append(f"{path.relative_to(ROOT)} imports {name}")
    assert crossings == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_is_typed(folder):
    assert (ROOT / folder / "py.typed").is_file()


def test_installed_version_is_the_projects():
    assert metadata.version("stepsmith") == _project()["project"]["version"]
