"""Kinds of text-to-image pipelines: one file each says what is true of one kind alone, this table which there are."""

from untrain.diffusion.architectures.base import Architecture
from untrain.diffusion.architectures.flux import Flux
from untrain.diffusion.architectures.pixart import PixArt
from untrain.diffusion.architectures.sana import Sana
from untrain.diffusion.architectures.stable_diffusion import StableDiffusion
from untrain.diffusion.architectures.stable_diffusion_3 import StableDiffusion3

ARCHITECTURES: dict[str, Architecture] = {
    kind.name: kind for kind in (StableDiffusion(), StableDiffusion3(), Flux(), PixArt(), Sana())
}
"""Name → what is true of these pipelines."""

PIPELINES: dict[str, Architecture] = {name: kind for kind in ARCHITECTURES.values() for name in kind.pipelines}
"""Class of diffusers → its kind."""

SUPPORTED = tuple(PIPELINES)
"""Classes of diffusers whose pipelines can be unlearned."""

SUPPORTED_LIST = f"{', '.join(SUPPORTED[:-1])} and {SUPPORTED[-1]}"
"""The same as messages name them."""
