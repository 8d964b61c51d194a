"""Sections of a recipe on image generators that are conditioned on a class."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

from untrain.data.sections import Data, Forget
from untrain.diffusion.process import DiffusionProcess
from untrain.diffusion.sections import Generation, Judge
from untrain.settings import Code

Redirect = Literal["next", "random"]


@dataclass(frozen=True)
class Model:
    """The architecture, and the weights where they exist already."""

    name: Annotated[str, Code] | None = None
    """Model, see `untrain list`; on the command line also MODULE:FACTORY, a function of your own. Null: unet-small, or
    what the checkpoint's folder says."""
    checkpoint: str | None = None
    """File of the original's weights, or a folder or hub id of diffusers; null: the recipe trains it."""
    vae: str | None = None
    """Folder or hub id of an AutoencoderKL, in whose latents the generator works; null: that of the checkpoint's
    pipeline, or none, and pixels are generated."""
    entry: str | int | None = None
    """Which entry of a torch file holds the weights; null: the one that does, of several the average over training."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of the model's builder."""


@dataclass(frozen=True)
class Augment:
    """What is done to images in training only; a generator would learn random crops, so there are none."""

    flip: bool = False
    """Mirror images at random."""


@dataclass(frozen=True)
class Diffusion(DiffusionProcess):
    """The diffusion that a generator is trained on, and how it is trained."""

    redirect: Redirect = "next"
    """What a redirected sample of a class is conditioned on: the class `shift` after its own, or another one drawn once
    for it."""
    shift: Annotated[int, Ge(1)] = 1
    """How many classes further `redirect: next` goes, beginning anew after the last."""


@dataclass(frozen=True)
class ClassDiffusionSections:
    """What a recipe on generators of classes says besides what every recipe does."""

    data: Data = Data()
    forget: Forget = Forget()
    model: Model = Model()
    augment: Augment = Augment()
    diffusion: Diffusion = Diffusion()
    generation: Generation = Generation()
    judge: Judge = field(default_factory=Judge)
