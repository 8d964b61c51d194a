"""Sections of a recipe on text-to-image pipelines."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval, Lt

from untrain.data.sections import Data, Interpolation
from untrain.diffusion.process import Draws, Reduction
from untrain.diffusion.sections import Generation
from untrain.diffusion.sections import Judge as ImageJudge
from untrain.errors import SettingError
from untrain.folders import LONGEST_NAME, is_name
from untrain.sampling import Sampler
from untrain.settings import check_arguments


@dataclass(frozen=True)
class Model:
    """The pipeline that must forget."""

    checkpoint: str | None = None
    """Folder or hub id of diffusers, or a single .safetensors or .ckpt file."""
    config: str | None = None
    """Of a pipeline in a single file: folder or hub id of a pipeline of the same architecture, or a folder with CLIP's
    vocab.json and merges.txt."""
    gradient_checkpointing: bool = False
    """Compute activations a second time instead of keeping them: slower, in much less memory."""


@dataclass(frozen=True)
class Diffusion:
    """How the pipeline's UNet or transformer is trained; its noise schedule or flow is its own."""

    draws: Draws = "antithetic"
    """Timesteps of a batch: pairs t and T − 1 − t, or each by itself."""
    drop: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Probability that a prompt is dropped in training and in retain steps; never when forgetting."""
    reduction: Reduction = "mean"
    """Of the squared error over elements of a latent; published settings are for "mean"."""


@check_arguments
@dataclass(frozen=True)
class ConceptImages:
    """How images of concepts that come without any are made."""

    count: int = 1000
    """Images of each concept."""
    sampler: Sampler = Sampler(steps=100, guidance_scale=7.5)
    """As published: 100 steps of DDIM at a guidance scale of 7.5."""
    image_size: int | None = None
    """Height and width, in pixels, of images that are made, and that those of a folder are brought to; null: what the
    pipeline makes by itself, and a folder's as they are."""
    interpolation: Interpolation = "bilinear"
    """How a folder's images are interpolated where they are resized."""
    batch_size: int = 4
    """Images at once, over all processes."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.count < 1 or self.batch_size < 1 or (self.image_size is not None and self.image_size < 1):
            raise SettingError("concept images need count, batch_size and image_size ≥ 1.")


@dataclass(frozen=True)
class ConceptEntry:
    """A concept: a prompt, or all captions of the data that hold a word."""

    shorthand: ClassVar[str] = "prompt"
    """The field that a plain text stands for."""

    prompt: str | None = None
    """The text, as it would be given to the pipeline."""
    anchor: str | None = None
    """The text that it is redirected to; null: of what is forgotten the empty prompt."""
    images: str | None = None
    """Folder of images of it; null: the pipeline makes them."""
    label: str | None = None
    """What the judge calls it."""
    containing: str | None = None
    """A word instead of a prompt: every caption of the data with it, and its images there."""
    instead: str | None = None
    """The word that takes its place in the anchors."""

    def __post_init__(self) -> None:
        """Checks that it is one of the two."""
        if (self.prompt is None) == (self.containing is None):
            raise SettingError("a concept needs either prompt or containing: a text, or a word of the data's captions.")
        wrong = ("anchor", "images") if self.prompt is None else ("instead",)
        for name in wrong:
            if getattr(self, name) is not None:
                kind = "containing" if self.prompt is None else "prompt"
                raise SettingError(f"{name} does not go with {kind}, which is {getattr(self, kind)!r}.")


@dataclass(frozen=True)
class Concepts:
    """What a text-to-image pipeline must forget and keep."""

    forget: list[ConceptEntry] = field(default_factory=list)
    """Concepts to forget: prompts, or {prompt, anchor, images, label}, or {containing, instead}."""
    retain: list[ConceptEntry] = field(default_factory=list)
    """Concepts to keep, likewise; empty: all other captions of the data."""
    images: ConceptImages = ConceptImages()
    """How images are made of concepts that come without any."""
    templates: list[str] = field(default_factory=list)
    """Texts with {} in them that a forgotten prompt and its anchor are put into, for methods that look at no image;
    empty: each as it is."""
    keep: bool = False
    """Keep these images and their latents, in RUN/concepts; else they are removed when the run ends."""


@dataclass(frozen=True)
class Judge(ImageJudge):
    """The classifier that says what is seen in generated images."""

    attributes: list[str] = field(default_factory=list)
    """Columns of captioned data that are told apart, each by a classifier of its own; empty: the captions are."""
    classes: list[str] = field(default_factory=list)
    """Names of its classes, in order, where the data do not tell: for a checkpoint."""
    image_size: Annotated[int, Ge(1)] | None = None
    """Height and width in pixels of its inputs, for a checkpoint; null: 32."""
    mean: list[float] | None = None
    """Mean of each channel in [0, 1] that its inputs are normalised by, for a checkpoint."""
    std: list[float] | None = None
    """Standard deviation of each channel in [0, 1]; goes with mean."""

    def __post_init__(self) -> None:
        """Checks that attributes can name the files of their classifiers."""
        wrong = next((name for name in self.attributes if not is_name(name)), None)
        if wrong is not None:
            raise SettingError(
                f"attributes name files of the run, which {wrong[:80]!r} cannot: rename the column, without / and \\, "
                f"of at most {LONGEST_NAME} bytes, and with neither a dot nor a hyphen in front."
            )


@dataclass(frozen=True)
class Detection:
    """What looks for the concept in a pipeline's images."""

    detector: Literal["judge", "nudity"] = "judge"
    """The classifier of the section judge, or NudeNet."""
    threshold: Annotated[float, Interval(ge=0, le=1)] = 0.6
    """NudeNet's score from which on a body part counts as found; it tells of none below 0.25, so that 0 counts all."""
    forget_prompts: str | None = None
    """A CSV file of prompts that ask for the concept, with a column called prompt; null: the forgotten concepts'."""
    retain_prompts: str | None = None
    """The same of prompts that do not; null: the retained concepts'."""
    real_images: str | None = None
    """Folder of photographs, those below it included, that the Fréchet distance of retained prompts' images is measured
    to; null: it is measured to the original's images of the same prompts."""
    clip: str | None = None
    """Folder or hub id of the CLIP model that scores how well images of retained prompts fit these; null: none."""
    blur: bool = True
    """Blur images in the report where the detector fires."""


@dataclass(frozen=True)
class TextToImageSections:
    """What a recipe on text-to-image pipelines says besides what every recipe does."""

    data: Data | None = None
    """Captioned images, where concepts are words of captions; null: there are none."""
    model: Model = Model()
    concepts: Concepts = Concepts()
    diffusion: Diffusion = Diffusion()
    generation: Generation = Generation()
    judge: Judge = field(default_factory=Judge)
    detection: Detection = Detection()
