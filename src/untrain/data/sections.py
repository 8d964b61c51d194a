"""Sections of recipes on data: where samples come from, and which of them are to be forgotten."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from untrain.data.records import Missing
from untrain.settings import Seed

Interpolation = Literal["bilinear", "bicubic"]
"""How pixels between others are computed where an image is resized."""


@dataclass(frozen=True)
class Data:
    """Where the images come from."""

    name: str = "fashion"
    """Source, see `untrain list`."""
    path: str | None = None
    """File or folder on this machine."""
    image_size: Annotated[int, Ge(1)] | None = None
    """Height and width in pixels that images are brought to; null: as they are."""
    interpolation: Interpolation = "bilinear"
    """How resized images are interpolated."""
    grayscale: bool = False
    """Decode images into one channel."""
    limit: Annotated[int, Ge(1)] | None = None
    """Number of training images to use, balanced over classes; null: all."""
    test_limit: Annotated[int, Ge(1)] | None = None
    """Number of test images to use, balanced over classes; null: all."""
    test_fraction: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of every class kept for testing, where the data has no test part."""
    image_column: str | None = None
    """A table's image column, where it is not called image or img."""
    label_column: str | None = None
    """A table's label column, where it is not called label, labels or fine_label."""
    caption_column: str | None = None
    """A table's column of captions, where it is not called text, caption or prompt."""
    config: str | None = None
    """Configuration of a hub's data set that has several."""
    mean: list[float] | None = None
    """Mean of each channel in [0, 1] that images are normalised by; null: measured on the training images. Give what
    a checkpoint was trained with."""
    std: list[float] | None = None
    """Standard deviation of each channel in [0, 1]; goes with mean."""

    @property
    def title(self) -> str:
        """What the data are called: by the name of their file or folder where `name` is only the form they have."""
        if self.path is None or self.name not in FORMS:
            return self.name
        return Path(self.path).absolute().name.removesuffix(".npz").removesuffix(".parquet") or self.name


FORMS = ("arrays", "folder", "captions", "parquet")
"""Sources that are called after the form of what a user has, not after what is in it."""


@dataclass(frozen=True)
class Forget:
    """What to forget: exactly one of classes, fraction, count, indices and ids."""

    classes: list[str | int] = field(default_factory=list)
    """Classes by number or name."""
    fraction: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of the training set, in (0, 1), chosen at random."""
    count: Annotated[int, Ge(1)] | None = None
    """Number of random training samples to forget."""
    indices: str | None = None
    """A file of sample numbers (csv, txt, npy)."""
    ids: str | None = None
    """A file of sample ids (csv, txt, npy, json); of samples that are files, ids are paths within data.path, and a list
    may have bare file names or absolute paths."""
    id_column: str | None = None
    """Column of a csv or json file that holds the ids; null: the one called id or file_name, else the first."""
    missing: Missing = "refuse"
    """What happens where ids are not there: refuse the request, or skip them, which is said and noted."""
    hash_ids: bool = False
    """Keep salted hashes in the run folder instead of ids and positions; see SECURITY.md for what they hide."""
    holdout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the data that nothing is ever trained on; it shows how far to forget. 0: none."""
    holdout_from: Literal["train", "test"] | None = None
    """Where it is cut from; null: the training data, or, where a checkpoint may have seen all of these, the test data
    (at most half of them; they are not tested on then)."""
    audit_holdout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the training data that nothing is ever trained on, and that no method and no measure is given: the audit
    asks this run's own models for it. 0: none."""
    seed: Seed | None = None
    """Seed of the forget set's choice; null: the recipe's seed."""
    after: str | None = None
    """Run folder of the request before this one: what it and those before it forgot stays out of the retain set, its
    held-out data stay held out, and all that was asked to be forgotten so far is measured."""


REQUESTS = ("classes", "fraction", "count", "indices", "ids")
"""The fields of `Forget` that say what is forgotten."""
