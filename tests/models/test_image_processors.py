"""Pixels beside those of transformers' own image processors: equal but for the order of float32 operations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from PIL import Image

from helpers.pretrained_classifiers import KINDS, processor
from untrain.data.sources import load
from untrain.errors import CheckpointError
from untrain.models.image_processors import Preparation, read_preparation, save_preparation
from untrain.models.recognition import Recognition

PROCESSORS: dict[str, Any] = {
    **{kind: processor(kind) for kind in KINDS},
    "wide": T.ViTImageProcessorPil(size={"height": 16, "width": 20}, resample=0),
    "convnext of 384": T.ConvNextImageProcessorPil(),
    "deit": T.DeiTImageProcessorPil(),
    "efficientnet": T.EfficientNetImageProcessorPil(size={"height": 32, "width": 32}, include_top=True),
    "offset": T.EfficientNetImageProcessorPil(
        size={"height": 32, "width": 32}, include_top=False, rescale_offset=True, rescale_factor=1 / 127.5
    ),
    "not normalised": T.ViTImageProcessorPil(size={"height": 8, "width": 8}, do_normalize=False),
    "not rescaled": T.ViTImageProcessorPil(do_rescale=False, do_resize=False),
    "cut out of less": T.CLIPImageProcessorPil(do_resize=False, crop_size={"height": 100, "width": 100}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processor(tmp_path: Path, name: str) -> None:
    theirs = PROCESSORS[name]
    theirs.save_pretrained(tmp_path / "m")
    found = read_preparation(tmp_path / "m", 3)
    assert found is not None
    draw = np.random.default_rng(3)
    place = tmp_path / "d" / "train" / "a"
    place.mkdir(parents=True)
    image = Image.fromarray(draw.integers(0, 256, (57, 71, 3), dtype=np.uint8))
    for number in range(2):
        image.save(place / f"{number}.png")
    source = load("folder", "train", path=tmp_path / "d", image_size=found.geometry)
    ours = Recognition(1, found.mean, found.std).normalize(source.batch(torch.tensor([0]))["input"])
    expected = theirs(images=image, return_tensors="pt")["pixel_values"]
    assert ours.shape == expected.shape
    scale = max(1.0, float(expected.abs().max()))
    assert float((ours - expected).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_that_is_written_anew_does_the_same(tmp_path: Path, name: str) -> None:
    PROCESSORS[name].save_pretrained(tmp_path / "a")
    found = read_preparation(tmp_path / "a", 3)
    assert found is not None
    (tmp_path / "b").mkdir()
    save_preparation(Preparation(found.geometry, found.mean, found.std), tmp_path / "b")
    again = read_preparation(tmp_path / "b", 3)
    assert again is not None
    assert again.geometry == found.geometry and np.allclose([again.mean, again.std], [found.mean, found.std], atol=1e-6)
    kept = T.AutoImageProcessor.from_pretrained(tmp_path / "b")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (57, 71, 3), dtype=np.uint8))
    ours, theirs = (p(images=image, return_tensors="np")["pixel_values"] for p in (kept, PROCESSORS[name]))
    assert np.abs(ours - theirs).max() < 1e-5 * max(1.0, np.abs(theirs).max())


def test_statistics_come_as_they_are_written(tmp_path: Path) -> None:
    mean, std = (0.1234567891234, 0.2, 0.3), (0.4, 0.5, 0.6)
    (tmp_path / "m").mkdir()
    save_preparation(Preparation(None, mean, std), tmp_path / "m")
    found = read_preparation(tmp_path / "m", 3)
    assert found is not None and (found.mean, found.std, found.geometry) == (mean, std, None)


def test_images_of_one_channel(tmp_path: Path) -> None:
    T.ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.3], image_std=[0.2]).save_pretrained(tmp_path)
    found = read_preparation(tmp_path, 1)
    assert found is not None and found.mean == (0.3,) and found.std == (0.2,)


def test_arrays_of_bytes_go_the_same_way(tmp_path: Path) -> None:
    processor("resnet").save_pretrained(tmp_path)
    found = read_preparation(tmp_path, 3)
    assert found is not None
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 33, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "d.npz",
        x_train=pixels.transpose(0, 3, 1, 2),
        y_train=[0, 1],
        x_test=pixels.transpose(0, 3, 1, 2),
        y_test=[0, 1],
    )
    source = load("arrays", "train", path=tmp_path / "d.npz", image_size=found.geometry)
    ours = Recognition(2, found.mean, found.std).normalize(source.batch(torch.tensor([0, 1]))["input"])
    theirs = found.processor(images=[Image.fromarray(each) for each in pixels], return_tensors="pt")["pixel_values"]
    assert float((ours - theirs).abs().max()) < 1e-5


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    assert read_preparation(tmp_path, 3) is None
    T.MobileViTImageProcessorPil().save_pretrained(tmp_path)  # blue comes first
    with pytest.raises(CheckpointError, match="MobileViT"):
        read_preparation(tmp_path, 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Evil"}))
    with pytest.raises(CheckpointError, match="image processor"):
        read_preparation(tmp_path, 3)
