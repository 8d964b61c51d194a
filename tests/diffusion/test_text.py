"""Which pipelines are supported, and what they make of texts."""

from typing import Any

import pytest
import torch

from helpers.small_pipelines import TEXTS
from untrain.diffusion.text import encode_prompts
from untrain.engine import Engine
from untrain.errors import DataError
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.concepts import (
    Concept,
    ConceptImages,
)

ENGINE = Engine(torch.device("cpu"))
FEW = ConceptImages(count=3, sampler=Sampler(steps=2, guidance_scale=2.0), batch_size=2)


def test_embeddings_are_the_pipelines(pipe: Any, xl: Any) -> None:
    prompts = encode_prompts(pipe, [*TEXTS, TEXTS[0]], 16, batch_size=2)
    assert prompts.texts == ("", *TEXTS) and "pooled" not in prompts.more and prompts.number(TEXTS[1]) == 2
    with torch.no_grad():
        for i, text in enumerate(prompts.texts):
            alone, _ = pipe.encode_prompt(text, pipe.text_encoder.device, 1, False)
            torch.testing.assert_close(prompts.embeds[i], alone[0], rtol=1e-10, atol=1e-12)
    both = encode_prompts(xl, TEXTS, 16)
    assert both.embeds.shape[1:] == (24, 28) and both.more["pooled"].shape == (4, 16)
    assert both.shared["time_ids"].tolist() == [16, 16, 0, 0, 16, 16]
    assert xl.config.force_zeros_for_empty_prompt and float(both.embeds[0].abs().max()) == 0
    assert prompts.fingerprint() != encode_prompts(pipe, TEXTS[:2], 16).fingerprint()


def test_a_prompt_that_does_not_fit_is_refused(pipe: Any) -> None:
    with pytest.raises(DataError, match=r"26 tokens .* window of 24"):
        encode_prompts(pipe, ["x" * 24], 16)
    assert encode_prompts(pipe, ["x" * 22], 16).embeds.shape == (2, 24, 12)
    with pytest.raises(DataError, match="says something"):
        Concept("  ")
    with pytest.raises(DataError, match="prompt itself"):
        Concept("a", anchor="a")
