"""Images of prompts, made from the same noise in every model, and what is seen in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from untrain.diffusion.features import Features
from untrain.diffusion.images import ImageMaker
from untrain.diffusion.latents import decode
from untrain.diffusion.text import Prompts
from untrain.engine import Engine, seed_of
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.concepts import Concept, prompt_conditions
from untrain.tasks.text_to_image.detectors import Classifier, Clip, Detector
from untrain.tasks.text_to_image.evaluate import (
    ConceptEvaluation,
    Judge,
    PromptImages,
    evaluate_concept_images,
    features_of,
)
from untrain.tasks.text_to_image.task import TextToImage

JUDGE = "judge"
"""What the one classifier is called that is asked for a concept's label."""


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt that models are evaluated on.

    Attributes:
        text: the prompt.
        forgotten: whether it asks for what is to be forgotten.
        wanted: judge → the label that it should see.
    """

    text: str
    forgotten: bool
    wanted: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_concept(cls, concept: Concept, *, forgotten: bool) -> "EvalPrompt":
        """Takes a concept's own prompt, with the label that stands for it."""
        return cls(concept.prompt, forgotten, {} if concept.label is None else {JUDGE: concept.label})


class RenderedImages(NamedTuple):
    """What a model makes of prompts: images of the forgotten, and of the retained ones."""

    forget: PromptImages
    retain: PromptImages


@dataclass(frozen=True, eq=False)
class PromptRenderer:
    """Renders prompts with a given network, always from the same noise.

    Attributes:
        task: the pipeline's.
        vae: decodes latents; on the engine's device.
        prompts: embedded, on the engine's device.
        shape: (C, h, w) of a latent.
        engine: device, precision, processes.
        sampler: steps, η, guidance scale.
        batch_size: images at once.
    """

    task: TextToImage
    vae: Any
    prompts: Prompts
    shape: tuple[int, ...]
    engine: Engine
    sampler: Sampler
    batch_size: int

    def render(
        self,
        unet: nn.Module,
        asked: Sequence[EvalPrompt],
        count: int,
        *,
        seed: int,
        primary: str = JUDGE,
        label: str | None = None,
    ) -> RenderedImages:
        """Renders so many images of each prompt.

        Args:
            unet: on the engine's device.
            asked: the prompts.
            count: images of each.
            seed: with a prompt's text and an image's number it decides that image's noise.
            primary: the judge whose labels are wanted of the images.
            label: of the progress bar; None: no bar.
        """
        conditions, decoder = prompt_conditions(self.task, self.prompts), partial(decode, self.vae)
        how = (self.sampler, self.engine, seed, self.batch_size, decoder)
        numbers = [self.prompts.number(each.text) for each in asked]
        images, labels = ImageMaker(self.task, conditions, self.shape, *how).collect(unet, numbers, count, label)
        place = dict(zip(numbers, asked, strict=True))
        rows = [place[number] for number in labels.tolist()]
        within = list(range(count)) * len(asked)
        sides = (_side(images, rows, within, seed, primary, forgotten) for forgotten in (True, False))
        return RenderedImages(*sides)


def _side(
    images: Tensor, rows: Sequence[EvalPrompt], within: Sequence[int], seed: int, judge: str, forgotten: bool
) -> PromptImages:
    """The images of one side, with what is to be seen in them."""
    chosen = [i for i, each in enumerate(rows) if each.forgotten is forgotten]
    return PromptImages(
        images[torch.tensor(chosen, dtype=torch.long)],
        [rows[i].text for i in chosen],
        [rows[i].wanted.get(judge) for i in chosen],
        [within[i] for i in chosen],
        [seed_of(seed, "sample", rows[i].text, within[i]) for i in chosen],
    )


def evaluate_prompted(
    models: Mapping[str, nn.Module],
    original: nn.Module | None,
    make: Callable[[nn.Module, str | None], RenderedImages],
    asked: Sequence[EvalPrompt],
    *,
    detector: Detector,
    judges: Mapping[str, Classifier],
    features: Features | None = None,
    photographs: Tensor | None = None,
    clip: Clip | None = None,
    setting: str = "samples",
    look: Callable[[str, RenderedImages, ConceptEvaluation], None] = lambda name, made, found: None,
) -> dict[str, ConceptEvaluation]:
    """Evaluates text-to-image models on the same prompts and noise.

    Args:
        models: name → the network that predicts.
        original: the one whose images of retained prompts the others' are compared with; None: they are not compared.
        make: (network, what the progress bar is called) → its images.
        asked: the prompts.
        detector: says whether the concept is there.
        judges: further classifiers, by what they judge, which look at images of retained prompts.
        features: the network that the distance is measured in; None: no distance.
        photographs: `features_of` photographs, [N, D], that all models are compared with instead; None: there are none.
        clip: scores how well images of retained prompts fit these.
        setting: what is to be raised where there are too few images.
        look: is shown each model's name, images and measures.
    """
    told = {each.text: each.wanted for each in asked}
    reference = photographs
    network = features if photographs is None else None  # of the original's images, where these are compared with
    if network is not None and original is not None and original not in models.values():
        reference = features_of(make(original, "images of the original").retain.images, network)
    found = {}
    for name, module in sorted(models.items(), key=lambda item: item[1] is not original):
        made = make(module, f"images of {name}")
        if network is not None and module is original:
            reference = features_of(made.retain.images, network)
        found[name] = evaluate_concept_images(
            forgotten=made.forget,
            retained=made.retain,
            detector=detector,
            judges=[
                Judge(classifier, [told[text].get(about) for text in made.retain.prompts])
                for about, classifier in judges.items()
            ],
            features=features,
            reference=None if module is original and photographs is None else reference,
            photographs=photographs is not None,
            clip=clip,
            setting=setting,
        )
        look(name, made, found[name])
    return {name: found[name] for name in models}


PICTURED = 8
"""Forgotten and retained prompts that are shown as pictures at most, of each."""


def choose_pictured(asked: Sequence[EvalPrompt]) -> list[EvalPrompt]:
    """Chooses a few forgotten and a few retained prompts to show as pictures, spread evenly."""
    found: list[EvalPrompt] = []
    for forgotten in (True, False):
        those = [each for each in asked if each.forgotten is forgotten]
        count = min(PICTURED, len(those))
        found += [those[i * len(those) // count] for i in range(count)]
    return found
