"""A generator's recipe that takes seconds, and tiny models as diffusers saves them."""

import json

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTPipeline

from helpers.small_pipelines import vae
from untrain.diffusion.denoisers import build_denoiser

SMALL = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
DIT = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
SYNONYMS = {0: "tench, Tinca tinca", 1: "goldfish", 2: "crane", 3: "crane, machine"}

RECIPE = """\
# Digits of a generator that is far too short to be good
name: tiny
task: class-diffusion
data: {name: digits, limit: 120, test_limit: 30}
forget: {classes: [3]}
model: {name: unet-small, options: {block_out_channels: [8, 16], norm_num_groups: 4, attention_head_dim: 8}}
diffusion: {timesteps: 20, beta_end: 0.3}
train: {steps: 6, optimizer: {name: adam, lr: 0.002, momentum: 0, weight_decay: 0}, max_norm: 1, ema: 0.9}
generation: {sampler: {steps: 3, guidance_scale: 1.5}, samples: 10, columns: 2}
judge: {options: {width: 4}, train: {steps: 6}}
evaluate_every: 2
batch_size: 16
methods:
  sfron: {steps: 4, optimizer: {name: adam, lr: 0.001}}
device: cpu
"""


def pixels(path, classes, each=8, size=16, channels=3):
    """An npz of random images of named classes; returns its path."""
    g, labels = np.random.default_rng(0), np.arange(each * len(classes)) % len(classes)
    x = g.integers(0, 256, (len(labels), size, size, channels), np.uint8)
    test = 2 * len(classes)
    np.savez(path, x_train=x, y_train=labels, x_test=x[:test], y_test=labels[:test], classes=np.array(classes))
    return path


def save_unet(folder, classes=4, channels=1, size=8):
    """A UNet2DModel, with a schedule of 20 steps beside it."""
    model = build_denoiser("unet-small", num_classes=classes, in_channels=channels, image_size=size, **SMALL)
    model.save_pretrained(folder)
    DDPMScheduler(20, beta_end=0.3).save_pretrained(folder)
    return model


def dit_pipeline():
    """A DiTPipeline of four classes: latents 4×8×8 of 16×16 pixels, variance learned."""
    transformer = build_denoiser(
        "dit-tiny", num_classes=4, in_channels=4, image_size=8, learned_variance=True, **DIT
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = vae()
    return DiTPipeline(transformer.eval(), autoencoder, DDIMScheduler(20, beta_end=0.3, clip_sample=False))


def save_dit(folder, named=True):
    """The pipeline as published ones lie in a folder, with names of its classes."""
    dit_pipeline().save_pretrained(folder)
    if named:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"id2label": SYNONYMS}))
    return folder
