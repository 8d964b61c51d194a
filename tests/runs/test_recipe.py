"""Recipes: what a file and flags say becomes settings, and what is wrong with them is named with its line."""

from pathlib import Path

import pytest

from helpers.documents import ROOT
from untrain.errors import SettingError, UnknownName
from untrain.methods.base import Optimizer
from untrain.methods.calibration import Calibration
from untrain.methods.finetune import Finetune
from untrain.methods.sfron import SFRon
from untrain.runs.recipe import Recipe, read, write

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    def make(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return make


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_parses_and_comes_back_as_written(path, tmp_path):
    first = read(path)
    assert first.methods
    copy = tmp_path / "config.yaml"
    copy.write_text(write(first))
    assert read(copy) == first


def test_there_are_recipes():
    assert any(path.name == "demo.yaml" for path in RECIPES)


def test_without_a_recipe_defaults_hold():
    assert read(None) == Recipe(methods={"sfron": SFRon()})
    assert read(None, ["--name", "mine"]).folder == Path("runs/mine")


def test_fields_become_settings(recipe):
    read_ = read(
        recipe(
            """
data: {name: digits, limit: 100}
forget: {classes: [3, cat], holdout: 0}
train: {epochs: 2, optimizer: {lr: 1e-2}}
methods:
  finetune: {epochs: 1}
  careful: {method: sfron, alpha: 2, gamma: null, forget_optimizer: null, calibration: {until: 0.5}}
"""
        )
    )
    assert read_.data.limit == 100
    assert read_.forget.classes == [3, "cat"]
    assert read_.train.optimizer == Optimizer("sgd", 0.01, 0.9, 5e-4)  # what is not said stays as it is by default
    assert read_.methods["finetune"] == Finetune(epochs=1.0)
    assert read_.methods["careful"] == SFRon(
        alpha=2.0, gamma=None, forget_optimizer=None, calibration=Calibration(until=0.5)
    )


def test_methods_can_be_a_list_or_none(recipe):
    assert list(read(recipe("methods: [finetune, sfron]\n")).methods) == ["finetune", "sfron"]
    assert read(recipe("methods: {}\n")).methods == {}
    assert read(recipe("methods:\n")).methods == {}
    assert list(read(recipe("data: {name: digits}\n")).methods) == ["sfron"]


def test_flags_are_put_over_the_recipe(recipe):
    path = recipe("seed: 1\ndata: {name: digits}\nforget: {fraction: 0.1}\nmethods: {sfron: {alpha: 3, lam: 0.2}}\n")
    found = read(
        path,
        [
            "--seed=7",
            "--methods.sfron.alpha", "2",
            "--methods.sfron.forget_optimizer.lr", "0.5",
            "--methods.sfron.calibration.margin", "3",
            "--train.optimizer.lr", "0.3",
            "--forget.fraction", "null",
            "--forget.classes", "[1, two]",
            "--model.options", "{width: 4}",
        ],
    )  # fmt: skip
    assert (found.seed, found.forget.fraction, found.forget.classes) == (7, None, [1, "two"])
    assert found.methods["sfron"].alpha == 2
    assert found.methods["sfron"].lam == 0.2
    assert found.methods["sfron"].forget_optimizer.lr == 0.5
    assert found.methods["sfron"].forget_optimizer.name == SFRon().forget_optimizer.name
    assert found.methods["sfron"].calibration.margin == 3
    assert found.train.optimizer == Optimizer("sgd", 0.3, 0.9, 5e-4)
    assert found.model.options == {"width": 4}
    assert found.data.name == "digits"


def test_a_run_folder_stands_for_its_recipe(recipe, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(write(read(recipe("seed: 5\nout: elsewhere\n"))))
    assert read(folder).seed == 5
    assert read(folder).folder == folder
    assert read(folder, ["--out", "third"]).folder == Path("third")


def test_a_published_preset_comes_back(recipe, tmp_path):
    first = read(recipe("methods: {sfron: {published: true, steps: 3, optimizer: {lr: 0.01}}}\n"))
    copy = tmp_path / "config.yaml"
    copy.write_text(write(first))
    assert read(copy) == first
    assert first.methods["sfron"].fisher == "batch"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nsed: 2\n", r"recipe.yaml, line 2: unknown field 'sed'. Did you mean 'seed'\? Known: .*batch_size"),
        ("data:\n  nam: x\n", r"line 2: unknown field 'data.nam'. Did you mean 'data.name'\?"),
        ("train:\n  optimizer:\n    lrr: 1\n", r"line 3: unknown field 'train.optimizer.lrr'. Did you mean"),
        ("methods:\n  sfron:\n    alhpa: 1\n", r"line 3: unknown field 'methods.sfron.alhpa'. .*'methods.sfron.alpha'"),
        ("methods:\n  sfron:\n    calibration: {untl: 1}\n", r"line 3: unknown field 'methods.sfron.calibration.untl'"),
        ("train:\n  epochs: many\n", r"line 2: train.epochs must be a number, not 'many'"),
        ("train:\n  optimizer:\n    lr: high\n", r"line 3: train.optimizer.lr must be a number or null, not 'high'"),
        ("batch_size: 2.5\n", r"line 1: batch_size must be a whole number, not 2.5"),
        ("batch_size: 0\n", r"line 1: batch_size must be at least 1, not 0"),
        ("workers: -1\n", r"line 1: workers must be at least 0, not -1"),
        ("seed: true\n", r"line 1: seed must be a whole number, not True"),
        ("compile: 1\n", r"line 1: compile must be true or false, not 1"),
        ("precision: fp8\n", r"line 1: precision must be 'no' or 'bf16' or 'fp16', not 'fp8'"),
        (
            "task: speech\n",
            r"line 1: task must be 'classification' or 'class-diffusion' or 'text-to-image', not 'speech'",
        ),
        ("train: 3\n", r"line 1: train must be a mapping of steps, epochs, .* to values, not 3"),
        ("train: {optimizer: null}\n", r"line 1: train.optimizer must not be null"),
        ("train:\n  optimizer: {name: lion}\n", r"line 2: unknown optimizer 'lion'. Known: adam, adamw, sgd"),
        ("forget: {classes: 3}\n", r"line 1: forget.classes must be a list"),
        ("model: {options: 3}\n", r"line 1: model.options must be a mapping"),
        ("methods:\n  sfron:\n    gamma: -1\n", r"line 3: gamma must be above 0, not -1"),
        ("methods:\n  sfron:\n    objective: x\n", r"line 3: methods.sfron.objective must be 'adaptive' or"),
        ("methods:\n  sfron: 3\n", r"line 2: methods.sfron must hold settings, not 3"),
        ("methods: 3\n", r"line 1: methods must map names to settings"),
        ("methods:\n  retrained: {method: sfron}\n", r"line 2: 'retrained' cannot name a method here"),
        ("seed: 1\nseed: 2\n", r"line 2: seed is given twice"),
        ("- a\n", r"recipe.yaml must hold fields such as data"),
        ("", r"recipe.yaml must hold fields such as data"),
        ("a: [\n", r"recipe.yaml is not YAML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(recipe, text, message):
    with pytest.raises(SettingError, match=message):
        read(recipe(text))


def test_an_unknown_method_lists_the_known(recipe):
    with pytest.raises(UnknownName, match=r"line 2: unknown method 'sfrom'. Did you mean 'sfron'\? Known: .*finetune"):
        read(recipe("methods:\n  sfrom: {}\n"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sed", "1"], r"^unknown flag '--sed'. Did you mean '--seed'\? Known: .*--batch_size"),
        (["--data.nam", "x"], r"^unknown flag '--data.nam'. Did you mean '--data.name'\?"),
        (["--methods.sfrn.alpha", "2"], r"^unknown flag .*Did you mean '--methods.sfron.alpha'"),
        (["--train.optimizer.lrr", "2"], r"^unknown flag '--train.optimizer.lrr'"),
        (["--train.epochs", "x"], r"^--train.epochs must be a number, not 'x'"),
        (["--train.optimizer.lr", "x"], r"^--train.optimizer.lr must be a number or null, not 'x'"),
        (["--forget.classes", "3"], r"^--forget.classes must be a list .*, not '3'"),
        (["--seed"], r"^--seed must be a whole number\."),
        (["--batch_size", "0"], r"^batch_size must be at least 1, not 0"),
        (["--methods.sfron.gamma", "-1"], r"^gamma must be above 0"),
        (["stray"], r"^'stray' is neither a recipe nor a flag"),
    ],
)
def test_what_is_wrong_with_a_flag_is_named_without_a_line(recipe, flags, message):
    with pytest.raises(SettingError, match=message):
        read(recipe("seed: 1\nbatch_size: 8\nmethods: {sfron: {gamma: 2}}\n"), flags)


def test_a_recipe_that_is_missing_or_not_text(tmp_path):
    with pytest.raises(SettingError, match=r"the recipe .*none.yaml cannot be read: No such file.*Check the path"):
        read(tmp_path / "none.yaml")
    with pytest.raises(SettingError, match=r"config.yaml cannot be read"):
        read(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="not text in UTF-8"):
        read(tmp_path / "binary.yaml")
