"""How far to forget, read off held-out data.

A model retrained without the forget set treats it like data that it never saw. So the *original* model's mean loss on
held-out samples says how high the forget loss should come, and a forget step is left out where its batch is there
already. The target never rises with the changing model's loss on them: forgetting raises that too, and both would run
away. It may fall with it, if asked for. A class (or other condition) that the retain set does not hold has no such
measure, since a retrained model gives it next to no probability: each of its samples is forgotten until it has none
left, to the last step of the run, and no further, since every step beyond costs the other classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from untrain.engine import Engine
from untrain.errors import Diverged, SettingError
from untrain.lazy import nn, torch
from untrain.methods.base import Problem
from untrain.methods.like_with_like import CERTAIN, LIMIT, class_losses, of_class
from untrain.methods.steps import FEWEST, sample_losses
from untrain.rows import count_rows
from untrain.settings import check_arguments
from untrain.types import Batch, Params, Task

if TYPE_CHECKING:
    from torch import Tensor

Statistics = Literal["running", "batch", "moved"]
CEILINGS, FRESH_CEILINGS = (6.0, 4.0), (4.0, 3.0)
"""Nats at which a sample of a condition that the retain set does not hold has been forgotten, before and after `until`;
the second ones where the last layer begins anew: driven farther, features end farther from the original's than those of
a model that never saw the condition."""
VAGUE = 4.0
"""So many standard errors of the difference between two sets' mean losses below which the notes say that held-out data
tell vaguely how far to forget."""


@check_arguments
@dataclass(frozen=True)
class Calibration:
    """Settings of calibration."""

    until: float = 0.8
    """Share of the outer steps after which none forgets any more, so that retaining has the last word."""
    margin: float = 1.0
    """A batch has been forgotten far enough at this multiple of the held-out loss."""
    ceiling: float | None = None
    """A sample whose condition the retain set does not hold has been forgotten at this loss, in nats. Null: 6, a
    probability of 0.002; 4 where the last layer begins anew, which knows nothing of the condition."""
    late_ceiling: float | None = None
    """The same after `until`, when what is forgotten is seen as it will be later. Null: 4 (0.02), or 3 likewise."""
    growth: float = 1.05
    """Factor by which the forget rate grows in an outer step, where it was left open: while the forget loss is below
    half of the target and the retain loss below a tenth of it, it is slow and costs little. 1: it never grows."""
    retain_max_norm: float | None = 1.0
    """Retain gradients are clipped to this norm, where the method's own retain_max_norm is null; null: not. Without
    normalisation layers, one large step after forgetting can ruin a network for good."""
    statistics: Literal["running", "batch"] = "batch"
    """Normalisation in forget steps: by running statistics, or by the batch's own, which the layers do not keep.
    Under large retain steps running statistics lag behind the weights, and a forget step on them is wasted."""
    follow: bool | None = None
    """Whether a batch has been forgotten far enough, too, where the model as it is knows held-out samples no worse: the
    loss aimed at then follows theirs, and lies never above the original's. For weights that were changed beforehand,
    such as shrunk ones, which are less sure of held-out samples, or surer, than the original was. Null: the method's
    own, which is true for shrink-sfron."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 < self.until <= 1 or not min(self.margin, *self.ceilings) > 0:
            raise SettingError("calibration: until must be in (0, 1], margin and both ceilings above 0.")
        if not self.growth >= 1 or not (self.retain_max_norm is None or self.retain_max_norm > 0):
            raise SettingError("calibration: growth must be at least 1, and retain_max_norm above 0 or null.")

    @property
    def ceilings(self) -> tuple[float, float]:
        """`ceiling` and `late_ceiling`; where they are open, those of weights that know the condition."""
        return self._filled(CEILINGS)

    def for_fresh_head(self) -> Calibration:
        """With the ceilings, where they are open, of a last layer that knows nothing of the condition."""
        early, late = self._filled(FRESH_CEILINGS)
        return replace(self, ceiling=early, late_ceiling=late)

    def _filled(self, usual: tuple[float, float]) -> tuple[float, float]:
        given = self.ceiling, self.late_ceiling
        early, late = (own if value is None else value for value, own in zip(given, usual, strict=True))
        return early, late

    def measured(self, problem: Problem, engine: Engine) -> Params:
        """Returns what `measure` finds, measured once for a problem."""
        return problem.remember("calibration", lambda: self.measure(problem, engine))

    def measure(self, problem: Problem, engine: Engine) -> Params:
        """The mean held-out loss of the original, in nats, and the conditions that the retain set holds.

        Returns:
            "target", a scalar, infinite without held-out data; "spread", the standard deviation of held-out losses;
            "held", the conditions [C], empty where there are none; and what `class_losses` finds.
        """
        held = retained_conditions(problem)["held"]
        if problem.holdout is None:
            problem.note(f"without held-out data, each sample is forgotten to a loss of {self.ceilings[0]:g} nats")
            return {"target": torch.tensor(math.inf, device=engine.device), "held": held}
        sets = problem.task, problem.subject.module, problem.holdout
        losses, conditions = sample_losses(*sets, engine, "held-out loss")
        target = losses.mean()
        if not bool(torch.isfinite(target)):
            raise Diverged(f"the model's mean loss on the held-out set is {float(target)}: check model and data.")
        found = class_losses(problem, losses, conditions)
        level = float(target * found.get("level", 1.0))
        like = ", of the classes to be forgotten and as rare as they will be" if bool(found.get("one_sided")) else ""
        lower = ", or of the model as it is, where that is lower" if self.follow else ""
        problem.note(f"forgetting aims at the held-out loss of the original{like}, {level:.3g} nats{lower}")
        return {"target": target, "spread": losses.std(correction=0), "held": held, **found}

    def say_if_vague(self, measured: Params, problem: Problem) -> None:
        """A note where chance makes much of the difference between the held-out and the forget set's mean loss."""
        before, holdout, spread = problem.memo.get("forget loss"), problem.holdout, measured.get("spread")
        if before is None or holdout is None or spread is None:
            return
        if bool(measured.get("one_sided")) or forgets_a_class(problem):  # which have a gauge of their own
            return
        apart = float(measured["target"] - before["mean"])
        sizes = [len(stream) for stream in (holdout, problem.forget)]
        error = float(spread) * math.sqrt(sum(1 / size for size in sizes))
        if 0 < apart < VAGUE * error:
            problem.note(
                f"the held-out loss lies {apart:.2g} nats above that of the forget set, and by chance alone two such "
                f"sets, of {sizes[0]} and {sizes[1]} samples, are {error:.2g} apart: how far to forget is vague to "
                "that extent. Hold out more"
            )

    def aims(self, measured: Params, batch: Batch, task: Task) -> Tensor:
        """The loss that each sample of a batch is to come to, in nats, [B]."""
        held, ratio = held_samples(measured, batch, task), of_class(measured, "ratio", task.condition(batch))
        return torch.where(held, self.margin * measured["target"] * ratio, self.ceilings[1])

    def late(self, k: int, total: int) -> bool:
        """Whether outer step k of so many is one after which retaining has the last word."""
        return k >= self.until * total

    def slow(self, measured: Params, forget_loss: float, retain_loss: float) -> bool:
        """Whether the forget loss is far from the target while the retain loss has hardly suffered."""
        target = float(measured["target"] * measured.get("level", 1.0))
        return math.isfinite(target) and forget_loss < target / 2 and retain_loss < target / 10

    def statistics_of(self, measured: Params | None, batch: Batch, late: bool, task: Task) -> Statistics:
        """How normalisation layers behave in a forget step.

        The batch's own statistics say too little where it has fewer than 16 samples. A class that the retain set does
        not hold is forgotten as it will be seen, by running statistics, once the retain steps have become small
        enough for these to keep up (`late`).
        """
        few = count_rows(batch) < FEWEST
        if measured is None or few or (late and not is_held(measured, batch, task)):
            return "running"
        return self.statistics

    def follows(self, measured: Params, problem: Problem) -> bool:
        """Whether the loss aimed at follows that of held-out samples."""
        return bool(self.follow) and problem.holdout is not None and not bool(measured.get("one_sided"))

    def followed(self, measured: Params, batch: Batch, losses: Tensor, task: Task, engine: Engine) -> Params:
        """What was measured, with the mean loss of a batch of held-out samples where that is lower.

        Args:
            measured: what `measure` found.
            batch: this process's share of the batch.
            losses: its per-sample losses as they are now, [B_p].
            task: knows the samples' classes.
            engine: sums over processes.
        """
        ratio = of_class(measured, "ratio", task.condition(batch))
        of_all = [engine.global_sum(values.sum()) for values in (losses, losses.new_ones(len(losses)) * ratio)]
        return _lowered(measured, of_all[0] / of_all[1])

    def followed_to_the_end(self, problem: Problem, engine: Engine) -> Params:
        """What was measured, with the held-out loss of the model as it is where that is lower; measured once."""
        measured = self.measured(problem, engine)

        def measure() -> Params:
            holdout = problem.holdout or problem.retain  # it is there, where the loss follows it
            now, _ = sample_losses(problem.task, problem.subject.module, holdout, engine, "held-out loss")
            return _lowered(measured, now.mean())

        return problem.remember("followed", measure)

    def one_sided(self, measured: Params | None, batch: Batch, problem: Problem) -> bool:
        """Whether forget rows are normalised by the statistics of a retain batch.

        A batch of one class has other statistics than what the network will see: normalised by its own, a class that is
        known by heart looks forgotten already.
        """
        if measured is None or not bool(measured.get("one_sided")) or self.statistics != "batch":
            return False
        return problem.retain.rows >= FEWEST and is_held(measured, batch, problem.task)

    def active_samples(
        self, measured: Params, share: Batch, losses: Tensor, k: int, total: int, task: Task, engine: Engine
    ) -> Tensor:
        """Which samples the forget step is still for.

        Args:
            measured: what `measure` found.
            share: this process's share of the forget batch.
            losses: its per-sample losses, [B_p].
            k: outer step.
            total: outer steps.
            task: knows the samples' conditions.
            engine: sums over processes.

        Returns:
            [B_p], bool. Samples of held conditions: all, while their mean loss is below the mean of what they are to
            come to and the step is not among the last, and, where the request is one-sided, while more of them are
            known for sure than of held-out samples; of other conditions: each while its loss is below the ceiling.
        """
        held = held_samples(measured, share, task)
        count = engine.global_sum(held.sum()).clamp_min(1)
        mean = engine.global_sum((losses * held).sum()) / count
        condition, late = task.condition(share), self.late(k, total)
        ratio = engine.global_sum((held * of_class(measured, "ratio", condition)).sum()) / count
        go_on = (mean < self.margin * measured["target"] * ratio) & (not late)
        if bool(measured.get("one_sided")):
            expected = engine.global_sum((held * of_class(measured, "known", condition)).sum()) / count
            go_on &= engine.global_sum((held & (losses < CERTAIN)).sum()) / count > expected
        return torch.where(held, go_on, losses < self.ceilings[late])


