"""Descent on both sets, the forget set redirected to something else (Golatkar, Achille, Soatto, CVPR 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from untrain.engine import Engine
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.forgetting import Rows
from untrain.methods.union import Union
from untrain.types import Batch, Variant


@dataclass(frozen=True)
class RandomLabel(Union):
    """Training goes on with each forget sample under one other, randomly chosen label."""

    name: ClassVar[str] = "random-label"
    title: ClassVar[str] = "descent on both sets, the forget set under other labels (Golatkar et al. 2020)"
    space: ClassVar[Spaces] = {"optimizer.lr": Range(0.001, 0.2, log=True), "epochs": Range(2.0, 6.0)}
    needs: ClassVar[tuple[Variant, ...]] = ("redirect",)

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights."""
        return self.begin(problem, engine, problem.subject.module)

    def retain_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """The training loss."""
        return state.problem.task.loss(model, share)[rows]

    def forget_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """The redirect loss; where it needs a teacher, that is the model as it is now."""
        return state.problem.task.redirect_loss(model, share, state.module)[rows]
