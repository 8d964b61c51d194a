"""Tiny text-to-image pipelines of diffusers' and transformers' own classes, in float64, and batches for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from untrain.diffusion.text import encode_prompts
from untrain.tasks.text_to_image.concepts import latent_shape_of
from untrain.tasks.text_to_image.task import TextToImage

TEXTS = ("a red circle", "a red square", "a blue square")
SIZE = 16
"""Of images, in pixels; latents are 8 × 8."""

UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 12,
}


def tokenizer(folder: Path) -> Any:
    """Of single letters and a window of 24: its prompts are short, and one that is too long is soon written."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=24)


def text_encoder(tokens: Any, width: int, projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).double().eval()


def text_parts(tokens: Any, *encoders: Any) -> dict[str, Any]:
    """A pipeline's encoders and tokenizers by their names in it, which are counted from the second on; None is none."""
    parts: dict[str, Any] = {}
    for number, encoder in enumerate(encoders, 1):
        end = "" if number == 1 else f"_{number}"
        parts |= {f"text_encoder{end}": encoder, f"tokenizer{end}": None if encoder is None else tokens}
    return parts


def vae(**more: Any) -> Any:
    """Of 3 × 16 × 16 pixels and latents of 4 × 8 × 8, in float32."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": SIZE}
    return AutoencoderKL(**blocks, **sizes, **more).eval()


def scheduler(prediction: str = "epsilon", offset: int = 1) -> Any:
    """StableDiffusionPipeline wants the offset 1."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=20,
        beta_start=0.01,
        beta_end=0.2,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=offset,
    )


def stable_diffusion(folder: Path, prediction: str = "epsilon") -> Any:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = tokenizer(folder)
        made = StableDiffusionPipeline(
            vae=vae().double(),
            **text_parts(tokens, text_encoder(tokens, 12)),
            unet=UNet2DConditionModel(**UNET).double(),
            scheduler=scheduler(prediction),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    made.set_progress_bar_config(disable=True)
    return made


def stable_diffusion_xl(folder: Path) -> Any:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 16,
        "cross_attention_dim": 12 + 16,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = tokenizer(folder)
        made = StableDiffusionXLPipeline(
            vae=vae().double(),
            **text_parts(tokens, text_encoder(tokens, 12), text_encoder(tokens, 16, projection=True)),
            unet=UNet2DConditionModel(**{**UNET, **added}).double(),
            scheduler=scheduler(),
            add_watermarker=False,
        )
    made.set_progress_bar_config(disable=True)
    return made


def rows_of(pipeline: Any, count: int = 4, texts: Sequence[str] = TEXTS) -> dict[str, Tensor]:
    """Rows of three prompts in turns, over random latents; each is redirected to the next."""
    prompts = encode_prompts(pipeline, texts, SIZE)
    numbers = torch.arange(count) % 3 + 1
    g = torch.Generator().manual_seed(3)
    shape = latent_shape_of(pipeline, SIZE)
    mean, std = (torch.randn(count, *shape, generator=g, dtype=torch.float64) for _ in range(2))
    rows = prompts.rows(numbers, numbers % 3 + 1)
    return {"latent_mean": mean, "latent_std": std.abs(), "label": numbers, "index": torch.arange(count) + 50, **rows}


def drawn_rows(
    pipeline: Any, task: TextToImage, role: Any = "forget", seed: int = 0, count: int = 4
) -> dict[str, Tensor]:
    return task.draw(rows_of(pipeline, count), torch.Generator().manual_seed(seed), role)
