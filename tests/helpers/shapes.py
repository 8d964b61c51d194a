"""The example of captioned shapes: its modules, a small folder of its images, a pipeline of its parts without training.

Importing this makes `render`, `parts` and `make` of examples/shapes importable.
"""

import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "shapes"
sys.path.append(str(EXAMPLE))

from render import ATTRIBUTES, CAPTIONS, MEANINGS, SIZE, render_shapes, write_images  # noqa: E402

__all__ = ["ATTRIBUTES", "CAPTIONS", "EXAMPLE", "captions_with", "save_untrained_pipeline", "write_captioned_images"]


def captions_with(**wanted: str) -> tuple[str, ...]:
    """The captions that say this: `captions_with(shape="circle")` gives 25."""
    return tuple(text for text, meaning in MEANINGS.items() if wanted.items() <= meaning.items())


def write_captioned_images(folder: Path, train: int = 200, test: int = 100) -> Path:
    """Writes a folder as the example does, with both parts; the first 100 images are of all captions."""
    for part, count in (("train", train), ("test", test)):
        write_images(render_shapes(part, count), folder / part)
    return folder


def save_untrained_pipeline(folder: Path, seed: int = 0) -> Path:
    """Writes a pipeline of diffusers that knows the captions' words and draws noise."""
    import torch

    from parts import build_pipeline

    with torch.random.fork_rng():
        build_pipeline(CAPTIONS, SIZE, seed).save_pretrained(folder)
    return folder
