"""The retain steps' optimiser and its learning rate, where the user does not give them.

What matters most for forgetting a random subset is that the retain steps run at about the peak rate of the original
training: smaller steps leave the model where it is. Where neither recipe nor checkpoint tells that rate, a range test
(Smith, *Cyclical learning rates for training neural networks*, 2017) from the original weights finds it.
"""

import copy
import math
from dataclasses import replace
from statistics import median

import torch

from untrain.engine import Engine
from untrain.methods.base import Optimizer, Problem, State, losses_of

STEPS = 40
WINDOW = 5
RISE = 0.1
"""Nats by which the median training loss of five steps may rise before the rate counts as too large. Chosen on held-out
data: on embedded images it gives 0.12 to 0.2 for a network that was trained at 0.1."""
_RANGES = {"sgd": (1e-3, 1.0), "adam": (1e-5, 1e-2), "adamw": (1e-5, 1e-2)}


def with_learning_rate(optimizer: Optimizer | None, problem: Problem, engine: Engine) -> Optimizer:
    """The optimiser with a learning rate: the given one, the original training's peak, or what a range test finds.

    Without an optimiser, the one that fits the subject. What was decided goes into the problem's notes.
    """
    if optimizer is None:
        optimizer = Optimizer(**problem.subject.defaults("finetune")["optimizer"])
    if optimizer.lr is not None:
        return optimizer
    peak = problem.subject.peak_lr
    if peak is not None:
        _note(problem, f"retain learning rate {peak:g}: the original training's peak")
        return replace(optimizer, lr=peak)
    found = problem.remember("learning rate", lambda: {"lr": torch.tensor(range_test(optimizer, problem, engine))})
    lr = float(found["lr"])
    _note(problem, f"retain learning rate {lr:.2g}: found by a range test on the retain set")
    return replace(optimizer, lr=float(f"{lr:.2g}"))


def _note(problem: Problem, text: str) -> None:
    if text not in problem.notes:
        problem.notes.append(text)


def range_test(optimizer: Optimizer, problem: Problem, engine: Engine) -> float:
    """The learning rate at which training from the original weights begins to unsettle them.

    Training steps on retain batches at a rate that grows from step to step, until the median loss of five steps
    stands 0.1 nats above the lowest such median before; the rate in the middle of these five is the result. Where
    the loss never rises so far, it is the rate at the lowest median. The model is put back; no count of batches moves.
    """
    low, high = _RANGES[optimizer.name]
    rates = [low * (high / low) ** (k / (STEPS - 1)) for k in range(STEPS)]
    module = problem.subject.module
    before = copy.deepcopy(module.state_dict())
    modes = {m: m.training for m in module.modules()}
    try:
        losses: list[float] = []
        medians: list[float] = []
        state = State(problem, replace(engine, compile=False), module.train())
        moving = replace(optimizer, lr=low).build(state.parameters)
        for k, rate in enumerate(rates):
            loss = engine.mean(losses_of(state, problem.retain.batch(k, problem.task, "retain")))
            losses.append(float(engine.total(loss)))
            medians.append(median(losses[-WINDOW:]))
            if not math.isfinite(losses[-1]) or (k >= WINDOW and medians[-1] > min(medians[WINDOW - 1 :]) + RISE):
                return rates[max(0, k - WINDOW // 2)]
            moving.param_groups[0]["lr"] = rate
            moving.zero_grad()
            engine.backward(loss, state.parameters)
            moving.step()
        settled = medians[WINDOW - 1 :]
        return rates[settled.index(min(settled)) + WINDOW // 2]
    finally:
        module.load_state_dict(before)
        for m, mode in modes.items():
            m.training = mode
        for parameter in module.parameters():
            parameter.grad = None
