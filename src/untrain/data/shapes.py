"""Rendered images with captions, "a red circle on the left": data for a text-to-image pipeline that trains in minutes.

Every caption is a class of the source, so that splits, streams, latents and labels work on captions as on classes.
Shapes are drawn from signed distances, so that edges are smooth at any size.
"""

import math
from collections.abc import Callable, Mapping
from itertools import product

import torch
from torch import Tensor

from untrain.data.parts import Part
from untrain.data.samples import Arrays, Relabelled, Source
from untrain.engine import generator_of
from untrain.errors import SettingError, UnknownName, lookup, unknown

SIZE = 32
"""Height and width in pixels."""
COUNTS: dict[str, int] = {"train": 4000, "test": 1000}
"""Images of each part."""

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
    """The sentence that describes an image."""
    return f"a {colour} {shape} {place}"


MEANINGS: Mapping[str, Mapping[str, str]] = {
    caption(*values): dict(zip(ATTRIBUTES, values, strict=True)) for values in product(*ATTRIBUTES.values())
}
"""Caption → its value of each attribute; 100 captions."""

CAPTIONS = tuple(MEANINGS)


def captions_with(**wanted: str) -> tuple[str, ...]:
    """The captions that say this: `captions_with(shape="circle")` gives 25.

    Raises:
        UnknownName: lists the known attributes or values.
    """
    for name, value in wanted.items():
        if value not in lookup("attribute", ATTRIBUTES, name):
            raise UnknownName(unknown(name, value, ATTRIBUTES[name]))
    return tuple(text for text, meaning in MEANINGS.items() if wanted.items() <= meaning.items())


def shapes(part: Part = "train", *, count: int | None = None, seed: int = 0) -> Arrays:
    """Captioned images: uint8 [N, 3, 32, 32], whose classes are `CAPTIONS`, as equally many of each as there can be.

    Size, centre and grey of the background vary within `SCALES`, `JITTER` and `GREYS`.

    Args:
        part: training and test images never share a random number.
        count: images; None: as in `COUNTS`.
        seed: decides all of them.

    Raises:
        SettingError: if there is less than one image.
        UnknownName: if there is no such part.
    """
    count = lookup("part", COUNTS, part) if count is None else count
    if count < 1:
        raise SettingError(f"count must be at least 1 image, not {count}.")
    generator = generator_of(seed, "shapes", part)
    labels = torch.arange(count) % len(CAPTIONS)
    images = render(labels, torch.rand(count, 5, generator=generator))
    return Arrays(images, labels, CAPTIONS, [f"shapes-{part}-{seed}-{i:05d}" for i in range(count)])


def render(labels: Tensor, chance: Tensor) -> Tensor:
    """Images of captions.

    Args:
        labels: numbers of captions, int64 [N].
        chance: what varies, [N, 5] in [0, 1): right, down, size, softness, background.

    Returns:
        uint8 [N, 3, 32, 32].
    """
    numbers = {name: _numbers(name)[labels] for name in ATTRIBUTES}
    centre = torch.tensor(list(PLACES.values()))[numbers["place"]] + JITTER * (2 * chance[:, :2] - 1)
    scale = (SCALES[0] + (SCALES[1] - SCALES[0]) * chance[:, 2])[:, None, None]
    softness = (SOFTNESS[0] + (SOFTNESS[1] - SOFTNESS[0]) * chance[:, 3])[:, None, None]
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    x = (axis[None, None, :] - centre[:, 0, None, None]) / scale
    y = (axis[None, :, None] - centre[:, 1, None, None]) / scale
    distance = torch.empty(len(labels), SIZE, SIZE)
    for number, of_shape in enumerate(SHAPES.values()):
        chosen = numbers["shape"] == number
        distance[chosen] = of_shape(x[chosen], y[chosen])
    inside = (0.5 - distance * scale / softness).clamp(0, 1)[:, None]
    colour = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[numbers["colour"]][:, :, None, None]
    grey = (GREYS[0] + (GREYS[1] - GREYS[0]) * chance[:, 4])[:, None, None, None]
    return (inside * colour + (1 - inside) * grey).round().to(torch.uint8)


def about(source: Source, attribute: str) -> Relabelled:
    """The source with an attribute's values as classes: what a judge of shapes, colours or places learns from.

    Args:
        source: its classes are captions, all or some of `CAPTIONS`.
        attribute: "shape", "colour" or "place".

    Raises:
        UnknownName: if there is no such attribute, or a class is no caption.
    """
    values = lookup("attribute", ATTRIBUTES, attribute)
    return Relabelled(source, [values.index(meaning(text)[attribute]) for text in source.classes], values)


def meaning(text: str) -> Mapping[str, str]:
    """What a caption says: {"shape": …, "colour": …, "place": …}.

    Raises:
        UnknownName: if it is no caption.
    """
    if text not in MEANINGS:
        first, *_, last = CAPTIONS
        raise UnknownName(f"{text!r} is no caption of the shapes: they go from {first!r} to {last!r}.")
    return MEANINGS[text]


def _numbers(attribute: str) -> Tensor:
    """Number of each caption's value, int64 [captions]."""
    values = ATTRIBUTES[attribute]
    return torch.tensor([values.index(said[attribute]) for said in MEANINGS.values()])
