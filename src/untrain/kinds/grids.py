"""Pictures of many images in a run folder, with a note of what their rows are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from untrain.images import grid, png
from untrain.io import write_bytes, write_text


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
