"""Two teachers (Chundawat, Tarun, Mandal, Kankanhalli: *Can Bad Teaching Induce Forgetting?*, AAAI 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from untrain.engine import Engine, seed_of
from untrain.lazy import nn
from untrain.methods.base import Problem, Range, Spaces, State, check_above_zero
from untrain.methods.forgetting import divergence, frozen
from untrain.methods.union import Union
from untrain.rows import Rows
from untrain.settings import check_arguments
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor


@check_arguments
@dataclass(frozen=True)
class BadTeacher(Union):
    """Distils the original model on the retain set and a randomly initialised one on the forget set."""

    name: ClassVar[str] = "bad-teacher"
    title: ClassVar[str] = "distils the original on D_r and a random network on D_f (Chundawat et al. 2023)"
    space: ClassVar[Spaces] = {
        "optimizer.lr": Range(0.001, 0.2, log=True),
        "temperature": Range(1.0, 4.0),
        "epochs": Range(2.0, 5.0),
    }

    epochs: float = 3.5
    """Passes over the union of retain and forget set, used where `steps` is null; each asks a teacher too."""
    temperature: float = 1.0
    """T, by which outputs are divided before they are compared."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_above_zero(temperature=self.temperature)

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights, and both teachers: the original, and a new network from the run's seed."""
        state = self.begin(problem, engine, problem.subject.module)
        state.frozen["original"] = frozen(problem.subject.module)
        state.frozen["random"] = frozen(problem.subject.fresh(seed_of(problem.seed, "bad teacher")))
        return state

    def retain_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """Divergence from the original."""
        return divergence(state, model, share, state.frozen["original"], self.temperature, rows)

    def forget_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """Divergence from the random network."""
        return divergence(state, model, share, state.frozen["random"], self.temperature, rows)
