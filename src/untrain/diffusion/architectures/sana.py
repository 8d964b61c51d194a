"""Sana: a transformer with linear attention over a deep-compression autoencoder's latents, trained by flow matching.

Xie et al.: *SANA: Efficient High-Resolution Image Synthesis with Linear Diffusion Transformers*, ICLR 2025.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from untrain.diffusion.architectures.base import EMBEDS, MASK, Architecture, Condition, first_chunk, sample_of
from untrain.models.kinds import plain_module

if TYPE_CHECKING:
    from torch import Tensor, nn


END = 1 << 31
"""Stands behind the last token of a text that its tokenizer does not end."""


class Sana(Architecture):
    """A transformer that is told of Gemma's tokens and which of them count.

    Prompts stand behind the pipeline's own instruction to embellish them, the empty text alone, as its guidance has it.
    """

    name: ClassVar[str] = "sana"
    description: ClassVar[str] = "Sana: a transformer with linear attention, flow matching."
    pipelines: ClassVar[tuple[str, ...]] = ("SanaPipeline",)
    network: ClassVar[str] = "SanaTransformer2DModel"
    told: ClassVar[tuple[str, ...]] = (EMBEDS, MASK)
    maps: ClassVar[Mapping[str, str]] = {"caption_projection.linear_1": EMBEDS}

    def encode(self, pipeline: Any, texts: Sequence[str]) -> tuple[Condition, Condition]:
        """By Gemma, in small letters, with the instruction that the pipeline's own call has."""
        found = pipeline.encode_prompt(
            list(texts),
            True,
            device=pipeline.text_encoder.device,
            complex_human_instruction=_default(type(pipeline).__call__, "complex_human_instruction"),
        )
        return {EMBEDS: found[0], MASK: found[1].long()}, {EMBEDS: found[2][:1], MASK: found[3][:1].long()}

    def windows(self, pipeline: Any) -> dict[str, int]:
        """What is kept of a text behind the instruction."""
        return {"tokenizer": int(_default(pipeline.encode_prompt, "max_sequence_length"))}

    def sequence(
        self, pipeline: Any, texts: Sequence[str], seen: Mapping[str, Sequence[Sequence[int]]], length: int
    ) -> list[tuple[Sequence[Sequence[int]], int]]:
        """Gemma's beginning, then what it makes of the instruction's last token and the text, and our mark of an end.

        The empty text stands without an instruction.
        """
        tokenizer = pipeline.tokenizer
        before = "\n".join(_default(type(pipeline).__call__, "complex_human_instruction"))
        first = len(tokenizer.encode(before, verbose=False)) - 1
        rows = []
        for i, text in enumerate(pipeline._text_preprocessing(list(texts), clean_caption=False)):
            row = tokenizer.encode(before + text if i else text, verbose=False)
            row = [row[0], *row[first:]] if i else row
            rows.append([*row[:length], *([] if row[-1] == tokenizer.eos_token_id else [END])][:length])
        return [(rows, length)]

    def predict(self, network: nn.Module, x: Tensor, timestep: Tensor, told: Condition) -> Tensor:
        """As SanaPipeline calls its transformer: t by the scale in its configuration."""
        config: Any = plain_module(network).config
        found = network(
            x,
            encoder_hidden_states=told[EMBEDS],
            encoder_attention_mask=told[MASK],
            timestep=timestep * config.timestep_scale,
        )
        return first_chunk(sample_of(found), x.shape[1])

    def latent_factor(self, pipeline: Any) -> int:
        """A halving between every two of the encoder's blocks."""
        return int(2 ** (len(pipeline.vae.config.encoder_block_out_channels) - 1))


def _default(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default
