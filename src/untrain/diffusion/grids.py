"""Pictures of many images in a run folder, with a note of what their rows are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from untrain.diffusion.images import grid, png
from untrain.io import write_bytes, write_text

SMALL = 256
"""Images in a picture of many have at most so many pixels a side."""
SPOTS = 8
"""A blurred image keeps so many spots of colour a side."""


def write_grid(place: Path, name: str, rows: Sequence[str], images: Tensor, **about: Any) -> None:
    """A picture, NAME.png: a row for each class or prompt, a column for each noise; and what they are, NAME.json.

    Args:
        place: the folder, made if it is missing.
        name: of the model.
        rows: what the rows show.
        images: uint8 [R, K, C, H, W].
        about: what else the note says.
    """
    write_text(place / f"{name}.json", json.dumps({"classes": list(rows), "columns": images.shape[1], **about}))
    write_bytes(place / f"{name}.png", png(grid(images)))


def miniature(image: Tensor, *, hidden: bool) -> Tensor:
    """An image, uint8 [3, H, W], no larger than `SMALL`; hidden: as a few blurred spots of colour."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    scale = min(1.0, SMALL / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if hidden:
        picture = picture.resize((SPOTS, SPOTS), Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
    elif picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(size[1], size[0], 3).permute(2, 0, 1)
