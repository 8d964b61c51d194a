"""Retain training with clipped, noisy gradients and weights that shrink: noise hides what single samples left.

Koloskova, Allouah, Jha, Guerraoui, Koyejo: *Certified Unlearning for Neural Networks*, 2025; Chien et al.: *Langevin
Unlearning*, 2024. What they certify needs noise at which small networks learn nothing any more: nothing is certified
here.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.repair import Repair
from untrain.methods.steps import finite, losses_of, next_retain_batch, rate_of
from untrain.settings import check_arguments


@check_arguments
@dataclass(frozen=True)
class NoisyFinetune(Repair):
    """Each step: g ← clip(g, C) + C ν ξ / √d, ξ ~ N(0, 1) of each of d weights; θ ← (1 − s) θ, then the step."""

    name: ClassVar[str] = "noisy-finetune"
    title: ClassVar[str] = "retain training with clipped, noisy gradients (Koloskova et al. 2025)"
    space: ClassVar[Spaces] = {
        "noise": Range(0.1, 3.0, log=True),
        "shrink": Range(0.001, 0.05, log=True),
        "optimizer.lr": Range(0.02, 0.2, log=True),
    }

    noise: float = 1.0
    """ν, norm of the noise in units of `max_norm`; 0: none."""
    shrink: float = 0.01
    """s in [0, 1), share that the weights lose in each step, falling with the learning rate."""
    max_norm: float | None = 1.0
    """C: gradients are clipped to this norm."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 <= self.noise < math.inf:
            raise SettingError(f"noise must not be negative, but it is {self.noise}.")
        if not 0 <= self.shrink < 1:
            raise SettingError(f"shrink must be in [0, 1), not {self.shrink}.")
        if self.max_norm is None:
            raise SettingError("max_norm must be a number: without a bound of the gradients, noise hides nothing.")

    def erase(self, problem: Problem, engine: Engine) -> None:
        """Nothing: each step erases."""

    def step(self, state: State, k: int) -> dict[str, float]:
        """One noisy step on a retain batch; the noise is the same in every process."""
        engine, bound = state.engine, self.max_norm or 0.0
        loss = engine.mean(losses_of(state, next_retain_batch(state)))
        value = finite(engine, loss, "retain")
        optimizer, rate = state.optimizers["optimizer"], rate_of(state)
        optimizer.zero_grad()
        engine.backward(loss, state.parameters)
        engine.scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(state.parameters, bound)
        with torch.no_grad():
            self._disturb(state, rate / (self.optimizer.lr if self.optimizer and self.optimizer.lr else rate))
        engine.step(optimizer)
        state.schedules["optimizer"].step()
        return {"retain_loss": value, "lr": rate_of(state)}

    def _disturb(self, state: State, height: float) -> None:
        """Shrinks the weights, and puts noise on the gradients; `height` is the rate's share of its peak."""
        weights = sum(parameter.numel() for parameter in state.parameters)
        deviation = self.noise * (self.max_norm or 0.0) / math.sqrt(weights)
        for parameter in state.parameters:
            parameter.mul_(1 - self.shrink * height)
            if parameter.grad is not None:
                noise = torch.randn(parameter.shape, dtype=torch.float64)  # of the CPU: the same on every device
                parameter.grad.add_(noise.to(parameter.grad), alpha=deviation)
