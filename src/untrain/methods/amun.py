"""Training on the nearest adversarial neighbours of what is forgotten: AMUN.

Ebrahimpour-Boroojeny, Sundaram, Chandrasekaran: *Not All Wrong is Bad: Using Adversarial Examples for Unlearning*, ICML
2025.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from untrain.engine import Engine, preserve_modes
from untrain.lazy import torch
from untrain.methods.adversarial import nearest_adversarial
from untrain.methods.base import Problem, Range, Spaces, State, check_above_zero
from untrain.methods.descent import Descent
from untrain.methods.forgetting import forget_rows, joined, mixed
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.steps import advance, losses_of, next_retain_batch
from untrain.rows import cut
from untrain.settings import check_arguments
from untrain.types import Batch, Params

if TYPE_CHECKING:
    from torch import Tensor

RATE = 0.5
"""Share of the rate that descent on the retain set runs at, where none is given."""


@check_arguments
@dataclass(frozen=True)
class AMUN(Descent):
    """Descent on D_r ∪ D_f ∪ D_a, where D_a holds each forget sample's nearest adversarial input under its wrong class.

    As in the paper, forget samples keep their right labels: what falls is the confidence in them. Each batch is a
    retain batch with the forget rows that go with it and their neighbours, normalised together.
    """

    name: ClassVar[str] = "amun"
    title: ClassVar[str] = "trains on nearest adversarial neighbours of D_f besides (Ebrahimpour-Boroojeny et al. 2025)"
    space: ClassVar[Spaces] = {"optimizer.lr": Range(0.005, 0.2, log=True), "epochs": Range(2.0, 5.0)}
    classifies: ClassVar[bool] = True

    epochs: float = 4.0
    """Passes over the retain set, used where `steps` is null; forget set and neighbours go with it."""
    attack_steps: int = 50
    """Steps of the attack for each ε."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_above_zero(attack_steps=self.attack_steps)

    def resolved(self, problem: Problem, engine: Engine) -> AMUN:
        """Steps from epochs; the learning rate from the checkpoint or a range test."""
        method = super().resolved(problem, engine)
        optimizer = with_learning_rate(self.optimizer, problem, engine, method.updates, self.max_norm)
        if self.optimizer is None or self.optimizer.lr is None:
            optimizer = replace(optimizer, lr=float(f"{RATE * (optimizer.lr or 0):.2g}"))
            problem.note(f"{self.name} runs at {RATE:g} of that rate, {optimizer.lr:g}")
        return replace(method, optimizer=optimizer)  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """The attack on the original, whose results no checkpoint holds; then its weights."""
        with engine.clock("attack"):
            found = self._attack(problem, engine)
        state = self.begin(problem, engine, problem.subject.module)
        state.beside.update(found)
        return state

    def _attack(self, problem: Problem, engine: Engine) -> Params:
        """The neighbours' inputs and classes, in the order of the samples' numbers; all of them in every process."""
        module, task = problem.subject.module, problem.task
        parts: list[Batch] = []
        labels: list[Tensor] = []
        with preserve_modes(module):
            module.eval()
            batches = problem.forget.once(task, "evaluate")
            for batch in engine.track(batches, "adversarial neighbours", problem.forget.passes()):
                near, classes = nearest_adversarial(module, task, batch, steps=self.attack_steps)
                parts.append(near)
                labels.append(classes)
        every: Any = joined(parts)
        order = every["index"].argsort()
        return {**cut(every, order), "label": torch.cat(labels)[order]}

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k: descent on the mean over retain batch k, the forget rows that go with it, and their neighbours."""
        batch, forget = next_retain_batch(state), forget_rows(state.problem, k)
        if forget is not None:
            place = torch.searchsorted(state.beside["index"], forget["index"].to(state.beside["index"]))
            batch, _ = mixed(batch, joined([forget, cut(state.beside, place)]))
        loss = state.engine.mean(losses_of(state, batch))
        return advance(state, "retain", loss, max_norm=self.max_norm)
