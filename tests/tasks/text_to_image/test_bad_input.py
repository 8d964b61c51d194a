"""What a text-to-image recipe cannot ask for: found before anything is made, named, with the remedy."""

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from helpers.command_line import untrain
from helpers.concept_images import count_concept_images
from helpers.text_recipes import save_captioned_recipe, save_judge, save_text_recipe, without_judge
from untrain import io
from untrain.tasks.text_to_image.concepts import CACHE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe that works, and of much that does not."""
    folder = tmp_path_factory.mktemp("recipe")
    save_text_recipe(folder)
    for name, sizes in {"mixed": (16, 24), "large": (32, 32), "none": ()}.items():
        (folder / name).mkdir()
        for i, size in enumerate(sizes):
            Image.new("RGB", (size, size)).save(folder / name / f"{i}.png")
    (folder / "broken").mkdir()
    (folder / "broken/0.png").write_bytes(b"no picture")
    (folder / "sd3").mkdir()
    (folder / "sd3/model_index.json").write_text(json.dumps({"_class_name": "QwenImagePipeline"}))
    (folder / "column.csv").write_text("text\na red circle\n")
    (folder / "same.csv").write_text("prompt\na red circle\n")
    save_judge(folder / "wide.safetensors", ("a", "b", "c", "d"))
    return folder


def refused(recipe: Path, out: Path, *words: object) -> str:
    """What the command says; nothing is left of it."""
    code, _, err = untrain("run", recipe, "--out", out, *words)
    assert code == 1, err
    assert not out.exists() and not (out.parent / "pipelines").exists()
    return err


ONE = "{{prompt: a red circle, label: circle{}}}"


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        (("--concepts.forget", "[]"), ("concepts.forget",)),
        (("--concepts.retain", "[]"), ("concepts.retain",)),
        (("--concepts.forget", '[{prompt: ""}]'), ("prompt", "''")),
        (("--concepts.forget", "[{prompt: a}]"), ("concepts.forget", "label", "nudity")),
        (("--concepts.forget", f"[{ONE.format('')}, {{prompt: a}}]"), ("concepts.forget", "label")),
        (("--concepts.forget", f"[{{prompt: {'x' * 30}, label: circle}}]"), ("x" * 30, "24")),
        (("--concepts.forget", "[{prompt: a, containing: b}]"), ("either prompt or containing",)),
        (("--concepts.forget", "[{label: circle}]"), ("either prompt or containing",)),
        (("--concepts.forget", "[{prompt: a, instead: b}]"), ("instead", "prompt")),
        (("--concepts.forget", "[{containing: a, anchor: b}]"), ("anchor", "containing")),
        (("--concepts.forget", "[{prompt: a, anchor: a, label: circle}]"), ("anchor of 'a'",)),
        (("--concepts.forget", "[{prompt: a, lable: b}]"), ("concepts.forget.0.lable", "concepts.forget.0.label")),
        (("--concepts.forget", "[{prompt: a red square, label: square}]"), ("'a red square'", "two sets")),
        (("--concepts.forget", f"[{ONE.format('')}, {ONE.format('')}]"), ("'a red circle'", "forget set")),
        (("--concepts.forget", "[{prompt: a red circle, label: round}]"), ("'round'",)),
        (("--concepts.images.sampler.steps", "21"), ("20 steps", "21")),
        (("--concepts.images.count", "0"), ("images", "count")),
        (("--generation.sampler.steps", "21"), ("20 steps", "21")),
        (("--parts", '["*.attn7.*"]'), ("'*.attn7.*'",)),
        (("--parts", "attn"), ("'attn'", "xattn")),
        (("--judge.checkpoint", "nowhere.safetensors"), ("judge.checkpoint", "nowhere.safetensors")),
        (("--judge.classes", "[]"), ("judge.classes", "nudity")),
        (("--judge.mean", "null"), ("judge.mean", "judge.std")),
        (("--references", "1"), ("references",)),
        (("--forget.classes", "[3]"), ("forget.classes", "text-to-image")),
        (("--forget.fraction", "0.1"), ("forget.fraction", "text-to-image")),
        (("--data.name", "captions"), ("data", "containing")),
        (("--augment.flip", "true"), ("augment.flip", "text-to-image")),
        (("--model.name", "unet-small"), ("model.name", "text-to-image")),
        (("--model.checkpoint", "null"), ("model.checkpoint",)),
        (("--model.checkpoint", "nowhere"), ("nowhere",)),
        (("--detection.threshold", "-0.1"), ("detection.threshold", "0", "-0.1")),
        (("--detection.detector", "nipples"), ("detection.detector", "judge", "nudity")),
        (("--detection.forget_prompts", "nowhere.csv"), ("nowhere.csv",)),
        (("--generation.features", "nowhere.pth"), ("nowhere.pth",)),
    ],
)
def test_what_cannot_be_asked(place: Path, tmp_path: Path, words: tuple[str, ...], culprits: tuple[str, ...]) -> None:
    err = refused(place / "tiny.yaml", tmp_path / "run", *words)
    assert all(culprit in err for culprit in culprits), err


@pytest.mark.parametrize(
    ("name", "culprits"),
    [
        ("mixed", ("1.png",)),
        ("large", ("'a red square'", "'a red circle'", "size")),
        ("none", ("'a red circle'", ".png")),
        ("nowhere", ("'a red circle'", "nowhere")),
        ("broken", ("0.png",)),
    ],
)
def test_images_that_do_not_fit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, culprits: tuple[str, ...]
) -> None:
    monkeypatch.chdir(place)
    err = refused(place / "tiny.yaml", tmp_path / "run", "--concepts.forget", f"[{ONE.format(f', images: {name}')}]")
    assert all(culprit in err for culprit in culprits), err


def test_pipelines_tables_and_judges_that_do_not_fit(place: Path, tmp_path: Path) -> None:
    def said(*words: object) -> str:
        return refused(place / "tiny.yaml", tmp_path / "run", *words)

    err = said("--model.checkpoint", place / "sd3")
    assert all(f"StableDiffusion{kind}Pipeline" in err for kind in ("3", "", "XL")), err
    err = said("--detection.forget_prompts", place / "column.csv")
    assert "column.csv, line 1" in err and "prompt" in err
    err = said("--detection.retain_prompts", place / "same.csv")
    assert "'a red circle'" in err and "retained" in err
    err = said("--detection.clip", place / "none")
    assert "CLIPModel" in err and str(place / "none") in err
    err = said("--judge.checkpoint", place / "wide.safetensors")
    assert "judge.checkpoint" in err and "4" in err and "3" in err


def test_who_judges_must_be_said(place: Path, tmp_path: Path) -> None:
    (tmp_path / "nobody.yaml").write_text(without_judge((place / "tiny.yaml").read_text()))
    err = refused(tmp_path / "nobody.yaml", tmp_path / "run")
    assert all(said in err for said in ("judge.name: hf:ID", "judge.checkpoint", "detection.detector: nudity")), err


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_captioned_recipe(tmp_path_factory.mktemp("shapes"))


@pytest.mark.parametrize(
    ("entry", "culprits"),
    [
        ("containing: circel", ("'circel'", "'circle'", "triangle")),
        ("containing: a", ("concepts.forget", "'a'")),
        ("containing: circle, instead: circle", ("anchor", "a red circle")),
    ],
)
def test_words_of_captions(captioned: Path, tmp_path: Path, entry: str, culprits: tuple[str, ...]) -> None:
    text = captioned.read_text().replace("containing: circle, instead: square", entry)
    (tmp_path / "shapes.yaml").write_text(text)
    err = refused(tmp_path / "shapes.yaml", tmp_path / "runs/run")
    assert all(culprit in err for culprit in culprits), err


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        (("--data", "null"), ("containing", "data")),
        (("--judge.attributes", "[form]"), ("form", "metadata.jsonl", "shape")),
    ],
)
def test_what_captioned_images_must_say(
    captioned: Path, tmp_path: Path, words: tuple[str, ...], culprits: tuple[str, ...]
) -> None:
    err = refused(captioned, tmp_path / "run", *words)
    assert all(culprit in err for culprit in culprits), err


def test_what_a_file_says_wrongly_is_named_with_its_line(place: Path, tmp_path: Path) -> None:
    for old, new, culprits in (
        ("label: circle}]", "lable: circle}]", ("wrong.yaml, line 6", "concepts.forget.0.lable", "label")),
        ("parts: xattn", "parts: 3", ("wrong.yaml, line 9", "parts")),
        ("label: circle}]", "label: circle}]\n  forgotten: []", ("wrong.yaml, line 7", "'concepts.forgotten'")),
        ("[{prompt: a red circle, anchor: a red square, label: circle}]", "5", ("line 6", "concepts.forget", "5")),
    ):
        text = (place / "tiny.yaml").read_text()
        assert old in text
        (tmp_path / "wrong.yaml").write_text(text.replace(old, new))
        err = refused(tmp_path / "wrong.yaml", tmp_path / "run")
        assert all(culprit in err for culprit in culprits), err


def test_a_disk_that_fills_while_images_are_made(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made stays, whole; the next run goes on from there and removes it in the end."""
    out, synced = tmp_path / "run", os.fsync
    there: list[Path] = []

    def full(file: int) -> None:
        there[:] = [*out.rglob("[0-9]*.png")]
        if len(there) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(file)

    monkeypatch.setattr(io.os, "fsync", full)
    code, _, err = untrain("run", place / "tiny.yaml", "--out", out)
    assert code == 1 and "No space left on device" in err, err
    assert str(out / CACHE) in err
    monkeypatch.setattr(io.os, "fsync", synced)
    kept = {path: path.stat().st_mtime_ns for path in (out / CACHE).rglob("*.png")}
    assert len(kept) == 5 and not list((out / CACHE).rglob("*.tmp"))
    for path in kept:
        Image.open(path).verify()
    made = count_concept_images(monkeypatch)
    code, _, err = untrain("run", place / "tiny.yaml", "--out", out)
    assert code == 0, err
    assert made == [0, 1, 3], "none of those that were there"
    assert not (out / CACHE).exists()
