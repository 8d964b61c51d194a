"""The retain steps' learning rate, where the user does not know it."""
from dataclasses import replace
from untrain.engine import Engine
from untrain.methods.base import Optimizer, Problem


def with_learning_rate(optimizer: Optimizer, problem: Problem, engine: Engine) -> Optimizer:
    """The optimiser with a learning rate."""
    if optimizer.lr is None:
        return replace(optimizer, lr=problem.subject.peak_lr)
    return optimizer
