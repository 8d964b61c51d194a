"""The section `compare` of a recipe: what is read, and what is wrong with it."""

import re

import pytest

from untrain.errors import SettingError
from untrain.methods.base import Choice, Optimizer, Range
from untrain.methods.finetune import Finetune
from untrain.methods.sfron import SFRon
from untrain.runs.recipe import Comparison, read, write
from untrain.runs.spaces import is_integer, space_of, with_settings

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
    assert [is_integer(found.methods["sfron"], name) for name in ("retain_steps", "alpha", "optimizer.lr")] == [1, 0, 0]
    (tmp_path / "config.yaml").write_text(write(found))
    assert read(tmp_path / "config.yaml") == found
    assert read(recipe("methods: [sfron]\n")).compare == Comparison()
    assert space_of(read(recipe("methods: [sfron]\n")), "sfron"), "the method's own"


def test_flags_are_put_over_the_section(recipe):
    found = read(recipe(TEXT), ["--compare.seeds", "[7]", "--compare.trials", "0"])
    assert (found.compare.seeds, found.compare.trials) == ([7], 0)


@pytest.mark.parametrize(
    ("old", "new", "line", "culprit"),
    [
        ("fraction: 0.1", "fration: 0.1", 8, r"'compare.forget_sets.random.fration'.*random.fraction'\?"),
        ("fraction: 0.1", "fraction: x", 8, r"compare.forget_sets.random.fraction .*a number.*'x'"),
        ("fraction: 0.1", "fraction: 1.5", 8, r"compare.forget_sets.random.fraction .*1.5"),
        ("fraction: 0.1", "holdout: 0.1", 8, r"compare.forget_sets.random .*exactly one of classes"),
        ("{fraction: 0.1}", "0.1", 8, r"compare.forget_sets.random .*0.1"),
        ('["3"]', "3", 10, r"compare.forget_sets.three.classes .*a list.*3"),
        ("    three:", "    tuning:", 9, r"'tuning' cannot name a forget set"),
        ("    three:", "    a/b:", 9, r"'a/b' cannot name a forget set"),
        ("    three:", f"    {'x' * 101}:", 9, r"cannot name a forget set: use at most 100 letters"),
        ("    three:", f"    {'名' * 67}:", 9, r"cannot name a forget set"),
        ("trials: 3", "trails: 3", 6, r"'compare.trails'.*'compare.trials'\?"),
        ("trials: 3", "trials: -1", 6, r"compare.trials .*from 0.*-1"),
        ("trials: 3", "trials: 3\n  tuning_seed: 1", 7, r"compare.tuning_seed .*compare.seeds"),
        ("[0, 1]", "[0, 0]", 5, r"compare.seeds .*none twice"),
        ("[0, 1]", "[]", 5, r"compare.seeds .*at least one"),
        ("[0, 1]", "2", 5, r"compare.seeds .*a list.*2"),
        ("optimizer.lr:", "optimzer.lr:", 13, r"finetune 'optimzer.lr'.*'optimizer'\?"),
        ("1e-1, log]", "1e-9, log]", 13, r"compare.spaces.finetune.optimizer.lr.*low < high"),
        ("epochs: [1, 4]", "epochs: [1]", 14, r"compare.spaces.finetune.epochs .*\[1\]"),
        ("epochs: [1, 4]", "epochs: [true, 4]", 14, r"compare.spaces.finetune.epochs .*True"),
        ("epochs: [1, 4]", "epochs: [1, 4, exp]", 14, r"compare.spaces.finetune.epochs .*'exp'"),
        ("epochs: [1, 4]", "epochs: [-1, 4]", 14, r"epochs = -1.0 for finetune.*compare.spaces.finetune"),
        ("ascent]", "up]", 16, r"objective = 'up' for sfron"),
        ("retain_steps: [1", "objective: [1", 17, r"compare.spaces.sfron.objective is given twice"),
        ("    sfron:\n", "    sfrn:\n", 15, r"'sfrn'.*'sfron'\?"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(recipe, old, new, line, culprit):
    assert old in TEXT
    with pytest.raises(SettingError, match=rf"(?m)^\S*recipe.yaml, line {line}: .*{culprit}"):
        read(recipe(TEXT.replace(old, new)))


def test_all_that_is_wrong_is_found_at_once(recipe):
    text = (
        TEXT.replace("[0, 1]", "[]")
        .replace("fraction: 0.1", "fraction: x")
        .replace("epochs: [1, 4]", "epochs: [-1, 4]")
    )
    with pytest.raises(SettingError) as caught:
        read(recipe(text))
    assert re.findall(r"recipe.yaml, line (\d+)", str(caught.value)) == ["5", "8", "14"]


def test_forget_sets_are_for_tasks_that_choose_samples(recipe):
    text = "task: text-to-image\ncompare:\n  forget_sets: {few: {fraction: 0.1}}\n"
    with pytest.raises(SettingError, match=r"line 3: compare.forget_sets .*text-to-image"):
        read(recipe(text))


def test_settings_of_a_search_go_over_those_of_the_method(recipe):
    sfron = read(recipe(TEXT)).methods["sfron"]
    assert with_settings(sfron, {"alpha": 2.0, "optimizer.lr": 0.1}).optimizer == Optimizer("sgd", 0.1)
    adam = Optimizer("adam", 1e-3)
    changed = with_settings(sfron, {"optimizer.lr": 0.1, "calibration.margin": 2.0}, adam)
    assert (changed.optimizer, changed.calibration.margin) == (Optimizer("adam", 0.1), 2.0)
    with pytest.raises(SettingError, match="alpha"):
        with_settings(sfron, {"alpha": -1.0})


def test_an_entry_cannot_be_called_like_a_cell(recipe):
    with pytest.raises(SettingError, match="'evaluation' cannot name a method here"):
        read(recipe("methods:\n  evaluation: {method: sfron}\n"))


def test_settings_have_dotted_names():
    made = with_settings(SFRon(), {"alpha": 2.0, "forget_optimizer.lr": 0.01, "calibration.margin": 0.9})
    assert (made.alpha, made.forget_optimizer, made.calibration.margin) == (2.0, Optimizer("adam", 0.01), 0.9)
    both = with_settings(
        Finetune(), {"optimizer.lr": 0.5, "optimizer.momentum": 0.1}, Optimizer("sgd", momentum=0.9, weight_decay=1e-3)
    )
    assert both.optimizer == Optimizer("sgd", 0.5, 0.1, 1e-3), "a null optimiser is the one that fits the model"
    assert with_settings(Finetune(), {}) == Finetune()
    with pytest.raises(SettingError, match="alpha"):
        with_settings(SFRon(), {"alpha": -1.0})
