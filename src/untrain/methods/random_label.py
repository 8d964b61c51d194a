"""Descent on both sets, the forget set redirected to something else (Golatkar, Achille, Soatto, CVPR 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from untrain.engine import Engine
from untrain.lazy import nn
from untrain.methods.base import Problem, Range, Spaces, State, check_choice
from untrain.methods.redirecting import Teacher, begin_teacher, check_teacher, teacher_of
from untrain.methods.union import Union
from untrain.rows import Rows
from untrain.settings import check_arguments
from untrain.types import Batch, Task, Variant

if TYPE_CHECKING:
    from torch import Tensor


@check_arguments
@dataclass(frozen=True)
class RandomLabel(Union):
    """Training goes on with each forget sample under one other, randomly chosen label."""

    name: ClassVar[str] = "random-label"
    title: ClassVar[str] = "descent on both sets, the forget set under other labels (Golatkar et al. 2020)"
    divides: ClassVar[bool] = True
    space: ClassVar[Spaces] = {"optimizer.lr": Range(0.001, 0.2, log=True), "epochs": Range(2.0, 6.0)}
    needs: ClassVar[tuple[Variant, ...]] = ("redirect",)

    teacher: Teacher = "current"
    """Who says what a redirected sample should be predicted as, where it has no label: the "current" model, as it is in
    that step, or the "original", of which a copy is kept."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_choice("teacher", self.teacher, ("current", "original"))

    def check_task(self, task: Task) -> None:
        """A teacher can be chosen only where one is asked."""
        check_teacher(self.teacher, task)

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights, and a copy where they teach."""
        state = self.begin(problem, engine, problem.subject.module)
        begin_teacher(state, self.teacher)
        return state

    def retain_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """The training loss."""
        return state.problem.task.loss(model, share)[rows]

    def forget_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """The redirect loss."""
        return state.problem.task.redirect_loss(model, share, teacher_of(state, self.teacher))[rows]
