"""Samples of text-to-image pipelines: the prompts of a table, a run's models, and what is refused."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import untrain.io
from helpers.command_line import files
from helpers.command_line import untrain as command
from helpers.small_pipelines import TEXTS, stable_diffusion
from untrain import Concept, ConceptImages, Sampler, unlearn
from untrain.diffusion.pipelines import load_pipeline
from untrain.errors import CheckpointError, DataError, SettingError, UnknownName
from untrain.runs.sampling import sample_command

QUICK = ("--steps", "3", "--device", "cpu")


def run(*words: object) -> Path | None:
    return sample_command([str(word) for word in words])


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionPipeline of single letters, in float32: images of 16×16, a window of 24 tokens."""
    pipeline = stable_diffusion(tmp_path_factory.mktemp("tokenizer"))
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.float()
    folder = tmp_path_factory.mktemp("models") / "small-sd"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text(
        f'\ufeffprompt,case_number,evaluation_seed,evaluation_guidance,,\n"{TEXTS[0]}",7,123,3.0,,\n{TEXTS[1]},9,,,,\n',
        encoding="utf-8",
    )
    return path


def test_prompts_of_a_table(sd: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table's seed and guidance are diffusers' own; the other prompt has what the flags say."""
    words = (sd, "--prompts", table, "--guidance-scale", "5", "--count", "2", "--out", tmp_path / "set", *QUICK)
    assert run(*words) == tmp_path / "set"
    assert capsys.readouterr().out == f"{tmp_path}/set: 4 images made.\n"
    assert files(tmp_path / "set") == ["7_0.png", "7_1.png", "9_0.png", "9_1.png", "samples.json"]
    record = json.loads((tmp_path / "set/samples.json").read_text())
    assert record["sampler"] == {"steps": 3, "guidance_scale": 5.0, "width": None, "height": None, "seed": 0}
    image = made(load_pipeline(sd), TEXTS[0], 123, 3.0)
    assert np.abs(pixels(tmp_path / "set/7_0.png") - image).max() <= 1
    run(*words, "--batch-size", "1")
    assert capsys.readouterr().out == f"{tmp_path}/set: 0 images made, 4 were there.\n"


def made(pipeline: Any, text: str, seed: int, scale: float, steps: int = 3) -> np.ndarray:
    """What diffusers makes of a seed."""
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": steps, "guidance_scale": scale, "generator": torch.Generator().manual_seed(seed)}
    return np.asarray(pipeline(text, **how).images[0]).astype(int)


def test_prompts_without_out_and_of_another_size(
    sd: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(sd, "--prompts", table, "--width", "24", "--height", "32", *QUICK)
    assert pixels("samples/small-sd/9_0.png").shape == (32, 24, 3)


def test_seeds_of_prompts(sd: Path, table: Path, tmp_path: Path) -> None:
    """The table's seed stays; the other prompt's follows the flag."""
    for seed in (0, 1):
        run(sd, "--prompts", table, "--seed", seed, "--out", tmp_path / str(seed), *QUICK)
    same, other = (pixels(tmp_path / "0" / name) - pixels(tmp_path / "1" / name) for name in ("7_0.png", "9_0.png"))
    assert not same.any() and np.abs(other).max() > 5


def test_a_disk_that_fills(sd: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is whole stays, nothing half is left, the exit code says so, and the same command goes on."""
    sync, done = os.fsync, []

    def full(handle: int) -> None:
        done.append(handle)
        if len(done) == 4:  # the record, two images
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    words = ("sample", sd, "--prompts", table, "--count", 2, "--batch-size", 3, "--out", tmp_path / "set", *QUICK)
    monkeypatch.setattr(untrain.io.os, "fsync", full)
    code, out, err = command(*words)
    monkeypatch.undo()
    assert (code, out) == (1, "")
    assert "9_0.png" in err and "No space left on device" in err
    assert files(tmp_path / "set") == ["7_0.png", "7_1.png", "samples.json"]
    code, out, err = command(*words)
    assert code == 0 and out.endswith("set: 2 images made, 2 were there.\n")


@pytest.mark.filterwarnings("default:.*longer than the text encoder")
def test_long_prompts_are_said_on_the_command_line(sd: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("prompt\na cat\n" + "a red circle " * 3 + "\n")
    code, _, err = command("sample", sd, "--prompts", path, "--out", tmp_path / "set", *QUICK)
    assert code == 0
    assert "warning: 1 of 2 prompts" in err and "case 1, line 3: 32 tokens" in err


# Models of run folders.


@pytest.fixture
def text_run(sd: Path, tmp_path: Path) -> Path:
    """The folder of a run of task text-to-image, as far as this command looks at it."""
    folder = tmp_path / "text-run"
    folder.mkdir()
    recipe = {
        "name": "text-run",
        "task": "text-to-image",
        "model": {"checkpoint": str(sd)},
        "methods": {"sfron": {}, "esd": {}},
        "concepts": {"forget": [{"prompt": TEXTS[0]}], "retain": [{"prompt": TEXTS[1]}]},
        "generation": {"sampler": {"steps": 4, "guidance_scale": 2.5}},
    }
    (folder / "config.yaml").write_text(json.dumps(recipe))
    (folder / "sfron").symlink_to(sd)
    return folder


def test_prompts_of_a_run(text_run: Path, table: Path) -> None:
    """As the run samples: its steps and its guidance scale, where the flags say nothing."""
    run(text_run, "--prompts", table, "--device", "cpu")
    record = json.loads((text_run / "samples/sfron/samples.json").read_text())
    assert (record["sampler"]["steps"], record["sampler"]["guidance_scale"]) == (4, 2.5)
    run(text_run, "--prompts", table, "--model", "original", "--guidance-scale", "1.5", *QUICK)
    assert files(text_run / "samples/original") == ["7_0.png", "9_0.png", "samples.json"]
    record = json.loads((text_run / "samples/original/samples.json").read_text())
    assert (record["sampler"]["steps"], record["sampler"]["guidance_scale"]) == (3, 1.5)
    with pytest.raises(UnknownName, match="'esd'.*original, sfron"):
        run(text_run, "--prompts", table, "--model", "esd", *QUICK)
    with pytest.raises(SettingError, match="--prompts"):
        run(text_run, *QUICK)


def test_a_run_of_several_methods_needs_a_name(text_run: Path, sd: Path, table: Path) -> None:
    (text_run / "esd").symlink_to(sd)
    with pytest.raises(SettingError, match=r"sfron, esd.*--model"):
        run(text_run, "--prompts", table, *QUICK)


def test_a_pipeline_unlearned_in_python_is_sampled_from_its_folder(sd: Path, table: Path, tmp_path: Path) -> None:
    """The same images as of the pipeline in memory."""
    few = ConceptImages(count=3, sampler=Sampler(2, guidance_scale=2.0), batch_size=2)
    sets = {"forget": Concept(TEXTS[0], anchor=TEXTS[1]), "retain": Concept(TEXTS[1])}
    quick = {"task": "text-to-image", "images": few, "steps": 2, "batch_size": 2, "device": "cpu"}
    result = unlearn(load_pipeline(sd), **sets, **quick, parts="xattn", out=tmp_path / "run")
    run(tmp_path / "run", "--prompts", table, *QUICK)
    assert files(tmp_path / "run/samples/sfron") == ["7_0.png", "9_0.png", "samples.json"]
    image = made(result.model, TEXTS[0], 123, 3.0)
    assert np.abs(pixels(tmp_path / "run/samples/sfron/7_0.png") - image).max() <= 1
    with pytest.raises(SettingError, match=str(tmp_path / "run")):
        run(tmp_path / "run", "--model", "original", "--prompts", table, *QUICK)


# What is refused.


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (("--classes", "1"), "--classes"),
        (("--eta", "1"), "--eta"),
        (("--spacing", "quadratic"), "--spacing"),
        (("--form", "npz"), "--form"),
        (("--width", "17"), "width.*17"),
        (("--steps", "0"), "steps.*0"),
        (("--guidance-scale", "-1"), "guidance_scale.*-1"),
        (("--count", "0"), "--count.*0"),
        (("--batch-size", "0"), "--batch-size.*0"),
        (("--model", "original"), "--model"),
    ],
)
def test_bad_words(sd: Path, table: Path, tmp_path: Path, words: tuple[str, ...], culprit: str) -> None:
    with pytest.raises(SettingError, match=culprit):
        run(sd, "--prompts", table, "--out", tmp_path / "set", *QUICK, *words)
    assert not (tmp_path / "set").exists()


def test_bad_tables(sd: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    for text, culprit in (("text\na\n", "prompt"), ("prompt,x\na,1\n,2\n", "line 3")):
        path.write_text(text)
        code, _, err = command("sample", sd, "--prompts", path, "--out", tmp_path / "set", *QUICK)
        assert code == 1 and "bad.csv" in err and culprit in err
    with pytest.raises(DataError, match=r"missing\.csv"):
        run(sd, "--prompts", tmp_path / "missing.csv", *QUICK)
    assert not (tmp_path / "set").exists()


def test_a_pipeline_that_is_missing(table: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        run(tmp_path / "missing.safetensors", "--prompts", table, "--out", tmp_path / "set", *QUICK)
    assert not (tmp_path / "set").exists()
