"""A task and a method in a module of one's own: named on the command line, and there alone."""

import json
import sys

import pytest
import yaml

from helpers.command_line import files, untrain
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
