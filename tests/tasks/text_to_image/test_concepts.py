"""Concepts: images made or given, encoded once, and gone when a run ends."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.small_pipelines import TEXTS
from untrain.data.splits import Subset
from untrain.data.streams import Stream
from untrain.diffusion.images import ImageMaker
from untrain.diffusion.latents import decode
from untrain.diffusion.text import check_pipeline, encode_prompts
from untrain.engine import Engine
from untrain.errors import DataError, EmptySet, ModelError, Overlap, SettingError
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.concepts import (
    Concept,
    ConceptImages,
    concept_data,
    images_of,
    latent_shape_of,
    make_images,
    prompt_conditions,
    text_task,
    until_done,
)

ENGINE = Engine(torch.device("cpu"))
FEW = ConceptImages(count=3, sampler=Sampler(steps=2, guidance_scale=2.0), batch_size=2)


def pictures(count: int, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def concepts() -> dict[str, Any]:
    forget = Concept(TEXTS[0], anchor=TEXTS[1])
    return {"forget": forget, "retain": [Concept(TEXTS[1]), Concept(TEXTS[2], images=pictures(4))]}


def concept_sets(*given: Any, **more: Any) -> dict[str, Subset]:
    data, rows = concept_data(*given, **more)
    return {name: Subset(data, positions) for name, positions in rows.items()}


def test_sets_hold_what_a_step_needs(pipe: Any, tmp_path: Path) -> None:
    sets = concept_sets(pipe, concepts(), ENGINE, tmp_path, how=FEW, seed=1)
    assert {name: len(each) for name, each in sets.items()} == {"forget": 3, "retain": 7}
    batch = sets["forget"].batch(torch.arange(3))
    prompts = sets["forget"].source.prompts
    assert torch.equal(batch["prompt"], prompts.embeds[torch.tensor([1, 1, 1])])
    assert torch.equal(batch["anchor"], prompts.embeds[torch.tensor([2, 2, 2])])
    assert torch.equal(batch["empty"], prompts.embeds[torch.tensor([0, 0, 0])])
    retained = sets["retain"].batch(torch.arange(7))
    assert retained["label"].tolist() == [2, 2, 2, 3, 3, 3, 3] and retained["index"].tolist() == list(range(3, 10))
    assert torch.equal(retained["anchor"], retained["prompt"]), "what is retained is redirected to itself"
    with torch.no_grad():
        posterior = pipe.vae.encode(pictures(4)[2:3].double() / 127.5 - 1).latent_dist
    scale = pipe.vae.config.scaling_factor
    torch.testing.assert_close(retained["latent_mean"][5], posterior.mean[0] * scale, rtol=1e-9, atol=1e-10)
    task = text_task(pipe)
    stream = Stream(sets["retain"], "retain", ENGINE, 4)
    assert task.loss(pipe.unet, stream.batch(0, task, "retain")).shape == (4,)
    assert sets["forget"].fingerprint() != sets["retain"].fingerprint() and sets["forget"].to("cpu") is sets["forget"]
    no_anchor = concept_sets(pipe, {"forget": Concept(TEXTS[2], images=pictures(4))}, ENGINE, tmp_path, how=FEW)
    row = no_anchor["forget"][0]
    assert torch.equal(row["anchor"], row["empty"])


def test_what_was_made_is_used_again_and_made_the_same(pipe: Any, tmp_path: Path) -> None:
    """In other batches, after an interruption, and alone: an image depends on its text and number alone."""

    def forget(folder: Path, **changes: Any) -> Tensor:
        found = concept_sets(
            pipe, {"forget": concepts()["forget"]}, ENGINE, folder, how=replace(FEW, **changes), seed=1
        )["forget"]
        return found.batch(torch.arange(len(found)))["latent_mean"]

    first = forget(tmp_path / "a")
    files = sorted((tmp_path / "a").rglob("*.png"))
    assert len(files) == 3 and len(list((tmp_path / "a").glob("latents-*.safetensors"))) == 1
    times = {path: path.stat().st_mtime_ns for path in files}
    files[1].write_bytes(files[1].read_bytes()[:20])  # as a full disk would leave it
    next((tmp_path / "a").glob("latents-*.safetensors")).write_bytes(b"half")
    assert torch.equal(forget(tmp_path / "a"), first)
    assert [path.stat().st_mtime_ns == times[path] for path in files] == [True, False, True]
    torch.testing.assert_close(forget(tmp_path / "b", batch_size=3), first, rtol=1e-3, atol=1e-3)  # a level may round
    more = forget(tmp_path / "a", count=4)
    torch.testing.assert_close(more[:3], first, rtol=1e-9, atol=1e-10)
    assert len(more) == 4 and len(list((tmp_path / "a").rglob("*.png"))) == 4
    weights = pipe.unet.conv_in.bias.detach().clone()
    try:
        with torch.no_grad():
            pipe.unet.conv_in.bias.add_(1)
        assert not torch.equal(forget(tmp_path / "a"), first), "another model's images are other images"
    finally:
        with torch.no_grad():
            pipe.unet.conv_in.bias.copy_(weights)


def test_nothing_is_left_when_a_run_ends(tmp_path: Path) -> None:
    with until_done(tmp_path / "cache", ENGINE) as folder:
        folder.mkdir()
        (folder / "a").write_text("x")
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "cache")
    assert folder.exists(), "what was interrupted goes on from there"
    with until_done(folder, ENGINE, keep=True):
        pass
    assert folder.exists()
    with pytest.raises(KeyboardInterrupt), until_done(None, ENGINE) as place:
        raise KeyboardInterrupt
    assert not place.exists()
    with pytest.raises(SettingError, match="out="), until_done(None, Engine(torch.device("cpu"), num_processes=2)):
        pass


def _interrupted(place: Path) -> None:
    with until_done(place, ENGINE) as folder:
        folder.mkdir()
        raise KeyboardInterrupt


def test_a_users_images(pipe: Any, tmp_path: Path) -> None:
    shown = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pictures(3)]
    for i, image in enumerate(shown):
        image.save(tmp_path / f"{i}.png")
    for given in (pictures(3), shown, tmp_path, [str(path) for path in sorted(tmp_path.glob("*.png"))]):
        source = images_of(Concept("a", images=given), 1, ("", "a"))
        batch = source.batch(torch.arange(3))
        assert torch.equal(batch["input"], pictures(3)) and batch["label"].tolist() == [1, 1, 1]
    with pytest.raises(DataError, match="mixed size"):
        images_of(Concept("a", images=[*shown, shown[0].resize((8, 16))]), 1, ("", "a"))
    shown[0].resize((8, 16)).save(tmp_path / "9.png")
    with pytest.raises(DataError, match="unequal size"):
        images_of(Concept("a", images=tmp_path), 1, ("", "a"))
    (tmp_path / "none").mkdir()
    with pytest.raises(EmptySet, match="there is none"):
        images_of(Concept("a", images=tmp_path / "none"), 1, ("", "a"))
    with pytest.raises(DataError, match=r"\[N, 3, H, W\]"):
        images_of(Concept("a", images=pictures(3)[0]), 1, ("", "a"))


def test_images_in_memory_and_in_files_are_the_same(tmp_path: Path) -> None:
    """Those of `datasets` too, decoded or not."""
    arrays = [image.permute(1, 2, 0).numpy() for image in pictures(3)]
    shown = [Image.fromarray(array) for array in arrays]
    for i, image in enumerate(shown):
        image.save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.glob("*.png"))
    table = datasets.Dataset.from_dict({"image": shown}, features=datasets.Features({"image": datasets.Image()}))
    undecoded = table.cast_column("image", datasets.Image(decode=False))
    ways: list[Any] = [
        arrays,
        np.stack(arrays),
        [path.read_bytes() for path in paths],
        [{"path": str(path), "bytes": None} for path in paths],
        table["image"],
        undecoded["image"],
        [shown[0], arrays[1], paths[2]],
    ]
    for given in ways:
        source = images_of(Concept("a", images=given), 1, ("", "a"))
        assert torch.equal(source.batch(torch.arange(3))["input"], pictures(3))


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (5, "give a folder"),
        (Image.new("RGB", (8, 8)), r"\[image\] of one"),
        ([torch.zeros(3, 8, 8)], "torch.stack"),
        ([np.zeros((8, 8, 3))], "uint8"),
        ([np.zeros((3, 8, 8), np.uint8)], "uint8"),
        ([5], "give files"),
        ([{"path": None}], "holds no image"),
        ([b"none"], "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_named(images: Any, reason: str) -> None:
    with pytest.raises(DataError, match=f"images of 'c'.*{reason}"):
        images_of(Concept("c", images=images), 1, ("", "c"))


@pytest.mark.parametrize("prompt", [None, 5, ["a", "b"], b"a"])
def test_a_concept_without_a_prompt_is_told_what_it_is_for(prompt: Any) -> None:
    with pytest.raises(DataError, match=r"prompt is the text that would be given.*Concept\('a photo"):
        Concept(prompt, images=pictures(2))


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / ".cache", tmp_path / "below"):
        place.mkdir(exist_ok=True)
        for name in ("0.png", ".1.png"):
            Image.new("RGB", (8, 8)).save(place / name)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match="left out") as said:
        assert len(images_of(Concept("a", images=tmp_path), 1, ("", "a"))) == 1
    (text,) = (str(warning.message) for warning in said)
    assert all(part in text for part in ("2 hidden", "1 folder below", "1 of another ending"))


def test_sets_that_contradict_each_other_are_refused(pipe: Any, tmp_path: Path) -> None:
    def sets(forget: Any, retain: Any) -> None:
        concept_sets(pipe, {"forget": forget, "retain": retain}, ENGINE, tmp_path, how=FEW)

    with pytest.raises(Overlap, match="in two sets"):
        sets(Concept(TEXTS[0]), Concept(TEXTS[0]))
    with pytest.raises(DataError, match="twice in the retain set"):
        sets(Concept(TEXTS[0]), [Concept(TEXTS[1]), Concept(TEXTS[1])])
    with pytest.raises(EmptySet, match="retain"):
        sets(Concept(TEXTS[0]), [])
    one, two = Concept(TEXTS[0], images=pictures(2)), Concept(TEXTS[1], images=pictures(2, 32))
    with pytest.raises(DataError, match="not of the size"):
        sets([one, two], Concept(TEXTS[2], images=pictures(2)))
    assert not list(tmp_path.rglob("*.png"))


def test_other_pipelines_are_refused(pipe: Any) -> None:
    class QwenImagePipeline:
        components: dict[str, Any] = {}

    with pytest.raises(ModelError, match="supported are StableDiffusionPipeline, StableDiffusionXLPipeline"):
        check_pipeline(QwenImagePipeline())
    without = copy.copy(pipe)
    without.register_modules(text_encoder=None)
    with pytest.raises(ModelError, match="no text_encoder"):
        check_pipeline(without)


def test_made_images_are_seeded_for_each(pipe: Any, tmp_path: Path) -> None:
    prompts, task = encode_prompts(pipe, TEXTS, 16), text_task(pipe)

    def image(number: int, seed: int) -> Tensor:
        place = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        how = (latent_shape_of(pipe), FEW.sampler, ENGINE, seed, FEW.batch_size, partial(decode, pipe.vae))
        maker = ImageMaker(task, prompt_conditions(task, prompts), *how)
        source = make_images(maker, pipe, prompts, number, FEW.count, place)
        return source.batch(torch.arange(3))["input"]

    first = image(1, 0)
    assert not torch.equal(first[0], first[1]) and torch.equal(image(1, 0), first)
    assert not torch.equal(image(1, 1), first) and not torch.equal(image(2, 0), first)
    prompts = prompts._replace(embeds=prompts.embeds[[0, 1, 1, 1]])
    assert not torch.equal(image(2, 0), first), "of two prompts not even the noise is the same"


def test_a_folders_images_are_brought_to_a_size(pipe: Any, tmp_path: Path) -> None:
    for i, size in enumerate([(20, 31), (16, 16), (40, 24)]):
        drawn = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8)
        Image.fromarray(drawn.numpy()).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="unequal size"):
        concept_sets(pipe, {"forget": Concept("a", images=tmp_path), "retain": Concept("b")}, ENGINE, tmp_path / "x")
    how = replace(FEW, image_size=16, interpolation="bicubic")
    source = images_of(Concept("a", images=tmp_path), 1, ("", "a"), how)
    assert source.shape == (3, 16, 16)
    with Image.open(tmp_path / "0.png") as image:
        resized = image.resize((16, 25), Image.Resampling.BICUBIC).crop((0, 4, 16, 20))
    assert torch.equal(source[0]["input"], torch.from_numpy(np.array(resized)).permute(2, 0, 1))
