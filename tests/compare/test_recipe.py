"""The recipes of comparisons, and the commands of the pages about them."""

import re
import shlex

import pytest

from helpers.command_line import untrain
from helpers.documents import ROOT
from untrain import compare as comparison
from untrain.compare.plan import comparison_recipe, plan
from untrain.runs import stages
from untrain.runs.recipe import read, write, write_config

RECIPES = sorted((ROOT / "recipes").glob("compare-*.yaml"))

COMPARED = {
    "classification": "finetune gradient-ascent random-label salun bad-teacher scrub neggrad-plus ssd l1-sparse sfron",
    "compare-fashion": "shrink-sfron shrink-perturb masked-small-gradients transpose noisy-finetune eu-k cf-k amun "
    "regun lotus",
    "class-diffusion": "finetune salun selective-amnesia esd sfron",
    "text-to-image": "finetune gradient-ascent random-label proximal-gradient salun esd uce mace-refine sfron",
}
FEWER = {"compare-shapes-flow": "finetune salun esd uce sfron"}
"""Of slow models."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipes_compare_all_methods(path):
    found = comparison_recipe(read(path))
    kinds = {method.name for method in found.methods.values()}
    wanted = f"{COMPARED[found.task]} {COMPARED.get(found.name, '')}"
    assert kinds == set(FEWER.get(found.name, wanted).split())
    assert found.compare.seeds == [0, 1, 2]
    assert len([cell for cell in plan(found) if cell.name in found.methods]) >= 3 * len(found.methods)


def test_there_are_such_recipes_for_each_task():
    names = ["cifar10", "digits-ddpm", "digits-dit", "fashion", "shapes-flow", "shapes"]
    assert [path.name for path in RECIPES] == [f"compare-{name}.yaml" for name in names]


PAGES = ("comparing.md", "sequential-requests.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_the_pages_are_understood(page, tmp_path, monkeypatch):
    """Each is read as it is typed; what would run is only told of."""
    told = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "runs/compare-fashion").mkdir(parents=True)
    (tmp_path / "runs/compare-fashion/config.yaml").write_text(write(read(RECIPES[1])))
    (tmp_path / "recipe.yaml").write_text("data: {name: digits}\n")
    for module, name in (
        (comparison, "compare_recipe"),
        (comparison, "compare_cell"),
        (stages, "run_recipe"),
        (stages, "unlearn_recipe"),
    ):
        monkeypatch.setattr(module, name, lambda *words, name=name, **flags: told.append((name, words, flags)))
    monkeypatch.setattr("untrain.report.write_report", lambda *given: told.append(("report", given)))
    monkeypatch.setattr("untrain.runs.log.read_log", lambda *given, **how: told.append(("log", given)) or [])
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in "".join(blocks).splitlines()]
    ours = [words[words.index("untrain") + 1 :] for words in lines if "untrain" in words]
    assert len(ours) > 2
    for words in ours:
        code, _, err = untrain(*words)
        assert code == 0, err
    assert len(told) == len(ours)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_what_a_comparison_writes_of_its_recipe_is_read_again(path, tmp_path):
    """By every cell that runs as a command of its own, of tasks that forget no samples, too."""
    found = comparison_recipe(read(path, ["--out", str(tmp_path)]))
    write_config(found)
    again = comparison_recipe(read(tmp_path))
    assert (again.compare, again.methods) == (found.compare, found.methods)
