"""Weights shrunk towards new ones, then training on the retain set in small steps (shrink and perturb).

Ash, Adams: *On Warm-Starting Neural Network Training*, NeurIPS 2020, who begin a training so. As an unlearner, how far
the weights are shrunk is a dial between finetuning and training anew. Where the numbers come from:
docs/shrink-perturb.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import Optimizer, Problem, Range, Spaces, State, check_above_zero
from untrain.methods.budget import train_steps
from untrain.methods.calibration import forgets_a_class
from untrain.methods.repair import Repair, fresh_weights, mix
from untrain.methods.requests import request_kind
from untrain.methods.shortfalls import forget_loss_before
from untrain.methods.steps import descend, fitting_split, for_parts, rate_of, schedule
from untrain.settings import check_arguments
from untrain.types import GenerativeTask

DIAL = ((0.0, 1.0), (0.05, 0.8), (0.1, 0.65), (0.2, 0.5), (0.4, 0.4), (1.0, 0.0))
"""Share of the original training's cost → λ, a straight line in between."""
ONE_SIDED_SHARE = 0.75
"""Where a request is one-sided, and known by heart, λ is this share of the dial's: the weights hold how frequent its
class was, too. Of samples that are not known for sure, which take so much less to forget, it is as much more."""
GENERATOR_LAM = 0.9
"""λ of a generator, which a few passes do not train anew: half of its weights fresh leave noise."""


@check_arguments
@dataclass(frozen=True)
class ShrinkPerturb(Repair):
    """θ ← λ θ₀ + (1 − λ) θ_fresh on all trained parameters, buffers kept; then training on the retain set alone."""

    name: ClassVar[str] = "shrink-perturb"
    title: ClassVar[str] = "weights shrunk towards new ones, then retain training (Ash, Adams 2020)"
    space: ClassVar[Spaces] = {"lam": Range(0.3, 0.9), "optimizer.lr": Range(0.005, 0.1, log=True)}

    lam: float | None = None
    """λ in [0, 1], share of the original weights that is kept: 0 begins anew, 1 is finetuning. Null: what training can
    repair in these steps, 0.5 where they are a fifth of the original training; of a one-sided request 0.75 of that, or
    more where the original does not know it by heart; for a generator 0.9."""
    split: int = 4
    """Each retain batch is taken in so many steps, of at least 16 samples each: at the same cost in samples, more is
    repaired."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_above_zero(split=self.split)
        if self.lam is not None and not 0 <= self.lam <= 1:
            raise SettingError(f"lam must be in [0, 1], not {self.lam}.")

    def resolved(self, problem: Problem, engine: Engine) -> ShrinkPerturb:
        """Steps and rate as of `Repair`, the rate divided for smaller steps; λ from the share of training they are."""
        method: ShrinkPerturb = super().resolved(problem, engine)  # type: ignore[assignment]
        classified = not isinstance(problem.task, GenerativeTask) and problem.forget is not problem.retain
        if classified and forgets_a_class(problem):
            problem.warn(
                "a whole class is to be forgotten: shrink-perturb erases what is known of it in part alone, and the "
                "retain set teaches nothing in its place. Take method sfron, or a smaller lam"
            )
        split = fitting_split(self.split, problem)
        optimizer = for_parts(method.optimizer or Optimizer(), split, self.optimizer)
        lam = self.lam
        if lam is None:
            lam = _lam_of(method.total, problem, engine)
        return replace(method, split=split, optimizer=optimizer, lam=lam)

    @property
    def updates(self) -> int:
        """Each batch is taken in parts."""
        return self.total * self.split

    @property
    def batches(self) -> int:
        """As many as steps, however many parts they are taken in."""
        return self.total

    def erase(self, problem: Problem, engine: Engine) -> None:
        """Shrinks towards new weights."""
        mix(problem.subject.module, fresh_weights(problem), float(1.0 if self.lam is None else self.lam))

    def start(self, problem: Problem, engine: Engine) -> State:
        """The shrunk weights; the rate falls over all parts of all batches."""
        state = super().start(problem, engine)
        state.schedules["optimizer"] = schedule(state.optimizers["optimizer"], self.decay, self.updates)
        return state

    def step(self, state: State, k: int) -> dict[str, float]:
        """Steps of descent on the parts of the next retain batch."""
        loss = descend(state, "optimizer", max_norm=self.max_norm, split=self.split)
        return {"retain_loss": loss, "lr": rate_of(state)}


def shrinkage(share: float) -> float:
    """λ for a share of the original training's cost, 0 … 1: `DIAL` with straight lines in between; above 1 as at 1."""
    return between(DIAL, share)


def between(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value at a place on straight lines between points; beyond them that of the first or last.

    Args:
        points: places, rising, and values.
        at: the place.
    """
    at = max(at, points[0][0])
    for (low, first), (high, last) in pairwise(points):
        if at <= high:
            return first + (last - first) * (at - low) / (high - low)
    return points[-1][1]


def choose_kept_share(
    problem: Problem, steps: int, symbol: str, fitted: Callable[[float], float] = float, since: str = ""
) -> float:
    """How much of the weights to keep, so that so many steps repair what is lost; `shrinkage` of their share.

    Args:
        problem: knows how long the original training was; its notes say what is chosen.
        steps: of descent.
        symbol: what the method calls the kept share.
        fitted: what to keep where the dial says so much.
        since: why that may be less, for the note.
    """
    share = steps / train_steps(problem)
    dial = round(shrinkage(share), 3)
    kept = round(fitted(dial), 3)
    also = f", and less than the {dial:g} of the dial since {since}" if kept < dial else ""
    problem.note(f"{symbol} {kept:g}: what {share:.0%} of the original training's steps can repair{also}")
    return kept


def _lam_of(steps: int, problem: Problem, engine: Engine) -> float:
    if isinstance(problem.task, GenerativeTask):
        return GENERATOR_LAM
    one_sided = problem.forget is not problem.retain and request_kind(problem) == "one-sided"
    before = forget_loss_before(problem, engine) if one_sided else None
    if before is not None:
        known = float(before["known"])
        since = f"most of what is forgotten, {known:.0%} of it known for sure, is of classes that stay and become rarer"
        return choose_kept_share(problem, steps, "λ", lambda dial: min(1.0, ONE_SIDED_SHARE + 1 - known) * dial, since)
    return choose_kept_share(problem, steps, "λ")
