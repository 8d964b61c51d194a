"""Recipes: what a file and flags say becomes settings, and what is wrong with them is named with its line."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from untrain import registry
from untrain.data.sections import Data
from untrain.errors import SettingError, UnknownName
from untrain.methods.base import Optimizer
from untrain.methods.calibration import Calibration
from untrain.methods.finetune import Finetune
from untrain.methods.sfron import SFRon
from untrain.plugins import Plugins
from untrain.registry import Entry
from untrain.runs.recipe import Recipe, flat, read, recipe_fields, write
from untrain.tasks.classification.sections import ClassificationSections
from untrain.tasks.text_to_image.sections import ConceptEntry, TextToImageSections

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    def make(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return make


# ── what a recipe says ──────────────────────────────────────────────────────────────────────────────────────────


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
    found = read(
        recipe(
            """
data: {name: digits, limit: 100}
forget: {classes: [3, cat], holdout: 0}
train: {epochs: 2, optimizer: {lr: 1e-2}}
svc_attacks: true
methods:
  finetune: {epochs: 1}
  careful: {method: sfron, alpha: 2, gamma: null, forget_optimizer: null, calibration: {until: 0.5}}
"""
        )
    )
    assert isinstance(found.sections, ClassificationSections)
    assert found.sections.data.limit == 100
    assert found.sections.forget.classes == [3, "cat"]
    assert found.sections.svc_attacks is True
    assert found.train.optimizer == Optimizer("sgd", 0.01, 0.9, 5e-4)  # what is not said stays as it is by default
    assert found.methods["finetune"] == Finetune(epochs=1.0)
    assert found.methods["careful"] == SFRon(
        alpha=2.0, gamma=None, forget_optimizer=None, calibration=Calibration(until=0.5)
    )


def test_a_recipe_has_the_sections_of_its_task_and_no_others(recipe):
    found = read(recipe("task: text-to-image\nconcepts: {forget: [a cat, {containing: dog, instead: wolf}]}\n"))
    assert isinstance(found.sections, TextToImageSections)
    assert found.sections.concepts.forget == [ConceptEntry("a cat"), ConceptEntry(containing="dog", instead="wolf")]
    assert found.sections.data is None
    assert read(recipe("task: text-to-image\ndata: {name: shapes}\n")).sections.data == Data("shapes")
    own = {"data", "model", "concepts", "diffusion", "generation", "judge", "detection"}
    assert set(found.plain()) - set(read(None).plain()) == own - {"data", "model"}
    assert not {"forget", "augment", "svc_attacks"} & set(found.plain())


def test_a_recipe_is_flat_and_its_methods_have_names(recipe):
    plain = read(recipe("methods: {careful: {method: sfron, alpha: 2}}\n")).plain()
    assert plain["data"]["name"] == "fashion"
    assert plain["methods"]["careful"]["method"] == "sfron"
    assert "sections" not in plain
    names = flat(plain)
    assert names["methods.careful.alpha"] == 2
    assert names["train.optimizer.momentum"] == 0.9
    assert names["compare.seeds"] == [0, 1, 2]


def test_references_are_those_of_the_task_where_none_are_given(recipe):
    assert read(None).references == 1
    assert read(recipe("references: null\n")).references == 1
    assert read(recipe("task: text-to-image\n")).references == 0
    assert read(recipe("task: text-to-image\nreferences: 2\n")).references == 2


def test_methods_can_be_a_list_or_none(recipe):
    assert list(read(recipe("methods: [finetune, sfron]\n")).methods) == ["finetune", "sfron"]
    assert read(recipe("methods: {}\n")).methods == {}
    assert read(recipe("methods:\n")).methods == {}
    assert list(read(recipe("data: {name: digits}\n")).methods) == ["sfron"]


def test_numbers_are_read_as_in_yaml_1_2(recipe, tmp_path):
    found = read(recipe('name: "1e3"\nmodel: {options: {rate: 1e-1}}\ntrain: {epochs: 2, optimizer: {lr: 1E-3}}\n'))
    assert found.train.optimizer.lr == 0.001
    assert found.train.epochs == 2.0
    assert found.sections.model.options == {"rate": 0.1}
    (tmp_path / "config.yaml").write_text(write(found))
    assert read(tmp_path / "config.yaml").name == "1e3"


def test_an_alias_repeats_what_it_stands_for(recipe):
    found = read(recipe("methods:\n  finetune: {optimizer: &own {lr: 0.2}}\n  scrub: {optimizer: *own}\n"))
    assert found.methods["finetune"].optimizer.lr == found.methods["scrub"].optimizer.lr == 0.2


def test_a_run_folder_stands_for_its_recipe(recipe, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(write(read(recipe("seed: 5\nout: elsewhere\n"))))
    assert read(folder).seed == 5
    assert read(folder).folder == folder
    assert read(folder, ["--out", "third"]).folder == Path("third")


def test_a_run_folder_of_another_format_is_refused_in_words(recipe, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    text = write(read(recipe("seed: 5\n"))).replace("svc_attacks", "svc") + "frame: {steps: 100}\n"
    (folder / "config.yaml").write_text(text)
    with pytest.raises(SettingError, match=r"run of another version(.|\n)*config.yaml, line \d+: .*'frame'"):
        read(folder)


def test_a_published_preset_comes_back(recipe, tmp_path):
    first = read(recipe("methods: {sfron: {published: true, steps: 3, optimizer: {lr: 0.01}}}\n"))
    copy = tmp_path / "config.yaml"
    copy.write_text(write(first))
    assert read(copy) == first
    assert first.methods["sfron"].fisher == "batch"


# ── flags ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_flags_are_put_over_the_recipe(recipe):
    path = recipe("seed: 1\ndata: {name: digits}\nforget: {fraction: 0.1}\nmethods: {sfron: {alpha: 3, lam: 0.2}}\n")
    found = read(
        path,
        [
            "--seed=7",
            "--methods.sfron.alpha", "2",
            "--methods.sfron.forget_optimizer.lr", "0.5",
            "--methods.sfron.optimizer.lr", "1e-2",
            "--methods.sfron.calibration.margin", "3",
            "--train.optimizer.lr", "0.3",
            "--train", "{epochs: 4}",
            "--forget.fraction", "null",
            "--forget.classes", "[1, two]",
            "--model.options", "{width: 4}",
            "--model.options.depth", "2",
            "--compare.seeds", "[0, 1]",
            "--compare.forget_sets.few.fraction=0.2",
            "--compare.spaces.sfron.optimizer.lr", "[1e-3, 1e-1, log]",
        ],
    )  # fmt: skip
    sfron, sections = found.methods["sfron"], found.sections
    assert (found.seed, sections.forget.fraction, sections.forget.classes) == (7, None, [1, "two"])
    assert sfron.alpha == 2
    assert sfron.lam == 0.2
    assert sfron.forget_optimizer == Optimizer("adam", 0.5)
    assert sfron.optimizer == Optimizer("sgd", 0.01)
    assert sfron.calibration.margin == 3
    assert found.train.optimizer == Optimizer("sgd", 0.3, 0.9, 5e-4)
    assert found.train.epochs == 4
    assert sections.model.options == {"width": 4, "depth": 2}
    assert sections.data.name == "digits"
    assert found.compare.seeds == [0, 1]
    assert found.compare.forget_sets == {"few": {"fraction": 0.2}}
    assert found.compare.spaces == {"sfron": {"optimizer.lr": [1e-3, 1e-1, "log"]}}


def test_a_text_may_look_like_something_else(recipe):
    found = read(recipe("forget: {classes: [1, 2, 3]}\n"), ["--name", "123", "--parts", "*.attn2.*", "--out", "null"])
    assert (found.name, found.parts, found.out) == ("123", "*.attn2.*", None)
    assert read(recipe("parts: full\n"), ["--parts", '["*.attn1.*", xattn]']).parts == ["*.attn1.*", "xattn"]


def test_a_flag_takes_the_place_of_a_list_and_of_what_is_wrong_in_the_file(recipe):
    found = read(recipe("seed: x\nforget: {classes: [1, 2, 3]}\n"), ["--seed", "1", "--forget.classes", "[7]"])
    assert (found.seed, found.sections.forget.classes) == (1, [7])


def test_the_command_line_chooses_task_and_methods(recipe):
    path = recipe("methods: {finetune: {epochs: 1}, scrub: {}, careful: {method: sfron, alpha: 2}}\n")
    found = read(path, ["--method", "finetune", "--method=careful", "--method", "ssd", "--methods.ssd.lam", "0.5"])
    assert list(found.methods) == ["finetune", "careful", "ssd"]
    assert found.methods["finetune"].epochs == 1
    assert found.methods["careful"] == SFRon(alpha=2)
    assert found.methods["ssd"].lam == 0.5
    assert read(path, methods=["salun"]) == read(path, ["--method", "salun"])
    assert read(None, ["--task", "text-to-image"]) == read(None, task="text-to-image")
    other = read(path, ["--methods.careful.method", "ssd", "--methods", "{careful: {}}"])
    assert [method.name for method in other.methods.values()] == ["ssd"]


MINE = """
from dataclasses import dataclass
from typing import ClassVar
from untrain.methods.finetune import Finetune

