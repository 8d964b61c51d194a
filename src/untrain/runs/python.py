"""Runs that were made in Python: what their folder says in the place of a recipe."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from untrain.errors import FolderError
from untrain.folders import is_temporary
from untrain.runs.names import CONFIG
from untrain.runs.recipe import MADE_IN, read_config
from untrain.sealed import write_sealed_text

_HEAD = (
    "# Made in Python: the model and the data are known there alone. Go on with untrain.unlearn(..., out=this folder,\n"
    "# resume=True), measure with untrain.evaluate(..., out=this folder); untrain report FOLDER makes its page.\n"
)


def check_python_folder(folder: Path) -> None:
    """Looks at a folder that a run made in Python is to be kept in: it is new, or holds one.

    Raises:
        FolderError: if it holds a recipe's run, or anything else.
    """
    held = folder.is_dir() and any(not is_temporary(path.name) for path in folder.iterdir())
    if held and read_python_run(folder) is None:
        raise FolderError(f"{folder} holds no run that was made in Python. Choose another folder.")


def write_python_run(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes config.yaml of a run made in Python; methods that it names already stay.

    Args:
        folder: the run's.
        content: "task", "seed", "batch_size", "parts" where known, and "methods": entry → method.
    """
    before = read_python_run(folder) or {}
    methods = {name: {"method": m.name, **asdict(m)} for name, m in content.get("methods", {}).items()}
    known = {key: value for key, value in content.items() if key not in ("methods", "manifest")}
    whole = {
        MADE_IN: "python",
        "name": folder.name,
        **known,
        "methods": {**before.get("methods", {}), **methods},
    }
    write_sealed_text(folder / CONFIG, _HEAD + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))


def read_python_run(folder: Path) -> dict[str, Any] | None:
    """Reads config.yaml of a run made in Python; None where it is a recipe's, or there is none."""
    try:
        content = read_config(folder)
    except FolderError:
        return None
    return content if content.get(MADE_IN) == "python" else None
