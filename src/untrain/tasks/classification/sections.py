"""Sections of a recipe on image classifiers."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Interval

from untrain.data.sections import Data, Forget
from untrain.settings import Code


@dataclass(frozen=True)
class Model:
    """The architecture, and the weights where they exist already."""

    name: Annotated[str, Code] = "small-cnn"
    """Model, see `untrain list`; on the command line also MODULE:FACTORY, a function of your own."""
    checkpoint: str | None = None
    """File of the original model's weights; null: the recipe trains it."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of the model's builder."""


@dataclass(frozen=True)
class Augment:
    """What is done to images in training only."""

    pad: Annotated[int, Ge(0)] = 0
    """Pixels of zero padding before a random crop."""
    flip: bool = False
    """Mirror images at random."""
    rotate: Annotated[float, Interval(ge=0, le=180)] = 0.0
    """Turn each image by a random angle of at most so many degrees, to either side."""


@dataclass(frozen=True)
class ClassificationSections:
    """What a recipe on image classifiers says besides what every recipe does."""

    data: Data = Data()
    forget: Forget = Forget()
    model: Model = Model()
    augment: Augment = Augment()
    svc_attacks: bool = False
    """Run the support vector attacks too, which take about a second for each model."""
