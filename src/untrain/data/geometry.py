"""How images are brought to one size, as image processors do it: resized, then the centre cut out."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from untrain.lazy import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


@dataclass(frozen=True)
class Geometry:
    """Resizing, then a cut of the centre; sizes in pixels.

    Attributes:
        resize: of the shorter side, the longer one in proportion and rounded down; (height, width): to these; None:
            not resized.
        crop: (height, width) of the centre that is cut out, black around smaller images; None: nothing is cut off.
        resample: the filter, by Pillow's number: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    resample: int = 2

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every image; None where it depends on the image."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    def fit(self, image: Picture) -> Picture:
        """Brings an image to its size."""
        if self.resize is not None:
            image = image.resize(self._resized(image.size), Image.Resampling(self.resample))
        if self.crop is None or (image.height, image.width) == self.crop:
            return image
        height, width = self.crop
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after resizing, of an image of this (width, height)."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        shorter, wanted = min(size), self.resize or 1
        return tuple(wanted if side == shorter else int(wanted * side / shorter) for side in size)  # type: ignore[return-value]

    def to_json(self) -> list[Any]:
        """As JSON holds it."""
        return [list(value) if isinstance(value, tuple) else value for value in astuple(self)]

    def __str__(self) -> str:
        """Says it in words."""
        side = self.resize if isinstance(self.resize, int) else None
        whole = self.resize if isinstance(self.resize, tuple) else None
        resized = f"shorter side {side}" if side else f"{whole[0]}×{whole[1]}" if whole else "not resized"
        cut = f", centre {self.crop[0]}×{self.crop[1]}" if self.crop else ""
        filtered = f", {Image.Resampling(self.resample).name.lower()}" if self.resize is not None else ""
        return f"{resized}{cut}{filtered}"


Size = int | Geometry | None
"""Of images: pixels of the square that they become, see `Images`; or how exactly; None: as they are."""


def size_facts(size: Size) -> Any:
    """A size as JSON holds it."""
    return size.to_json() if isinstance(size, Geometry) else size
