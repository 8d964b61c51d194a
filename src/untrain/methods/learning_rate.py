"""The retain steps' optimiser and its learning rate, where the user does not give them.

What matters most for forgetting a random subset is that the retain steps run at about the peak rate of the original
training: smaller steps leave the model where it is. Where neither recipe nor checkpoint tells that rate, a range test
(Smith, *Cyclical learning rates for training neural networks*, 2017) from the original weights finds it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from untrain.engine import Engine, preserve_modes
from untrain.lazy import nn, torch
from untrain.methods.base import Optimizer, Problem, State
from untrain.methods.steps import losses_of
from untrain.models.modes import set_training

if TYPE_CHECKING:
    from torch import Tensor

STEPS, TRIAL, WINDOW = 30, 40, 5
RISE = 0.1
"""Nats by which the median training loss of five steps may rise before a growing rate counts as too large."""
STEADY_RISE = 0.3
"""The same for forty steps at one rate, whose effect comes late: where the loss is near zero, a rate that is twice too
large takes thirty steps to show. A network that was trained at a peak of 0.1 rises by 0.1 to 0.2 when training goes on
at that rate."""
RUINED = 2.0
"""Nats above the start at which a trial is over."""
_RANGES = {"sgd": (1e-3, 1.0), **dict.fromkeys(("adam", "adamw", "adam8bit", "adamw8bit"), (1e-5, 1e-2))}


def with_learning_rate(optimizer: Optimizer | None, problem: Problem, engine: Engine) -> Optimizer:
    """The optimiser with a learning rate: the given one, the original training's peak, what fits the kind of model
    where that is known, or what a range test finds.

    Without an optimiser, the one that fits the subject. What was decided goes into the problem's notes.
    """
    own = Optimizer(**problem.subject.defaults(problem.task)["optimizer"])
    if optimizer is None:
        optimizer = own
    if optimizer.lr is not None:
        return optimizer
    peak = problem.subject.peak_lr
    if peak is not None:
        _note(problem, f"retain learning rate {peak:g}: the original training's peak")
        return replace(optimizer, lr=peak)
    if own.lr is not None and optimizer.is_adaptive and own.is_adaptive:
        return replace(optimizer, lr=own.lr)  # a range test looks for a rise in nats, which a generator's loss has not
    found = problem.remember("learning rate", lambda: _found(optimizer, problem, engine))
    lr = float(found["lr"])
    _note(problem, f"retain learning rate {lr:.2g}: found by a range test on the retain set")
    return replace(optimizer, lr=float(f"{lr:.2g}"))


def _note(problem: Problem, text: str) -> None:
    if text not in problem.notes:
        problem.notes.append(text)


def _found(optimizer: Optimizer, problem: Problem, engine: Engine) -> dict[str, Tensor]:
    return {"lr": torch.tensor(range_test(optimizer, problem, engine), dtype=torch.float64)}


def range_test(optimizer: Optimizer, problem: Problem, engine: Engine) -> float:
    """The learning rate at which training from the original weights begins to unsettle them.

    First training steps on retain batches at a rate that grows from step to step, until the median loss of five steps
    stands 0.1 nats above the lowest such median before; the rate in the middle of these five is a candidate (where
    the loss never rises so far, the rate at the lowest median). Then forty steps at the candidate from the original
    weights: it is halved until their loss rises by no more than 0.3 nats. The model is put back after each; no count
    of batches moves.
    """
    low, high = _RANGES[optimizer.name]
    rates = [low * (high / low) ** (k / (STEPS - 1)) for k in range(STEPS)]
    losses = _losses(optimizer, rates, problem, engine, unsettled)
    middle = len(losses) - 1 - WINDOW // 2
    if not unsettled(losses):
        settled = _medians(losses)
        middle = settled.index(min(settled)) + WINDOW // 2
    candidate, start = rates[max(0, middle)], median(losses[:WINDOW])
    while candidate > low:
        stop = ruined(start)
        trial = _losses(optimizer, [candidate] * TRIAL, problem, engine, stop)
        if not stop(trial) and median(trial[-WINDOW:]) <= start + STEADY_RISE:
            break
        candidate /= 2
    return candidate


def unsettled(losses: Sequence[float]) -> bool:
    """Whether a growing rate has become too large by the last of these losses."""
    if not math.isfinite(losses[-1]):
        return True
    medians = _medians(losses)
    return len(medians) > 1 and medians[-1] > min(medians) + RISE


def ruined(start: float) -> Callable[[Sequence[float]], bool]:
    """Whether the last of some losses is so far above the start that nothing more can be learned."""
    return lambda losses: not losses[-1] <= start + RUINED


def _medians(losses: Sequence[float]) -> list[float]:
    return [median(losses[k - WINDOW : k]) for k in range(WINDOW, len(losses) + 1)]


def _losses(
    optimizer: Optimizer,
    rates: Sequence[float],
    problem: Problem,
    engine: Engine,
    stop: Callable[[Sequence[float]], bool] = lambda losses: False,
) -> list[float]:
    """The retain loss before each training step at these rates, from the original weights, which are put back."""
    losses: list[float] = []
    with _put_back(problem.subject.module) as module:
        state = State(problem, replace(engine, compile=False), set_training(module))
        moving = replace(optimizer, lr=1.0).build(state.parameters)
        for k, rate in enumerate(rates):
            loss = engine.mean(losses_of(state, problem.retain.batch(k, problem.task, "retain")))
            losses.append(float(engine.global_sum(loss)))
            if stop(losses):
                break
            moving.param_groups[0]["lr"] = rate
            moving.zero_grad()
            engine.backward(loss, state.parameters)
            moving.step()
    return losses


@contextmanager
def _put_back(module: nn.Module) -> Iterator[nn.Module]:
    """Weights, buffers, modes and gradients are afterwards what they were."""
    before = copy.deepcopy(module.state_dict())
    try:
        with preserve_modes(module):
            yield module
    finally:
        module.load_state_dict(before)
        for parameter in module.parameters():
            parameter.grad = None
