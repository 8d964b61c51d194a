"""What adapters cost on the networks of SDXL, Stable Diffusion 3 and PixArt at full size, and what a plan says of it.

    python benchmarks/full_size.py                                # all three, latents of 32 × 32, one thread
    python benchmarks/full_size.py --models sdxl --latent 64 --batch 2
    python benchmarks/full_size.py --models pixart-xl-2 --options '{"num_layers": 2}'
    python benchmarks/full_size.py --models flux-dev --plan --latent 64 --gradient-checkpointing    # no weight is made

The networks have their public configurations and random weights in bfloat16, drawn in it, so that none is ever there in
float32. Their pipelines are whole: tokenizers of single letters, and text encoders and a VAE of one thin layer, of the
widths that the network is told of; what these cost at full size is in `text_to_image.py`. The rest goes the way that a
user's does: `untrain.unlearn(pipe, adapters={"rank": 8}, inplace=True)` encodes two concepts ("cache", with a hash of
the frozen weights), takes one batch of each set for the Fisher and two outer steps of SFR-on, a forget and a retain
step each, and adds what was learned to the weights ("merge"). Each network runs in a process of its own.

"Planned" is what `untrain plan` says of a recipe with the same network and settings, whose base is bf16: of the
method's stage all but what a recipe holds besides, the original in float32. "Measured" is the peak of resident memory
from the first text to the merged weights, less what was resident before the network was there: Python and its
libraries.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from generators import GIB
from text_to_image import Meter, Watched, cell, noise_images, write_letters
from untrain.api import unlearn
from untrain.diffusion.denoisers import denoiser_of
from untrain.diffusion.single_file import PUBLIC
from untrain.engine import Engine
from untrain.runs.plan import Plan, plan_recipe
from untrain.runs.recipe import read
from untrain.tasks.text_to_image.concepts import Concept
from untrain.tasks.text_to_image.sections import ConceptImages

XL = "StableDiffusionXLPipeline"
NETWORKS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "sdxl": (XL, "unet", "UNet2DConditionModel", PUBLIC[XL]["unet"][2]),
    "sd3-medium": (
        "StableDiffusion3Pipeline",
        "transformer",
        "SD3Transformer2DModel",
        {
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 192,
        },
    ),
    "pixart-xl-2": (
        "PixArtAlphaPipeline",
        "transformer",
        "PixArtTransformer2DModel",
        {"caption_channels": 4096, "interpolation_scale": 2, "use_additional_conditions": True},
    ),
    "flux-dev": ("FluxPipeline", "transformer", "FluxTransformer2DModel", {"guidance_embeds": True}),
}
"""Class of pipeline, name and class of the network, and its published configuration, where it differs from the class's
defaults; PixArt's is that of 1024 × 1024 pixels."""
STAGES = ("build", "cache", "fisher", "first step", "second step", "merge")
FORGET, ANCHOR, RETAIN = "a nude person", "a person wearing clothes", "a dog on a beach"
STEPS, RANK, FACTOR = 2, 8, 8
"""Outer steps; of the adapters; by how much the VAEs make an image smaller."""
METHOD = {"steps": STEPS, "retain_steps": 1}


def pipeline_of(name: str, options: dict[str, Any], folder: Path) -> Any:
    """A pipeline in bfloat16, all of it on the default device but the network, which is on none."""
    import diffusers

    kind, part, network, settings = NETWORKS[name]
    with torch.device("meta"):
        made: Any = getattr(diffusers, network)(**{**settings, **options}).eval()
    company = _COMPANY[kind](made.config, folder)
    for module in (made, *company.values()):
        if isinstance(module, nn.Module):
            module.to(torch.bfloat16)
    return getattr(diffusers, kind)(**{part: made}, **company)


