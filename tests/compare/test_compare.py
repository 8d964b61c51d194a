"""`untrain compare` from end to end: on digits, with models that are far too small and short to be good."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from helpers.command_line import files, untrain
from helpers.page_figures import drawn, figures_by
from helpers.unreliable import Unreliable
from untrain.compare import compare, compare_cell, compare_recipe
from untrain.compare.plan import comparison_recipe
from untrain.compare.pool import Command, Workers, follow
from untrain.compare.search import read_search
from untrain.errors import UntrainError
from untrain.methods.finetune import Finetune
from untrain.models.checkpoints import load_state
from untrain.runs.recipe import read, write

pytestmark = pytest.mark.usefixtures("quick_workers")

RECIPE = """\
name: tiny
data: {name: digits, limit: 500}
forget: {holdout: 0.15}
model: {name: small-cnn, options: {width: 4}}
train: {epochs: 4}
methods:
  finetune: {epochs: 1}
  sfron: {steps: 3, retain_steps: 2, fisher_samples: 100}
compare:
  seeds: [0, 1]
  trials: 3
  forget_sets:
    random: {fraction: 0.1}
    three:
      classes: ["3"]
batch_size: 64
checkpoint_every: 0
device: cpu
"""

MODELS = ["original", "retrained", "retrained-2", "finetune", "sfron"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """An uninterrupted comparison, and what was printed; for looking only."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with figures_by(drawn):
        code, out, err = untrain("compare", recipe, "--out", folder)
    assert code == 0, err
    return folder, out, err


@pytest.fixture
def no_page(monkeypatch):
    """The page is drawn elsewhere in these tests; it takes seconds."""
    monkeypatch.setattr(compare, "write_report", lambda results, presentation: results.folder / "report.html")


def content(folder):
    """comparison.json without seconds and the folder's name."""
    found = json.loads((folder / "comparison.json").read_text())
    found.pop("sha256")
    for one in found["forget_sets"].values():
        for model in one["models"].values():
            for name in ("seconds", "speedup"):
                model["measures"].pop(name)
        for search in one["tuning"].values():
            for trial in search["trials"]:
                trial.pop("seconds")
    found["settings"].pop("out")
    return found


