"""Stable Diffusion 1.x, 2.x and XL: a UNet with cross-attention, trained on a schedule of β.

Rombach et al.: *High-Resolution Image Synthesis with Latent Diffusion Models*, CVPR 2022; Podell et al.: *SDXL*, ICLR
2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from untrain.diffusion.architectures.base import (
    EMBEDS,
    POOLED,
    TIME_IDS,
    Architecture,
    Condition,
    sample_of,
    text_key,
)
from untrain.errors import ModelError
from untrain.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class StableDiffusion(Architecture):
    """A UNet that is told of one or two CLIP encoders' tokens in one; SDXL's of pooled texts and sizes too."""

    name: ClassVar[str] = "stable-diffusion"
    description: ClassVar[str] = "Stable Diffusion 1.x, 2.x and XL: a UNet on a schedule of β."
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    network: ClassVar[str] = "UNet2DConditionModel"
    part: ClassVar[str] = "unet"
    flows: ClassVar[bool] = False
    new_words: ClassVar[bool] = True
    on_device: ClassVar[bool] = False

    def check(self, pipeline: Any) -> None:
        """Refuses UNets that are conditioned on more than texts, sizes and time."""
        config = pipeline.unet.config
        if config.get("time_cond_proj_dim") is not None:
            raise ModelError(
                "the UNet takes the guidance scale as an input (a consistency model): unlearn its original."
            )
        if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
            raise ModelError("the UNet is conditioned on classes too, which this task cannot give.")

    def encode(self, pipeline: Any, texts: Sequence[str]) -> tuple[Condition, Condition]:
        """By CLIP's encoders; SDXL's empty text is zeros where the pipeline is configured so."""
        device = pipeline.text_encoder.device
        found = pipeline.encode_prompt(
            list(texts), device=device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        told, empty = {EMBEDS: found[0]}, {EMBEDS: found[1][:1]}
        if len(found) == 4:
            return {**told, POOLED: found[2]}, {**empty, POOLED: found[3][:1]}
        return told, empty

    def embed(self, pipeline: Any, texts: Sequence[str]) -> Condition:
        """As `encode`; the empty text is not embedded beside them."""
        device = pipeline.text_encoder.device
        found = pipeline.encode_prompt(
            list(texts), device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {EMBEDS: found[0], POOLED: found[2]} if len(found) == 4 else {EMBEDS: found[0]}

    def shared(self, pipeline: Any, image_size: int) -> Condition:
        """Of SDXL, sizes and crop: an uncropped square."""
        if pipeline.components.get("text_encoder_2") is None:
            return {}
        size = float(image_size)
        return {TIME_IDS: torch.tensor([size, size, 0.0, 0.0, size, size])}

    def predict(self, network: nn.Module, x: Tensor, timestep: Tensor, told: Condition) -> Tensor:
        """As StableDiffusionPipeline calls its UNet."""
        added = {"text_embeds": told[POOLED], "time_ids": told[TIME_IDS]} if TIME_IDS in told else None
        return sample_of(network(x, timestep, encoder_hidden_states=told[EMBEDS], added_cond_kwargs=added))

    def check_told(self, network: nn.Module, told: Mapping[str, Tensor]) -> None:
        """Looks at what SDXL's UNet is told besides."""
        config: Any = getattr(network, "config", {})
        added = config.get("addition_embed_type") if hasattr(config, "get") else None
        if added == "text_time":
            names = {POOLED: text_key("prompt", POOLED), TIME_IDS: TIME_IDS}
            missing = [name for field, name in names.items() if field not in told]
            if missing:
                raise ModelError(f"the model takes SDXL's added conditions, and the batches lack {missing}.")
        elif added is not None:
            raise ModelError(f"the model takes added conditions of the kind {added!r}; only SDXL's can be given.")
