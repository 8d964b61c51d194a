"""Class-conditional noise predictors to train and to unlearn, by name, and those that diffusers has saved.

All are models of diffusers, called as `model(x_t, t, class_labels=c)`; one class more than the data has stands for "no
class" (classifier-free guidance; Ho, Salimans 2022).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from untrain.errors import CheckpointError, SettingError, UnknownName, unknown


@dataclass(frozen=True)
class Denoiser:
    """A kind of noise predictor.

    Attributes:
        description: one line, for lists.
        kind: "unet" (diffusers' UNet2DModel) or "dit" (diffusers' DiTTransformer2DModel).
        settings: arguments of that class, besides sizes and classes.
        multiple: the image's height and width must be a multiple of this many pixels.
    """

    description: str
    kind: str
    settings: dict[str, Any]
    multiple: int


def _unet(*channels: int, attention: tuple[bool, ...], **more: Any) -> dict[str, Any]:
    down = tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in attention)
    up = tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention))
    return {"block_out_channels": channels, "down_block_types": down, "up_block_types": up, **more}


def _dit(layers: int, width: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": width // heads, **more}


DENOISERS: dict[str, Denoiser] = {
    "unet-small": Denoiser(
        "UNet2DModel, channels 32 and 64, for images from 8×8",
        "unet",
        _unet(32, 64, attention=(False, True), layers_per_block=1, norm_num_groups=8, attention_head_dim=16),
        2,
    ),
    "ddpm-cifar10": Denoiser(
        "the 32×32 UNet of Ho et al. 2020: channels 128 × (1, 2, 2, 2), attention at 16×16, dropout 0.1",
        "unet",
        _unet(
            128,
            256,
            256,
            256,
            attention=(False, True, False, False),
            dropout=0.1,
            attention_head_dim=256,
            norm_eps=1e-6,
        ),
        8,
    ),
    "dit-tiny": Denoiser("DiTTransformer2DModel, 6 layers of 96, patches of 2", "dit", _dit(6, 96, 4), 2),
    "dit-s-2": Denoiser("DiT-S/2 (Peebles, Xie 2023), learned variance", "dit", _dit(12, 384, 6, learned=True), 2),
    "dit-b-2": Denoiser("DiT-B/2, learned variance", "dit", _dit(12, 768, 12, learned=True), 2),
    "dit-l-2": Denoiser("DiT-L/2, learned variance", "dit", _dit(24, 1024, 16, learned=True), 2),
    "dit-xl-2": Denoiser("DiT-XL/2, learned variance", "dit", _dit(28, 1152, 16, learned=True), 2),
}


def build_denoiser(
    name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 32, seed: int = 0, **options: Any
) -> nn.Module:
    """A noise predictor by name with new weights, or a diffusers folder with its own.

    Args:
        name: a key of `DENOISERS`, or "diffusers:PATH_OR_ID" for a saved UNet2DModel, DiTTransformer2DModel, or a
            pipeline that holds one.
        num_classes: classes of the data, without "no class".
        in_channels: channels of an image or latent.
        image_size: its height and width.
        seed: of the new weights; global random state is left as it was.
        options: put over the named model's settings.

    Raises:
        UnknownName: lists the known models. SettingError: an option is unknown, or the size does not fit.
    """
    prefix, colon, target = name.partition(":")
    if colon and prefix == "diffusers":
        return load_denoiser(target)
    chosen = DENOISERS.get(name)
    if chosen is None:
        raise UnknownName(unknown("model", name, DENOISERS))
    if image_size % chosen.multiple:
        raise SettingError(
            f"{name} needs a height and width that are a multiple of {chosen.multiple}, not {image_size}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _BUILDERS[chosen.kind](num_classes, in_channels, image_size, {**chosen.settings, **options})


def _build_unet(classes: int, channels: int, size: int, settings: dict[str, Any]) -> nn.Module:
    from diffusers import UNet2DModel

    return _made(
        UNet2DModel,
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        num_class_embeds=classes + 1,
        **settings,
    )


def _build_dit(classes: int, channels: int, size: int, settings: dict[str, Any]) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    learned = settings.pop("learned", False)
    return _made(
        DiTTransformer2DModel,
        sample_size=size,
        in_channels=channels,
        out_channels=2 * channels if learned else channels,
        num_embeds_ada_norm=classes,
        **settings,
    )


_BUILDERS: dict[str, Callable[[int, int, int, dict[str, Any]], nn.Module]] = {"unet": _build_unet, "dit": _build_dit}


def _made(kind: Any, **settings: Any) -> nn.Module:
    try:
        return kind(**settings).train()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingError(f"{kind.__name__} cannot be built with {settings}: {error}") from error


def load_denoiser(path: str | Path) -> nn.Module:
    """The noise predictor in a folder that diffusers saved, or of a hub id.

    Raises:
        CheckpointError: if there is none, or its kind is not known.
    """
    import diffusers

    folder = Path(path)
    for inner in ("", "transformer", "unet"):
        config = folder / inner / "config.json"
        if not config.is_file():
            continue
        kind = diffusers.ModelMixin.load_config(folder / inner).get("_class_name")
        kind = "DiTTransformer2DModel" if kind == "Transformer2DModel" else kind
        if kind not in ("UNet2DModel", "DiTTransformer2DModel"):
            raise CheckpointError(f"{config} is of a {kind}; UNet2DModel and DiTTransformer2DModel are known.")
        return getattr(diffusers, kind).from_pretrained(folder / inner).train()
    if folder.exists():
        raise CheckpointError(f"{folder} is not a folder of diffusers: no config.json of a model is in it.")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(str(path))
    return denoiser_of(pipeline).train()


def denoiser_of(pipeline: Any) -> nn.Module:
    """The module of a pipeline that predicts noise.

    Raises:
        CheckpointError: if it has neither a transformer nor a UNet.
    """
    for name in ("transformer", "unet"):
        module = getattr(pipeline, name, None)
        if isinstance(module, nn.Module):
            return module
    raise CheckpointError(f"{type(pipeline).__name__} holds neither a transformer nor a unet that predicts noise.")
