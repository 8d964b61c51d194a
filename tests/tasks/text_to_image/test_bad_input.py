"""What a text-to-image recipe cannot ask for: found before anything is made, named, with the remedy."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.command_line import untrain
from helpers.text_recipes import save_judge, save_text_recipe
from untrain import io
from untrain.tasks.text_to_image import concepts
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
    (folder / "sd3/model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
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
    ("words", "messages"),
    [
        (("--concepts.forget", "[]"), ("concepts.forget is empty: name what the pipeline must forget", "- prompt:")),
        (("--concepts.retain", "[]"), ("concepts.retain is empty: name what the pipeline must keep",)),
        (("--concepts.forget", '[{prompt: ""}]'), ("a concept's prompt must be a text that says something, not ''",)),
        (("--concepts.forget", "[{prompt: a}]"), ("concepts.forget a label that the judge knows", "nudity")),
        (
            ("--concepts.forget", f"[{ONE.format('')}, {{prompt: a}}]"),
            ("concepts.forget a label that the judge knows",),
        ),
        (("--concepts.forget", f"[{{prompt: {'x' * 30}, label: circle}}]"), ("window of 24", "Shorten it")),
        (("--concepts.forget", "[{prompt: a, containing: b}]"), ("either prompt or containing",)),
        (("--concepts.forget", "[{label: circle}]"), ("either prompt or containing",)),
        (("--concepts.forget", "[{prompt: a, instead: b}]"), ("instead does not go with prompt",)),
        (("--concepts.forget", "[{containing: a, anchor: b}]"), ("anchor does not go with containing",)),
        (("--concepts.forget", "[{prompt: a, anchor: a, label: circle}]"), ("the anchor of 'a' is the prompt itself",)),
        (("--concepts.forget", "[{prompt: a, lable: b}]"), ("--concepts.forget must be a list", "label")),
        (("--concepts.forget", "[{prompt: a red square, label: square}]"), ("'a red square' is in two sets",)),
        (("--concepts.forget", f"[{ONE.format('')}, {ONE.format('')}]"), ("twice in the forget set",)),
        (("--concepts.forget", "[{prompt: a red circle, label: round}]"), ("none of the 3 classes is called 'round'",)),
        (("--concepts.images.sampler.steps", "21"), ("20 steps cannot be sampled in 21",)),
        (("--concepts.images.count", "0"), ("count",)),
        (("--generation.sampler.steps", "21"), ("20 steps cannot be sampled in 21",)),
        (("--parts", '["*.attn7.*"]'), ("no parameter is called '*.attn7.*'",)),
        (("--parts", "attn"), ("unknown part 'attn'", "xattn")),
        (("--judge.checkpoint", "nowhere.safetensors"), ("judge.checkpoint", "nowhere.safetensors")),
        (("--judge.classes", "[]"), ("judge.checkpoint and judge.classes", "nudity")),
        (("--data.mean", "null"), ("judge.checkpoint needs data.mean and data.std",)),
        (("--references", "1"), ("references", "Set it to 0")),
        (("--forget.classes", "[3]"), ("forget is not for task text-to-image", "concepts.forget")),
        (("--forget.fraction", "0.1"), ("forget is not for task text-to-image", "concepts.forget")),
        (("--data.name", "shapes"), ("data is not for task text-to-image", "containing")),
        (("--augment.flip", "true"), ("augment is not for task text-to-image",)),
        (("--model.name", "unet-small"), ("model.name is not for task text-to-image",)),
        (("--model.checkpoint", "null"), ("model.checkpoint says which pipeline must forget",)),
        (("--model.checkpoint", "nowhere"), ("nowhere",)),
        (("--detection.threshold", "0.1"), ("detection.threshold must be in [0.25, 1], not 0.1",)),
        (("--detection.detector", "nipples"), ("detection.detector", "'judge' or 'nudity'")),
        (("--detection.forget_prompts", "nowhere.csv"), ("nowhere.csv cannot be read",)),
        (("--generation.features", "nowhere.pth"), ("nowhere.pth",)),
    ],
)
def test_what_cannot_be_asked(place: Path, tmp_path: Path, words: tuple[str, ...], messages: tuple[str, ...]) -> None:
    err = refused(place / "tiny.yaml", tmp_path / "run", *words)
    assert all(message in err for message in messages), err


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("mixed", ("unequal size", "1.png")),
        ("large", ("'a red square' are not of the size of those of 'a red circle'", "resize them")),
        ("none", ("the images of 'a red circle': there is none. Files must end in .png",)),
        ("nowhere", ("the images of 'a red circle': nowhere", "is no folder")),
        ("broken", ("0.png",)),
    ],
)
def test_images_that_do_not_fit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, messages: tuple[str, ...]
) -> None:
    monkeypatch.chdir(place)
    err = refused(place / "tiny.yaml", tmp_path / "run", "--concepts.forget", f"[{ONE.format(f', images: {name}')}]")
    assert all(message in err for message in messages), err


def test_pipelines_tables_and_judges_that_do_not_fit(place: Path, tmp_path: Path) -> None:
    def said(*words: object) -> str:
        return refused(place / "tiny.yaml", tmp_path / "run", *words)

    err = said("--model.checkpoint", place / "sd3")
    assert "a StableDiffusion3Pipeline; supported are StableDiffusionPipeline and StableDiffusionXLPipeline" in err
    err = said("--detection.forget_prompts", place / "column.csv")
    assert "column.csv, line 1: there is no column called prompt" in err
    err = said("--detection.retain_prompts", place / "same.csv")
    assert "'a red circle' is evaluated as forgotten and as retained: leave it out of one" in err
    err = said("--detection.clip", place / "none")
    assert "cannot be loaded as CLIPModel" in err and "Give a folder that transformers saved" in err
    err = said("--judge.checkpoint", place / "wide.safetensors")
    assert "judge.checkpoint" in err and "4" in err and "3" in err


def test_who_judges_must_be_said(place: Path, tmp_path: Path) -> None:
    lines = [
        line for line in (place / "tiny.yaml").read_text().splitlines() if not line.startswith(("data:", "judge:"))
    ]
    (tmp_path / "nobody.yaml").write_text("\n".join(lines))
    err = refused(tmp_path / "nobody.yaml", tmp_path / "run")
    assert "who says whether a concept is there? Give judge.name: hf:ID" in err and "detection.detector: nudity" in err


CAPTIONED = """\
task: text-to-image
data: {{name: shapes, limit: 100, test_limit: 100}}
concepts: {{forget: [{}]}}
frame: {{vae_steps: 2}}
train: {{steps: 2}}
methods: [sfron]
device: cpu
"""


@pytest.mark.parametrize(
    ("entry", "messages"),
    [
        ("containing: circel", ("unknown word of the data's captions 'circel'", "Did you mean 'circle'?", "triangle")),
        ("containing: a", ("concepts.forget takes every caption of the data ('a'): leave some to keep",)),
        ("containing: circle, instead: circle", ("is the prompt itself",)),
    ],
)
def test_words_of_captions(tmp_path: Path, entry: str, messages: tuple[str, ...]) -> None:
    """Found before a pipeline is trained."""
    (tmp_path / "shapes.yaml").write_text(CAPTIONED.format(f"{{{entry}}}"))
    err = refused(tmp_path / "shapes.yaml", tmp_path / "runs/run")
    assert all(message in err for message in messages), err


def test_what_a_file_says_wrongly_is_named_with_its_line(place: Path, tmp_path: Path) -> None:
    for old, new, messages in (
        ("label: circle}]", "lable: circle}]", ("wrong.yaml, line 6", "concepts.forget.lable", "label")),
        ("parts: xattn", "parts: 3", ("wrong.yaml, line 9", "parts must be")),
        ("label: circle}]", "label: circle}]\n  forgotten: []", ("unknown field 'concepts.forgotten'",)),
        ("[{prompt: a red circle, anchor: a red square, label: circle}]", "5", ("concepts.forget must be", "not 5")),
    ):
        text = (place / "tiny.yaml").read_text()
        assert old in text
        (tmp_path / "wrong.yaml").write_text(text.replace(old, new))
        err = refused(tmp_path / "wrong.yaml", tmp_path / "run")
        assert all(message in err for message in messages), err


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
    assert code == 1 and "No space left on device. Free some space or choose another folder" in err, err
    assert str(out / CACHE) in err
    monkeypatch.setattr(io.os, "fsync", synced)
    kept = {path: path.stat().st_mtime_ns for path in (out / CACHE).rglob("*.png")}
    assert len(kept) == 5 and not list((out / CACHE).rglob("*.tmp"))
    for path in kept:
        Image.open(path).verify()
    made: list[int] = []
    generate = concepts.generate_images

    def counted(model: Any, task: Any, counts: Any, *given: Any, **more: Any) -> Any:
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        made.append(len(counts[1]))
        return generate(model, task, counts, *given, **more)

    monkeypatch.setattr(concepts, "generate_images", counted)
    code, _, err = untrain("run", place / "tiny.yaml", "--out", out)
    assert code == 0, err
    assert made == [0, 1, 3] and not (out / CACHE).exists()
