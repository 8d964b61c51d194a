"""Single files of Stable Diffusion: the layout of their authors, written out for tiny pipelines."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

UNET = "model.diffusion_model."
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_name(name: str, unet: Any) -> str:
    """A weight's name in CompVis' UNet: one list of blocks down, one up, counted over all resolutions."""
    layers = unet.config.layers_per_block + 1
    stem, _, leaf = name.rpartition(".")
    if stem in OUTER:
        return f"{UNET}{OUTER[stem]}.{leaf}"
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        part, number, rest = found.groups()
        return f"{UNET}middle_block.{1 if part == 'attentions' else 2 * int(number)}.{within(part, rest)}"
    way, block, part, number, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name).groups()
    if way == "down":
        if part == "downsamplers":
            return f"{UNET}input_blocks.{(int(block) + 1) * layers}.0.op.{leaf}"
        return (
            f"{UNET}input_blocks.{1 + int(block) * layers + int(number)}.{int(part != 'resnets')}.{within(part, rest)}"
        )
    if part == "upsamplers":
        place = 2 if "CrossAttn" in unet.config.up_block_types[int(block)] else 1
        return f"{UNET}output_blocks.{int(block) * layers + layers - 1}.{place}.conv.{leaf}"
    return f"{UNET}output_blocks.{int(block) * layers + int(number)}.{int(part != 'resnets')}.{within(part, rest)}"


def within(part: str, rest: str) -> str:
    stem, _, leaf = rest.rpartition(".")
    return f"{RESNET[stem]}.{leaf}" if part == "resnets" else rest


def vae_entry(name: str, weight: Tensor, blocks: int) -> tuple[str, Tensor]:
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{blocks - 1 - int(found[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    changes = {
        "down_blocks.": "down.",
        "resnets.": "block.",
        "downsamplers.0": "downsample",
        "upsamplers.0": "upsample",
        "mid_block.attentions.0": "mid.attn_1",
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
        "conv_norm_out": "norm_out",
        "conv_shortcut": "nin_shortcut",
    }
    for new, old in changes.items():
        name = name.replace(new, old)
    return f"first_stage_model.{name}", weight[..., None, None] if "attn" in name and weight.ndim == 2 else weight


def open_clip(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    plain = {name.removeprefix("text_model."): weight for name, weight in state.items()}
    found = {
        f"{start}positional_embedding": plain["embeddings.position_embedding.weight"],
        f"{start}token_embedding.weight": plain["embeddings.token_embedding.weight"],
        f"{start}text_projection": plain["text_projection.weight"].T.contiguous(),
        f"{start}logit_scale": torch.ones(()),
    }
    for leaf in ("weight", "bias"):
        found[f"{start}ln_final.{leaf}"] = plain[f"final_layer_norm.{leaf}"]
        for layer in range(2):
            old, new = f"encoder.layers.{layer}.", f"{start}transformer.resblocks.{layer}."
            joined = torch.cat([plain[f"{old}self_attn.{part}_proj.{leaf}"] for part in "qkv"])
            found[f"{new}attn.in_proj_{leaf}"] = joined
            pairs = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
            for its, theirs in {**pairs, "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}.items():
                found[f"{new}{theirs}.{leaf}"] = plain[f"{old}{its}.{leaf}"]
    return found


def as_one(pipeline: Any) -> dict[str, Tensor]:
    found = {unet_name(name, pipeline.unet): weight for name, weight in pipeline.unet.state_dict().items()}
    blocks = len(pipeline.vae.config.block_out_channels)
    found |= dict(vae_entry(name, weight, blocks) for name, weight in pipeline.vae.state_dict().items())
    xl = hasattr(pipeline, "text_encoder_2")
    start = "conditioner.embedders.0.transformer." if xl else "cond_stage_model.transformer."
    words = pipeline.text_encoder.state_dict()
    found |= {f"{start}text_model.{name.removeprefix('text_model.')}": weight for name, weight in words.items()}
    if xl:
        found |= open_clip(pipeline.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    return {name: weight.contiguous() for name, weight in found.items()}
