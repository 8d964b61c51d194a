"""Weights shrunk towards new ones, then training on the retain set (Ash, Adams: *On Warm-Starting*, NeurIPS 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import Problem, Range, Spaces
from untrain.methods.repair import Repair, fresh_weights, mix
from untrain.settings import check_arguments


@check_arguments
@dataclass(frozen=True)
class ShrinkPerturb(Repair):
    """θ ← λ θ₀ + (1 − λ) θ_fresh on all trained parameters, buffers kept; then training at the peak rate."""

    name: ClassVar[str] = "shrink-perturb"
    title: ClassVar[str] = "weights shrunk towards new ones, then retain training (Ash, Adams 2020)"
    space: ClassVar[Spaces] = {"lam": Range(0.3, 0.9), "optimizer.lr": Range(0.02, 0.2, log=True)}

    lam: float = 0.6
    """λ in [0, 1], share of the original weights that is kept: 0 begins anew, 1 is finetuning."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 <= self.lam <= 1:
            raise SettingError(f"lam must be in [0, 1], not {self.lam}.")

    def erase(self, problem: Problem, engine: Engine) -> None:
        """Shrinks towards new weights."""
        mix(problem.subject.module, fresh_weights(problem), float(self.lam))
