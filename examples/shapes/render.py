"""Renders images with captions, such as "a red circle on the left".

Shapes are drawn from signed distances, so that edges are smooth at any size.
"""

import json
import math
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

SIZE = 32
"""Height and width in pixels."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 45, 40),
    "green": (45, 175, 65),
    "blue": (50, 85, 225),
    "yellow": (235, 205, 45),
    "white": (240, 240, 240),
}
"""RGB, 0 … 255."""

PLACES: dict[str, tuple[int, int]] = {
    "on the left": (-5, 0),
    "on the right": (5, 0),
    "at the top": (0, -5),
    "at the bottom": (0, 5),
    "in the middle": (0, 0),
}
"""Where the shape's centre is, in pixels to the right of and below the image's."""

JITTER = 0.5
"""By how many pixels a centre is off at most, in either direction."""
SCALES = (0.95, 1.05)
"""Of a shape's size."""
SOFTNESS = (1.0, 2.5)
"""Pixels over which an edge fades."""
GREYS = (30.0, 60.0)
"""Of a background."""


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return (x.square() + y.square()).sqrt() - 7.5


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 6.8


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral, one corner above; its bounding box is centred."""
    radius = 8.6  # from its centroid to a corner
    below = y - radius / 4
    return torch.maximum(below, math.sqrt(3) / 2 * x.abs() - below / 2) - radius / 2


def _cross(x: Tensor, y: Tensor) -> Tensor:
    bar = torch.maximum(x.abs() - 8.2, y.abs() - 2.7)
    pole = torch.maximum(x.abs() - 2.7, y.abs() - 8.2)
    return torch.minimum(bar, pole)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}
"""Distance in pixels from a shape's edge, negative inside, of points (x, y) around its centre, y downwards."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "place": tuple(PLACES)}
"""What a judge can be asked about an image, and the possible answers."""


def caption(shape: str, colour: str, place: str) -> str:
    """Says what an image shows."""
    return f"a {colour} {shape} {place}"


MEANINGS: Mapping[str, Mapping[str, str]] = {
    caption(*values): dict(zip(ATTRIBUTES, values, strict=True)) for values in product(*ATTRIBUTES.values())
}
"""Caption → its value of each attribute; 100 captions."""

CAPTIONS = tuple(MEANINGS)


class Captioned(NamedTuple):
    """Images with captions.

    Attributes:
        images: uint8 [N, 3, 32, 32].
        labels: numbers of their captions in `CAPTIONS`, int64 [N].
    """

    images: Tensor
    labels: Tensor


def render_shapes(part: str, count: int) -> Captioned:
    """Renders images of every caption in turn; size, centre, edge and background vary.

    Args:
        part: "train" or "test", which share no random number. It decides the images; other runs make the same ones.
        count: how many.
    """
    generator = torch.Generator().manual_seed(("train", "test").index(part))
    labels = torch.arange(count) % len(CAPTIONS)
    return Captioned(render(labels, torch.rand(count, 5, generator=generator)), labels)


def render(labels: Tensor, chance: Tensor) -> Tensor:
    """Renders images of captions.

    Args:
        labels: numbers of captions, int64 [N].
        chance: what varies, [N, 5] in [0, 1): right, down, size, softness, background.

    Returns:
        uint8 [N, 3, 32, 32].
    """
    numbers = {name: _value_numbers(name)[labels] for name in ATTRIBUTES}
    centre = torch.tensor(list(PLACES.values()))[numbers["place"]] + JITTER * (2 * chance[:, :2] - 1)
    scale = (SCALES[0] + (SCALES[1] - SCALES[0]) * chance[:, 2])[:, None, None]
    softness = (SOFTNESS[0] + (SOFTNESS[1] - SOFTNESS[0]) * chance[:, 3])[:, None, None]
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    x = (axis[None, None, :] - centre[:, 0, None, None]) / scale
    y = (axis[None, :, None] - centre[:, 1, None, None]) / scale
    distance = torch.empty(len(labels), SIZE, SIZE)
    for number, distance_to in enumerate(SHAPES.values()):
        chosen = numbers["shape"] == number
        distance[chosen] = distance_to(x[chosen], y[chosen])
    inside = (0.5 - distance * scale / softness).clamp(0, 1)[:, None]
    colour = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[numbers["colour"]][:, :, None, None]
    grey = (GREYS[0] + (GREYS[1] - GREYS[0]) * chance[:, 4])[:, None, None, None]
    return (inside * colour + (1 - inside) * grey).round().to(torch.uint8)


def write_images(data: Captioned, folder: Path) -> None:
    """Writes images and metadata.jsonl into a new folder: of each image the file name, the caption, what it says."""
    folder.mkdir(parents=True)
    rows = []
    for i, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        name, text = f"{i:05d}.png", CAPTIONS[label]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
        rows.append({"file_name": name, "text": text, **MEANINGS[text]})
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _value_numbers(attribute: str) -> Tensor:
    """Number of each caption's value, int64 [captions]."""
    values = ATTRIBUTES[attribute]
    return torch.tensor([values.index(said[attribute]) for said in MEANINGS.values()])
