"""PixArt-α and PixArt-Σ: a transformer with cross-attention to T5, trained on a schedule of β with learned variance.

Chen et al.: *PixArt-α*, ICLR 2024; *PixArt-Σ*, ECCV 2024.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from untrain.diffusion.architectures.base import (
    EMBEDS,
    MASK,
    RESOLUTION,
    Architecture,
    Condition,
    first_chunk,
    sample_of,
)
from untrain.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class PixArt(Architecture):
    """A transformer that is told of T5's tokens and which of them count; some of α's of the image's size too.

    Of what it predicts, the first half is the noise; the variance, the other half, is left as the loss leaves it.
    """

    name: ClassVar[str] = "pixart"
    description: ClassVar[str] = "PixArt-α and PixArt-Σ: a transformer with cross-attention on a schedule of β."
    pipelines: ClassVar[tuple[str, ...]] = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    network: ClassVar[str] = "PixArtTransformer2DModel"
    told: ClassVar[tuple[str, ...]] = (EMBEDS, MASK)
    maps: ClassVar[Mapping[str, str]] = {"caption_projection.linear_1": EMBEDS}
    flows: ClassVar[bool] = False

    def encode(self, pipeline: Any, texts: Sequence[str]) -> tuple[Condition, Condition]:
        """By T5, in small letters and padded to the pipeline's own length; captions are not cleaned of HTML."""
        found = pipeline.encode_prompt(
            list(texts),
            device=pipeline.text_encoder.device,
            do_classifier_free_guidance=True,
            clean_caption=False,
            max_sequence_length=_length(pipeline),
        )
        return {EMBEDS: found[0], MASK: found[1].long()}, {EMBEDS: found[2][:1], MASK: found[3][:1].long()}

    def shared(self, pipeline: Any, image_size: int) -> Condition:
        """The image's size, where the network is told of it."""
        if not pipeline.transformer.use_additional_conditions:
            return {}
        return {RESOLUTION: torch.tensor([float(image_size)] * 2)}

    def windows(self, pipeline: Any) -> dict[str, int]:
        """120 tokens for α, 300 for Σ, whatever the tokenizer says."""
        return {"tokenizer": _length(pipeline)}

    def predict(self, network: nn.Module, x: Tensor, timestep: Tensor, told: Condition) -> Tensor:
        """As PixArtAlphaPipeline calls its transformer."""
        size = told.get(RESOLUTION)
        sides: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if size is not None:
            sides = {"resolution": size.to(x.dtype), "aspect_ratio": (size[:, :1] / size[:, 1:]).to(x.dtype)}
        found = network(
            x,
            encoder_hidden_states=told[EMBEDS],
            encoder_attention_mask=told[MASK],
            timestep=timestep,
            added_cond_kwargs=sides,
        )
        return first_chunk(sample_of(found), x.shape[1])


def _length(pipeline: Any) -> int:
    return int(inspect.signature(pipeline.encode_prompt).parameters["max_sequence_length"].default)
