"""Concepts as their texts alone, for methods that look at no image: nothing is drawn, read or encoded for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from untrain.data.samples import Source
from untrain.data.splits import Subset
from untrain.diffusion.latents import POSTERIOR
from untrain.diffusion.text import Prompts, encode_prompts
from untrain.errors import SettingError
from untrain.io import hash_json
from untrain.tasks.text_to_image.concepts import Concept
from untrain.types import Batch

HOLE = "{}"
"""What of a template a concept's text takes the place of."""


class TextSet(Source, Dataset[Batch]):
    """Texts as the network sees them, a row each, with latents of zeros; see `TextToImage` for what a batch holds.

    Args:
        prompts: embedded texts.
        texts: the number of each row's text, int64 [N].
        anchors: the number of the text that it is redirected to, int64 [N].
        labels: the number of its concept, int64 [N].
        classes: the concepts' prompts.
        shape: (C, h, w) of a latent.
    """

    in_memory = True
    ids: tuple[str, ...] | None = None

    def __init__(
        self,
        prompts: Prompts,
        texts: Tensor,
        anchors: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        shape: tuple[int, ...],
    ) -> None:
        self.prompts, self.texts, self.anchors, self.labels = prompts, texts, anchors, labels
        self.classes, self.shape = tuple(classes), shape

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.labels)

    def __getitem__(self, i: int) -> Batch:
        """Text i, without the first dimension of `batch`."""
        return {name: tensor[0] for name, tensor in self.batch(torch.tensor([range(len(self))[i]])).items()}

    def batch(self, indices: Tensor) -> Batch:
        """Texts at these positions."""
        chosen, like = indices.cpu(), self.prompts.embeds
        blank = torch.zeros(len(chosen), *self.shape, device=like.device, dtype=like.dtype)
        rows = self.prompts.rows(self.texts[chosen].to(like.device), self.anchors[chosen].to(like.device))
        numbers = {"label": self.labels[chosen].to(like.device), "index": chosen.to(like.device)}
        return {**dict.fromkeys(POSTERIOR, blank), **numbers, **rows}

    def select(self, indices: Tensor) -> "TextSet":
        """These texts alone, numbered from 0."""
        chosen = indices.cpu()
        parts = (self.texts[chosen], self.anchors[chosen], self.labels[chosen])
        return TextSet(self.prompts, *parts, self.classes, self.shape)

    def to(self, device: torch.device | str) -> "TextSet":
        """The same texts on another device."""
        if torch.empty(0, device=device).device == self.prompts.embeds.device:
            return self
        parts = (self.texts, self.anchors, self.labels)
        return TextSet(self.prompts.to(device), *parts, self.classes, self.shape)

    def fingerprint(self) -> str:
        """A hash of the texts and of what they were encoded by."""
        numbers = [each.tolist() for each in (self.texts, self.anchors, self.labels)]
        return hash_json([self.prompts.fingerprint(), *numbers, list(self.shape)])


def text_sets(
    pipeline: Any,
    lists: Mapping[str, Sequence[Concept]],
    templates: Sequence[str],
    shape: tuple[int, ...],
    image_size: int,
    device: torch.device | None = None,
) -> dict[str, Subset]:
    """The texts of concepts as sets: of forgotten ones each template with its anchor's, of retained ones the prompt.

    Args:
        pipeline: a supported one.
        lists: "forget" and "retain": concepts.
        templates: texts with {} in them, which a forgotten prompt and its anchor are put into; empty: each as it is.
        shape: (C, h, w) of a latent.
        image_size: height and width of the images, which SDXL is told.
        device: where large text encoders work; None: where they are.

    Raises:
        DataError: if a text is too long for a tokenizer's window.
    """
    sentences = {"forget": templates or (HOLE,), "retain": (HOLE,)}
    concepts = [(name, concept) for name, of in lists.items() for concept in of]
    pairs = [_texts(concept, sentences[name], name == "forget") for name, concept in concepts]
    written = [pair for each in pairs for pair in each]
    told = [text for pair in written for text in pair if text]
    prompts = encode_prompts(pipeline, told, image_size, device=device).to("cpu")
    texts, anchors = (torch.tensor([prompts.number(pair[place]) for pair in written]) for place in (0, 1))
    labels = torch.arange(len(pairs)).repeat_interleave(torch.tensor([len(each) for each in pairs]))
    whole = TextSet(prompts, texts, anchors, labels, [concept.prompt for _, concept in concepts], shape)
    return {
        name: Subset(whole, [i for i, number in enumerate(labels.tolist()) if concepts[number][0] == name])
        for name in lists
    }


def _texts(concept: Concept, templates: Sequence[str], forgotten: bool) -> list[tuple[str, str]]:
    """A concept's prompt and anchor in each template, each pair once."""
    anchor = concept.anchor or ("" if forgotten else concept.prompt)
    return list(dict.fromkeys((_filled(each, concept.prompt), _filled(each, anchor)) for each in templates))


def _filled(template: str, text: str) -> str:
    """A text in a template; where the empty one is put in, without the space that it leaves."""
    return " ".join(template.replace(HOLE, text).split()) if template != HOLE else text


def check_templates(templates: Sequence[str]) -> None:
    """Each template must have a place for a concept.

    Raises:
        SettingError: names the first that has not.
    """
    wrong = next((each for each in templates if each.count(HOLE) != 1), None)
    if wrong is not None:
        raise SettingError(
            f"a template needs {HOLE} once, where the concept is put in, such as 'a photo of {HOLE}'; "
            f"{wrong!r} has it {wrong.count(HOLE)} times."
        )
