"""Sections of recipes that generators share: how images are made, and by what they are judged."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge

from untrain.methods.base import Optimizer
from untrain.methods.retrain import Retrain
from untrain.sampling import Sampler
from untrain.settings import Code


@dataclass(frozen=True)
class Generation:
    """How generators are judged."""

    sampler: Sampler = Sampler()
    """How images are made of noise."""
    samples: Annotated[int, Ge(1)] = 250
    """Images of each class or prompt."""
    batch_size: Annotated[int, Ge(1)] = 256
    """Images that are made at once."""
    columns: Annotated[int, Ge(1)] = 8
    """Images of each class or prompt in the grids of the report, and in those made during a run."""
    train_every: Annotated[int, Ge(0)] = 0
    """Steps between two grids of samples while a generator is trained; 0: none."""
    features: str = "judge"
    """Network of the Fréchet distance: "judge", "inception" (then it is called FID), or a file of Inception's
    weights."""


@dataclass(frozen=True)
class Judge:
    """The classifier that says what is seen in generated images."""

    name: Annotated[str, Code] = "small-cnn"
    """Classifier, see `untrain list`."""
    checkpoint: str | None = None
    """File of its weights; null: it is trained here on the training images."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of its builder."""
    train: Retrain = Retrain(epochs=20.0, optimizer=Optimizer("sgd", 0.05, 0.9, 5e-4))
    """How it is trained."""
    batch_size: Annotated[int, Ge(1)] | None = None
    """Images in each step of its training; null: the recipe's."""
