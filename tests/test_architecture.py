"""How the package is built: floors import only lower ones, a task is one folder, and what must not be there is not."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import untrain
from untrain import registry
from untrain.plugins import OURS

ROOT = Path(untrain.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
PUBLIC = "__init__.py"
"""The table of public names, which may name what tasks define."""
UPWARDS = {("objectives.py", "untrain.domain")}
"""Imports upwards, for type checkers alone: an objective that any task has is told the domain which makes it."""


def floors():
    """The floors of the page's table, lowest first."""
    table = PAGE.read_text(encoding="utf-8").partition("| floor | holds |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def floor_of(path):
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return None if first in ("__init__", "__main__") else first


def imported(tree):
    """Every import wherever it stands: at the top, inside a function, for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module in ("untrain", "untrain.tasks"):
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


@pytest.fixture(scope="module")
def trees():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


# ── floors ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_floor_has_its_place():
    assert sorted(floors()) == sorted({floor_of(path) for path in FILES} - {None})


def test_a_floor_imports_only_lower_ones(trees):
    order, wrong, seen = floors(), [], 0
    for path, tree in trees.items():
        floor = floor_of(path)
        for name, line in imported(tree) if floor is not None else ():
            parts = name.split(".")
            if parts[0] == "untrain" and parts[1:] and parts[1] != floor:
                seen += 1
                if order.index(parts[1]) > order.index(floor):
                    wrong.append((path.relative_to(ROOT).as_posix(), name, line))
    assert {(file, name) for file, name, _ in wrong} == UPWARDS, wrong
    for file, name in UPWARDS:
        checked = [n for n in ast.walk(trees[ROOT / file]) if isinstance(n, ast.If)]
        checked = [n for n in checked if ast.unparse(n.test) == "TYPE_CHECKING"]
        assert [n for n, _ in imported(trees[ROOT / file])].count(name) == 1
        assert name in [n for part in checked for n, _ in imported(part)], "at run time too"
    assert seen > 300


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────


def our_tasks():
    """Name → folder of each task of this distribution."""
    found = registry.INSTALLED.installed()
    ours = {name: entries[0] for name, entries in found.items() if entries[0].dist.name == OURS}
    return {name: entry.module.split(".")[2] for name, entry in ours.items()}


def texts(tree):
    """The text literals of a module, without docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds)]
    docs = {id(each.value) for body in bodies for each in body if isinstance(each, ast.Expr)}
    return [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs]


def identifiers(tree):
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "asname", "arg"):
            if isinstance(getattr(node, field, None), str):
                yield getattr(node, field), getattr(node, "lineno", 0)


def outside(trees, folder):
    """The modules that are not in a task's folder, nor the table of public names."""
    home = ROOT / "tasks" / folder
    return {path: tree for path, tree in trees.items() if home not in path.parents and path != ROOT / PUBLIC}


def test_every_folder_of_tasks_is_installed_as_one():
    assert sorted(our_tasks().values()) == sorted(p.name for p in (ROOT / "tasks").iterdir() if (p / PUBLIC).exists())
    assert len(our_tasks()) >= 3


@pytest.mark.parametrize("name", our_tasks())
def test_no_task_is_named_outside_its_folder(trees, name):
    """But by the one line that says what a model was trained on where nobody does."""
    folder = our_tasks()[name]
    found = [
        f"{path.relative_to(ROOT)}:{ast.get_source_segment(path.read_text(encoding='utf-8'), node)}"
        for path, tree in outside(trees, folder).items()
        for node in texts(tree)
        if node.value == name or f"untrain.tasks.{folder}" in node.value
    ]
    assert found == ([f'registry.py:"{name}"'] if name == registry.DEFAULT_TASK else [])


@pytest.mark.parametrize("name", our_tasks())
def test_no_task_is_imported_outside_its_folder(trees, name):
    """Not by other tasks either."""
    folder = our_tasks()[name]
    home = f"untrain.tasks.{folder}"
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path, tree in outside(trees, folder).items()
        for module, line in imported(tree)
        if module == home or module.startswith(f"{home}.")
    ]
    assert not found


@pytest.mark.parametrize("name", our_tasks())
def test_nothing_is_called_after_a_task_outside_its_folder(trees, name):
    folder = our_tasks()[name]
    camel = "".join(word.capitalize() for word in folder.split("_"))
    called = re.compile(rf"_*{camel}|(.*_)?{folder}(_.*|$)")
    found = [
        f"{path.relative_to(ROOT)}:{line}: {each}"
        for path, tree in outside(trees, folder).items()
        for each, line in identifiers(tree)
        if called.match(each)
    ]
    assert not found


def test_the_package_names_tasks_in_its_table_of_public_names_alone(trees):
    tree = trees[ROOT / PUBLIC]
    table = next(n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "_HOME")
    checked = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    inside = {id(node) for part in (table, checked) for node in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) not in inside:
            assert "untrain.tasks" not in str(getattr(node, "value", "")), ast.unparse(node)
            assert "untrain.tasks" not in str(getattr(node, "module", "")), ast.unparse(node)


def test_methods_know_no_task(trees):
    names = [name for path, tree in trees.items() if floor_of(path) == "methods" for name, _ in imported(tree)]
    assert "untrain.types" in names
    assert not [name for name in names if name.startswith(("untrain.tasks", "untrain.domain", "untrain.registry"))]


# ── what must not be there ──────────────────────────────────────────────────────────────────────────────────────


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