@dataclass(frozen=True)
class Mine(Finetune):
    name: ClassVar[str] = "mine"
    title: ClassVar[str] = "of my own"
    speed: float = 2.0
    \"\"\"How fast.\"\"\"
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the person at the keyboard, in the working directory."""
    (tmp_path / "my_methods.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_methods:Mine"
    sys.modules.pop("my_methods", None)


def test_a_method_of_ones_own_comes_from_the_command_line(recipe, mine, tmp_path):
    found = read(recipe("methods: [sfron]\n"), ["--method", mine, "--methods.mine.speed", "3"])
    assert (found.methods["mine"].name, found.methods["mine"].speed) == ("mine", 3.0)
    assert list(recipe_fields(None, ["--method", mine]).kinds) == ["mine"]
    (tmp_path / "config.yaml").write_text(write(found))
    with pytest.raises(SettingError, match=r"config.yaml, line \d+: methods.mine.method names code.*--methods.mine.m"):
        read(tmp_path)
    assert read(tmp_path, found.granted).methods == found.methods
    assert read(tmp_path, ["--method", mine]).methods == found.methods


def test_a_task_of_ones_own_comes_from_the_command_line(recipe, tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(
        "from dataclasses import dataclass\n"
        "from untrain import Classification\n"
        "from untrain.domain import PlainDomain\n"
        "@dataclass(frozen=True)\n"
        "class Sections:\n"
        "    depth: int = 3\n"
        "class Mine(PlainDomain):\n"
        "    name, task_class, Sections, references = 'mine', Classification, Sections, 0\n"
        "class Taken(Mine):\n"
        "    name = 'classification'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = read(recipe("depth: 4\n"), ["--task", "my_tasks:Mine"])
    assert (found.task, found.sections.depth, found.references, found.domain.name) == ("mine", 4, 0, "mine")
    (tmp_path / "config.yaml").write_text(write(found))
    with pytest.raises(SettingError, match=r"line \d+: task names code.*--task my_tasks:Mine"):
        read(tmp_path)
    assert read(tmp_path, found.granted).sections == found.sections
    with pytest.raises(SettingError, match="calls itself 'classification'"):
        read(None, ["--task", "my_tasks:Taken"])
    sys.modules.pop("my_tasks")


@pytest.mark.parametrize(
    "text",
    [
        "task: os:system\n",
        "methods:\n  x: {method: os:system}\n",
        "methods: [os:system]\n",
        "methods:\n  os:system: {}\n",
        "model: {name: os:system, options: {command: ls}}\n",
        "task: class-diffusion\njudge: {name: os:system}\n",
    ],
)
def test_a_file_names_no_code(recipe, text):
    with pytest.raises(SettingError, match=r"recipe.yaml, line \d: .*os:system"):
        read(recipe(text))


def test_code_of_a_model_comes_from_the_command_line(recipe):
    found = read(recipe("methods: [sfron]\n"), ["--model.name", "my.models:make", "--method", "finetune"])
    assert found.sections.model.name == "my.models:make"
    assert found.granted == ["--model.name=my.models:make"]
    assert read(recipe("model: {name: hf:microsoft/resnet-50}\n")).granted == []


READ = """
import sys
from untrain.errors import SettingError
from untrain.runs.recipe import read
for flags in ([], ["--seed", "x"], ["--task", "text-to-image"], ["--method", "esd"], ["--methods.sfrn.alpha", "1"]):
    try:
        read(None, flags)
    except SettingError as error:
        print(error)
