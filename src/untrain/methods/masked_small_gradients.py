"""Weights on which forget and retain set hardly disagree made fresh, then training on the retain set: an entry of the
unlearning competition of 2023.

Triantafillou et al.: *Are We Making Progress in Unlearning? Findings from the First NeurIPS Unlearning Competition*,
2024; described as Masked Small Gradients by Cadet et al.: *Deep Unlearn*, 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.repair import Repair, fresh_weights, mix
from untrain.methods.salun import mean_gradient
from untrain.saliency import largest_mask
from untrain.settings import check_arguments
from untrain.types import Params


@check_arguments
@dataclass(frozen=True)
class MaskedSmallGradients(Repair):
    """The weights with the smallest |∇ mean ℓ(D_f) − ∇ mean ℓ(D_r)| are made fresh; the others then learn slower."""

    name: ClassVar[str] = "masked-small-gradients"
    title: ClassVar[str] = "weights with small gradients made fresh, then retain training (competition 2023)"
    space: ClassVar[Spaces] = {
        "fraction": Range(0.1, 0.7),
        "kept_rate": Range(0.1, 1.0, log=True),
        "optimizer.lr": Range(0.02, 0.2, log=True),
    }
    needs_forget: ClassVar[bool] = True

    fraction: float = 0.3
    """Share of all weights, in (0, 1), that is made fresh."""
    kept_rate: float = 1.0
    """The steps of weights that were kept are multiplied by this, in [0, 1]; 0.1 in the competition's entry, whose
    steps were few."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 < self.fraction < 1:
            raise SettingError(f"fraction must be in (0, 1), not {self.fraction}.")
        if not 0 <= self.kept_rate <= 1:
            raise SettingError(f"kept_rate must be in [0, 1], not {self.kept_rate}.")

    def erase(self, problem: Problem, engine: Engine) -> None:
        """Makes fresh what the mask does not keep."""
        with engine.clock("saliency"):
            kept = problem.remember("kept", lambda: self._kept(problem, engine))
        mix(problem.subject.module, fresh_weights(problem), {name: mask.double() for name, mask in kept.items()})

    def _kept(self, problem: Problem, engine: Engine) -> Params:
        forget, retain = (mean_gradient(problem, engine, stream) for stream in (problem.forget, problem.retain))
        return largest_mask({name: g - retain[name] for name, g in forget.items()}, 1 - self.fraction)

    def step(self, state: State, k: int) -> dict[str, float]:
        """One step of descent; weights that were kept go a part of the way."""
        if self.kept_rate == 1:
            return super().step(state, k)
        before = [parameter.detach().clone() for parameter in state.parameters]
        log = super().step(state, k)
        kept = [self.kept_of(state, name) for name, p in state.module.named_parameters() if p.requires_grad]
        with torch.no_grad():
            for parameter, first, mask in zip(state.parameters, before, kept, strict=True):
                part = first.lerp(parameter, self.kept_rate)
                parameter.copy_(torch.where(mask, part, parameter))
        return log

    @staticmethod
    def kept_of(state: State, name: str) -> torch.Tensor:
        """Which weights of a parameter were kept, bool of its shape."""
        return state.problem.memo["kept"][name]
