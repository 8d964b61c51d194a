"""The picture of budgets, from an audit's numbers as its file holds them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.benchmarks import Benchmark
from helpers.documents import ROOT
from untrain.runs.recipe import read
from untrain.sealed import write_sealed

SCRIPT = "dial.py"
RECIPE = ROOT / "recipes" / "dial.yaml"


def audited(folder: Path, names: list[str]) -> Path:
    """An audit of these methods, of which more is gone the larger their budget."""

    def found(name: str) -> dict[str, Any]:
        left = 1 - int(name.rpartition("-")[2]) / 100 if "-" in name else 1
        group = {"left": left, "left_ci": [left - 0.1, left + 0.1]}
        mean = {"value": -5 * left, "ci": [-6.0, 0.0]}
        return {"outputs": group, "exposed": group, "kept": {"base": mean, "test": {"value": 0.5, "ci": None}}}

    (folder / "audit").mkdir(parents=True)
    write_sealed(folder / "audit" / "audit.json", {"methods": {name: found(name) for name in names}})
    shutil.copy(RECIPE, folder / "config.yaml")
    return folder


def test_every_method_of_the_recipe_has_a_row_and_a_line(tmp_path: Path, benchmark: Benchmark) -> None:
    folder, target = audited(tmp_path / "dial", [*read(RECIPE).methods, "other"]), tmp_path / "dial.png"
    said = benchmark(SCRIPT, folder, audited(tmp_path / "few", ["sfron-5"]), "--figure", target)
    rows = [line for line in said.splitlines() if line.startswith("| ")]
    assert rows[0] == "| method | 5 % | 10 % | 20 % | 40 % | 100 % |"
    assert [row.split("|")[1].strip() for row in rows[1:]] == [
        *("scratch", "finetune", "sfron", "shrink-perturb", "shrink-sfron"),
        *("method", "sfron"),
    ]
    assert rows[1].split("|")[4].strip() == "0.80 / 0.80; −4.0 / +0.5"
    assert target.read_bytes()[:4] == b"\x89PNG"


def test_a_run_of_other_methods_is_refused(tmp_path: Path, benchmark: Benchmark) -> None:
    with pytest.raises(SystemExit, match="NAME-PERCENT"):
        benchmark(SCRIPT, audited(tmp_path / "run", ["sfron"]))


def test_an_unfinished_audit_is_refused(tmp_path: Path, benchmark: Benchmark) -> None:
    (tmp_path / "run" / "audit").mkdir(parents=True)
    write_sealed(tmp_path / "run" / "audit" / "audit.json", {"cells": {}})
    with pytest.raises(SystemExit, match="not ended.*--resume"):
        benchmark(SCRIPT, tmp_path / "run")
