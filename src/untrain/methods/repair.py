"""Erase, then repair: part of what the weights hold is destroyed, and training on the retain set brings back the rest.

No step is taken on the forget set: every gradient step on a forgotten sample marks it, one of ascent as well as one
towards the right answer (docs/audit.md).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from untrain.engine import Engine, seed_of
from untrain.lazy import torch
from untrain.methods.base import Problem, State
from untrain.methods.budget import budget_steps, check_budget
from untrain.methods.calibration import retained_conditions
from untrain.methods.descent import Descent
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.like_with_like import class_counts
from untrain.types import Params

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Repair(Descent):
    """What methods share that erase, and then train on the retain set alone."""

    needs_forget: ClassVar[bool] = False
    adapts: ClassVar[bool] = False

    epochs: float = 5.0
    """Passes over the retain set, used where `steps` and `budget` are null."""
    budget: float | None = None
    """Share of the original training's cost, in (0, 1], that the steps take; null: `epochs` says how many."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_budget(self.budget, self.steps)

    def resolved(self, problem: Problem, engine: Engine) -> Repair:
        """Steps from budget or epochs; the learning rate from the checkpoint or a range test at the original."""
        method = self
        if self.budget is not None:
            method = replace(self, steps=budget_steps(self.budget, problem), budget=None)
        resolved = Descent.resolved(method, problem, engine)
        optimizer = with_learning_rate(self.optimizer, problem, engine, resolved.total, self.max_norm)
        return replace(resolved, optimizer=optimizer)  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """Erases, then begins to train."""
        self.erase(problem, engine)
        return self.begin(problem, engine, problem.subject.module)

    @abstractmethod
    def erase(self, problem: Problem, engine: Engine) -> None:
        """Changes the weights of the problem's module; the same from the same original."""


def fresh_weights(problem: Problem) -> Params:
    """New weights of the parameters that are trained, as their own initialisation draws them, by name.

    They are had as `Subject.fresh` says. A parameter that no layer renews is left out, and a note names it.

    Raises:
        ModelError: if none can be had.
    """
    subject = problem.subject
    module, stuck = subject.renew(seed_of(problem.seed, "fresh weights"))
    if stuck:
        problem.note(
            f"no reset_parameters renews {', '.join(stuck[:8])}{' …' if len(stuck) > 8 else ''}: these stay; "
            "init=, a function that returns a new model, would renew them"
        )
    fresh = dict(module.named_parameters())
    chosen = [name for name, p in subject.module.named_parameters() if p.requires_grad and name not in stuck]
    if not chosen:
        subject.fresh(0)  # which says why
    return {name: fresh[name].detach() for name in chosen}


def find_head(problem: Problem) -> list[str]:
    """Names of the trained parameters of the last layer that has a row for each class; empty where none can begin anew,
    and a note says why.
    """
    classes = getattr(problem.task, "num_classes", None)
    trained = [(name, p) for name, p in problem.subject.module.named_parameters() if p.requires_grad]
    owners = [name.rpartition(".")[0] for name, p in trained if p.shape[:1] == (classes,)]
    if problem.subject.adapters is not None:
        problem.note("adapters are trained, so the last layer does not begin anew: what it knows of the class stays")
        return []
    if not owners:
        problem.note(
            "no layer that is trained has a row for each class and can begin anew: all that the last one knows stays"
        )
        return []
    return [name for name, _ in trained if name.rpartition(".")[0] == owners[-1]]


def renew_head(problem: Problem) -> None:
    """Makes the last layer new, but for rows of classes that neither set holds, which nothing would bring back.

    With it a few samples bring a forgotten class back, even where it has no probability left: its own row, and what the
    others are to the features of its samples.
    """
    head, asked = find_head(problem), class_counts(problem.forget, problem.task)
    if asked is None or not head:
        return
    fresh = fresh_weights(problem)
    trained = dict(problem.subject.module.named_parameters())
    rows = torch.cat([asked[0], retained_conditions(problem)["held"]]).unique()
    if len(rows) < len(trained[head[0]]):
        problem.note(f"the last layer begins anew for {len(rows)} classes; neither set holds others, whose rows stay")
    with torch.no_grad():
        for name in fresh.keys() & {*head}:
            trained[name][rows] = fresh[name].to(trained[name])[rows]


def mix(module: nn.Module, fresh: Params, keep: float | Params) -> None:
    """θ ← κ θ + (1 − κ) θ_fresh.

    Args:
        module: its parameters are changed in place.
        fresh: by name; parameters that are not in it stay.
        keep: κ, one number, or one for each weight, tensors as of `fresh`.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in fresh:
                share = keep if isinstance(keep, float) else keep[name].to(parameter)
                parameter.copy_(fresh[name].to(parameter).lerp(parameter, share))
