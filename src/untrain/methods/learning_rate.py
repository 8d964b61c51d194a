"""The retain steps' optimiser and its learning rate, where the user does not give them.

What matters most for forgetting a random subset is that the retain steps run at about the peak rate of the original
training: smaller steps leave the model where it is. Where neither recipe nor checkpoint tells that rate, a short test
from the original weights finds the largest one, up to a usual peak, at which training mends a disturbance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from untrain.engine import Engine, Precision, generator_of, preserve_state
from untrain.errors import SettingError
from untrain.lazy import nn, torch
from untrain.methods.base import Optimizer, Problem, State, trainable
from untrain.methods.steps import losses_of
from untrain.models.modes import set_training
from untrain.rows import count_rows, cut
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

SHARE, FEWEST, FORWARD = 25, 3, 1 / 3
"""The test takes at most one of so many passes of the run, but of a short one so many; of a pass, forward and backward,
the share of the former."""
PEAKS = {"sgd": 0.1, **dict.fromkeys(("adam", "adamw", "adam8bit", "adamw8bit"), 1e-3)}
"""Usual peak rates, from which the test goes down."""
LOWEST = 1e-3
"""Share of the usual peak below which the test does not look."""
DISTURBED, FINEST, COARSEST, ROWS = 0.5, 1 / 32, 1.0, 32
"""Nats that noise on the weights adds to the loss of so many samples, and its least and greatest share of a weight's
size. Where the loss is near zero, gradients are too, and a rate that is far too large shows only after dozens of steps;
disturbed, it shows in one or two. And mending what was disturbed is what retain steps are for."""
TRIAL, LAST = 5, 3
"""Losses that a trial sees, and how many of them, the last, say whether its steps mend."""
TOLERATED, RUINED = 0.25, 1.0
"""Nats above the first loss up to which that median may come, since batches differ, and those at which a trial ends."""


def with_learning_rate(
    optimizer: Optimizer | None, problem: Problem, engine: Engine, updates: int, max_norm: float | None
) -> Optimizer:
    """The optimiser with a learning rate: the given one, the original training's peak, what fits the kind of model
    where that is known, or what a range test finds.

    Without an optimiser, the one that fits the subject. What was decided goes into the problem's notes.

    Args:
        optimizer: with or without a rate; None: none was given.
        problem: its subject may know the peak.
        engine: where the test runs.
        updates: optimiser steps of the run; the test takes one of 25 of their passes at most, or three.
        max_norm: the run clips the gradients of these steps to this norm; None: not.

    Raises:
        SettingError: if the test would be needed and the engine divides weights.
    """
    own = Optimizer(**problem.subject.defaults(problem.task)["optimizer"])
    if optimizer is None:
        optimizer = own
    if optimizer.lr is not None:
        return optimizer
    peak = problem.subject.peak_lr
    if peak is not None:
        problem.note(f"retain learning rate {peak:g}: the original training's peak")
        return replace(optimizer, lr=peak)
    if own.lr is not None and optimizer.is_adaptive and own.is_adaptive:
        return replace(optimizer, lr=own.lr)  # a range test looks for a rise in nats, which a generator's loss has not
    if engine.fsdp:
        raise SettingError(
            "no learning rate is known, and its range test trains whole weights in each process, which fsdp is to "
            "spare: give optimizer.lr."
        )
    found = problem.remember("learning rate", lambda: _found(optimizer, problem, engine, updates, max_norm))
    lr, passes = float(found["lr"]), float(found["passes"])
    problem.note(f"retain learning rate {lr:.2g}: found by a range test on the retain set, {passes:.1f} passes")
    return replace(optimizer, lr=float(f"{lr:.2g}"))


def _found(
    optimizer: Optimizer, problem: Problem, engine: Engine, updates: int, max_norm: float | None
) -> dict[str, Tensor]:
    lr, passes = range_test(optimizer, problem, engine, most_passes(updates), max_norm)
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in (("lr", lr), ("passes", passes))}


def most_passes(updates: int) -> float:
    """The passes of a retain batch that a range test takes at most, before a run of so many optimiser steps."""
    return max(FEWEST, updates / SHARE)


def range_test(
    optimizer: Optimizer, problem: Problem, engine: Engine, budget: float, max_norm: float | None = None
) -> tuple[float, float]:
    """The largest rate, of a usual peak and its halves, at which training mends a disturbance of the weights.

    Noise on the original weights raises the loss by half a nat. From there a trial takes a few training steps on retain
    batches, at first at the usual peak. It fails where a loss comes to stand a nat above the first, or the median of
    the last three a quarter of a nat; then the next trial has half of its rate. Where the budget ends first, what was
    seen by then says whether the rate is taken, or half of it. All trials begin with the same batch, whose gradient is
    had once. The model is put back; no count of batches moves.

    Args:
        optimizer: its rate does not count.
        problem: model and retain set.
        engine: where to run.
        budget: forward and backward passes of a retain batch that the test may take at most; a forward pass alone is a
            third of one, and one of fewer samples is in proportion less.
        max_norm: trials clip gradients as the run will, which can take far greater rates then.

    Returns:
        The rate, and the passes that were taken.
    """
    module = problem.subject.module
    with _put_back(module) as before:
        precision: Precision = "bf16" if engine.precision == "fp16" else engine.precision  # which needs no loss scale
        state = State(problem, replace(engine, compile=False, precision=precision), set_training(module))
        trials = _Trials(state, before, budget, max_norm)
        trials.disturb()
        rate, lowest = PEAKS[optimizer.name], LOWEST * PEAKS[optimizer.name]
        while rate > lowest and trials.affords(FORWARD) and not mends(trials.run(replace(optimizer, lr=rate))):
            rate /= 2
        return rate, trials.taken


def mends(losses: Sequence[float]) -> bool:
    """Whether the losses of a trial, the first before any step, say that its steps mend what was disturbed."""
    later = losses[1:][-LAST:]
    return not ruined(losses) and (not later or median(later) <= losses[0] + TOLERATED)


def ruined(losses: Sequence[float]) -> bool:
    """Whether a loss stands so far above the first that no more need be seen."""
    return not all(loss <= losses[0] + RUINED for loss in losses)


@dataclass(eq=False)
class _Trials:
    """Training steps from the same disturbed weights, and what they cost.

    Attributes:
        state: of the subject's own module.
        before: the original parameters, as the state has them.
        budget: passes that may be taken.
        max_norm: gradients are clipped to this norm.
        taken: passes taken.
        share: of the noise.
        first: loss and gradient at the disturbed weights, once they are known.
    """

    state: State
    before: Sequence[Tensor]
    budget: float
    max_norm: float | None = None
    taken: float = 0.0
    share: float = 0.0
    first: tuple[float, list[Tensor]] | None = None

    def affords(self, passes: float) -> bool:
        """Whether so many passes may be taken."""
        return self.taken + passes <= self.budget

    def disturb(self) -> None:
        """Finds how much noise raises the loss of a few samples by `DISTURBED`."""
        batch = self._batch(0)
        rows = min(ROWS, count_rows(batch))
        few, cost = cut(batch, slice(0, rows)), FORWARD * rows / self.state.problem.retain.rows
        with torch.no_grad():
            start = level = self._mean(few, cost)[1]
            share = FINEST
            while level < start + DISTURBED and share <= COARSEST and self.affords(cost):
                self.share, share = share, share * math.sqrt(2)
                self._begin()
                level = self._mean(few, cost)[1]

    def run(self, optimizer: Optimizer) -> list[float]:
        """The loss before each step of a trial, from the disturbed weights; it ends where it is ruined."""
        self._begin()
        chosen, losses = optimizer.build(self.state.parameters), list[float]()
        while len(losses) < TRIAL and self._look(losses):
            if self.max_norm is not None:
                nn.utils.clip_grad_norm_(self.state.parameters, self.max_norm)
            chosen.step()
        return losses

    def _look(self, losses: list[float]) -> bool:
        """Adds the next batch's loss to those of a trial and makes its gradient; whether a step is to follow."""
        parameters = self.state.parameters
        if not losses and self.first is not None:
            losses.append(self.first[0])
            for parameter, gradient in zip(parameters, self.first[1], strict=True):
                parameter.grad = gradient.clone()
            return True
        if not self.affords(FORWARD):
            return False
        loss, value = self._mean(self._batch(len(losses)), FORWARD)
        losses.append(value)
        if ruined(losses) or len(losses) == TRIAL or not self.affords(1 - FORWARD):
            return False
        for parameter in parameters:
            parameter.grad = None
        self.state.engine.backward(loss, parameters)
        self.taken += 1 - FORWARD
        if self.first is None:
            self.first = value, [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        return True

    def _batch(self, k: int) -> Batch:
        return self.state.problem.retain.batch(k, self.state.problem.task, "retain")

    def _mean(self, batch: Batch, cost: float) -> tuple[Tensor, float]:
        """A batch's mean loss, in nats: this process's part, and as a number."""
        self.taken += cost
        loss = self.state.engine.mean(losses_of(self.state, batch))
        return loss, float(self.state.engine.global_sum(loss))

    def _begin(self) -> None:
        """θ ← θ₀ + share · rms(θ₀) · ε, ε normal, the same each time; rms of each tensor."""
        draw = generator_of(self.state.problem.seed, "disturbance")
        with torch.no_grad():
            for parameter, value in zip(self.state.parameters, self.before, strict=True):
                noise = torch.randn(value.shape, generator=draw, dtype=torch.float32).to(value)
                parameter.copy_(value + self.share * value.square().mean().sqrt() * noise)


@contextmanager
def _put_back(module: nn.Module) -> Iterator[list[Tensor]]:
    """Weights, buffers, modes, random states and gradients are afterwards what they were; gives the trained weights."""
    before = [parameter.detach().clone() for parameter in trainable(module)]
    try:
        with preserve_state(module):
            yield before
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list[torch.Tensor](trainable(module)), before)
        for parameter in module.parameters():
            parameter.grad = None
