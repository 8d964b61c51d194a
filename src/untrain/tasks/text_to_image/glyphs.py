"""Glyphs: signs of a few strokes, drawn by chance, that no pipeline ever learned; for the placebo of an audit."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from untrain.engine import seed_of

POINTS, STROKES, WIDE = 3, 3, 0.24
"""Points a side of the grid between which strokes run, strokes of a glyph, and their width as a share of the sign's:
few and broad, so that the VAE of a small pipeline can draw them too."""
GROUND, INK = (20, 70), (90, 255)
"""Grey levels of the ground, and levels of the sign's colour, one channel of which is always the highest."""
SIZES, TURN, OFF = (0.5, 0.75), 0.3, 0.12
"""Of a sign, as shares of the image; by how many radians it is turned at most; and how far it is off the middle."""
FINER = 4
"""Images are drawn so many times as large, and then brought to their size, so that edges are smooth."""


@dataclass(frozen=True, eq=False)
class Glyph:
    """A sign.

    Attributes:
        points: that its strokes join in turn, [S + 1, 2] in [−½, ½].
    """

    points: np.ndarray

    def render(self, count: int, size: int, seed: int) -> Tensor:
        """Renders images of it, uint8 [count, 3, size, size]; place, size, turn and colours vary."""
        rng = np.random.default_rng(seed_of(seed, "images of a glyph"))
        return torch.stack([self._image(rng, size) for _ in range(count)])

    def _image(self, rng: np.random.Generator, size: int) -> Tensor:
        ground = [int(rng.integers(*GROUND))] * 3
        ink = rng.integers(*INK, 3)
        ink[rng.integers(3)] = INK[1]
        scale, turn = rng.uniform(*SIZES) * size * FINER, rng.uniform(-TURN, TURN)
        centre = size * FINER * (0.5 + rng.uniform(-OFF, OFF, 2))
        rotated = self.points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        line = [tuple(map(float, point)) for point in centre + scale * rotated]
        picture = Image.new("RGB", (size * FINER, size * FINER), tuple(ground))
        ImageDraw.Draw(picture).line(line, fill=tuple(map(int, ink)), width=max(1, round(WIDE * scale)), joint="curve")
        small = picture.resize((size, size), Image.Resampling.BOX)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def draw_glyph(seed: int) -> Glyph:
    """Draws a sign by a seed: strokes between points of a grid, each to another one than it comes from."""
    rng = np.random.default_rng(seed_of(seed, "glyph"))
    spots = [int(rng.integers(POINTS**2))]
    while len(spots) <= STROKES:
        spot = int(rng.integers(POINTS**2))
        spots += [spot] if spot not in spots else []
    places = np.array([divmod(spot, POINTS) for spot in spots])
    return Glyph(places / (POINTS - 1) - 0.5)
