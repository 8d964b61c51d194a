"""One rule for precision: weights of fewer bits than float32 are trained in float32, and given back in their own type.

A step changes a weight by a thousandth of itself, or less. bfloat16 has 8 bits for a number and float16 has 11, so most
such steps would be rounded away, and large ones overflow in float16.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from untrain.engine import tensor_attributes
from untrain.lazy import nn, torch
from untrain.models.copies import copy_module

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rounding:
    """How a widened module came, to give it back so.

    Attributes:
        types: name of a parameter or buffer → its type, of those that were widened.
        before: the trained ones among them as they came, on the CPU.
        done: what was done to them, in words.
    """

    types: Mapping[str, torch.dtype] = field(default_factory=dict)
    before: Mapping[str, Tensor] = field(default_factory=dict)
    done: str = "were trained in float32"

    @property
    def kinds(self) -> str:
        """The types, in words."""
        return " and ".join(sorted({str(kind).removeprefix("torch.") for kind in self.types.values()}))

    def restore_(self, module: nn.Module) -> None:
        """Rounds what was widened to the type that it came in, in place."""
        _cast_(module, self.types)

    def rounded(self, module: nn.Module) -> nn.Module:
        """The module as it is given back: itself, or a rounded copy where it was widened."""
        if not self.types:
            return module
        made = copy_module(module)
        self.restore_(made)
        return made

    def describe(self, module: nn.Module) -> list[str]:
        """Says how much of what unlearning changed is left after rounding, and warns where most of it is lost.

        Args:
            module: in float32, unlearned.
        """
        if not self.types:
            return []
        now = dict(module.named_parameters())
        moved, kept = count_changes((before, now[name].detach().cpu()) for name, before in self.before.items())
        text = (
            f"weights of {self.kinds} {self.done}; of the {moved:,} that changed, {kept:,} still differ "
            f"when they are rounded back"
        )
        warn_of_loss(text, moved, kept)
        return [text]


def widen_(module: nn.Module, *, keep: bool = False) -> Rounding:
    """Brings parameters and buffers of fewer bits than float32 to float32, in place; returns how they came.

    Args:
        module: any.
        keep: whether to keep the trained ones as they came, for `Rounding.describe`.
    """
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    types = {name: tensor.dtype for name, tensor in named.items() if is_narrow(tensor)}
    trained = [(n, p) for n, p in module.named_parameters() if keep and n in types and p.requires_grad]
    before = {name: parameter.detach().cpu().clone() for name, parameter in trained}
    _cast_(module, dict.fromkeys(types, torch.float32))
    return Rounding(types, before)


def keep_types(module: nn.Module, trained: Collection[str]) -> Rounding:
    """How a module came whose narrow weights stay so, but for some that will be given other data, in float32.

    Args:
        module: as it came.
        trained: names of the weights that will be.
    """
    held = dict(module.named_parameters())
    found = {name: held[name].detach() for name in trained if is_narrow(held[name])}
    types = {name: tensor.dtype for name, tensor in found.items()}
    before = {name: tensor.cpu() for name, tensor in found.items()}
    return Rounding(types, before, "had added to them what adapters learned in float32, which a LoRA holds whole")


def count_changes(weights: Iterable[tuple[Tensor, Tensor]]) -> tuple[int, int]:
    """Counts the weights that changed, and those of them that still differ when they are rounded.

    Args:
        weights: pairs of a weight as it came, and what became of it in a wider type.
    """
    moved = kept = 0
    for before, after in weights:
        moved += int((after != before.to(after.dtype)).sum())
        kept += int((after.to(before.dtype) != before).sum())
    return moved, kept


def warn_of_loss(text: str, moved: int, kept: int) -> None:
    """Warns where rounding leaves less than half of what changed."""
    if kept < moved / 2:
        warnings.warn(
            f"{text}: most of the change is lost. Give the model in float32, where it is whole.", stacklevel=3
        )


def is_narrow(tensor: Tensor) -> bool:
    """Whether a tensor holds floating-point numbers of fewer bits than float32."""
    return tensor.is_floating_point() and tensor.element_size() < 4


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is of fewer bits, else itself."""
    return tensor.float() if is_narrow(tensor) else tensor


def weight_type(module: nn.Module) -> torch.dtype:
    """The type of a module's first weights; float32 where it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def fit(tensor: Tensor, module: nn.Module) -> Tensor:
    """Input for a module: in its weights' type where they have fewer bits than float32, else as it is."""
    kind = weight_type(module)
    return tensor.to(kind) if tensor.is_floating_point() and kind.itemsize < 4 else tensor


def _cast_(module: nn.Module, types: Mapping[str, torch.dtype]) -> None:
    for place, layer in module.named_modules(remove_duplicate=False):
        prefix = f"{place}." if place else ""
        for name, parameter in layer._parameters.items():
            if parameter is not None and prefix + name in types:
                parameter.data = parameter.data.to(types[prefix + name])
                parameter.grad = None
        for name, buffer in layer._buffers.items():
            if buffer is not None and prefix + name in types:
                layer._buffers[name] = buffer.to(types[prefix + name])
        _cast_attributes(layer, [types[prefix + name] for name in layer._parameters if prefix + name in types])


def _cast_attributes(layer: nn.Module, types: Iterable[torch.dtype]) -> None:
    """Weights that hooks keep beside the parameters which they are made of."""
    for kind in list(types)[:1]:
        for name, tensor in tensor_attributes(layer):
            if tensor.is_floating_point():
                setattr(layer, name, tensor.detach().to(kind))
