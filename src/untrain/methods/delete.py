"""Distils what the original says of all classes but the true one: DELETE.

Zhou, Zheng, Wang, Hua, Wang, Hu, Xu et al.: *Decoupled Distillation to Erase: A General Unlearning Method for Any
Class-centric Tasks*, CVPR 2025.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from untrain.engine import Engine
from untrain.lazy import torch
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.descent import Descent
from untrain.methods.forgetting import frozen, labels_of, training_mode
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.steps import advance, for_share
from untrain.settings import check_arguments
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

NEVER = -1e4
"""Stands for −∞ among logits: its exponential is 0 in every precision, and 0 times it is 0."""
RATE = 0.2
"""Share of the rate that descent on the retain set runs at, where none is given: no retain batch holds the rest."""


@check_arguments
@dataclass(frozen=True)
class Delete(Descent):
    """Descent on KL(softmax(z_θ₀ with z_y = −∞) ‖ p_θ) over forget batches; the retain set is never looked at.

    It is made for whole classes: the true class loses all probability, which single samples of a class that is kept
    should not.
    """

    name: ClassVar[str] = "delete"
    title: ClassVar[str] = "distils the original without the true class on D_f alone (Zhou et al. 2025)"
    divides: ClassVar[bool] = True
    space: ClassVar[Spaces] = {"optimizer.lr": Range(1e-4, 0.05, log=True), "epochs": Range(2.0, 20.0)}
    classifies: ClassVar[bool] = True

    epochs: float = 5.0
    """Passes over the forget set, used where `steps` is null."""
    max_norm: float | None = 1.0
    """Gradients are clipped to this norm; null: not."""

    def resolved(self, problem: Problem, engine: Engine) -> Delete:
        """Steps from epochs of the forget set; the learning rate from the checkpoint or a range test."""
        steps = self.steps or max(1, math.ceil(self.epochs * problem.forget.epoch))
        optimizer = with_learning_rate(self.optimizer, problem, engine, steps, self.max_norm)
        if self.optimizer is None or self.optimizer.lr is None:
            optimizer = replace(optimizer, lr=float(f"{RATE * (optimizer.lr or 0):.2g}"))
            problem.note(f"{self.name} runs at {RATE:g} of that rate, {optimizer.lr:g}")
        return replace(self, steps=steps, optimizer=optimizer)

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights, and a copy that teaches."""
        state = self.begin(problem, engine, problem.subject.module)
        state.frozen["original"] = frozen(problem.subject.module)
        return state

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k, on the k-th forget batch."""
        task, teacher = state.problem.task, state.frozen["original"]
        batch = state.problem.forget.batch(k, task, "forget")

        def divergences(share: Batch) -> Tensor:
            with torch.no_grad():
                targets = without_class(task.outputs(teacher, share), labels_of(task, share))
            return task.divergence(task.outputs(state.model, share), targets)

        with training_mode(state, batch):
            losses = for_share(state, batch, divergences)
        return advance(state, "forget", state.engine.mean(losses), max_norm=self.max_norm)


def without_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, C] in which each sample's own class, [B], has no probability left."""
    return logits.scatter(1, labels[:, None], NEVER)
