"""Tiny text-to-image pipelines around transformers, of diffusers' and transformers' own classes, in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from helpers.small_pipelines import SIZE, scheduler, text_encoder, text_parts, tokenizer, vae
from untrain.diffusion.denoisers import denoiser_of

JOINT = {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 32}
"""Of networks in which texts and images attend to each other."""


def t5(tokens: Any) -> Any:
    """Any tokenizer will do for it: the pipelines ask none for its class."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(tokens), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config).double().eval()


def gemma(tokens: Any) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokens),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return Gemma2Model(config).double().eval()


def flow_scheduler(**more: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**more)


def pixart(folder: Path, kind: str = "PixArtAlphaPipeline", **more: Any) -> Any:
    import diffusers

    tokens = tokenizer(folder)
    sizes = {"sample_size": 8, "patch_size": 2, "num_layers": 1, "in_channels": 4, "out_channels": 8}
    sizes |= {"attention_head_dim": 8, "num_attention_heads": 2, "cross_attention_dim": 16, "caption_channels": 32}
    network = diffusers.PixArtTransformer2DModel(**{**sizes, **more})
    return getattr(diffusers, kind)(
        **text_parts(tokens, t5(tokens)),
        vae=vae().double(),
        transformer=network.double(),
        scheduler=scheduler(offset=0),
    )


def stable_diffusion_3(folder: Path, *, with_t5: bool = True) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    tokens = tokenizer(folder)
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        **JOINT,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=network.double(),
        scheduler=flow_scheduler(shift=3.0),
        vae=vae(scaling_factor=1.5, shift_factor=0.06).double(),
        **text_parts(
            tokens,
            text_encoder(tokens, 16, projection=True),
            text_encoder(tokens, 16, projection=True),
            t5(tokens) if with_t5 else None,
        ),
    )


def flux(folder: Path, *, embeds_guidance: bool = True) -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    tokens = tokenizer(folder)
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        **JOINT,
        pooled_projection_dim=16,
        axes_dims_rope=[2, 2, 4],
        guidance_embeds=embeds_guidance,
    )
    made = FluxPipeline(
        transformer=network.double(),
        scheduler=flow_scheduler(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64),
        vae=vae(scaling_factor=0.36, shift_factor=0.12).double(),
        **text_parts(tokens, text_encoder(tokens, 16), t5(tokens)),
    )
    made.default_sample_size = SIZE // 2
    return made


def sana(folder: Path) -> Any:
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

    tokens = tokenizer(folder)
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=8,
        patch_size=1,
    )
    side = {"_block_types": ("ResBlock", "EfficientViTBlock"), "_block_out_channels": (8, 8)}
    side |= {"_qkv_multiscales": ((), (5,)), "_layers_per_block": (1, 1)}
    deep_vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41,
        **{end + key: value for end in ("encoder", "decoder") for key, value in side.items()},
    )
    return SanaPipeline(
        **text_parts(tokens, gemma(tokens)),
        vae=deep_vae.double().eval(),
        transformer=network.double(),
        scheduler=flow_scheduler(shift=3.0),
    )


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "pixart": pixart,
    "sd3": stable_diffusion_3,
    "flux": flux,
    "sana": sana,
}
"""One of each kind."""


def pixart_sigma(folder: Path) -> Any:
    return pixart(folder, "PixArtSigmaPipeline")


def build(make: Callable[[Path], Any], folder: Path) -> Any:
    """A pipeline of drawn weights, the same each time: those that diffusers starts at 0 are drawn too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = make(folder)
        with torch.no_grad():
            for parameter in denoiser_of(made).parameters():
                if not parameter.abs().max():
                    parameter.normal_(std=0.1)
    denoiser_of(made).eval()
    made.set_progress_bar_config(disable=True)
    return made


def size_of(pipeline: Any) -> int:
    """Of images that it makes: Sana's are of a multiple of 32 pixels."""
    return 32 if type(pipeline).__name__ == "SanaPipeline" else SIZE