def forgets_a_class(problem: Problem) -> bool:
    """Whether the first forget batch holds a condition that the retain set does not; looked up once."""
    if problem.forgets_class is None:
        first = problem.forget.batch(0, problem.task, "evaluate")
        problem.forgets_class = not is_held(retained_conditions(problem), first, problem.task)
    return problem.forgets_class


def retained_conditions(problem: Problem) -> Params:
    """The conditions that the retain set holds, as "held", looked up once."""
    return problem.remember("conditions", lambda: {"held": conditions(problem)})


def is_held(measured: Params, batch: Batch, task: Task) -> bool:
    """Whether held-out data say how far to forget this batch: the retain set holds all of its conditions."""
    return bool(held_samples(measured, batch, task).all())


def held_samples(measured: Params, batch: Batch, task: Task) -> Tensor:
    """Whether the retain set holds each sample's condition, bool [B]; true where there are no conditions."""
    condition = task.condition(batch)
    if condition is None:
        first = next(iter(batch.values()))
        return torch.ones(len(first), dtype=torch.bool, device=first.device)
    return torch.isin(condition, measured["held"])


def _lowered(measured: Params, loss: Tensor) -> Params:
    """What was measured, with this loss as the target where it is lower."""
    return {**measured, "target": torch.minimum(measured["target"], loss)}