def made(folder):
    """Every file of a comparison that costs something to make and is written once, and when that was."""
    paths = [*folder.rglob("*.safetensors"), *folder.rglob("evaluation.json")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


def trials(folder):
    """Every search's trials, with their seconds."""
    paths = folder.rglob("*.trials.json")
    return {str(path.relative_to(folder)): json.loads(path.read_text())["trials"] for path in paths}


def test_a_comparison_leaves_a_whole_folder(whole):
    folder, out, err = whole
    tables = [f"comparison.{suffix}" for suffix in ("csv", "json", "md", "tex", "txt")]
    assert files(folder) == ["cells", *tables, "config.yaml", "manifest.json", "report.html", "tuning"]
    for group in ("random/seed-0", "random/seed-1", "three/seed-0", "three/seed-1"):
        there = files(folder / "cells" / group)
        assert {f"{model}.safetensors" for model in MODELS} <= set(there)
        assert {"config.yaml", "evaluation.json", "manifest.json", "split.json"} <= set(there)
        assert not [name for name in there if "failed" in name or "resume" in name or name.startswith(".")]
    code, _, wrong = untrain("evaluate", folder / "cells/three/seed-1")
    assert code == 0, f"each is an ordinary run folder: {wrong}"
    assert "SFR-on" in out
    assert "report: " in out
    assert "references: 2" in err, "one would show no noise floor"
    assert read(folder) == replace(comparison_recipe(read(folder)), out=str(folder))


def test_the_content_is_what_the_evaluations_say(whole):
    folder, found = whole[0], json.loads((whole[0] / "comparison.json").read_text())
    assert found["seeds"] == [0, 1]
    assert list(found["forget_sets"]) == ["random", "three"]
    one = found["forget_sets"]["random"]
    assert one["spec"] == {"fraction": 0.1}
    assert set(one["sizes"]) == {"forget", "retain", "holdout", "test"}
    assert list(one["models"]) == MODELS
    assert [m["role"] for m in one["models"].values()] == ["original", "target", "reference", "method", "method"]
    cells = [json.loads((folder / f"cells/random/seed-{seed}/evaluation.json").read_text()) for seed in (0, 1)]
    for model, entry in one["models"].items():
        assert [cell["state"] for cell in entry["cells"]] == ["done", "done"]
        for measure in ("FA", "RA", "TA", "MIA", "KL", "AvgD", "ToW", "seconds"):
            assert entry["measures"][measure]["values"] == [cell["models"][model][measure] for cell in cells]
        assert sum(entry["losses"]["forget"]) == 2 * one["sizes"]["forget"]
    floor = [cell["models"]["retrained-2"]["AvgD"] for cell in cells]
    assert one["noise_floor"]["AvgD"]["values"] == floor
    target = [cell["models"]["retrained"] for cell in cells]
    sfron = one["models"]["sfron"]["measures"]
    gaps = [cell["models"]["sfron"]["FA"] - goal["FA"] for cell, goal in zip(cells, target, strict=True)]
    assert sfron["FA"]["difference"] == pytest.approx(sum(gaps) / 2)
    times = [goal["seconds"] / cell["models"]["sfron"]["seconds"] for cell, goal in zip(cells, target, strict=True)]
    assert sfron["speedup"]["values"] == pytest.approx(times)
    assert {entry["rank"]["AvgD"]["rank"] for entry in one["models"].values() if entry["role"] == "method"} <= {1, 2}


def test_an_original_is_trained_once_for_all_forget_sets(whole):
    for seed in ("cells/{}/seed-0", "cells/{}/seed-1", "tuning/{}"):
        names = [whole[0] / seed.format(name) / "original.safetensors" for name in ("random", "three")]
        assert names[0].read_bytes() == names[1].read_bytes()
        assert names[0].stat().st_ino == names[1].stat().st_ino
    assert "three/seed-0/original" in whole[2]


def test_every_method_is_searched_with_as_many_trials_and_the_best_settings_are_used(whole):
    folder = whole[0]
    for name in ("random", "three"):
        for entry in ("finetune", "sfron"):
            found = read_search(folder / "tuning" / name, entry)
            values = [trial["criterion"] for trial in found["trials"]]
            assert len(values) == 3
            assert values[found["best"]] == min(values)
            chosen = found["trials"][found["best"]]["settings"]["optimizer.lr"]
            for seed in (0, 1):
                models = json.loads((folder / f"cells/{name}/seed-{seed}/manifest.json").read_text())["models"]
                assert models[entry]["settings"]["optimizer"]["lr"] == chosen
    split = json.loads((folder / "tuning/random/split.json").read_text())
    runs = [json.loads((folder / f"cells/random/seed-{seed}/split.json").read_text()) for seed in (0, 1)]
    assert all(split["forget"] != run["forget"] for run in runs), "the search has a split of its own"
    everything = sum(len(runs[0][part]) for part in ("forget", "retain", "holdout"))
    assert len(split["holdout"]) == len(runs[0]["holdout"]) + everything // 5, "a fifth more, to judge by"


def test_nothing_finished_is_run_again(whole, monkeypatch, no_page):
    folder, before, told = whole[0], made(whole[0]), content(whole[0])
    monkeypatch.setattr(Workers, "begin", None)  # what would run a cell
    code, _, err = untrain("compare", folder, "--resume")
    assert code == 0, err
    assert made(folder) == before
    assert content(folder) == told
    (folder / "report.html").unlink()
    assert untrain("report", folder)[0] == 0
    assert (folder / "report.html").exists()


def test_what_is_wrong_is_said_before_anything_is_run(whole, recipe, tmp_path):
    cases = {
        "already holds a run. Go on with it with --resume": ["compare", recipe, "--out", whole[0]],
        "of another recipe: compare.trials differs": ["compare", whole[0], "--resume", "--compare.trials", "4"],
        r"finetune.trials.json holds a search over other data": [
            "compare", whole[0], "--resume", "--methods.finetune.epochs", "2",
        ],
        "--jobs must be a whole number from 1, not '0'": ["compare", recipe, "--out", tmp_path / "x", "--jobs", "0"],
        "--cluster needs a value": ["compare", recipe, "--out", tmp_path / "x", "--cluster"],
        "--jobs is for this machine": ["compare", recipe, "--out", tmp_path / "x", "--jobs=2", "--cluster=tcp://a:1"],
        "unknown class '77'": [
            "compare", recipe, "--out", tmp_path / "x", "--compare.forget_sets", "{a: {classes: [77]}}",
        ],
        "unknown cell 'random/seed-0/sfro'. Did you mean": ["compare", whole[0], "--cell", "random/seed-0/sfro"],
        "the cell random/seed-0/original must run first": [
            "compare", recipe, "--out", tmp_path / "y", "--compare.trials", "0", "--cell", "random/seed-0/sfron",
        ],
    }  # fmt: skip
    before = made(whole[0])
    for message, words in cases.items():
        code, _, err = untrain(*words)
        assert code == 1, words
        assert message in err
    assert files(tmp_path / "x") == []
    assert made(whole[0]) == before


def test_a_search_without_optuna_says_what_to_install(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = untrain("compare", recipe, "--out", tmp_path / "run")
    assert code == 1
    assert "pip install 'untrain[compare]'" in err
    assert files(tmp_path / "run") == []


KILLED_AT = {"2": "tuning/random/sfron.trials.json", "1": "cells/random/seed-0/sfron.safetensors"}
"""Number of jobs → which file was there when the comparison was killed."""
PART = ["--compare.seeds", "[0]", "--compare.tuning_seed", "2", "--compare.forget_sets", "{random: {fraction: 0.1}}"]


def test_killed_twice_and_started_again_it_says_the_same(whole, recipe, tmp_path, no_page):
    folder, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    shutil.copytree(whole[0], uninterrupted)
    assert untrain("compare", uninterrupted, "--resume", *PART)[0] == 0
    words = [sys.executable, "-m", "untrain", "compare", recipe, "--out", folder, "--resume", *PART, "--jobs"]
    for jobs, name in KILLED_AT.items():
        with subprocess.Popen(
            [*map(str, words), jobs], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            end = time.monotonic() + 90
            while not (folder / name).exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.002)
            below = psutil.Process(process.pid).children(recursive=True)
            process.kill()
        assert process.returncode == -9, f"{name}: over before it was killed"
        assert len(below) >= 2
        assert not psutil.wait_procs(below, timeout=10)[1], "its workers end with it"
    kept, searched = made(folder), trials(folder)
    code, _, err = untrain("compare", folder, "--resume")
    assert code == 0, err
    assert {name: stamp for name, stamp in made(folder).items() if name in kept} == kept, "nothing is made twice"
    assert all(trials(folder)[name][: len(before)] == before for name, before in searched.items())
    assert content(folder) == content(uninterrupted)
    models = [*folder.rglob("*.safetensors")]
    assert len(models) == 1 + len(MODELS) + 1  # the search's original, and a mask
    for model in models:
        expected, found = load_file(uninterrupted / model.relative_to(folder)), load_file(model)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_failed_cells_are_reported_and_tried_again(recipe, tmp_path, no_page):
    repaired = tmp_path / "repaired"
    small = read(recipe, ["--compare.trials", "0", "--compare.seeds", "[0]", "--out", str(tmp_path / "run")])
    small = replace(
        small,
        methods={
            "raises": Unreliable(epochs=1, repaired=str(repaired)),
            "dies": Unreliable(epochs=1, repaired=str(repaired), failure="die"),
            "works": Finetune(epochs=1),
        },
        compare=replace(small.compare, forget_sets={"random": {"fraction": 0.1}}),
    )
    folder = small.folder
    with pytest.raises(
        UntrainError, match=r"2 of 7 cells failed: .*random/seed-0/raises.*ZeroDivisionError|process died"
    ):
        compare_recipe(small)
    failure = json.loads((folder / "cells/random/seed-0/raises.failed.json").read_text())
    assert failure["error"] == "ZeroDivisionError: of something"
    assert "Traceback" in failure["traceback"]
    assert "died" in json.loads((folder / "cells/random/seed-0/dies.failed.json").read_text())["error"]
    models = json.loads((folder / "comparison.json").read_text())["forget_sets"]["random"]["models"]
    assert [models[name]["cells"][0]["state"] for name in ("raises", "dies", "works")] == ["failed", "failed", "done"]
    assert models["raises"]["measures"] == {}
    assert models["raises"]["rank"]["AvgD"] is None
    assert models["works"]["rank"]["AvgD"] == {"rank": 1, "tied": False}
    assert models["works"]["measures"]["AvgD"]["n"] == 1
    before = made(folder)
    repaired.touch()
    compare_recipe(small, resume=True)
    again = {name for name, stamp in made(folder).items() if before.get(name) != stamp}
    assert again == {
        f"cells/random/seed-0/{name}" for name in ("raises.safetensors", "dies.safetensors", "evaluation.json")
    }
    assert not [*folder.rglob("*.failed.json")]


def missing_a_method(whole, folder):
    """A copy of the finished comparison that lacks one method's model."""
    shutil.copytree(whole[0], folder)
    for path in folder.rglob("seed-1/finetune.safetensors"):
        if "random" in str(path):
            path.unlink()
    return folder


def test_a_cluster_takes_the_cells(whole, tmp_path, no_page):
    from distributed import LocalCluster

    folder = missing_a_method(whole, tmp_path / "run")
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        code, _, err = untrain("compare", folder, "--resume", "--cluster", cluster.scheduler_address)
    assert code == 0, err
    assert "random/seed-1/finetune: " in err
    assert content(folder) == content(whole[0])


def test_a_cell_can_be_several_processes(recipe, tmp_path, monkeypatch):
    """Tolerance 1e-4 of the largest weight: float32, sums in another order. The network has no batch statistics."""
    (tmp_path / "networks.py").write_text(
        "from torch import nn\n"
        "def plain(num_classes, in_channels, image_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, 16), nn.ReLU(), nn.Linear(16, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    states = []
    for processes in (1, 2):
        folder = tmp_path / f"run{processes}"
        text = RECIPE.replace("model: {name: small-cnn, options: {width: 4}}\n", "")
        (tmp_path / "plain.yaml").write_text(text.replace("trials: 3", "trials: 0"))
        flags = ["--model.name", "networks:plain", "--out", str(folder)]
        small = comparison_recipe(read(tmp_path / "plain.yaml", flags))
        if processes == 1:
            compare_cell(small, "random/seed-0/original")
        else:
            folder.mkdir()
            (folder / "config.yaml").write_text(write(small))
            outcome = follow(
                Command(str(folder), str(tmp_path), processes, 1, tuple(small.granted)), "random/seed-0/original"
            )
            assert outcome.state == "done", outcome.traceback
        states.append(load_state(folder / "cells/random/seed-0/original.safetensors"))
    assert states[0][1]["fingerprint"] != states[1][1]["fingerprint"], "it is known in how many it was made"
    for name, tensor in states[0][0].items():
        assert (states[1][0][name] - tensor).abs().max() <= 1e-4 * tensor.abs().max()