def draw_(module: nn.Module) -> None:
    """Gives a module on no device random weights on the CPU, in its own type, of the variance that keeps a signal's.

    They are one block of numbers again and again, whose length is a prime, so that no two rows of a matrix are alike.
    """
    module.to_empty(device="cpu")
    block = torch.randn(1_048_573, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.ndim < 2:
                tensor.fill_(float(name.endswith("weight")))
                continue
            scaled = (block / tensor[0].numel() ** 0.5).to(tensor.dtype)
            for part in tensor.view(-1).split(len(block)):
                part.copy_(scaled[: len(part)])


def _clip(folder: Path, width: int, *, projected: bool) -> tuple[Any, Any]:
    """A tokenizer of single letters and a text encoder of one thin layer."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    write_letters(folder)
    tokens = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return tokens, (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _t5(tokens: Any, width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(tokens), d_model=width, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def _vae(channels: int, **settings: Any) -> Any:
    """Of four thin levels."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (4,) * 4, "norm_num_groups": 2, "layers_per_block": 1, "latent_channels": channels}
    return AutoencoderKL(**blocks, **sizes, **settings).eval()


def _scheduler(kind: str, **settings: Any) -> Any:
    """It computes with numbers, and so is on the CPU whatever the rest is on."""
    import diffusers

    with torch.device("cpu"):
        return getattr(diffusers, kind)(**settings)


def _around_sdxl(config: Any, folder: Path) -> dict[str, Any]:
    first, second = 768, config.cross_attention_dim - 768
    tokens, encoder = _clip(folder, first, projected=False)
    _, encoder_2 = _clip(folder, second, projected=True)
    _, kind, settings = PUBLIC[XL]["scheduler"]
    parts = {"tokenizer": tokens, "tokenizer_2": tokens, "text_encoder": encoder, "text_encoder_2": encoder_2}
    return {**parts, "vae": _vae(config.in_channels, scaling_factor=0.13025), "scheduler": _scheduler(kind, **settings)}


def _around_sd3(config: Any, folder: Path) -> dict[str, Any]:
    first, second = 768, config.pooled_projection_dim - 768
    tokens, encoder = _clip(folder, first, projected=True)
    _, encoder_2 = _clip(folder, second, projected=True)
    parts = {"tokenizer": tokens, "tokenizer_2": tokens, "text_encoder": encoder, "text_encoder_2": encoder_2}
    parts |= {"tokenizer_3": tokens, "text_encoder_3": _t5(tokens, config.joint_attention_dim)}
    vae = _vae(config.in_channels, scaling_factor=1.5305, shift_factor=0.0609)
    return {**parts, "vae": vae, "scheduler": _scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0)}


