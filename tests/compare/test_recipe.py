"""The section `compare` of a recipe, and the commands and recipes of the pages about comparisons."""

import re
import shlex

import pytest

from helpers.command_line import untrain
from helpers.documents import ROOT
from untrain import compare as comparison
from untrain.compare.plan import comparison_recipe, plan
from untrain.errors import SettingError
from untrain.methods.base import Choice, Range
from untrain.runs import stages as pipeline
from untrain.runs.recipe import Comparison, read, space_of, whole, write

RECIPES = sorted((ROOT / "recipes").glob("compare-*.yaml"))

TEXT = """\
methods:
  finetune: {}
  sfron: {}
compare:
  seeds: [0, 1]
  trials: 3
  forget_sets:
    random: {fraction: 0.1}
    three:
      classes: ["3"]
  spaces:
    finetune:
      optimizer.lr: [1e-3, 1e-1, log]
      epochs: [1, 4]
    sfron:
      objective: {choices: [adaptive, ascent]}
      retain_steps: [1, 4]
"""


@pytest.fixture
def recipe(tmp_path):
    def make(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return make


def test_the_section_is_read_and_comes_back_as_written(recipe, tmp_path):
    found = read(recipe(TEXT))
    assert found.compare.seeds == [0, 1]
    assert found.compare.forget_sets == {"random": {"fraction": 0.1}, "three": {"classes": ["3"]}}
    assert list(found.compare.forget_sets) == ["random", "three"], "in their order"
    assert space_of(found, "finetune") == {"optimizer.lr": Range(1e-3, 1e-1, log=True), "epochs": Range(1.0, 4.0)}
    assert space_of(found, "sfron") == {"objective": Choice(("adaptive", "ascent")), "retain_steps": Range(1.0, 4.0)}
    assert [whole(found.methods["sfron"], name) for name in ("retain_steps", "alpha", "optimizer.lr")] == [1, 0, 0]
    (tmp_path / "config.yaml").write_text(write(found))
    assert read(tmp_path / "config.yaml") == found
    assert read(recipe("methods: [sfron]\n")).compare == Comparison()
    assert space_of(read(recipe("methods: [sfron]\n")), "sfron"), "the method's own"


def test_flags_are_put_over_the_section(recipe):
    found = read(recipe(TEXT), ["--compare.seeds", "[7]", "--compare.trials", "0"])
    assert (found.compare.seeds, found.compare.trials) == ([7], 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fraction: 0.1", "fration: 0.1", "line 8: unknown field 'compare.forget_sets.random.fration'. Did you mean"),
        ("fraction: 0.1", "fraction: x", "line 8: compare.forget_sets.random.fraction must be a number or null"),
        ("fraction: 0.1", "holdout: 0.1", "line 8: compare.forget_sets.random must give exactly one of classes"),
        ("{fraction: 0.1}", "0.1", "line 8: compare.forget_sets.random must say what to forget"),
        ('["3"]', "3", r"line 10: compare.forget_sets.three.classes must be a list"),
        ("    three:", "    tuning:", "line 9: 'tuning' cannot name a forget set"),
        ("    three:", "    a/b:", "line 9: 'a/b' cannot name a forget set"),
        ("trials: 3", "trails: 3", "line 6: unknown field 'compare.trails'. Did you mean 'compare.trials'"),
        ("trials: 3", "trials: -1", "line 6: compare.trials must be at least 0"),
        ("trials: 3", "trials: 3\n  tuning_seed: 1", "line 7: compare.tuning_seed must not be one of compare.seeds"),
        ("[0, 1]", "[0, 0]", "line 5: compare.seeds must list at least one seed, and none twice"),
        ("[0, 1]", "[]", "line 5: compare.seeds must list at least one seed"),
        ("[0, 1]", "2", "line 5: compare.seeds must be a list"),
        (
            "optimizer.lr:",
            "optimzer.lr:",
            "line 13: unknown setting of finetune 'optimzer.lr'. Did you mean",
        ),
        ("1e-1, log]", "1e-9, log]", "line 13: .* a range needs low < high"),
        ("epochs: [1, 4]", "epochs: [1]", r"line 14: compare.spaces.finetune.epochs must be \[low, high\]"),
        ("epochs: [1, 4]", "epochs: [1, 4, exp]", "line 14: compare.spaces.finetune.epochs must be"),
        (
            "epochs: [1, 4]",
            "epochs: [-1, 4]",
            "line 14: the search would try epochs = -1.0 for finetune: epochs",
        ),
        ("ascent]", "up]", "line 16: the search would try objective = 'up' for sfron"),
        ("retain_steps: [1", "objective: [1", "line 17: compare.spaces.sfron.objective is given twice"),
        ("    sfron:\n", "    sfrn:\n", "line 15: unknown entry of compare.spaces 'sfrn'. Did you mean 'sfron'"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(recipe, old, new, message):
    assert old in TEXT
    with pytest.raises(SettingError, match=rf"recipe.yaml, {message}"):
        read(recipe(TEXT.replace(old, new)))


def test_an_entry_cannot_be_called_like_a_cell(recipe):
    with pytest.raises(SettingError, match="'evaluation' cannot name a method here"):
        read(recipe("methods:\n  evaluation: {method: sfron}\n"))


COMPARED = {
    "classification": "finetune gradient-ascent random-label salun bad-teacher scrub neggrad-plus ssd l1-sparse sfron",
    "class-diffusion": "finetune salun selective-amnesia esd sfron",
    "text-to-image": "finetune gradient-ascent random-label proximal-gradient salun esd sfron",
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipes_compare_all_methods(path):
    found = comparison_recipe(read(path))
    kinds = {method.name for method in found.methods.values()}
    assert kinds == set(COMPARED[found.task].split())
    assert found.compare.seeds == [0, 1, 2]
    assert len([cell for cell in plan(found) if cell.name in found.methods]) >= 3 * len(found.methods)


def test_there_are_such_recipes_for_each_task():
    names = ["cifar10", "digits-ddpm", "digits-dit", "fashion", "shapes"]
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
        (comparison, "perform_cell"),
        (pipeline, "run_recipe"),
        (pipeline, "unlearn_recipe"),
    ):
        monkeypatch.setattr(module, name, lambda *words, name=name, **flags: told.append((name, words, flags)))
    monkeypatch.setattr("untrain.report.write_report", lambda folder: told.append(("report", folder)))
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in "".join(blocks).splitlines()]
    ours = [words[words.index("untrain") + 1 :] for words in lines if "untrain" in words]
    assert len(ours) > 2
    for words in ours:
        code, _, err = untrain(*words)
        assert code == 0, err
    assert len(told) == len(ours)
