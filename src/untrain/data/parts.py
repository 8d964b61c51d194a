"""Which part of which data is asked for: what every loader reads, and the test part of data that has none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from untrain.data.geometry import Size
from untrain.data.sections import Interpolation
from untrain.data.source import Source
from untrain.engine import generator_of
from untrain.errors import DataError, EmptySet, SettingError, spell
from untrain.lazy import torch
from untrain.reading import check_folder, failure_of, printable

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["train", "test"]

PARTS: tuple[Part, ...] = ("train", "test")


@dataclass(frozen=True)
class Request:
    """What `load` was asked for; each source reads what concerns it.

    `test_name` is what a well-known set calls its labelled test part; the other fields are described there.
    """

    name: str
    part: Part
    path: Path | None = None
    image_size: Size = None
    interpolation: Interpolation = "bilinear"
    grayscale: bool = False
    test_fraction: float | None = None
    image_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    config: str | None = None
    test_name: str = "test"
    links: bool = False
    classes: tuple[str, ...] | None = None

    @property
    def decoding(self) -> dict[str, Any]:
        """How images are decoded, as arguments of `Images`."""
        names = ("image_size", "grayscale", "interpolation")
        return {name: getattr(self, name) for name in names}


def names_of(request: Request, part: Part) -> tuple[str, ...]:
    """What a part may be called in this data, likeliest first."""
    return ("train",) if part == "train" else (request.test_name, "test", "validation", "valid", "val")


def part_of(request: Request, has: Callable[[Part], bool], build: Callable[[Part], Source]) -> Source:
    """The part asked for; cut from the training part where the data has no test part of its own.

    Args:
        request: what is asked for.
        has: whether the data has such a part.
        build: makes the source of a part that it has.
    """
    if not has("train"):
        raise DataError(f"{request.path or request.name} has no training part. Check the path.")
    if has("test"):
        if request.test_fraction is not None:
            raise SettingError(f"{request.path or request.name} has its own test part: take test_fraction away.")
        return build(request.part)
    whole = build("train")
    if request.test_fraction is None and request.part == "train":
        return whole
    if request.test_fraction is None:
        raise DataError(
            f"{request.path or request.name} has no test part: add one, or give test_fraction, "
            "the share of every class that is kept for testing."
        )
    chosen = _stratified(whole.labels, request.test_fraction)
    if not chosen.any():
        largest = int(whole.labels.bincount().max())
        raise EmptySet(
            f"{request.path or request.name}: a test_fraction of {request.test_fraction} takes no sample of a class of "
            f"{largest}, and no class has more. Add a test part, or give a larger share."
        )
    return whole.select((chosen if request.part == "test" else ~chosen).nonzero().squeeze(1))


def _stratified(labels: Tensor, fraction: float) -> Tensor:
    """True for a share of every class, bool [N]; the choice is fixed."""
    order = torch.randperm(len(labels), generator=generator_of(0, "test_fraction"))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        of_class = order[labels[order] == label]
        chosen[of_class[: round(fraction * len(of_class))]] = True
    return chosen


def existing(request: Request) -> Path:
    """The path asked for, which must be there."""
    if request.path is None:
        raise SettingError(
            f"the data source {request.name!r} needs {spell('--data.path', 'path=')}, where the data lies."
        )
    try:
        os.stat(request.path)
    except (OSError, ValueError) as error:
        raise DataError(f"{failure_of(request.path, error)}. Check the path.") from error
    return request.path


def existing_folder(request: Request, holds: str) -> Path:
    """The path asked for, which must be a folder; `holds` says of what kind, "with one folder per class"."""
    root = existing(request)
    if not os.path.isdir(root):
        raise DataError(f"{printable(root)} is a file: path must be a folder {holds}.")
    check_folder(root)
    return root
