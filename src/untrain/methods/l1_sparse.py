"""Descent on the retain set under an L1 penalty (Jia et al.: *Model Sparsity Can Simplify Unlearning*, 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.methods.base import Range, Spaces, State
from untrain.methods.finetune import Finetune
from untrain.methods.steps import descend, rate_of
from untrain.settings import check_arguments

if TYPE_CHECKING:
    from torch import Tensor


@check_arguments
@dataclass(frozen=True)
class L1Sparse(Finetune):
    """Training goes on, on the retain set alone, with γ_k ‖θ‖₁ added to the mean loss."""

    name: ClassVar[str] = "l1-sparse"
    title: ClassVar[str] = "descent on the retain set under an L1 penalty (Jia et al. 2023)"
    space: ClassVar[Spaces] = {
        "optimizer.lr": Range(0.005, 0.2, log=True),
        "gamma": Range(1e-5, 1e-3, log=True),
    }
    adapts: ClassVar[bool] = False

    gamma: float = 5e-4
    """γ, mean weight of ‖θ‖₁ over the run."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not self.gamma >= 0:
            raise SettingError(f"gamma must not be negative, but it is {self.gamma}.")

    def gamma_at(self, k: int) -> float:
        """γ_k = (2 − 2k / K) γ: the linear decay that the paper found best."""
        return (2 - 2 * k / self.total) * self.gamma

    def step(self, state: State, k: int) -> dict[str, float]:
        """One step of descent on the mean loss of a retain batch plus γ_k ‖θ‖₁ of all trainable weights."""

        def penalty() -> Tensor:
            return self.gamma_at(k) * torch.stack([p.abs().sum() for p in state.parameters]).sum()

        loss = descend(state, "optimizer", max_norm=self.max_norm, penalty=penalty)
        return {"retain_loss": loss, "gamma": self.gamma_at(k), "lr": rate_of(state)}
