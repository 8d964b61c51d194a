"""A recipe's stages, where the command line's tests do not look."""

import html
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.command_line import RECIPE, files, untrain
from untrain.data import request
from untrain.data.sameness import Known
from untrain.errors import FolderError
from untrain.models.checkpoints import load_state
from untrain.runs import stages
from untrain.runs.recipe import read


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.replace("epochs: 2", "steps: 6"))
    return path


def opened(recipe, folder, *flags, **options):
    return stages.open_experiment(read(recipe, ["--out", str(folder), *flags]), **options)


def test_the_sets_are_apart_and_the_original_sees_two_of_them(recipe, tmp_path):
    run = opened(recipe, tmp_path / "run")
    sets = {name: run.domain.stream(run.division, name) for name in ("forget", "retain", "holdout", "train", "test")}
    for a, b in (("forget", "retain"), ("forget", "holdout"), ("train", "holdout"), ("retain", "test")):
        Known.of(sets[a].data).check_apart(Known.of(sets[b].data))
    assert len(sets["train"]) == len(sets["forget"]) + len(sets["retain"])
    assert len(sets["train"]) + len(sets["holdout"]) == len(run.domain.source) == 1437


def test_every_seed_of_a_recipe_is_another_split_and_another_model(recipe, tmp_path):
    runs = [opened(recipe, tmp_path / f"run{seed}", "--seed", seed) for seed in ("1", "2")]
    assert runs[0].division.split.hash != runs[1].division.split.hash
    ends = [stages.prepare_original(run).state_dict()["conv1.weight"] for run in runs]
    assert not torch.equal(*ends)
    kept = [opened(recipe, tmp_path / f"fixed{seed}", "--seed", seed, "--forget.seed", "7") for seed in ("1", "2")]
    assert kept[0].division.split.hash == kept[1].division.split.hash


def test_further_references_have_seeds_of_their_own_and_show_the_noise_floor(recipe, tmp_path):
    folder = tmp_path / "run"
    stages.train_recipe(read(recipe, ["--out", str(folder), "--references", "2"]))
    first, second = (load_state(folder / f"{name}.safetensors")[0] for name in ("retrained", "retrained-2"))
    assert not torch.equal(first["conv1.weight"], second["conv1.weight"])
    assert untrain("evaluate", folder)[0] == 0
    content = json.loads((folder / "evaluation.json").read_text())
    assert list(content["models"]) == ["original", "retrained", "retrained-2"]
    assert content["noise_floor"]["AvgD"] == pytest.approx(content["models"]["retrained-2"]["AvgD"])


def test_evaluation_during_a_run_is_logged_and_changes_no_number(recipe, tmp_path):
    ends = []
    for every in ("0", "3"):
        folder = tmp_path / every
        stages.train_recipe(read(recipe, ["--out", str(folder), "--evaluate_every", every, "--references", "0"]))
        ends.append(load_state(folder / "original.safetensors")[0])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [record["step"] for record in history if {"FA", "RA", "TA"} <= record.keys()] == [2, 5]


def test_a_model_of_an_earlier_run_tells_its_learning_rate(recipe, tmp_path):
    stages.train_recipe(
        read(recipe, ["--out", str(tmp_path / "a"), "--references", "0", "--train.optimizer.lr", "0.03125"])
    )
    checkpoint = ["--model.checkpoint", str(tmp_path / "a" / "original.safetensors")]
    run = opened(recipe, tmp_path / "b", *checkpoint)
    stages.prepare_original(run)
    assert stages.peak_lr(run) == 0.03125
    assert any("0.03125" in note for note in run.folder.facts["original"]["notes"])


def test_a_reference_can_be_made_before_the_original_is_looked_at(recipe, tmp_path):
    """As a comparison does it, whose cells are processes of their own."""
    stages.prepare_original(opened(recipe, tmp_path / "a"))
    run = opened(recipe, tmp_path / "b", "--model.checkpoint", str(tmp_path / "a" / "original.safetensors"))
    made = stages.train_references(run)
    assert [*made] == stages.reference_names(run.recipe)
    assert run.folder.facts["retrained"]["peak_lr"] is None


def test_a_folder_is_looked_at_before_data_are_loaded_and_made_after_all_is_well(recipe, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    opened(recipe, folder)
    assert files(folder) == ["config.yaml", "split.json"]
    (folder / "original.safetensors").write_bytes(b"")
    monkeypatch.setattr(request, "load", None)  # what would load data
    with pytest.raises(FolderError, match="already holds a run"):
        opened(recipe, folder)
    with pytest.raises(FolderError, match=r"another recipe: seed, data.limit differ"):
        opened(recipe, folder, "--seed", "9", "--data.limit", "50", resume=True)


@pytest.mark.filterwarnings("default")
def test_equal_records_are_said_in_a_line(recipe, tmp_path):
    import numpy as np

    g = np.random.default_rng(0)
    x, y = g.integers(0, 255, (60, 8, 8), np.uint8), np.arange(60) % 3
    x[5] = x[6]
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    (tmp_path / "forget.txt").write_text("5\n9\n")
    words = ["--data.name", "arrays", "--data.path", tmp_path / "mine.npz", "--forget.fraction", "null"]
    words += ["--forget.indices", tmp_path / "forget.txt", "--forget.holdout", "0", "--out", tmp_path / "run"]
    code, _, err = untrain("unlearn", recipe, *words)
    assert code == 0, err
    line = next(line for line in err.splitlines() if "warning" in line)
    assert line.startswith("untrain: warning: 1 samples of the forget set are equal to samples of the retain set")


def test_what_casts_doubt_is_in_log_manifest_evaluation_and_report(recipe, tmp_path):
    """A reference trained for one step beside an original trained for 150, and a method that takes one step."""
    long, folder = tmp_path / "long", tmp_path / "run"
    stages.train_recipe(read(recipe, ["--out", str(long), "--references", "0", "--train.steps", "150"]))
    checkpoint = ["--model.checkpoint", str(long / "original.safetensors"), "--forget.holdout_from", "train"]
    short = ["--train.steps", "1", "--methods.sfron.steps", "1", "--method", "sfron"]
    code, _, log = untrain("run", recipe, "--out", folder, *checkpoint, *short)
    assert code == 0, log
    evaluation, manifest = (json.loads((folder / f"{n}.json").read_text()) for n in ("evaluation", "manifest"))
    (weak,), missed = evaluation["warnings"], evaluation["models"]["sfron"]["warnings"]
    assert weak.startswith("the retrained model is weak:")
    assert missed == manifest["models"]["sfron"]["warnings"]
    assert missed
    assert manifest["warnings"] == [weak]
    assert set(missed) <= set(manifest["models"]["sfron"]["notes"])
    assert all(f"untrain: warning: {text}" in log for text in (weak, *missed))
    page = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    assert all(text[1:] in page.replace("\u00a0", " ") for text in (weak, *missed))
    assert "the retrained model is weak</p>" in page  # in the headline


def test_what_is_left_out_of_the_data_is_said_once_and_stands_in_the_manifest(recipe, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{'.' * (i == 0)}{i}.png")
    data = f"data: {{name: folder, path: {tmp_path / 'photos'}, test_fraction: 0.3}}"
    recipe.write_text(recipe.read_text().replace("data: {name: digits}", data))
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a user's process
        code, _, err = untrain("train", recipe, "--out", tmp_path / "run")
    assert code == 0 and err.count("left out of the samples") == 1, err
    (note,) = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["notes"]
    assert "2 hidden" in note and "cat/.0.png" in note
