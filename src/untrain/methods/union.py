"""Descent on D_r ∪ D_f: each step on one batch that mixes rows of both sets, in proportion of their sizes or alike."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from untrain.engine import Engine
from untrain.lazy import nn, torch
from untrain.methods.base import Optimizer, Problem, State, check_above_zero
from untrain.methods.descent import Descent
from untrain.methods.forgetting import ALL, forget_rows, mixed, normalises
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.steps import finite, for_share, mask_of, minimise, next_retain_batch, rate_of
from untrain.rows import Rows, count_rows
from untrain.types import Batch, GenerativeTask

if TYPE_CHECKING:
    from torch import Tensor

RATE = 0.05
"""Share of the rate that descent on the retain set alone runs at, where none is given. What the forget set is taught
contradicts what was learned: larger rates cost retained accuracy and take a random subset further from a retrained
model; at 0.02 a class is not yet forgotten. Published rates are 0.03 (random labels), 0.07 (SalUn) and 0.2 (bad
teacher) of the peak in training."""


@dataclass(frozen=True)
class Union(Descent):
    """What methods share that train on both sets at once, each set with its own objective.

    A forget batch of one class, normalised by itself, would be taught about statistics that it never has in
    evaluation. So both sets' rows go through batch normalisation together.
    """

    epochs: float = 4.5
    """Passes over the union of retain and forget set, used where `steps` is null."""
    optimizer: Optimizer | None = None
    """Null: what fits the model. A learning rate of null is 0.05 of what `finetune` would run at, or, for a
    generator, the same."""
    retain_weight: float = 1.0
    """The retain losses are multiplied by this, before both sets' rows are averaged."""
    balanced: bool = False
    """Whether each step takes a whole forget batch beside the retain batch, as published code for generators does; else
    as many rows of it as keep both sets in proportion."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_above_zero(retain_weight=self.retain_weight)

    def resolved(self, problem: Problem, engine: Engine) -> Union:
        """Steps from epochs; the learning rate from the checkpoint or a range test."""
        method = super().resolved(problem, engine)
        optimizer = with_learning_rate(self.optimizer, problem, engine, method.updates, self.max_norm)
        fitting = isinstance(problem.task, GenerativeTask)  # a generator's own rate; what it is taught contradicts less
        if not fitting and (self.optimizer is None or self.optimizer.lr is None):
            optimizer = replace(optimizer, lr=float(f"{RATE * (optimizer.lr or 0):.2g}"))
            problem.note(f"{self.name} runs at {RATE:g} of that rate, {optimizer.lr:g}")
        return replace(method, optimizer=optimizer)  # type: ignore[return-value]

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k: descent on the weighted mean over retain batch k and the forget rows that go with it."""
        retain, forget = next_retain_batch(state), self._forget_rows(state.problem, k)
        kept, taught = self._losses(state, retain, forget)
        loss, log = state.engine.mean(kept), {}
        log["retain_loss"] = finite(state.engine, loss, "retain")
        loss = self.retain_weight * loss
        if forget is not None:
            other = state.engine.mean(taught)
            log["forget_loss"] = finite(state.engine, other, "forget")
            rows = count_rows(retain), count_rows(forget)
            loss = (rows[0] * loss + rows[1] * other) / sum(rows)
        minimise(state, "optimizer", loss, mask=mask_of(state), max_norm=self.max_norm)
        return {**log, "lr": rate_of(state)}

    def _forget_rows(self, problem: Problem, k: int) -> Batch | None:
        return problem.forget.batch(k, problem.task, "forget") if self.balanced else forget_rows(problem, k)

    def _losses(self, state: State, retain: Batch, forget: Batch | None) -> tuple[Tensor, Tensor]:
        """Losses of this process's retain rows and of its forget rows."""
        if forget is None or not normalises(state.module):
            kept = for_share(state, retain, lambda share: self.retain_losses(state, state.model, share, ALL))
            if forget is None:
                return kept, kept[:0]
            return kept, for_share(state, forget, lambda share: self.forget_losses(state, state.model, share, ALL))
        from untrain.models.once_per_batch import OncePerBatch

        batch, whose = mixed(retain, forget)
        own = state.engine.shard({"forget": whose})["forget"]

        def both(share: Batch) -> Tensor:
            model, objectives = OncePerBatch(state.model), ((self.retain_losses, ~own), (self.forget_losses, own))
            return torch.cat([losses(state, model, share, rows) for losses, rows in objectives if rows.any()])

        kept, taught = for_share(state, batch, both).split([int((~own).sum()), int(own.sum())])
        return kept, taught

    @abstractmethod
    def retain_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """What retain rows descend on: [rows], from a pass of the model through the whole share."""

    @abstractmethod
    def forget_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """What forget rows descend on: [rows], from a pass of the model through the whole share."""
