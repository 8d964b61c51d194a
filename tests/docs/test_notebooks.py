"""The notebooks run from top to bottom, as scripts, and are stored without outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


SHORTER = {"text_to_image": ('"--out", "shapes"', '"--count", "200", "--vae-steps", "40", "--steps", "60"')}
"""Notebook → an argument of a script, and what is added to it here: only how good it gets is another."""


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_is_one_for_every_task():
    assert [path.stem for path in NOTEBOOKS] == ["class_diffusion", "classification", "text_to_image"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    assert cells(path, "code")
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells(path, "code"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    """In a process and a folder of its own; `examples` is where the notebook would find it, in a clone."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    code = "\n\n".join("".join(cell["source"]) for cell in cells(path, "code"))
    if path.stem in SHORTER:
        given, added = SHORTER[path.stem]
        assert given in code
        code = code.replace(given, f"{given}, {added}")
    script = tmp_path / f"{path.stem}.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=570
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