def _around_flux(config: Any, folder: Path) -> dict[str, Any]:
    tokens, encoder = _clip(folder, config.pooled_projection_dim, projected=False)
    parts = {"tokenizer": tokens, "text_encoder": encoder, "tokenizer_2": tokens}
    parts |= {"text_encoder_2": _t5(tokens, config.joint_attention_dim)}
    vae = _vae(config.in_channels // 4, scaling_factor=0.3611, shift_factor=0.1159)
    shift = {"shift": 3.0, "use_dynamic_shifting": True}
    return {**parts, "vae": vae, "scheduler": _scheduler("FlowMatchEulerDiscreteScheduler", **shift)}


def _around_pixart(config: Any, folder: Path) -> dict[str, Any]:
    tokens, _ = _clip(folder, 8, projected=False)
    betas = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
    return {
        "tokenizer": tokens,
        "text_encoder": _t5(tokens, config.caption_channels),
        "vae": _vae(config.in_channels, scaling_factor=0.13025),
        "scheduler": _scheduler("DPMSolverMultistepScheduler", **betas),
    }


_COMPANY: dict[str, Callable[[Any, Path], dict[str, Any]]] = {
    XL: _around_sdxl,
    "StableDiffusion3Pipeline": _around_sd3,
    "PixArtAlphaPipeline": _around_pixart,
    "FluxPipeline": _around_flux,
}
"""What else a pipeline has, of a width that fits the network's configuration."""


# ── measured ────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One network: seconds and peak bytes of every stage, and what is resident before and after it is built."""
    engine = Engine.start("cpu")
    meter = Watched.meter = Meter(engine)
    with tempfile.TemporaryDirectory(prefix="untrain-") as place:
        import peft  # noqa: F401, which is no part of what a model takes

        pipe = pipeline_of(given.models[0], given.options, Path(place))
        network: Any = denoiser_of(pipe)
        meter.begin()
        meter.mark("libraries")
        draw_(network)
        if given.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        meter.mark("build")
        size, images = given.latent * FACTOR, noise_images(given.batch, given.latent * FACTOR)
        result = unlearn(
            pipe,
            task="text-to-image",
            forget=Concept(FORGET, next(images), anchor=ANCHOR),
            retain=Concept(RETAIN, next(images)),
            method=Watched,
            adapters={"rank": RANK},
            images=ConceptImages(image_size=size),
            batch_size=given.batch,
            device="cpu",
            inplace=True,
            fisher_samples=given.batch,
            **METHOD,
        )
        meter.mark("merge")
    for note in result.notes:
        print(note, file=sys.stderr)
    return {"stages": meter.found, "weights": sum(p.numel() for p in network.parameters())}


def apart(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """What `measure` finds in a process of its own."""
    command = [sys.executable, __file__, "--measure", "--models", name, "--options", json.dumps(given.options)]
    for option in ("batch", "latent", "threads"):
        command += [f"--{option}", str(getattr(given, option))]
    command += ["--gradient-checkpointing"] if given.gradient_checkpointing else []
    print(f"── {name}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} did not end. Its last words are above.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# ── planned ─────────────────────────────────────────────────────────────────────────────────────────────────────


def planned(given: argparse.Namespace, name: str) -> Plan:
    """What `untrain plan` says of a recipe with the same network and settings; no weight is made."""
    with tempfile.TemporaryDirectory(prefix="untrain-") as place:
        folder = Path(place) / "pipeline"
        with torch.device("meta"):
            pipe = pipeline_of(name, given.options, Path(place) / "tokenizer")
        pipe.save_config(folder)
        for part, module in pipe.components.items():
            if module is None:
                continue
            if not isinstance(module, nn.Module):
                module.save_pretrained(folder / part)
            elif hasattr(module, "save_config"):  # of diffusers
                module.save_config(folder / part)
            else:
                module.config.save_pretrained(folder / part)
        recipe = {
            "task": "text-to-image",
            "model": {"checkpoint": str(folder), "gradient_checkpointing": given.gradient_checkpointing},
            "concepts": {
                "forget": [{"prompt": FORGET, "anchor": ANCHOR}],
                "retain": [{"prompt": RETAIN}],
                "images": {"count": given.batch, "image_size": given.latent * FACTOR},
            },
            "detection": {"detector": "nudity"},
            "batch_size": given.batch,
            "adapters": {"rank": RANK, "base": "bf16"},
            "methods": {"sfron": {**METHOD, "fisher_samples": given.batch}},
            "out": str(Path(place) / "run"),
        }
        path = Path(place) / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return plan_recipe(read(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in NETWORKS if name != "flux-dev"]  # whose 12 billion weights take 24 GB
    parser.add_argument("--models", nargs="+", default=usual, choices=[*NETWORKS])
    parser.add_argument("--latent", type=int, default=32, help="height and width of latents (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="samples a batch (%(default)s)")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--options", type=json.loads, default={}, help="of the networks, as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plan", action="store_true", help="plan alone, and print the whole plan")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.measure:
        print(json.dumps(measure(given)))
        return
    if given.plan:
        for name in given.models:
            print(planned(given, name).text())
        return
    heads = (
        "weights",
        "trained",
        *STAGES,
        "peak GiB",
        "libraries GiB",
        "measured GiB",
        "planned GiB",
        "planned / measured",
    )
    print(f"| model | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
    for name in given.models:
        print(f"| {name} | {' | '.join(row(planned(given, name), apart(given, name)))} |", flush=True)


def row(plan: Plan, found: dict[str, Any]) -> list[str]:
    """Cells of a table: weights, stages, and memory that was measured and planned."""
    stages = found["stages"]
    peak, libraries = max(stages[name]["peak"] for name in STAGES[1:]), stages["libraries"]["peak"]
    stage = next(each for each in plan.stages if each.name == "sfron")
    own = stage.peak - stage.memory["models"]
    sizes = [f"{size / GIB:.2f}" for size in (peak, libraries, peak - libraries, own)]
    counts = [f"{count:,}" for count in (found["weights"], plan.trained)]
    return [*counts, *(cell(stages[name]) for name in STAGES), *sizes, f"{own / (peak - libraries):.2f}"]


if __name__ == "__main__":
    main()
