"""Sections of a recipe on image classifiers."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from annotated_types import Ge, Interval

from untrain.data.sections import Data, Forget
from untrain.settings import Code


@dataclass(frozen=True)
class Model:
    """The architecture, and the weights where they exist already."""

    name: Annotated[str, Code] | None = None
    """Model, see `untrain list`; on the command line also MODULE:FACTORY, a function of your own; null: the
    checkpoint's where that is a folder of transformers, else small-cnn."""
    checkpoint: str | None = None
    """The original model: a file of weights, or an image classifier that transformers saved (its folder, a file or
    index of weights in that, or a hub id); null: the recipe trains it, see train."""
    entry: str | int | None = None
    """Which entry of a torch file holds the weights; null: the one that does, of several the average over training."""
    train: bool | None = None
    """Whether the weights that hf:PATH_OR_ID brings are trained before they are the original; null: where no checkpoint
    is given and the recipe has a section train."""
    labels: dict[str, Any] = field(default_factory=dict)
    """Class of the data → class of the model, by name or number, for those that are called otherwise."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of the model's builder."""

    @property
    def starts_from(self) -> str | None:
        """The folder or hub id of transformers whose weights its name brings."""
        return self.name.removeprefix("hf:") if self.name is not None and self.name.startswith("hf:") else None

    @property
    def original(self) -> str | None:
        """Where the original's weights come from; None where the recipe trains it."""
        return self.checkpoint if self.train or self.checkpoint is not None else self.starts_from


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

    def completed(self, given: Collection[str]) -> "ClassificationSections":
        """Returns the sections with what depends on the recipe's other fields: a deployed model is not trained unasked.

        Args:
            given: names of the common fields that the recipe gives.
        """
        model = self.model
        if model.starts_from is None or model.checkpoint is not None or model.train is not None:
            return self
        return replace(self, model=replace(model, train="train" in given))
