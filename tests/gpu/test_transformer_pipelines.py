"""Pipelines around transformers on a CUDA device: half precision below adapters, and what leaves the device."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small_pipelines import SIZE, TEXTS, drawn_rows
from helpers.transformer_pipelines import FAMILIES, build
from untrain import Concept, ConceptImages, Sampler, unlearn
from untrain.diffusion.denoisers import denoiser_of
from untrain.diffusion.text import encode_prompts, text_encoders
from untrain.engine import set_aside
from untrain.methods.base import Optimizer
from untrain.tasks.text_to_image.concepts import text_task

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

FEW = ConceptImages(count=2, sampler=Sampler(steps=2), image_size=SIZE, batch_size=2)
SETS: dict[str, Any] = {"forget": Concept(TEXTS[0], anchor=TEXTS[1]), "retain": Concept(TEXTS[2])}


def place_of(module: torch.nn.Module) -> str:
    return next(module.parameters()).device.type


@pytest.mark.parametrize("kind", FAMILIES)
def test_adapters_beside_a_base_in_bf16(kind: str, folder: Path, tmp_path: Path) -> None:
    """What comes back is the given weights, to the bit but where a LoRA was added; the file holds that LoRA."""
    pipeline = build(FAMILIES[kind], folder).to(torch.float32)
    result = unlearn(
        pipeline,
        task="text-to-image",
        method="sfron",
        steps=2,
        optimizer=Optimizer("adam", lr=0.01),
        images=FEW,
        device="cuda",
        precision="bf16",
        adapters={"rank": 2, "targets": "xattn", "base": "bf16"},
        **SETS,
    )
    lora = result.save_lora(tmp_path / "lora")
    before, after = denoiser_of(pipeline).state_dict(), denoiser_of(result.model).state_dict()
    moved = {name for name in before if not torch.equal(before[name].cpu(), after[name].cpu())}
    assert moved and moved <= {f"{name}.weight" for name in lora.factors}
    assert all(torch.isfinite(after[name]).all() for name in moved)


@pytest.mark.parametrize("kind", FAMILIES)
def test_text_encoders_are_on_the_device_only_while_they_work(kind: str, folder: Path) -> None:
    pipeline, cuda = build(FAMILIES[kind], folder).to(torch.float32), torch.device("cuda")
    here = encode_prompts(pipeline, TEXTS, SIZE)
    there = encode_prompts(pipeline, TEXTS, SIZE, device=cuda)
    assert {place_of(encoder) for encoder in text_encoders(pipeline)} == {"cpu"}
    assert there.embeds.device.type == "cuda"
    torch.testing.assert_close(there.embeds.cpu(), here.embeds, rtol=1e-3, atol=1e-3)
    pipeline.to("cuda")
    with set_aside(*text_encoders(pipeline), pipeline.vae):
        assert {place_of(part) for part in (*text_encoders(pipeline), pipeline.vae)} == {"cpu"}
    assert {place_of(part) for part in (*text_encoders(pipeline), pipeline.vae)} == {"cuda"}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_loss_is_that_of_the_cpu(kind: str, folder: Path) -> None:
    """In float64, within 1e-6; under bf16 it is finite and near."""
    pipeline = build(FAMILIES[kind], folder)
    task = text_task(pipeline, image_size=SIZE)
    batch, network = drawn_rows(pipeline, task), denoiser_of(pipeline)
    here = task.loss(network, batch)
    moved = {name: value.to("cuda") for name, value in batch.items()}
    network.to("cuda")
    torch.testing.assert_close(task.loss(network, moved).cpu(), here, rtol=1e-6, atol=1e-6)
    half = {name: value.float() if value.dtype == torch.float64 else value for name, value in moved.items()}
    with torch.autocast("cuda", torch.bfloat16):
        found = task.loss(network.float(), half)
    torch.testing.assert_close(found.cpu().double(), here.double(), rtol=0.1, atol=0.1)
