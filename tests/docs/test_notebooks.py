"""The notebooks run from top to bottom, as scripts, and are stored without outputs."""

import json
from pathlib import Path

import pytest

from helpers.processes import run_script

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
SHORTER = {
    "classification": {"epochs=30": "epochs=3"},
    "class_diffusion": {
        "load_digits()": "load_digits(n_class=4)",
        "steps = 600": "steps = 20", "steps=80": "steps=8", "range(20)": "range(1)", "steps=25": "steps=5",
        '"samples": 20': '"samples": 4',
    },
    "text_to_image": {
        'make.py", ': 'make.py", "--steps", "20", "--vae-steps", "20", "--count", "64", ', "steps=40": "steps=8",
        "count=20, sampler=untrain.Sampler(steps=20": "count=4, sampler=untrain.Sampler(steps=5",
    },
}  # fmt: skip
"""What takes most of a notebook's time, and what stands there in the test: only how good it gets is another."""


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
    script = tmp_path / f"{path.stem}.py"
    code = "\n\n".join("".join(cell["source"]) for cell in cells(path, "code"))
    for long, short in SHORTER.get(path.stem, {}).items():
        assert code.count(long) == 1, long
        code = code.replace(long, short)
    script.write_text(code, encoding="utf-8")
    assert run_script(script, tmp_path).strip()
