"""The retain steps' optimiser and its learning rate, where the user does not give them.

What matters most for forgetting a random subset is that the retain steps run at the peak rate of the original
training: smaller steps leave the model where it is. Where neither checkpoint nor recipe tells that rate, a range test
finds it.
"""

from dataclasses import replace

from untrain.engine import Engine
from untrain.methods.base import Optimizer, Problem


def with_learning_rate(optimizer: Optimizer | None, problem: Problem, engine: Engine) -> Optimizer:
    """The optimiser with a learning rate: the given one, the original training's peak, or what a range test finds."""
    if optimizer is None:
        optimizer = Optimizer(**problem.subject.defaults("finetune")["optimizer"])
    if optimizer.lr is not None:
        return optimizer
    if problem.subject.peak_lr is not None:
        problem.notes.append(f"retain learning rate {problem.subject.peak_lr:g}: the original training's peak")
        return replace(optimizer, lr=problem.subject.peak_lr)
    return replace(optimizer, lr=0.1)
