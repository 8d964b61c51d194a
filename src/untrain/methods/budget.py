"""How many steps a share of the original training's cost is."""

from __future__ import annotations

import math

from untrain.errors import SettingError
from untrain.methods.base import Problem

TRAIN_EPOCHS = 30
"""Passes that the original training is taken to have been, where nobody tells: as `train.epochs` of a recipe."""


def train_steps(problem: Problem) -> int:
    """How many steps the original training took, in batches of the retain set's size.

    A recipe or a checkpoint of ours tells, or the user (`train_steps`). Else it is guessed: 30 passes over forget and
    retain set, and the problem's notes say so.
    """
    known = problem.subject.train_steps
    if known is not None:
        return known
    both = problem.retain.epoch * (1 + len(problem.forget) / len(problem.retain))
    if problem.forget is problem.retain:  # nothing of the request is left in the data
        both = problem.retain.epoch
    guess = math.ceil(TRAIN_EPOCHS * both)
    problem.note(
        f"the original training is taken to have been {TRAIN_EPOCHS} passes, {guess} steps: nobody told (train_steps)"
    )
    return guess


def check_budget(budget: float | None, steps: int | None) -> None:
    """Refuses a share of the original training's cost that is none, or that stands beside a number of steps."""
    if budget is not None and not 0 < budget <= 1:
        raise SettingError(f"budget must be in (0, 1], such as 0.2, not {budget}.")
    if budget is not None and steps is not None:
        raise SettingError(f"budget={budget} and steps={steps} contradict: give one of the two.")


def budget_steps(budget: float, problem: Problem, *, cost: float = 1.0) -> int:
    """Steps that cost this share of the original training, at least 1.

    Args:
        budget: share, in (0, 1].
        problem: knows how long that was.
        cost: of a step, where one of training is 1.
    """
    steps = max(1, round(budget * train_steps(problem) / cost))
    problem.note(f"{steps} steps: {budget:.0%} of what the original training cost, {train_steps(problem)} steps")
    return steps
