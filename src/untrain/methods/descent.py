"""Descent on the retain set: what `retrain`, `finetune` and others share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.lazy import nn
from untrain.methods.base import Decay, Method, Optimizer, Problem, State, check_above_zero, check_choice, check_steps
from untrain.methods.steps import descend, rate_of, schedule


@dataclass(frozen=True)
class Descent(Method):
    """Descent on the retain set: what `retrain` and `finetune` share."""

    steps: int | None = None
    """Optimiser steps; None: as many as `epochs` says."""
    epochs: float = 4.0
    """Passes over the retain set, used where `steps` is None."""
    optimizer: Optimizer | None = None
    """Null: what fits the model. A learning rate of null is found."""
    decay: Decay = "cosine"
    """Learning rate over the run: "cosine" to 0, or "constant"."""
    max_norm: float | None = None
    """Gradients are clipped to this norm; None: not."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_steps(self.steps, self.epochs)
        check_choice("decay", self.decay, ("cosine", "constant"))
        check_above_zero(max_norm=self.max_norm)

    @property
    def total(self) -> int:
        """Optimiser steps."""
        return self.steps or 0

    def resolved(self, problem: Problem, engine: Engine) -> Descent:
        """Steps from epochs."""
        return replace(self, steps=self.count_steps(problem.retain))

    def count_steps(self, stream: Stream) -> int:
        """How many steps it takes on this set: `steps`, else as many as `epochs` passes are."""
        return self.steps or max(1, math.ceil(self.epochs * stream.epoch))

    def step(self, state: State, k: int) -> dict[str, float]:
        """One step of descent on the mean loss of a retain batch."""
        loss = descend(state, "optimizer", max_norm=self.max_norm)
        return {"retain_loss": loss, "lr": rate_of(state)}

    def begin(self, problem: Problem, engine: Engine, module: nn.Module) -> State:
        """A state with the optimiser and its schedule on this module."""
        state = State(problem, engine, module)
        optimizer = (self.optimizer or Optimizer()).build(state.parameters)
        state.optimizers["optimizer"] = optimizer
        state.schedules["optimizer"] = schedule(optimizer, self.decay, self.total)
        return state
