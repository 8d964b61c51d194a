"""Image processors of transformers: what they do to an image, in terms of size, mean and deviation; read and written.

What a processor does is measured on the processor itself, not read off its settings: these differ by class, and some
classes do more than they have settings for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from untrain.data.geometry import Geometry
from untrain.errors import CheckpointError
from untrain.io import write_json
from untrain.lazy import Image, np

PROCESSOR = "preprocessor_config.json"
_FILES = (PROCESSOR, "processor_config.json")
_TOLERANCE = 1e-4
"""Of a normalised pixel: the processor computes in float32 as we do, in another order."""


@dataclass(frozen=True)
class Preparation:
    """How images become inputs of a model.

    Attributes:
        geometry: how they are brought to one size; None: they stay as they are.
        mean: of each channel, subtracted from values in [0, 1].
        std: of each channel, by which these are divided then.
        processor: of transformers, that does the same; None: there is none yet.
    """

    geometry: Geometry | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    processor: Any = None


def read_preparation(folder: Path, channels: int) -> Preparation | None:
    """Reads the image processor of a folder that was checked; None where it has none.

    Args:
        folder: of a model of transformers.
        channels: of the model's images, 1 or 3.

    Raises:
        CheckpointError: if it cannot be read, or does what cannot be said by a size, a mean and a deviation.
    """
    if not any((folder / name).is_file() for name in _FILES):
        return None
    from transformers import AutoImageProcessor

    remedy = "Say in the recipe how images are prepared: data.image_size, data.mean and data.std."
    try:
        processor: Any = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        mean, std = _statistics(processor, channels)
        geometry = _geometry(processor)
        found = Preparation(geometry, mean, std, processor)
        fits = all(_agrees(found, image) for image in _trials(channels))
    except Exception as error:  # the library raises what its processors raise; the cause is passed on
        raise CheckpointError(f"the image processor of {folder} cannot be used: {error} {remedy}") from error
    if not fits:
        raise CheckpointError(
            f"the image processor of {folder}, {type(processor).__name__}, does more to images than resizing, cutting "
            f"out the centre and normalising each channel. {remedy}"
        )
    return found


def _statistics(processor: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for values in [0, 1], from what becomes of black and of white images."""
    plain = processor.do_rescale and processor.do_normalize and processor.rescale_factor == 1 / 255
    said = tuple(_listed(getattr(processor, name, None), channels) for name in ("image_mean", "image_std"))
    black, white = (_flat(processor, level, channels) for level in (0, 255))
    std = 1 / (white - black)
    mean = -black * std
    if plain and np.allclose(said, (mean, std), atol=1e-5):
        return said  # type: ignore[return-value]  # as they are written, not as they come out of float32
    return tuple(mean.tolist()), tuple(std.tolist())


def _listed(value: Any, channels: int) -> tuple[float, ...]:
    return (float(value),) * channels if isinstance(value, int | float) else tuple(map(float, value or ()))


def _flat(processor: Any, level: int, channels: int) -> Any:
    """What becomes of an image of one grey level at its centre, which no padding reaches, [C], float64."""
    found = _run(processor, _picture(np.full((64, 64, channels), level, np.uint8)))
    return found[:, found.shape[1] // 2, found.shape[2] // 2].astype(np.float64)


def _run(processor: Any, image: Any) -> Any:
    """An image as the processor prepares it, [C, H, W]."""
    return np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])


def _picture(pixels: Any) -> Any:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _trials(channels: int) -> list[Any]:
    """A high and a wide image of noise: each channel, each edge and each direction tells."""
    draw = np.random.default_rng(0)
    return [_picture(draw.integers(0, 256, (*size, channels), dtype=np.uint8)) for size in ((61, 90), (83, 47))]


def _agrees(found: Preparation, image: Any) -> bool:
    theirs = _run(found.processor, image)
    fitted = np.asarray(image if found.geometry is None else found.geometry.fit(image), np.float32)
    pixels = np.moveaxis(fitted.reshape(*fitted.shape[:2], -1), -1, 0) / 255
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (found.mean, found.std))
    ours = (pixels - mean) / std
    largest = max(1.0, float(np.abs(theirs).max(initial=0)))
    return ours.shape == theirs.shape and bool(np.abs(ours - theirs).max() <= _TOLERANCE * largest)


def _geometry(processor: Any) -> Geometry | None:
    """What its settings say; whether that is what it does is tried afterwards."""
    resize = _size(processor.size) if processor.do_resize else None
    crop = _size(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    if isinstance(crop, int):
        crop = (crop, crop)
    share = getattr(processor, "crop_pct", None)
    if share is not None and isinstance(resize, int):  # of ConvNeXT: from 384 pixels on, nothing is cut off
        square = (resize, resize)
        resize, crop = (int(resize / share), square) if resize < 384 else (square, None)
    if resize is None and crop is None:
        return None
    return Geometry(resize, crop, 2 if processor.resample is None else int(processor.resample))


def _size(size: Any) -> int | tuple[int, int] | None:
    """A side, or (height, width); None of what is neither."""
    sides = {name: size.get(name) if isinstance(size, dict) else getattr(size, name, None) for name in _SIDES}
    if sides["height"] and sides["width"]:
        return int(sides["height"]), int(sides["width"])
    return int(sides["shortest_edge"]) if sides["shortest_edge"] else None


_SIDES = ("height", "width", "shortest_edge")


def save_preparation(prepared: Preparation, folder: Path) -> None:
    """Writes what `AutoImageProcessor` reads: the processor itself, or one that prepares images in the same way."""
    if prepared.processor is not None:
        prepared.processor.save_pretrained(folder)
        return
    geometry = prepared.geometry or Geometry()
    resize, crop = geometry.resize, geometry.crop
    size = {"shortest_edge": resize} if isinstance(resize, int) else _sides(resize or crop)
    content = {
        "image_processor_type": "CLIPImageProcessor",  # whose settings are exactly these
        "do_resize": resize is not None,
        "size": size or {"shortest_edge": 224},
        "do_center_crop": crop is not None,
        "crop_size": _sides(crop or geometry.size) or {"height": 224, "width": 224},
        "resample": geometry.resample,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(prepared.mean),
        "image_std": list(prepared.std),
        "do_convert_rgb": len(prepared.mean) == 3,
    }
    write_json(folder / PROCESSOR, content)


def _sides(size: Sequence[int] | None) -> dict[str, int]:
    return {} if size is None else {"height": size[0], "width": size[1]}
