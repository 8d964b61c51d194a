"""SCRUB: a student that disobeys its teacher on the forget set (Kurmanji et al., NeurIPS 2023, arXiv 2302.09880)."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import Problem, Range, Spaces, State, check_above_zero
from untrain.methods.descent import Descent
from untrain.methods.forgetting import divergences_of, frozen, losses_and_divergences_of, training_mode
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.steps import advance, next_retain_batch
from untrain.settings import check_arguments


@check_arguments
@dataclass(frozen=True)
class Scrub(Descent):
    """Max phases: away from the original's outputs on D_f. Min phases: training and distillation on D_r."""

    name: ClassVar[str] = "scrub"
    title: ClassVar[str] = "leaves its teacher on D_f, follows it on D_r, in turns (Kurmanji et al. 2023)"
    divides: ClassVar[bool] = True
    space: ClassVar[Spaces] = {"optimizer.lr": Range(1e-4, 0.1, log=True), "alpha": Range(1e-3, 0.5, log=True)}

    epochs: float = 4.0
    """Min phases, each one pass over the retain set; used where `steps` is null, which counts all steps."""
    max_steps: int = 2
    """Max phases, each one pass over the forget set, before the first min phases."""
    gamma: float = 0.99
    """γ, weight of the training loss in min phases."""
    alpha: float = 0.001
    """α, weight of the divergence from the original in min phases."""
    temperature: float = 4.0
    """T, by which outputs are divided before they are compared; the divergence is multiplied by T²."""
    max_norm: float | None = 1.0
    """Gradients of max phases are clipped to this norm; null: not."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_above_zero(temperature=self.temperature)
        if not all(value >= 0 for value in (self.max_steps, self.gamma, self.alpha)):
            raise SettingError("max_steps, gamma and alpha must not be negative.")

    def resolved(self, problem: Problem, engine: Engine) -> "Scrub":
        """Steps from epochs; the learning rate from the checkpoint or a range test."""
        forget, retain = passes(problem)
        phases = min(self.max_steps, math.ceil(self.epochs))
        steps = self.steps or phases * forget + math.ceil(self.epochs * retain)
        optimizer = with_learning_rate(self.optimizer, problem, engine, steps, None)  # min phases are not clipped
        return replace(self, steps=steps, optimizer=optimizer)

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights, and a copy of them as the teacher."""
        state = self.begin(problem, engine, problem.subject.module)
        state.frozen["original"] = frozen(problem.subject.module)
        return state

    def forget_batch(self, problem: Problem, k: int) -> int | None:
        """The number of the forget batch that step k visits; None in a min phase."""
        forget, retain = passes(problem)
        epoch, i = divmod(k, forget + retain)
        return epoch * forget + i if epoch < self.max_steps and i < forget else None

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k: T² KL up on a forget batch, or γ ℓ + α T² KL down on a retain batch."""
        number, engine, teacher = self.forget_batch(state.problem, k), state.engine, state.frozen["original"]
        if number is None:
            weights = self.gamma, self.alpha * self.temperature**2
            both = losses_and_divergences_of(state, next_retain_batch(state), teacher, self.temperature, weights)
            return advance(state, "retain", engine.mean(both))
        batch = state.problem.forget.batch(number, state.problem.task, "forget")
        with training_mode(state, batch):
            divergences = self.temperature**2 * divergences_of(state, batch, teacher, self.temperature)
        return advance(state, "forget", engine.mean(divergences), up=True, max_norm=self.max_norm)


def passes(problem: Problem) -> tuple[int, int]:
    """Steps of one max phase, and of one min phase."""
    return math.ceil(problem.forget.epoch), math.ceil(problem.retain.epoch)
