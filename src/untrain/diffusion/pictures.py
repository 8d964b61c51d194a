"""Grids of generated images, cut into pieces that stand in tables of the page: embedded, small, with words for each."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from untrain.diffusion.images import GAP
from untrain.errors import UntrainError
from untrain.reading import DAMAGED, open_regular
from untrain.report.drawing import Figure
from untrain.report.html import render
from untrain.report.results import as_mapping, as_number, as_sequence, read_json

LARGEST, SPAN = 96, 480
"""An image is made no larger than so many pixels a side, or than a row of them would be so wide: a page of many stays
small enough to send."""
EXACT = 48
"""Images of so many pixels a side are kept to the pixel; larger ones are compressed as photographs, to a quarter."""


@dataclass(frozen=True)
class Picture:
    """A piece of a grid as it stands in the page; sizes in pixels."""

    source: str
    alt: str
    width: int
    height: int
    exact: bool = False
    """Whether it is kept to the pixel, and enlarged so."""

    @property
    def shown(self) -> int:
        """Up to how wide it is shown: small images are enlarged by a whole factor, to be seen."""
        return self.width * max(1, LARGEST // self.height) if self.exact else self.width


@dataclass(frozen=True)
class Line:
    """A row of a table of pictures: a class or prompt, whether it was to be forgotten, a picture or none a column."""

    name: str
    forgotten: bool
    cells: Sequence[Picture | None]


@dataclass(frozen=True)
class Grid:
    """Images of one generator, as `diffusion.images.grid` sets them: a row a class, in each column the same noise."""

    image: Image.Image
    classes: tuple[str, ...]
    columns: int
    blurred: bool = False
    """Whether images in which the detector saw the concept are blurred."""

    def cut(self, name: str, alt: str, columns: int | None = None) -> Picture | None:
        """Cuts out the first images of a class, all of its row where `columns` is None; None where it has no row."""
        if name not in self.classes:
            return None
        count = min(columns or self.columns, self.columns)
        down, along = (self.image.height + GAP) // len(self.classes), (self.image.width + GAP) // self.columns
        high, wide, top = down - GAP, along - GAP, self.classes.index(name) * down
        scale = min(1.0, max(LARGEST, SPAN // self.columns) / max(high, wide))
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        row = Image.new("RGBA", (count * (size[0] + GAP) - GAP, size[1]))
        for place in range(count):
            one = self.image.crop((place * along, top, place * along + wide, top + high))
            row.paste(one if scale == 1 else one.resize(size), (place * (size[0] + GAP), 0))
        out, kind = io.BytesIO(), "png" if max(high, wide) <= EXACT else "webp"
        if kind == "png":
            row.save(out, "PNG", optimize=True)
        else:
            row.save(out, "WEBP", quality=85)
        data = base64.b64encode(out.getvalue()).decode()
        return Picture(f"data:image/{kind};base64,{data}", alt, *row.size, exact=kind == "png")


def read_grids(folder: Path) -> tuple[dict[str, Grid], list[str]]:
    """Reads the grids of a run folder by model; says what could not be read."""
    return _read({path.stem: path for path in sorted((folder / "grids").glob("*.png"))}, folder)


def read_snapshots(folder: Path) -> tuple[dict[str, dict[int, Grid]], list[str]]:
    """Reads the grids that were made during runs: model → step → grid; says what could not be read."""
    paths: dict[str, dict[int, Path]] = {}
    for path in sorted((folder / "snapshots").glob("*.png")):
        if match := re.fullmatch(r"(.+)-(\d{1,12})", path.stem):
            paths.setdefault(match[1], {})[int(match[2])] = path
    found: dict[str, dict[int, Grid]] = {}
    bad: list[str] = []
    for name, steps in paths.items():
        grids, unread = _read({f"{name}-{step}": path for step, path in steps.items()}, folder, name)
        found[name] = {step: grids[f"{name}-{step}"] for step in sorted(steps) if f"{name}-{step}" in grids}
        bad += unread
    return {name: grids for name, grids in found.items() if grids}, bad


def make_picture_table(columns: Sequence[str], lines: Sequence[Line], caption: str, *, prompts: bool = False) -> Figure:
    """Puts pictures in a table, a row a class, those of forgotten ones marked; prompts stand above their pictures."""
    html: Markup = render("prompts.html.j2" if prompts else "pictures.html.j2", columns=columns, lines=lines)
    return Figure(html, "", caption)


def choose(classes: Sequence[str], forgotten: Sequence[str], most: int) -> list[str]:
    """Chooses no more than so many classes, in order: forgotten ones and others, spread evenly; of many, half each."""
    gone = [name for name in classes if name in forgotten]
    others = [name for name in classes if name not in forgotten]
    gone = _spread(gone, max(most // 2, most - len(others)))
    kept = {*gone, *_spread(others, most - len(gone))}
    return [name for name in classes if name in kept]


def _spread(names: Sequence[str], most: int) -> list[str]:
    """Returns so many at most, evenly from the first on."""
    count = min(len(names), most)
    return [names[i * len(names) // count] for i in range(count)]


def _read(paths: Mapping[str, Path], folder: Path, layout: str | None = None) -> tuple[dict[str, Grid], list[str]]:
    found, bad = {}, []
    for name, path in paths.items():
        known = [folder / "grids" / f"{one}.json" for one in (layout or name, "original")]
        given: Mapping[str, Any] = next((_layout(file) for file in known if file.is_file()), {})
        classes = tuple(str(c) for c in as_sequence(given.get("classes")))
        columns = int(as_number(given.get("columns")) or 0)
        place = path.relative_to(folder)
        try:
            with open_regular(path) as file, Image.open(file, formats=("PNG",)) as opened:
                image = opened.convert("RGB")
        except (UntrainError, Image.DecompressionBombError, *DAMAGED) as error:
            bad.append(f"{place} cannot be read: {error}.")
            continue
        if columns < 1 or not classes or (image.height + GAP) % len(classes) or (image.width + GAP) % columns:
            bad.append(f"{place} does not fit the classes and columns of its layout, grids/{layout or name}.json.")
            continue
        found[name] = Grid(image, classes, columns, given.get("blurred") is True)
    return found, bad


def _layout(file: Path) -> Mapping[str, Any]:
    try:
        return as_mapping(read_json(file, "untrain evaluate"))
    except UntrainError:
        return {}  # the grid is then named as one that does not fit