heavy = ("torch", "numpy", "scipy", "transformers", "diffusers", "rich", "matplotlib", "optuna", "docstring_parser")
print([name for name in heavy if name in sys.modules])
"""


def test_reading_and_failing_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True)
    *errors, imported = done.stdout.splitlines()
    assert len(errors) == 2
    assert imported == "[]"


# ── what is wrong ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "line", "culprit"),
    [
        ("seed: 1\nsed: 2\n", 2, r"'sed'.*'seed'\?.*batch_size"),
        ("data:\n  nam: x\n", 2, r"'data.nam'.*'data.name'\?"),
        ("train:\n  optimizer:\n    lrr: 1\n", 3, r"'train.optimizer.lrr'.*'train.optimizer.lr'\?"),
        ("methods:\n  sfron:\n    alhpa: 1\n", 3, r"'methods.sfron.alhpa'.*'methods.sfron.alpha'\?"),
        ("methods:\n  sfron:\n    calibration: {untl: 1}\n", 3, r"'methods.sfron.calibration.untl'"),
        ("train:\n  epochs: many\n", 2, r"train.epochs .*a number.*'many'"),
        ("train:\n  epochs: .inf\n", 2, r"train.epochs .*inf"),
        ("train:\n  epochs: true\n", 2, r"train.epochs .*True"),
        ("train:\n  optimizer:\n    lr: high\n", 3, r"train.optimizer.lr .*a number or null.*'high'"),
        ("train:\n  optimizer:\n    momentum: .nan\n", 3, r"train.optimizer.momentum .*nan"),
        ("batch_size: 2.5\n", 1, r"batch_size .*whole number.*2.5"),
        ('batch_size: "8"\n', 1, r"batch_size .*whole number.*'8'"),
        ("batch_size: 0\n", 1, r"batch_size .*from 1.*0"),
        ("workers: -1\n", 1, r"workers .*from 0.*-1"),
        ("seed: true\n", 1, r"seed .*whole number.*True"),
        ("seed: -9223372036854775809\n", 1, r"seed .*whole number"),
        ("compile: 1\n", 1, r"compile .*true or false.*1"),
        ("name: 3\n", 1, r"name .*text.*3"),
        ('name: "a\\0b"\n', 1, r"name .*NUL"),
        ("precision: fp8\n", 1, r"precision .*'no' or 'bf16' or 'fp16'.*'fp8'"),
        ("task: speech\n", 1, r"'speech'.*classification.*--task MODULE:CLASS"),
        ("task: 3\n", 1, r"task .*text.*3"),
        ("train: 3\n", 1, r"train .*steps, epochs.*3"),
        ("train: {optimizer: null}\n", 1, r"train.optimizer must not be null"),
        ("train:\n  optimizer: {name: lion}\n", 2, r"'lion'.*adam, adam8bit, adamw, adamw8bit, sgd"),
        ("forget: {classes: 3}\n", 1, r"forget.classes .*a list.*3"),
        ("forget:\n  fraction: 1.5\n", 2, r"forget.fraction .*above 0 and below 1.*1.5"),
        ("model: {options: 3}\n", 1, r"model.options .*a mapping.*3"),
        ("methods:\n  sfron:\n    gamma: -1\n", 3, r"gamma .*-1"),
        ("methods:\n  sfron:\n    objective: x\n", 3, r"methods.sfron.objective .*'adaptive' or.*'x'"),
        ("methods:\n  sfron: 3\n", 2, r"methods.sfron .*settings.*3"),
        ("methods: 3\n", 1, r"methods .*3"),
        ("methods:\n  retrained: {method: sfron}\n", 2, r"'retrained' cannot name a method"),
        (f"methods:\n  {'x' * 101}: {{method: sfron}}\n", 2, r"cannot name a method here: use at most 100 letters"),
        (f"methods:\n  {'名' * 67}: {{method: sfron}}\n", 2, r"cannot name a method"),
        (f"task: text-to-image\njudge: {{attributes: [{'x' * 300}]}}\n", 2, r"attributes name files .*at most 200"),
        ("task: text-to-image\njudge: {attributes: [a/b]}\n", 2, r"attributes name files .*'a/b'"),
        ("seed: 1\nseed: 2\n", 2, r"seed is given twice"),
        ("task: text-to-image\nconcepts:\n  forget:\n    - {prompt: a, containing: b}\n", 4, r"either prompt or cont"),
        ("task: text-to-image\nconcepts:\n  forget:\n    - {promt: a}\n", 4, r"'concepts.forget.0.promt'.*0.prompt'"),
        ("a: 1\ndata: &a {name: digits, path: *a}\n", 2, r"alias holds itself"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(recipe, text, line, culprit):
    with pytest.raises(SettingError, match=rf"(?m)^\S*recipe.yaml, line {line}: .*{culprit}"):
        read(recipe(text))


def test_all_that_is_wrong_is_found_at_the_first_reading(recipe):
    text = "seed: x\nmethods:\n  sfron: {alpha: y, lam: z}\ndata: {nam: w}\ncompare: {seeds: []}\n"
    with pytest.raises(SettingError) as caught:
        read(recipe(text))
    found = re.findall(r"recipe.yaml, line (\d): .*?(seed|alpha|lam|data.nam|compare.seeds)\b", str(caught.value))
    assert found == [("1", "seed"), ("3", "alpha"), ("3", "lam"), ("4", "data.nam"), ("5", "compare.seeds")]


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("concepts: {forget: [a cat]}\n", r"'concepts'.*task text-to-image.*task is classification"),
        ("judge: {name: x}\n", r"'judge'.*class-diffusion and text-to-image"),
        ("augment: {pad: 1}\ntask: class-diffusion\n", r"'augment.pad'.*task classification.*is class-diffusion"),
        ("judge: {mean: [0.5]}\ntask: class-diffusion\n", r"'judge.mean'.*task text-to-image"),
        ("task: text-to-image\nsvc_attacks: true\n", r"'svc_attacks'.*task classification"),
        ("task: text-to-image\nforget: {classes: [1]}\n", r"'forget'.*class-diffusion"),
    ],
)
def test_a_field_of_another_task_is_named_as_such(recipe, text, culprit):
    with pytest.raises(UnknownName, match=rf"recipe.yaml, line \d: .*{culprit}"):
        read(recipe(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n", "must hold fields"),
        ("", "must hold fields"),
        ("a: [\n", "is not YAML"),
        ("a: &a [*a]\n", "alias holds itself"),
        ("model: {options: " + "{a: " * 900 + "1" + "}" * 900 + "}\n", "nested"),
        ("model: {options: " + "{a: " * 30 + "1" + "}" * 30 + "}\n", "nested"),
        ("seed: " + "9" * 5000 + "\n", "5000 characters"),
        ("".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10 if i else 'x')}]\n" for i in range(9)), "aliases"),
    ],
    ids=["list", "empty", "broken", "recursive", "deep", "nested", "digits", "laughs"],
)
def test_a_file_that_is_no_recipe_is_an_error_in_words(recipe, text, reason):
    with pytest.raises(SettingError, match=rf"recipe.yaml.*{reason}"):
        read(recipe(text))


def test_an_unknown_method_lists_the_known(recipe):
    with pytest.raises(UnknownName, match=r"line 2: .*'sfrom'.*'sfron'\?.*finetune"):
        read(recipe("methods:\n  sfrom: {}\n"))


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        (["--sed", "1"], r"'--sed'.*'--seed'\?.*--batch_size"),
        (["--data.nam", "x"], r"'--data.nam'.*'--data.name'\?.*--data.path"),
        (["--data.name.x", "x"], r"'--data.name.x'.*--data.path"),
        (["--methods.sfrn.alpha", "2"], r"'--methods.sfrn.alpha'.*'--methods.sfron.alpha'\?"),
        (["--methods.sfron.alhpa", "2"], r"'--methods.sfron.alhpa'.*'--methods.sfron.alpha'\?"),
        (["--train.optimizer.lrr", "2"], r"'--train.optimizer.lrr'.*--train.optimizer.momentum"),
        (["--concepts.keep", "true"], r"'--concepts.keep'.*task text-to-image"),
        (["--train.epochs", "x"], r"--train.epochs .*a number.*'x'"),
        (["--train.optimizer.lr", "x"], r"--train.optimizer.lr .*a number or null.*'x'"),
        (["--train.optimizer.lr", "-1"], r"--train.optimizer.lr.*-1"),
        (["--forget.classes", "3"], r"--forget.classes .*a list.*3"),
        (["--seed"], r"--seed needs a value"),
        (["--seed", "--name", "x"], r"--seed needs a value"),
        (["--batch_size", "0"], r"--batch_size .*0"),
        (["--methods.sfron.gamma", "-1"], r"--methods.sfron.gamma.*-1"),
        (["--method", "sfrn"], r"'sfrn'.*'sfron'\?"),
        (["--task", "speech"], r"'speech'.*classification"),
        (["--method", "no_module_of_this_name:X"], r"no_module_of_this_name"),
        (["--method", "untrain.errors:Sfron"], r"untrain.errors.*'Sfron'"),
        (["--method", "untrain.errors:SettingError"], r"untrain.errors:SettingError .*Method"),
        (["stray"], r"'stray'"),
        (["--model.options", "&a {b: *a}"], r"alias holds itself"),
    ],
)
def test_what_is_wrong_with_a_flag_is_named_without_a_line(recipe, flags, culprit):
    with pytest.raises(SettingError, match=culprit) as caught:
        read(recipe("seed: 1\nbatch_size: 8\nmethods: {sfron: {gamma: 2}}\n"), flags)
    assert ", line " not in str(caught.value)


def test_a_recipe_that_is_missing_or_not_text(tmp_path):
    with pytest.raises(SettingError, match=r"none.yaml .*does not exist"):
        read(tmp_path / "none.yaml")
    with pytest.raises(SettingError, match=r"config.yaml does not exist"):
        read(tmp_path)
    with pytest.raises(SettingError, match=r"cannot be read"):
        read("a\0b.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="not UTF-8"):
        read(tmp_path / "binary.yaml")


def test_a_task_has_no_field_that_every_recipe_has(monkeypatch):
    @dataclass(frozen=True)
    class Sections:
        seed: int = 1

    monkeypatch.setattr(registry, "entry", lambda name: Entry("of a test", Sections, "nowhere:Nothing"))
    with pytest.raises(SettingError, match="seed"):
        read(None)


def test_a_broken_distribution_does_not_hide_what_is_wrong(recipe, monkeypatch):
    real = Plugins.load

    def load(self, name, *rest):
        if name == "text-to-image":
            raise SettingError("broken")
        return real(self, name, *rest)

    monkeypatch.setattr(Plugins, "load", load)
    registry._entry.cache_clear()
    with pytest.raises(UnknownName, match="'concepts'"):
        read(recipe("concepts: {}\n"))
    registry._entry.cache_clear()
