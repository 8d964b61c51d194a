"""What must be known of a kind of text-to-image pipelines beyond its parts, and how batches name what models are told.

A batch knows several texts of each row: "prompt", "anchor", "empty", and the "condition" that the model is told of.
What a text has become stands under its name ("embeds") and under NAME_FIELD ("pooled", "mask"); what is the same for
all texts, under its own name. A model is told all of it as one dict, field → tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from untrain.errors import ModelError
from untrain.lazy import torch
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

EMBEDS, POOLED, MASK = "embeds", "pooled", "mask"
"""What can have become of a text: embedded tokens [B, L, D]; one vector [B, P]; which tokens count, int64 [B, L]."""
TEXT_FIELDS = (EMBEDS, POOLED, MASK)

TIME_IDS = "time_ids"
"""Of SDXL: height and width of the original, top and left of the crop, height and width aimed at, [B, 6]."""
RESOLUTION = "resolution"
"""Height and width of the image in pixels, [B, 2]."""
GUIDANCE = "guidance"
"""The guidance scale, of models that take it as an input, [B]."""
SHARED_FIELDS = (TIME_IDS, RESOLUTION, GUIDANCE)

Condition = dict[str, "Tensor"]
"""Field → tensor, a row for each text or sample."""


def text_key(text: str, field: str) -> str:
    """The name in a batch of what a text has become."""
    return text if field == EMBEDS else f"{text}_{field}"


def condition_of(batch: Batch, text: str = "condition") -> Condition:
    """What a batch knows of a text, and what is the same for all texts."""
    names = {field: text_key(text, field) for field in TEXT_FIELDS} | {field: field for field in SHARED_FIELDS}
    return {field: batch[name] for field, name in names.items() if name in batch}


class Architecture(ABC):
    """A kind of text-to-image pipelines."""

    name: ClassVar[str]
    """What it is called in settings and reports."""
    description: ClassVar[str]
    """One line for `untrain list`."""
    pipelines: ClassVar[tuple[str, ...]]
    """Its classes of diffusers."""
    network: ClassVar[str]
    """The class of diffusers that predicts noise or velocity."""
    part: ClassVar[str] = "transformer"
    """What the pipeline calls that network."""
    needed: ClassVar[tuple[str, ...]] = ("vae", "text_encoder", "tokenizer", "scheduler")
    """What other parts a pipeline must have."""
    told: ClassVar[tuple[str, ...]] = (EMBEDS,)
    """What the network must be told of a text."""
    flows: ClassVar[bool] = True
    """Whether it is trained by flow matching; else on a schedule of β."""
    guidance: ClassVar[Literal["prompts", "input"]] = "prompts"
    """How images are guided: away from what is made of the empty prompt, or by an input of the network."""
    edits: ClassVar[tuple[str, ...]] = (EMBEDS,)
    """What of a text goes through linear maps before anything else, so that closed-form edits can change them."""
    maps: ClassVar[Mapping[str, str]] = {}
    """Those maps: name of a linear layer → what goes through it; without any, keys and values of cross-attention."""
    new_words: ClassVar[bool] = False
    """Whether attacks can write words of their own into its text encoders."""
    on_device: ClassVar[bool] = True
    """Whether its text encoders are so large that a run brings them to its device while they work."""

    def check(self, pipeline: Any) -> None:  # noqa: B027, most have nothing more to look at
        """Refuses what is a pipeline of this kind and yet cannot be unlearned.

        Raises:
            ModelError: says why.
        """

    @abstractmethod
    def encode(self, pipeline: Any, texts: Sequence[str]) -> tuple[Condition, Condition]:
        """What becomes of texts as the pipeline encodes them, [B, …] each, and of the empty text, [1, …].

        The empty text is what its guidance steers away from.
        """

    def embed(self, pipeline: Any, texts: Sequence[str]) -> Condition:
        """What becomes of texts alone, [B, …] each; gradients flow through the text encoders."""
        return self.encode(pipeline, texts)[0]

    def shared(self, pipeline: Any, image_size: int) -> Condition:
        """What the network is told besides, the same for all texts: tensors without the first dimension."""
        return {}

    def windows(self, pipeline: Any) -> dict[str, int]:
        """Tokens that a text may have, of each tokenizer by its name; what is longer would be cut."""
        names = [name for name in ("tokenizer", "tokenizer_2") if pipeline.components.get(name) is not None]
        return {name: int(pipeline.components[name].model_max_length) for name in names}

    def sequence(
        self, pipeline: Any, texts: Sequence[str], seen: Mapping[str, Sequence[Sequence[int]]], length: int
    ) -> list[tuple[Sequence[Sequence[int]], int]]:
        """Of which tokens embedded texts are made, one tokenizer's behind another's: those of each text, and places.

        Args:
            pipeline: whose.
            texts: the first is the empty one.
            seen: tokenizer → the tokens that it makes of each text.
            length: places of an embedded text.
        """
        return [(next(iter(seen.values())), length)]

    @abstractmethod
    def predict(self, network: nn.Module, x: Tensor, timestep: Tensor, told: Condition) -> Tensor:
        """What the network predicts for x_t, [B, C, h, w] both; all tensors are of its own type.

        Args:
            network: is called as the pipeline calls it.
            x: x_t.
            timestep: t, [B]; of a flow T σ.
            told: what `condition_of` gives.
        """

    def check_told(self, network: nn.Module, told: Mapping[str, Tensor]) -> None:
        """Refuses a network that must be told more than a batch knows.

        Raises:
            ModelError: names what is missing.
        """
        missing = [text_key("prompt", field) for field in self.told if field not in told]
        if missing:
            raise ModelError(f"{type(network).__name__} is told of texts by more than the batches hold: {missing}.")

    def own_size(self, pipeline: Any) -> Any:
        """Height and width in pixels of the images that the pipeline makes by itself; or what its network says."""
        size = getattr(pipeline, self.part).config.sample_size
        size = size[0] if isinstance(size, Sequence) and len(set(size)) == 1 else size
        return size * self.latent_factor(pipeline) if isinstance(size, int) else size

    def latent_factor(self, pipeline: Any) -> int:
        """By how much a latent is smaller than its image."""
        return int(2 ** (len(pipeline.vae.config.block_out_channels) - 1))

    def latent_channels(self, pipeline: Any) -> int:
        """Channels of x_t."""
        return int(getattr(pipeline, self.part).config.in_channels)

    def tokens_of_image(self, pipeline: Any, image_size: int) -> int:
        """Patches of an image, by whose number some flows are shifted."""
        side = image_size // self.latent_factor(pipeline) // int(getattr(pipeline, self.part).config.patch_size)
        return side * side


class JointAttention(Architecture):
    """What transformers share that attend to image and text at once, and hear of a text by its pooled vector too."""

    needed: ClassVar[tuple[str, ...]] = (
        "vae",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "scheduler",
    )
    told: ClassVar[tuple[str, ...]] = (EMBEDS, POOLED)
    edits: ClassVar[tuple[str, ...]] = (EMBEDS, POOLED)
    maps: ClassVar[Mapping[str, str]] = {
        "context_embedder": EMBEDS,
        "time_text_embed.text_embedder.linear_1": POOLED,
    }


def first_chunk(predicted: Tensor, channels: int) -> Tensor:
    """What is predicted without its variance, where the network learned that too."""
    return predicted[:, :channels] if predicted.shape[1] == 2 * channels else predicted


def sample_of(found: Any) -> Tensor:
    """The tensor of what a network of diffusers gives."""
    sample = getattr(found, "sample", found)
    return sample if isinstance(sample, torch.Tensor) else sample[0]
