"""A task and a method in a module of one's own: named on the command line, and there alone."""

import json
import sys

import pytest
import yaml

from helpers.command_line import RECIPE as RECIPE_OF_IMAGES
from helpers.command_line import files, untrain
from helpers.foreign_code import change, plant
from helpers.own_task import METHOD, MODULE, RECIPE, TASK, TEXT
from untrain.compare import compare


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A working directory with the module and a recipe in it; the module is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("here")
    (folder / f"{MODULE}.py").write_text(TEXT)
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        yield folder
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def finished(here):
    """A finished run of the task; for looking only."""
    code, _, err = untrain("run", "recipe.yaml", "--task", TASK, "--out", "run")
    assert code == 0, err
    return here / "run"


def test_a_task_of_ones_own_runs(finished):
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert set(evaluation["models"]) == {"original", "retrained", "finetune"}
    assert all(entry["forget_loss"] >= 0 for entry in evaluation["models"].values())
    assert evaluation["task"] == "regression"
    assert yaml.safe_load((finished / "config.yaml").read_text())["width"] == 6
    assert (finished / "report.html").exists()


def test_its_run_goes_on_for_whoever_names_it_again(finished):
    made = {path.name: path.read_bytes() for path in finished.glob("*.safetensors")}
    for source in (finished, "recipe.yaml"):
        code, _, err = untrain("run", source, "--out", finished, "--task", TASK, "--resume")
        assert code == 0, err
    assert {path.name: path.read_bytes() for path in finished.glob("*.safetensors")} == made
    code, _, err = untrain("evaluate", finished, f"--task={TASK}")
    assert code == 0, err


@pytest.mark.parametrize("words", [["run", "--resume"], ["evaluate"], ["unlearn"], ["compare"]])
def test_its_folder_names_no_code_by_itself(finished, words, monkeypatch):
    monkeypatch.delitem(sys.modules, MODULE)
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    code, _, err = untrain(words[0], finished, *words[1:])
    assert code == 1
    assert f"--task {TASK}" in err
    assert MODULE not in sys.modules
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_its_report_is_made_again_for_whoever_names_it(finished, monkeypatch):
    page = finished / "report.html"
    page.unlink()
    code, _, err = untrain("report", finished)
    assert code == 1
    assert "'regression'" in err
    assert "--task" in err
    assert not page.exists()
    code, out, err = untrain("report", finished, "--task", TASK)
    assert code == 0, err
    assert str(page) in out
    assert page.exists()


def test_a_report_imports_nothing_that_a_folder_names(finished, tmp_path, monkeypatch):
    (tmp_path / "unwanted.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    evaluation = json.loads((finished / "evaluation.json").read_text())
    (tmp_path / "run").mkdir()
    del evaluation["sha256"]  # whoever writes a task into it leaves out the hash
    (tmp_path / "run/evaluation.json").write_text(json.dumps(evaluation | {"task": "unwanted:Domain"}))
    code, _, err = untrain("report", tmp_path / "run")
    assert code == 1
    assert "unwanted:Domain" in err
    assert "unwanted" not in sys.modules


def test_samples_of_a_folder_import_nothing_that_it_names(finished, monkeypatch):
    monkeypatch.delitem(sys.modules, MODULE)
    code, _, err = untrain("sample", finished)
    assert code == 1
    assert f"--task {TASK}" in err
    assert MODULE not in sys.modules
    code, _, err = untrain("sample", finished, "--task", TASK)
    assert code == 1
    assert "nothing to sample" in err


def test_a_method_of_ones_own_takes_the_place_of_the_recipes(here):
    words = ["--task", TASK, "--method", METHOD, "--methods.pause.steps", "3", "--references", "0", "--out", "short"]
    code, _, err = untrain("run", "recipe.yaml", *words)
    assert code == 0, err
    manifest = json.loads((here / "short/manifest.json").read_text())
    assert set(manifest["models"]) == {"original", "pause"}
    assert manifest["models"]["pause"]["settings"]["steps"] == 3
    code, _, err = untrain("evaluate", "short", "--task", TASK)
    assert code == 1
    assert f"--methods.pause.method {METHOD}" in err
    code, _, err = untrain("evaluate", "short", "--task", TASK, "--methods.pause.method", METHOD)
    assert code == 0, err


def test_the_help_has_the_fields_of_ones_own(here):
    code, out, err = untrain("run", "--task", TASK, "--method", METHOD, "--help")
    assert code == 0, err
    for flag in ("--width", "--forget.fraction", "--methods.pause.steps"):
        assert f"{flag} " in out
    assert "--data.name" not in out
    assert "Hidden units." in out


def test_a_comparison_of_ones_own_task(here):
    """Its cells run in worker processes, which are told of the code."""
    words = ["--task", TASK, "--compare.seeds", "[0]", "--out", "compared"]
    code, _, err = untrain("compare", "recipe.yaml", *words)
    assert code == 0, err
    assert json.loads((here / "compared/comparison.json").read_text())["task"] == "regression"
    cell = here / "compared/cells/random-10/seed-0"
    assert "finetune.safetensors" in files(cell)
    (cell / "finetune.safetensors").unlink()
    code, _, err = untrain("compare", "compared", "--task", TASK, "--cell", "random-10/seed-0/finetune")
    assert code == 0, err
    assert "finetune.safetensors" in files(cell)


def test_a_cell_that_is_a_command_is_told_of_the_code(here, monkeypatch):
    class Begun(Exception):
        pass

    def begin(cells, pool, *rest):
        raise Begun(pool.command.words("random-10/seed-0/finetune"))

    monkeypatch.setattr(compare, "run_cells", begin)
    with pytest.raises(Begun) as caught:
        untrain("compare", "recipe.yaml", "--task", TASK, "--out", "in-processes", "--processes", "2", "--debug")
    assert f"--task={TASK}" in caught.value.args[0]


# ── code of a model's folder: nobody can name it ──


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A folder of transformers with a class of its own, and the mark that this would leave; a recipe that takes it."""
    from transformers import ViTConfig

    folder = tmp_path_factory.mktemp("stranger")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **size).save_pretrained(folder / "plain")
    ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **size).save_pretrained(folder / "own")
    kinds = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}
    change(folder / "own" / "config.json", model_type="evil", auto_map=kinds)
    return folder


@pytest.mark.parametrize("place", ["plain", "own"])
@pytest.mark.parametrize("by", ["recipe", "flags"])
@pytest.mark.parametrize("allowed", [[], ["--allow-code"]], ids=["", "allowed"])
def test_code_of_a_models_folder_runs_for_nobody(stranger, tmp_path, place, by, allowed):
    """Not even with --allow-code: that is for code which the recipe names as MODULE:NAME."""
    mark = plant(stranger / place / "evil.py")
    model = {"name": f"hf-config:{stranger / place}", "options": {"trust_remote_code": True}}
    recipe = yaml.safe_load(RECIPE_OF_IMAGES) | ({"model": model} if by == "recipe" else {})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    flags = ["--model.name", model["name"], "--model.options", "{trust_remote_code: true}"] if by == "flags" else []
    code, _, err = untrain("run", tmp_path / "recipe.yaml", *flags, *allowed, "--out", tmp_path / "run")
    assert code == 1
    assert ("trust_remote_code" if place == "plain" else "auto_map") in err
    assert not mark.exists()


def test_an_option_that_a_recipe_gives_by_itself_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE_OF_IMAGES)
    words = ["--model.options", "{num_classes: 3}", "--out", tmp_path / "run"]
    code, _, err = untrain("run", tmp_path / "recipe.yaml", *words)
    assert code == 1
    assert "num_classes follows from" in err
