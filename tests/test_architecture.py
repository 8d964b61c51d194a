"""How the package is built: stages import only earlier ones, and what must not be in the code is not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import untrain

ROOT = Path(untrain.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ORDER = [
    *("errors", "types", "settings", "io", "engine", "data", "models", "fisher", "saliency", "metrics", "diffusion"),
    *("methods", "tasks", "small_pipeline", "report", "given", "api", "evaluating", "domain", "kinds", "runs"),
    *("sample_command", "compare", "cli"),
]
"""Stages, earliest first. `settings` and `io` are leaves beside `errors`: types of settings; files and hashes.
`sampling` is mathematics of arrays alone,
which tasks use. `methods` runs on streams, tasks and subjects; evaluation enters it as a callback."""


def stage_of(path):
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return None if first in ("__init__", "__main__") else first


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "untrain":
                yield from ((f"untrain.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


@pytest.fixture(scope="module")
def trees():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def test_every_stage_has_its_place():
    assert {stage_of(path) for path in FILES} - {None} <= set(ORDER)


def test_a_stage_imports_only_earlier_ones(trees):
    wrong, seen = [], 0
    for path, tree in trees.items():
        stage = stage_of(path)
        if stage is None:
            continue
        for name, line in imported(tree):
            parts = name.split(".")
            if parts[0] == "untrain" and parts[1:] and parts[1] != stage:
                seen += 1
                if ORDER.index(parts[1]) > ORDER.index(stage):
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong
    assert seen > 50


def test_nothing_needs_torchvision_or_timm(trees):
    found = {name.split(".")[0] for tree in trees.values() for name, _ in imported(tree)}
    assert "torch" in found
    assert not found & {"torchvision", "timm"}


def test_there_is_no_assert_and_nothing_that_runs_a_string(trees):
    for path, tree in trees.items():
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            assert not isinstance(node, ast.Assert), f"{where}: raise an error instead of assert"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), where


def test_no_pickle_is_ever_loaded_without_weights_only(trees):
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner, where = ast.unparse(node.func.value), f"{path.relative_to(ROOT)}:{node.lineno}"
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert owner != "pickle", where
            if owner == "torch" and node.func.attr == "load":
                assert given.get("weights_only") == "True", where
            if owner == "np" and node.func.attr == "load":
                assert given.get("allow_pickle") == "False", where


def test_importing_the_package_stays_light():
    heavy = (
        "matplotlib",
        "sklearn",
        "scipy",
        "transformers",
        "datasets",
        "jinja2",
        "pyarrow",
        "pandas",
        "jsonargparse",
    )
    code = f"import untrain, untrain.cli, sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_what_the_package_says():
    for name in untrain.__all__:
        assert getattr(untrain, name).__doc__, f"{name} has no docstring"
    assert {"unlearn", "evaluate", "fisher_diagonal", "saliency_mask", "methods", "Optimizer"} <= set(untrain.__all__)
