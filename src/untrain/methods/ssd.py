"""Selective synaptic dampening: no training at all (Foster, Schoepf, Brintrup, AAAI 2024, arXiv 2308.07707)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.methods.base import Method, Problem, Range, Spaces, State, check_above_zero, check_choice
from untrain.methods.fishers import fishers_of
from untrain.saliency import largest_mask
from untrain.settings import check_arguments
from untrain.types import Estimator

TINY = 2.0**-126  # the smallest normal float32, added where a Fisher of 0 would be divided by


@check_arguments
@dataclass(frozen=True)
class SSD(Method):
    """Shrinks the weights that matter far more to the forget set than to the training data as a whole."""

    name: ClassVar[str] = "ssd"
    title: ClassVar[str] = "shrinks weights with a high Fisher ratio, without training (Foster et al. 2024)"
    space: ClassVar[Spaces] = {"fraction": Range(0.002, 0.1, log=True), "lam": Range(0.1, 1.0, log=True)}
    adapts: ClassVar[bool] = False

    alpha: float | None = None
    """α: weights with F_forget > α · F_all are dampened; the paper has 10. Null: as many as `fraction` says."""
    fraction: float = 0.015
    """Share of all weights, those with the highest F_forget / F_all, that is dampened where α is null."""
    lam: float = 1.0
    """λ: a dampened weight is multiplied by min(λ · F_all / F_forget, 1)."""
    fisher: Estimator = "sample"
    """Squares of each sample's gradient, or of batch means as published code has it."""
    fisher_samples: int | None = None
    """At most so many samples of each set make its Fisher, chosen by the seed; null: all."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_above_zero(alpha=self.alpha, fraction=self.fraction, lam=self.lam, fisher_samples=self.fisher_samples)
        check_choice("fisher", self.fisher, ("sample", "batch"))
        if self.fraction > 1:
            raise SettingError(f"fraction must be in (0, 1], not {self.fraction}.")

    @property
    def total(self) -> int:
        """One step."""
        return 1

    def resolved(self, problem: Problem, engine: Engine) -> SSD:
        """As it is; α is found with the Fisher."""
        return self

    def start(self, problem: Problem, engine: Engine) -> State:
        """What each weight is multiplied by, from the Fisher at the original weights."""
        with engine.clock("fisher"):
            problem.remember("dampening", lambda: self._factors(problem, engine))
        return State(problem, engine, problem.subject.module)

    def _factors(self, problem: Problem, engine: Engine) -> dict[str, torch.Tensor]:
        forget, retain = fishers_of(problem, engine, self.fisher_samples, self.fisher)
        n_f, n_r = len(problem.forget), len(problem.retain)
        every = {name: (n_f * F + n_r * retain[name]) / (n_f + n_r) for name, F in forget.items()}
        if self.alpha is None:
            chosen = largest_mask({name: F / (every[name] + TINY) for name, F in forget.items()}, self.fraction)
        else:
            chosen = {name: F - self.alpha * every[name] > 0 for name, F in forget.items()}
        return {
            name: torch.where(chosen[name] & (F > 0), (self.lam * every[name] / (F + TINY)).clamp(max=1), 1)
            for name, F in forget.items()
        }

    def step(self, state: State, k: int) -> dict[str, float]:
        """Every weight times its factor."""
        factors = state.problem.memo["dampening"]
        with torch.no_grad():
            for parameter, factor in zip(state.parameters, factors.values(), strict=True):
                parameter.mul_(factor.to(parameter.dtype))
        dampened = sum(int((factor < 1).sum()) for factor in factors.values())
        return {"dampened": dampened / sum(factor.numel() for factor in factors.values())}
