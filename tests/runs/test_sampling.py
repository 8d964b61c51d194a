"""`untrain sample`: which task a source, a flag or a run folder asks for, and the command's help and page."""

import json
import shutil

import pytest
import torch

from helpers.command_line import untrain
from helpers.documents import ROOT, commands
from helpers.small_pipelines import stable_diffusion
from helpers.tiny_recipes import RECIPE, save_dit, save_unet
from untrain.errors import CheckpointError, SettingError, UnknownName, UntrainError
from untrain.models.checkpoints import save
from untrain.models.classifiers import build
from untrain.runs.sampling import sample_command

QUICK = ("--steps", "3", "--device", "cpu")


def run(*words):
    return sample_command([str(word) for word in words])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A saved UNet and DiTPipeline of classes, a pipeline of texts, and run folders of both tasks."""
    place = tmp_path_factory.mktemp("models")
    save_unet(place / "unet")
    save_dit(place / "dit")
    stable_diffusion(place).to(torch.float32).save_pretrained(place / "sd")
    (place / "tiny.yaml").write_text(RECIPE)
    code, _, err = untrain("unlearn", place / "tiny.yaml", "--out", place / "class-run", "--evaluate_every", "0")
    assert code == 0, err
    recipe = {
        "task": "text-to-image",
        "model": {"checkpoint": str(place / "sd")},
        "methods": {"sfron": {}},
        "concepts": {"forget": [{"prompt": "a"}], "retain": [{"prompt": "b"}]},
    }
    (place / "text-run").mkdir()
    (place / "text-run/config.yaml").write_text(json.dumps(recipe))
    (place / "text-run/sfron").symlink_to(place / "sd")
    return place


@pytest.fixture
def table(tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt\na red circle\n")
    return tmp_path / "prompts.csv"


@pytest.mark.parametrize("source", ["unet", "dit", "class-run"])
def test_what_makes_images_of_classes_is_known(models, tmp_path, source):
    run(models / source, "--count", "1", "--out", tmp_path / "a.png", *QUICK)
    assert json.loads((tmp_path / "a.png.samples.json").read_text())["form"] == "grid"


@pytest.mark.parametrize("source", ["sd", "text-run"])
def test_what_makes_images_of_prompts_is_known(models, table, tmp_path, source):
    run(models / source, "--prompts", table, "--out", tmp_path / "set", *QUICK)
    assert json.loads((tmp_path / "set/samples.json").read_text())["form"] == "prompts"


def test_the_task_can_be_said(models, table, tmp_path):
    run(models / "sd", "--prompts", table, "--task", "text-to-image", "--out", tmp_path / "set", *QUICK)
    run(models / "unet", "--task=class-diffusion", "--count", "1", "--out", tmp_path / "a.png", *QUICK)
    assert (tmp_path / "a.png").exists() and (tmp_path / "set/0_0.png").exists()
    with pytest.raises(UnknownName, match="'speech'.*class-diffusion"):
        run(models / "unet", "--task", "speech", *QUICK)
    with pytest.raises(SettingError, match="classification"):
        run(models / "unet", "--task", "classification", *QUICK)


@pytest.mark.parametrize("source", ["unet", "dit", "class-run"])
def test_models_of_classes_know_no_prompts(models, table, tmp_path, source):
    with pytest.raises(UntrainError, match="prompts|Pipeline|pipeline"):
        run(models / source, "--prompts", table, "--out", tmp_path / "set", *QUICK)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("source", ["sd", "text-run"])
def test_models_of_prompts_know_no_classes(models, tmp_path, source):
    with pytest.raises(UntrainError, match="prompts|UNet2DConditionModel"):
        run(models / source, "--out", tmp_path / "a.png", *QUICK)
    assert not (tmp_path / "a.png").exists()


def test_a_classifiers_run_has_nothing_to_sample(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("task: classification\nmethods: {sfron: {}}\n")
    save(
        build("small-cnn", num_classes=4, in_channels=1, image_size=8).state_dict(),
        tmp_path / "run/sfron.safetensors",
        {},
    )
    with pytest.raises(SettingError, match="classification"):
        run(tmp_path / "run", *QUICK)


def test_folders_that_no_run_wrote(tmp_path):
    (tmp_path / "run").mkdir()
    for text in ("[", "- a", "task: class-diffusion\n"):
        (tmp_path / "run/config.yaml").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.yaml"):
            run(tmp_path / "run", *QUICK)


def test_a_source_is_needed():
    for words in ((), ("--count", "3")):
        with pytest.raises(SettingError, match="SOURCE"):
            run(*words)


# The page and the help.


@pytest.mark.parametrize("words", [w for w in commands(ROOT / "docs/sampling.md") if w[0] == "untrain"], ids=" ".join)
def test_commands_of_the_page_run(words, models, table, tmp_path, monkeypatch):
    """On small models in the place of the page's, in three steps."""
    monkeypatch.chdir(tmp_path)
    assert words[1] == "sample" and table == tmp_path / "prompts.csv"
    runs, saved = ("text-run", "sd") if "--prompts" in words else ("class-run", "dit")
    source = shutil.copytree(models / (runs if words[2].startswith("runs/") else saved), "source", symlinks=True)
    run(source, *words[3:], "--count", "1", *QUICK)
    assert [path for path in tmp_path.rglob("*samples.json") if path.is_file()]


def test_help_explains_every_flag(capsys):
    run("--help")
    text = capsys.readouterr().out
    for flag in (
        *("--model", "--classes", "--count", "--seed", "--steps", "--eta", "--spacing", "--guidance-scale"),
        *("--batch-size", "--form", "--out", "--device", "--precision"),
        *("--prompts", "--width", "--height", "--config"),
    ):
        assert f"\n  {flag} " in text, flag
    run("--task", "class-diffusion", "--help")
    text = capsys.readouterr().out
    assert "--classes" in text and "--prompts" not in text
