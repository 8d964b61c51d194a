"""What a finished run fell short of: no forget step was taken, nothing moved, or the loss aimed at was not reached.

A run that ends without an error can still have forgotten nothing. What shows that is found here, once for all methods,
from what the steps logged and from the loss on the forget set before the first and after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from untrain.engine import Engine
from untrain.methods.base import Method, Problem
from untrain.methods.like_with_like import CERTAIN, LIMIT
from untrain.methods.steps import sample_losses
from untrain.types import GenerativeTask, Params

if TYPE_CHECKING:
    from torch import nn

NEAR = 0.8
"""A mean forget loss below this part of the loss aimed at, by more than two standard errors, has not reached it."""
STILL = 0.01
"""A mean forget loss that changed by no more than this part has not moved."""


def forget_loss(problem: Problem, module: nn.Module, engine: Engine) -> Params | None:
    """The loss on the forget set, or on 4,096 samples of it; None where it says nothing of forgetting.

    That is so of a generator, whose loss is the error of predicted noise, and of training, which forgets nothing.

    Returns:
        "mean", its standard error √((E ℓ² − (E ℓ)²) / n) as "error", and "known", the share of samples that is known
        for sure: float64 scalars.
    """
    if isinstance(problem.task, GenerativeTask) or problem.forget is problem.retain:
        return None
    with engine.clock("evaluation"):
        losses, _ = sample_losses(problem.task, module, problem.forget, engine, "forget loss", LIMIT)
    error = losses.std(correction=0) / math.sqrt(len(losses))
    return {"mean": losses.mean(), "error": error, "known": (losses < CERTAIN).double().mean()}


def forget_loss_before(problem: Problem, engine: Engine) -> Params | None:
    """`forget_loss` of the original weights, measured once."""
    if "forget loss" not in problem.memo:
        found = forget_loss(problem, problem.subject.module, engine)
        if found is None:
            return None
        problem.memo["forget loss"] = found
    return problem.memo["forget loss"]


def loss_aimed_at(method: Method, problem: Problem, engine: Engine) -> float | None:
    """The mean of the losses that forget samples were to come to, after the last step; None: none is aimed at."""
    total, count = 0.0, 0
    if method.aims(problem, problem.forget.batch(0, problem.task, "evaluate"), engine) is None:
        return None
    for batch in problem.forget.once(problem.task, "evaluate", limit=LIMIT):
        aims = method.aims(problem, batch, engine)
        if aims is not None:
            total, count = total + float(aims.sum()), count + len(aims)
    return total / count if count and math.isfinite(total) else None


def find_shortfalls(
    problem: Problem, history: Sequence[Mapping[str, Any]], aim: float | None, before: Params | None,
    after: Params | None,
) -> list[str]:  # fmt: skip
    """Says what a run fell short of, a few words, a colon and the rest each; nothing where it did what it should.

    Args:
        problem: after the last step.
        history: what each step logged.
        aim: of `loss_aimed_at`.
        before: of `forget_loss`, before the first step; None: not known.
        after: likewise, after the last step.
    """
    if problem.forget is problem.retain:
        return []
    if untaken := [*_untaken(problem, history, aim)]:
        return untaken
    return [*_unmoved(before, after), *_unreached(aim, after)]


def _untaken(problem: Problem, history: Sequence[Mapping[str, Any]], aim: float | None) -> Iterator[str]:
    """Why no forget step was taken, or none can have changed anything."""
    forgetting = [record["forget_loss"] for record in history if "forget_loss" in record]
    mask = problem.memo.get("mask")
    if not history:
        yield "no step was taken: raise steps or epochs"
    elif mask is not None and not any(bool(part.any()) for part in mask.values()):
        yield (
            "no forget step changed anything: the mask holds no weight. Lower its threshold (gamma), or raise the "
            "share of weights that it holds (fraction)"
        )
    elif forgetting and all(record.get("skipped") is True for record in history if "forget_loss" in record):
        reached = "" if aim is None else f" (loss {forgetting[0]:.3g}, where {aim:.3g} is aimed at)"
        yield f"no forget step was taken: each batch counted as forgotten from the start{reached}"
    elif forgetting and not any(forgetting):
        yield (
            "no forget step changed anything: the forget loss was 0 in each. What is forgotten and what should stand "
            "in its place are the same to the model"
        )
    elif not any(record.get("dampened", 1.0) for record in history):
        yield "nothing was forgotten: no weight was dampened. Lower alpha, or raise fraction"


def _unmoved(before: Params | None, after: Params | None) -> Iterator[str]:
    if before is None or after is None:
        return
    first, last = float(before["mean"]), float(after["mean"])
    if abs(last - first) <= STILL * max(abs(first), abs(last)):
        yield f"the loss on the forget set did not move: it was {first:.3g} before and {last:.3g} after"


def _unreached(aim: float | None, after: Params | None) -> Iterator[str]:
    if aim is None or after is None:
        return
    last, error = float(after["mean"]), float(after["error"])
    if last < NEAR * aim and last + 2 * error < aim:
        yield (
            f"the loss aimed at was not reached: on the forget set it ended at {last:.3g}, where {aim:.3g} was aimed "
            "at, so less was forgotten than intended. More steps or a higher forget rate (forget_optimizer.lr) go "
            "further"
        )
