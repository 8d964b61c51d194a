"""LECO, low-rank adaptation for erasing concepts (p1atdev: *LECO*, 2023, github.com/p1atdev/LECO): the target of ESD,
learned by adapters. Of their words, "target" is the forgotten condition here, "neutral" is `neutral`, and the guidance
scale is η.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from untrain.methods.base import Optimizer, check_choice
from untrain.methods.esd import ESD
from untrain.models.adapters import Adapters
from untrain.settings import check_arguments
from untrain.types import Variant


@check_arguments
@dataclass(frozen=True)
class LECO(ESD):
    """As `esd`, by adapters in the place of weights.

    ε_θ(x_t, c) moves to ε_θ*(x_t, n) − η (ε_θ*(x_t, c) − ε_θ*(x_t, ∅)), n nothing or the anchor. What is learned is a
    small file, which can be put onto other models of the same architecture and taken off again. By default the layers
    where texts come in have an adapter; published, all layers of attention.
    """

    name: ClassVar[str] = "leco"
    title: ClassVar[str] = "steers away from the forgotten condition by adapters, without data (p1atdev 2023)"
    own_adapters: ClassVar[Adapters | None] = Adapters(rank=4, alpha=1.0)

    steps: int | None = 500
    """Optimiser steps (published: 500); null: as many as `epochs` says."""
    optimizer: Optimizer | None = Optimizer("adamw", 1e-4)
    """At the published rate; a learning rate of null is as of `esd`."""
    neutral: Literal["empty", "anchor"] = "empty"
    """n, what the target is without the forgotten condition: nothing ("empty"), or the "anchor"."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_choice("neutral", self.neutral, ("empty", "anchor"))

    @property
    def _neutral(self) -> Variant:
        return "redirect" if self.neutral == "anchor" else super()._neutral
