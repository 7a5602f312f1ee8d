"""Tracked files hold nothing that is only true on one machine."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Written in two parts, so that this file does not contain them.
PATHS = [b"/wor" + b"k/", b"/ro" + b"ot/"]


def _tracked() -> list[Path]:
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("needs the repository: no pyproject.toml beside tests")
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name.decode() for name in listing.split(b"\0") if name]


def test_no_machine_paths():
    files = [path for path in _tracked() if path.is_file()]
    assert files
    assert [f"{path.relative_to(ROOT)}: {word.decode()}" for path in files for word in PATHS if word in path.read_bytes()] == []