def conditions(problem: Problem) -> Tensor:
    """The conditions (labels) that the retain set holds, [C]; of a large set, those of 4,096 samples."""
    found = []
    for batch in problem.retain.once(problem.task, "evaluate", limit=LIMIT):
        condition = problem.task.condition(batch)
        if condition is None:
            return torch.empty(0, dtype=torch.int64)
        found.append(condition.unique())
    return torch.cat(found).unique()


@contextmanager
def borrowed_statistics(module: nn.Module, company: Callable[[], object]) -> Iterator[None]:
    """Layers with running statistics normalise by those of other samples inside the block, and keep none of it.

    Args:
        module: in training mode.
        company: runs the module on these samples.
    """
    layers = _with_statistics(module)
    kept = [(dict(layer._buffers), layer.momentum) for layer in layers]
    for layer, (buffers, _) in zip(layers, kept, strict=True):
        layer._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
        layer.momentum = 1.0  # type: ignore[assignment]
    try:
        with torch.no_grad():
            company()
        for layer in layers:
            layer.eval()
        yield
    finally:
        for layer, (buffers, momentum) in zip(layers, kept, strict=True):
            layer.train()
            layer._buffers.update(buffers)
            layer.momentum = momentum


def _with_statistics(module: nn.Module) -> list[nn.Module]:
    """The layers in training mode that have running statistics."""
    return [m for m in module.modules() if isinstance(getattr(m, "running_mean", None), torch.Tensor) and m.training]


@contextmanager
def statistics(module: nn.Module, kind: Statistics) -> Iterator[None]:
    """How layers with running statistics normalise inside the block.

    Args:
        module: in training mode.
        kind: "running" uses the running statistics; "batch" the batch's own, and the running ones stay as they are;
            "moved" the batch's own, and the running ones move, as in a training step.
    """
    layers = _with_statistics(module)
    kept = [dict(layer._buffers) for layer in layers]
    for layer, buffers in zip(layers, kept, strict=True):
        if kind == "running":
            layer.eval()
        if kind != "moved":  # copies move, now or later: the backward pass looks at what there is in this block
            layer._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for layer, buffers in zip(layers, kept, strict=True):
            layer.train()
            layer._buffers.update(buffers)
