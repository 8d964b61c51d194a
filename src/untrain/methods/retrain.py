"""Training from scratch on the retain set: the reference for everything."""

from dataclasses import dataclass, replace
from typing import ClassVar

from untrain.engine import Engine, seed_of
from untrain.methods.base import Optimizer, Problem, State
from untrain.methods.descent import Descent


@dataclass(frozen=True)
class Retrain(Descent):
    """The same architecture with new weights, trained on the retain set alone."""

    name: ClassVar[str] = "retrain"
    title: ClassVar[str] = "trains from scratch on the retain set: the reference"

    epochs: float = 30.0
    """Passes over the retain set, used where `steps` is None."""
    optimizer: Optimizer | None = Optimizer("sgd", 0.1, 0.9, 5e-4)
    """The optimiser of the original training."""

    def resolved(self, problem: Problem, engine: Engine) -> "Retrain":
        """The learning rate of the original training, where it is known and none was given."""
        method = super().resolved(problem, engine)
        optimizer = method.optimizer or Retrain.optimizer or Optimizer()
        lr = optimizer.lr or problem.subject.peak_lr or 0.1
        return replace(method, optimizer=replace(optimizer, lr=lr))  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """New weights from the run's seed."""
        return self.begin(problem, engine, problem.subject.fresh(seed_of(problem.seed, "weights")))
