"""Ascent on the forget set only (Thudi, Deza, Chandrasekaran, Papernot: *Unrolling SGD*, EuroS&P 2022)."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from untrain.engine import Engine
from untrain.methods.base import Decay, Optimizer, Problem, Range, Spaces, State, trainable
from untrain.methods.descent import Descent
from untrain.methods.steps import advance, losses_of
from untrain.settings import check_arguments
from untrain.types import GenerativeTask

REACH = 0.05
"""How far, as a Euclidean norm, all steps together may carry the weights where no rate is given. Nothing holds the
model where it is: at a given rate, twice the steps ruin it. The published settings have 0.035."""
GENERATOR_REACH = 0.5
"""The same for a generator. On a small text-to-image pipeline 0.2 changes nothing of what is forgotten; at 0.5 it is
drawn in 58 % of the images, and other shapes in 28 %: nothing says what to keep."""


@check_arguments
@dataclass(frozen=True)
class GradientAscent(Descent):
    """Undoes training: θ ← θ + η ∇ mean ℓ over forget batches, clipped; the retain set is never looked at."""

    name: ClassVar[str] = "gradient-ascent"
    title: ClassVar[str] = "ascent on the forget set only (Thudi et al. 2022)"
    divides: ClassVar[bool] = True
    space: ClassVar[Spaces] = {"optimizer.lr": Range(1e-4, 1e-2, log=True), "epochs": Range(2.0, 10.0)}

    epochs: float = 5.0
    """Passes over the forget set, used where `steps` is null."""
    optimizer: Optimizer | None = Optimizer("sgd", None, 0.9)
    """A learning rate of null is chosen such that all steps together carry the weights no further than 0.05, or, of a
    generator, 0.5."""
    decay: Decay = "constant"
    """Learning rate over the run: "cosine" to 0, or "constant"."""
    max_norm: float | None = 0.1
    """Gradients are clipped to this norm; null: not. The loss that is climbed has no bound."""

    def resolved(self, problem: Problem, engine: Engine) -> "GradientAscent":
        """Steps from epochs; the learning rate from the steps."""
        steps = self.steps or max(1, math.ceil(self.epochs * problem.forget.epoch))
        optimizer = self.optimizer or Optimizer()
        if optimizer.lr is None:
            weights = sum(p.numel() for p in trainable(problem.subject.module))
            stride = (self.max_norm or 1) / (1 - optimizer.momentum) if optimizer.name == "sgd" else math.sqrt(weights)
            reach = GENERATOR_REACH if isinstance(problem.task, GenerativeTask) else REACH
            optimizer = replace(optimizer, lr=float(f"{reach / (steps * stride):.2g}"))
            problem.note(f"gradient-ascent runs at {optimizer.lr:g}: all steps together reach {reach:g} at most")
        return replace(self, steps=steps, optimizer=optimizer)

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights."""
        return self.begin(problem, engine, problem.subject.module)

    def step(self, state: State, k: int) -> dict[str, float]:
        """One step up the mean loss of a forget batch, in evaluation mode: running statistics stay as they are."""
        state.module.eval()
        batch = state.problem.forget.batch(k, state.problem.task, "forget")
        return advance(state, "forget", state.engine.mean(losses_of(state, batch)), up=True, max_norm=self.max_norm)
