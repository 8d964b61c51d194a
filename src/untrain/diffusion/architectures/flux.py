"""FLUX.1: a transformer over packed latents, trained by flow matching, with its guidance as an input.

Black Forest Labs: *FLUX.1*, 2024; as diffusers has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from untrain.diffusion.architectures.base import EMBEDS, GUIDANCE, POOLED, Condition, JointAttention, sample_of
from untrain.lazy import torch
from untrain.models.kinds import plain_module

if TYPE_CHECKING:
    from torch import Tensor, nn


class Flux(JointAttention):
    """A transformer that is told of T5's tokens, CLIP's pooled text, places of both, and (dev) the guidance scale.

    Latents are packed, 2 × 2 into one token, on the way in and unpacked on the way out. In training the scale is 1: the
    model without guidance. Schnell takes no scale.
    """

    name: ClassVar[str] = "flux"
    description: ClassVar[str] = "FLUX.1: a transformer with joint attention and distilled guidance, flow matching."
    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    network: ClassVar[str] = "FluxTransformer2DModel"
    guidance: ClassVar[Literal["prompts", "input"]] = "input"

    def encode(self, pipeline: Any, texts: Sequence[str]) -> tuple[Condition, Condition]:
        """By CLIP (pooled) and T5 (tokens); the empty text is encoded as others are."""
        found = pipeline.encode_prompt(["", *texts], None, device=pipeline.text_encoder.device)
        told = {EMBEDS: found[0], POOLED: found[1]}
        return {field: each[1:] for field, each in told.items()}, {field: each[:1] for field, each in told.items()}

    def windows(self, pipeline: Any) -> dict[str, int]:
        """T5's: CLIP gives one vector of what it sees of a text, and its window is no limit."""
        length = inspect.signature(pipeline.encode_prompt).parameters["max_sequence_length"].default
        return {"tokenizer_2": int(length)}

    def predict(self, network: nn.Module, x: Tensor, timestep: Tensor, told: Condition) -> Tensor:
        """As FluxPipeline calls its transformer: t from 0 to 1."""
        count, channels, height, width = x.shape
        rows, columns = height // 2, width // 2
        packed = x.reshape(count, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
        places = torch.zeros(rows, columns, 3, device=x.device, dtype=x.dtype)
        places[..., 1] = torch.arange(rows, device=x.device)[:, None]
        places[..., 2] = torch.arange(columns, device=x.device)
        config: Any = plain_module(network).config
        scale = None
        if config.guidance_embeds:
            scale = told[GUIDANCE] if GUIDANCE in told else torch.ones(count, device=x.device)
        found = network(
            hidden_states=packed.reshape(count, rows * columns, channels * 4),
            timestep=timestep.to(x.dtype) / 1000,
            guidance=scale,
            pooled_projections=told[POOLED],
            encoder_hidden_states=told[EMBEDS],
            txt_ids=torch.zeros(told[EMBEDS].shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=places.reshape(rows * columns, 3),
        )
        patches = sample_of(found).reshape(count, rows, columns, channels, 2, 2)
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    def own_size(self, pipeline: Any) -> int:
        """As the pipeline says: the network takes any size."""
        return int(pipeline.default_sample_size) * self.latent_factor(pipeline)

    def latent_channels(self, pipeline: Any) -> int:
        """Of four packed into one token, one's."""
        return int(pipeline.transformer.config.in_channels) // 4

    def tokens_of_image(self, pipeline: Any, image_size: int) -> int:
        """Packed latents."""
        side = image_size // self.latent_factor(pipeline) // 2
        return side * side
