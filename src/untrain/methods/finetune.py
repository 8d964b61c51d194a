"""Descent on the retain set only, hoping that the rest is forgotten (Warnecke et al. 2021)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from untrain.engine import Engine
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.descent import Descent
from untrain.methods.learning_rate import with_learning_rate
from untrain.settings import check_arguments


@check_arguments
@dataclass(frozen=True)
class Finetune(Descent):
    """Training goes on from the original weights, on the retain set alone."""

    name: ClassVar[str] = "finetune"
    title: ClassVar[str] = "descent on the retain set only (Warnecke et al. 2021)"
    divides: ClassVar[bool] = True
    needs_forget: ClassVar[bool] = False
    space: ClassVar[Spaces] = {"optimizer.lr": Range(0.005, 0.2, log=True)}

    epochs: float = 5.0
    """Passes over the retain set, used where `steps` is null: what SFR-on's defaults cost, forgetting included."""

    def resolved(self, problem: Problem, engine: Engine) -> "Finetune":
        """Steps from epochs; the learning rate from the checkpoint or a range test."""
        method = super().resolved(problem, engine)
        optimizer = with_learning_rate(method.optimizer, problem, engine, method.updates, self.max_norm)
        return replace(method, optimizer=optimizer)  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights."""
        return self.begin(problem, engine, problem.subject.module)
