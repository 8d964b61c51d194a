"""Training from scratch on the retain set: the reference for everything."""

from dataclasses import dataclass, replace
from typing import ClassVar

from untrain.engine import Engine, seed_of
from untrain.errors import SettingError
from untrain.methods.base import Optimizer, Problem, State
from untrain.methods.descent import Descent
from untrain.methods.steps import average
from untrain.models.copies import copy_module
from untrain.settings import check_arguments
from untrain.types import GenerativeTask


@check_arguments
@dataclass(frozen=True)
class Retrain(Descent):
    """The same architecture with new weights, trained on the retain set alone."""

    name: ClassVar[str] = "retrain"
    title: ClassVar[str] = "trains from scratch on the retain set: the reference"
    divides: ClassVar[bool] = True
    needs_forget: ClassVar[bool] = False
    adapts: ClassVar[bool] = False

    epochs: float = 30.0
    """Passes over the retain set, used where `steps` is None."""
    optimizer: Optimizer | None = Optimizer("sgd", 0.1, 0.9, 5e-4)
    """The optimiser of the original training."""
    ema: float | None = None
    """Decay, in each step, of an exponential moving average of the weights, in (0, 1): the average is then the result,
    and what is evaluated and unlearned. The initial weights have no part in it. Null: none."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if self.ema is not None and not 0 < self.ema < 1:
            raise SettingError(f"ema must be in (0, 1), such as 0.999, not {self.ema}.")

    @property
    def peak_lr(self) -> float | None:
        """The highest learning rate that it is told to train with."""
        return None if self.optimizer is None else self.optimizer.lr

    def resolved(self, problem: Problem, engine: Engine) -> "Retrain":
        """The learning rate of the original training, where it is known and none was given."""
        method = super().resolved(problem, engine)
        if isinstance(problem.task, GenerativeTask) and method.optimizer in (None, Retrain.optimizer):
            raise SettingError(
                "generators are not trained as classifiers are: give train.optimizer, such as {name: adam, "
                "lr: 2e-4}, and train.steps; or train none (model.checkpoint, and references: 0)."
            )
        optimizer = method.optimizer or Retrain.optimizer or Optimizer()
        lr = optimizer.lr or problem.subject.peak_lr or 0.1
        return replace(method, optimizer=replace(optimizer, lr=lr))  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """New weights from the run's seed; parameters that were frozen have new weights too, and are trained."""
        given = problem.subject.module
        state = self.begin(problem, engine, problem.subject.fresh(seed_of(problem.seed, "weights")))
        if len(state.parameters) > sum(parameter.requires_grad for parameter in given.parameters()):
            problem.note("retraining begins from new weights throughout: what is frozen is trained too")
        if self.ema is not None:
            state.averaged = copy_module(state.module).eval().requires_grad_(False)
            problem.note(f"the weights are averages over the steps of training (EMA {self.ema:g})")
        return state

    def step(self, state: State, k: int) -> dict[str, float]:
        """A step of descent; the averages follow."""
        record = super().step(state, k)
        average(state, self.ema or 0.0, k)
        return record
