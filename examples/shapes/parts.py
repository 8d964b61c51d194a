"""The parts of a small StableDiffusionPipeline and of a small StableDiffusion3Pipeline, before any training.

What Stable Diffusion is made of, only smaller: a tokenizer with a vocabulary of its own, a frozen CLIP text encoder, a
VAE that makes images four times smaller, and a UNet with cross-attention that predicts v (Salimans, Ho: *Progressive
Distillation for Fast Sampling of Diffusion Models*, ICLR 2022). And what Stable Diffusion 3 is made of, without its T5:
the same VAE, two such text encoders, and a transformer that attends to image and text at once and predicts velocities
(Esser et al.: *Scaling Rectified Flow Transformers for High-Resolution Image Synthesis*, ICML 2024).
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.resnet import ResnetBlock2D
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WINDOW = 16
"""Tokens of a prompt at most, its beginning and end included."""
TOKEN_SPREAD, POSITION_SPREAD = 0.5, 0.2
"""Standard deviations of the text encoder's embeddings. With CLIP's 0.02 for both, position and context would outweigh
a word (of two captions that differ in one, the embedding at that word differs by a quarter of its length, not by three
quarters), and the UNet would learn slowly what words mean."""
LOG_VARIANCE = -8.0
"""Of the VAE's posterior before training. As torch draws it, the deviation is 1 and drowns the mean at first."""
START, END = "<|startoftext|>", "<|endoftext|>"

VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 16, 32),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
"""With four channels of latents instead of eight, the error after 200 steps was half as much again."""
UNET: dict[str, Any] = {
    "in_channels": VAE["latent_channels"],
    "out_channels": VAE["latent_channels"],
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "attention_head_dim": 4,  # which for this class is the number of heads
    "norm_num_groups": 8,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.02,  # 0.012, as of Stable Diffusion, leaves more of the mean of so small latents at the last step
    "prediction_type": "v_prediction",  # predicting noise, it learns brightness and colours far later
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
TEXT: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TRANSFORMER: dict[str, Any] = {
    "in_channels": VAE["latent_channels"],
    "out_channels": VAE["latent_channels"],
    "patch_size": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "caption_projection_dim": 64,  # the width, which is heads times their dimension
    "joint_attention_dim": 2 * TEXT["hidden_size"],
    "pooled_projection_dim": 2 * TEXT["hidden_size"],
    "qk_norm": "rms_norm",
}
SHIFT = 1.0
"""Of the flow: latents so small need no more noise than is drawn."""


def build_pipeline(captions: Sequence[str], size: int, seed: int) -> StableDiffusionPipeline:
    """Builds a pipeline with weights drawn by a seed.

    Args:
        captions: the tokenizer has every word of them as one token.
        size: height and width of its images, a multiple of 8.
        seed: of the global generator.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(captions)
    return StableDiffusionPipeline(
        vae=build_vae(size),
        text_encoder=build_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**UNET, sample_size=size // 4, cross_attention_dim=TEXT["hidden_size"]),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_flow_pipeline(captions: Sequence[str], size: int, seed: int) -> StableDiffusion3Pipeline:
    """Builds a pipeline of flow matching with weights drawn by a seed; its arguments are those of `build_pipeline`.

    It has no T5, as the class allows: zeros stand for its tokens.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(captions)
    vae = build_vae(size)
    vae.register_to_config(shift_factor=0.0)
    return StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=build_text_encoder(tokenizer, CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        text_encoder_2=build_text_encoder(tokenizer, CLIPTextModelWithProjection),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=SD3Transformer2DModel(**TRANSFORMER, sample_size=size // 4, pos_embed_max_size=size // 4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    )


def build_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """Builds a CLIPTokenizer with the vocabulary of these captions."""
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(captions, Path(folder))
        return CLIPTokenizer.from_pretrained(folder, model_max_length=WINDOW)


def write_vocabulary(captions: Sequence[str], folder: Path) -> None:
    """Writes vocab.json and merges.txt of a CLIP tokenizer that has every word of these captions as one token.

    As in CLIP, there is a token for every byte, alone and at a word's end, so that any other word can be written too,
    in more tokens. The same words in any order give the same files.
    """
    words = sorted({word for text in captions for word in text.lower().split()})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=100_000, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(words, trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *map("".join, merges), START, END]
    numbers = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_text_encoder(tokenizer: CLIPTokenizer, kind: type[Any] = CLIPTextModel) -> Any:
    """Builds a frozen text encoder of CLIP with random weights, which give every text another embedding."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=WINDOW,
        projection_dim=TEXT["hidden_size"],
        **special,
        **TEXT,
    )
    encoder = kind(config)
    for name, weight in encoder.requires_grad_(False).named_parameters():
        if name.endswith("token_embedding.weight"):
            nn.init.normal_(weight, std=TOKEN_SPREAD)
        elif name.endswith("position_embedding.weight"):
            nn.init.normal_(weight, std=POSITION_SPREAD)
    return encoder.eval()


def build_vae(size: int) -> AutoencoderKL:
    """Builds a VAE whose residual blocks add nothing at first, so that it learns fast.

    Source: Goyal et al.: *Accurate, Large Minibatch SGD*, 2017, of the last layer of a residual block.
    """
    vae: Any = AutoencoderKL(**VAE, sample_size=size)
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D):
            for parameter in block.conv2.parameters():
                nn.init.zeros_(parameter)
    nn.init.constant_(vae.quant_conv.bias[VAE["latent_channels"] :], LOG_VARIANCE)
    return vae
