"""Kernels of convolutions transposed, then training on the retain set: an entry of the unlearning competition of 2023.

Triantafillou et al.: *Are We Making Progress in Unlearning? Findings from the First NeurIPS Unlearning Competition*,
2024; described as Convolution Transpose by Cadet et al.: *Deep Unlearn*, 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from untrain.engine import Engine, generator_of
from untrain.errors import SettingError
from untrain.lazy import nn, torch
from untrain.methods.base import Problem, Range, Spaces
from untrain.methods.repair import Repair
from untrain.settings import check_arguments


@check_arguments
@dataclass(frozen=True)
class Transpose(Repair):
    """W[o, i, y, x] ← W[o, i, x, y] for some convolutions, chosen by the seed; then training at the peak rate."""

    name: ClassVar[str] = "transpose"
    title: ClassVar[str] = "kernels of convolutions transposed, then retain training (competition 2023)"
    space: ClassVar[Spaces] = {"fraction": Range(0.2, 1.0), "optimizer.lr": Range(0.02, 0.2, log=True)}

    fraction: float = 1.0
    """Share of the convolutions, in (0, 1], whose kernels are transposed; at least one."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise SettingError(f"fraction must be in (0, 1], not {self.fraction}.")

    def erase(self, problem: Problem, engine: Engine) -> None:
        """Transposes kernels.

        Raises:
            SettingError: if no convolution that is trained has a square kernel of several pixels.
        """
        layers = [layer for layer in problem.subject.module.modules() if _can_be_transposed(layer)]
        if not layers:
            raise SettingError(
                "transpose has nothing to do: no convolution that is trained has a square kernel of several pixels. "
                "Choose another method, such as shrink-perturb."
            )
        order = torch.randperm(len(layers), generator=generator_of(problem.seed, "transpose"))
        with torch.no_grad():
            for i in order[: max(1, round(self.fraction * len(layers)))].tolist():
                weight = layers[i].weight
                weight.copy_(weight.transpose(-1, -2).clone())


def _can_be_transposed(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or not isinstance(weight, nn.Parameter):
        return False
    return weight.requires_grad and weight.shape[-1] == weight.shape[-2] > 1
