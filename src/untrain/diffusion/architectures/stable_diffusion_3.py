"""Stable Diffusion 3 and 3.5: a transformer that attends to image and text at once, trained by flow matching.

Esser et al.: *Scaling Rectified Flow Transformers for High-Resolution Image Synthesis*, ICML 2024.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from untrain.diffusion.architectures.base import EMBEDS, POOLED, Condition, JointAttention, sample_of

if TYPE_CHECKING:
    from torch import Tensor, nn


class StableDiffusion3(JointAttention):
    """A transformer that is told of two CLIP encoders' and T5's tokens, one after the other, and of pooled texts.

    T5 may be missing, as the pipeline allows: zeros then stand for its tokens.
    """

    name: ClassVar[str] = "stable-diffusion-3"
    description: ClassVar[str] = "Stable Diffusion 3 and 3.5: a transformer with joint attention, flow matching."
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    network: ClassVar[str] = "SD3Transformer2DModel"

    def encode(self, pipeline: Any, texts: Sequence[str]) -> tuple[Condition, Condition]:
        """By all three encoders."""
        given = list(texts)
        found = pipeline.encode_prompt(
            prompt=given,
            prompt_2=given,
            prompt_3=given,
            device=pipeline.text_encoder.device,
            do_classifier_free_guidance=True,
        )
        return {EMBEDS: found[0], POOLED: found[2]}, {EMBEDS: found[1][:1], POOLED: found[3][:1]}

    def windows(self, pipeline: Any) -> dict[str, int]:
        """CLIP's, for T5 sees no text alone; and T5's, which is narrower than its tokenizer says."""
        known = super().windows(pipeline)
        if pipeline.components.get("tokenizer_3") is None or pipeline.components.get("text_encoder_3") is None:
            return known
        length = inspect.signature(pipeline.encode_prompt).parameters["max_sequence_length"].default
        return {**known, "tokenizer_3": int(length)}

    def sequence(
        self, pipeline: Any, texts: Sequence[str], seen: Mapping[str, Sequence[Sequence[int]]], length: int
    ) -> list[tuple[Sequence[Sequence[int]], int]]:
        """CLIP's, both encoders' in one, then T5's, where it is there."""
        window = int(pipeline.tokenizer_max_length)
        found: list[tuple[Sequence[Sequence[int]], int]] = [(seen["tokenizer"], window)]
        return [*found, (seen["tokenizer_3"], length - window)] if "tokenizer_3" in seen else found

    def predict(self, network: nn.Module, x: Tensor, timestep: Tensor, told: Condition) -> Tensor:
        """As StableDiffusion3Pipeline calls its transformer: t from 0 to 1000."""
        found = network(
            hidden_states=x,
            timestep=timestep,
            encoder_hidden_states=told[EMBEDS],
            pooled_projections=told[POOLED],
        )
        return sample_of(found)
