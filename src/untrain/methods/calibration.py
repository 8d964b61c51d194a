"""How far to forget, read off held-out data.

A model retrained without the forget set treats it like data that it never saw. So the *original* model's mean loss on
held-out samples says how high the forget loss should come, and a forget step is left out where its batch is there
already. The target stays fixed: one that followed the changing model would run away. A class (or other condition)
that the retain set does not hold has no such gauge, since a retrained model gives it no probability at all: it is
forgotten to the last step, but no further than to a loss at which it has none left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import Diverged, SettingError
from untrain.methods.base import Problem
from untrain.types import Batch, Params, Task

FEWEST = 16
Statistics = Literal["running", "batch", "moved"]


@dataclass(frozen=True)
class Calibration:
    """Settings of calibration; they matter only where held-out data are given."""

    until: float = 0.8
    """Share of the outer steps after which none forgets any more, so that retaining has the last word."""
    margin: float = 1.0
    """A batch has been forgotten far enough at this multiple of the held-out loss."""
    ceiling: float = 8.0
    """The same for conditions that the retain set does not hold: mean loss in nats (8: probability 0.0003)."""
    statistics: Literal["running", "batch"] = "batch"
    """Normalisation in forget steps: by running statistics, or by the batch's own, which the layers do not keep.
    Under large retain steps running statistics lag behind the weights, and a forget step on them is wasted."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 < self.until <= 1 or not self.margin > 0 or not self.ceiling > 0:
            raise SettingError("calibration: until must be in (0, 1], margin and ceiling above 0.")

    def measure(self, problem: Problem, holdout: Stream, engine: Engine) -> Params:
        """The mean held-out loss of the original, in nats, and the conditions that the retain set holds.

        Returns:
            "target", a scalar; "held", the conditions [C], empty where the task has none.
        """
        module, task = problem.subject.module.eval(), problem.task
        total, count = torch.zeros((), device=engine.device), 0
        with torch.no_grad(), engine.autocast():
            for batch in engine.track(holdout.once(task, "evaluate"), "held-out loss", holdout.passes()):
                losses = task.loss(module, engine.share(batch))
                total, count = total + engine.total(losses), count + engine.count(losses)
        target = total / count
        held = problem.remember("conditions", lambda: {"held": conditions(problem)})["held"]
        if not bool(torch.isfinite(target)):
            raise Diverged(f"the model's mean loss on the held-out set is {float(target)}: check model and data.")
        problem.notes.append(f"forgetting aims at the held-out loss of the original, {float(target):.3g} nats")
        return {"target": target, "held": held}

    def statistics_of(self, gauge: Params | None, batch: Batch, late: bool, task: Task) -> Statistics:
        """How normalisation layers behave in a forget step.

        The batch's own statistics say too little where it has fewer than 16 samples. A class that the retain set does
        not hold is forgotten as it will be seen, by running statistics, once the retain steps have become small
        enough for these to keep up (`late`).
        """
        few = len(next(iter(batch.values()))) < FEWEST
        if gauge is None or few or (late and not gauged(gauge, batch, task)):
            return "running"
        return self.statistics

    def enough(self, gauge: Params, batch: Batch, loss: float, k: int, total: int, task: Task) -> bool:
        """Whether the forget step on this batch is left out."""
        if not gauged(gauge, batch, task):
            return loss >= self.ceiling
        return k >= self.until * total or loss >= self.margin * float(gauge["target"])


def forgets_a_class(problem: Problem) -> bool:
    """Whether the first forget batch holds a condition that the retain set does not."""
    held = problem.remember("conditions", lambda: {"held": conditions(problem)})
    return not gauged(held, problem.forget.batch(0, problem.task, "evaluate"), problem.task)


def gauged(gauge: Params, batch: Batch, task: Task) -> bool:
    """Whether held-out data say how far to forget this batch: the retain set holds all of its conditions."""
    condition = task.condition(batch)
    return condition is None or bool(torch.isin(condition, gauge["held"]).all())


def conditions(problem: Problem) -> Tensor:
    """The conditions (labels) that the retain set holds, [C]; of a large set, those of 4,096 samples."""
    found = []
    for batch in problem.retain.once(problem.task, "evaluate", limit=4096):
        condition = problem.task.condition(batch)
        if condition is None:
            return torch.empty(0, dtype=torch.int64)
        found.append(condition.unique())
    return torch.cat(found).unique()


@contextmanager
def statistics(module: nn.Module, kind: Statistics) -> Iterator[None]:
    """How layers with running statistics normalise inside the block.

    Args:
        module: in training mode.
        kind: "running" uses the running statistics; "batch" the batch's own, and the running ones stay as they are;
            "moved" the batch's own, and the running ones move, as in a training step.
    """
    layers = [m for m in module.modules() if isinstance(getattr(m, "running_mean", None), Tensor) and m.training]
    kept = [dict(layer._buffers) for layer in layers]
    for layer, buffers in zip(layers, kept, strict=True):
        if kind == "running":
            layer.eval()
        elif kind == "batch":  # copies move instead; autograd may look at them until the backward pass is over
            layer._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for layer, buffers in zip(layers, kept, strict=True):
            layer.train()
            layer._buffers.update(buffers)
