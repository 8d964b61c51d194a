"""Random labels with an L1 pull to the original weights: proximal gradient descent (Fan, Liu, Zhang, Wong, Wei, Liu:
*SalUn*, ICLR 2024, whose code has it beside SalUn).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.lazy import nn, torch
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.random_label import RandomLabel
from untrain.methods.redirecting import begin_teacher
from untrain.settings import check_arguments

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = 2**20
"""Weights that the threshold is read off, at most; of a larger model, every so many-th of them."""


@check_arguments
@dataclass(frozen=True)
class ProximalGradient(RandomLabel):
    """Random labels, and after each step θ ← θ₀ + S_γ(θ − θ₀), S_γ(δ) = sign(δ) max(|δ| − γ, 0).

    S_γ is the proximal operator of γ ‖θ − θ₀‖₁: a weight that is not worth moving is exactly the original's. As in the
    authors' code, γ is found after each step as a quantile of |θ − θ₀|, so that it fits any model and learning rate.
    There the share falls to 0 over the run, so that in the end every weight has moved; here it stays.
    """

    name: ClassVar[str] = "proximal-gradient"
    title: ClassVar[str] = "random labels, and an L1 pull to the original weights (Fan et al. 2024, code)"
    space: ClassVar[Spaces] = {
        "optimizer.lr": Range(0.001, 0.2, log=True),
        "fraction": Range(0.1, 0.9),
        "epochs": Range(2.0, 6.0),
    }

    fraction: float = 0.5
    """Share of all weights, those that have moved least, that each step puts back to θ₀, in (0, 1); all others are
    pulled back by as much as the last of these had moved."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 < self.fraction < 1:
            raise SettingError(f"fraction must be in (0, 1), not {self.fraction}; without a pull: random-label.")

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights, and a copy of them."""
        state = super().start(problem, engine)
        begin_teacher(state, "original")
        return state

    def step(self, state: State, k: int) -> dict[str, float]:
        """One step of random-label, then the proximal operator."""
        log = super().step(state, k)
        original = state.frozen["original"]
        pairs = [(p, original.get_parameter(n)) for n, p in state.module.named_parameters() if p.requires_grad]
        with torch.no_grad():
            gamma = quantile(pairs, self.fraction)
            for parameter, start in pairs:
                parameter.copy_(start + nn.functional.softshrink(parameter - start, gamma))
        return {**log, "gamma": gamma}


def quantile(pairs: Sequence[tuple[Tensor, Tensor]], fraction: float) -> float:
    """How far the weight has moved that stands at this share of all, in the order of how far they have moved."""
    stride = math.ceil(sum(parameter.numel() for parameter, _ in pairs) / SAMPLE)
    moved = torch.cat([(p.reshape(-1)[::stride] - start.reshape(-1)[::stride]).abs() for p, start in pairs])
    return float(moved.kthvalue(max(1, round(fraction * len(moved)))).values)
