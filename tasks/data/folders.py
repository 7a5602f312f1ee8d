"""Where a user's own data are: one folder below the one that the environment variable STEPSMITH_DATA names."""

import os
from pathlib import Path

VARIABLE = "STEPSMITH_DATA"


def user_folder(name: str) -> Path | None:
    """The folder of that name below STEPSMITH_DATA, None where it is not there or the variable is not set."""
    root = os.environ.get(VARIABLE)
    folder = Path(root).expanduser() / name if root else None
    return folder if folder is not None and folder.is_dir() else None
