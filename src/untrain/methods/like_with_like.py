"""Held-out loss of the classes that are forgotten, as a model would have it that learned them from what is retained.

The mean held-out loss says how far to forget only where held-out and forget set have the same mix of classes. A request
that takes half the samples of one class has another: its class has a loss of its own, and a retrained model has seen
fewer samples of it, so it thinks it rarer. Both are computed here from the original's held-out losses alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from untrain.data.streams import Stream
from untrain.lazy import torch
from untrain.methods.base import Problem
from untrain.types import Params, Task

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 4096
"""Classes are counted, and forget losses measured, in so many samples of a set at most."""
FEW = 10
"""Held-out samples of a class below which its own mean says too little."""
WEIGHT = 5
"""The mean of all classes counts as so many samples of a class."""
CERTAIN = math.log(2)
"""A loss below this is a class with more than half of the probability: known for sure."""
APART = 0.4
"""Distance in total variation between the classes of forget and retain set from which a request is one-sided: a random
tenth of ten classes has 0.1, one class of ten 0.9."""


def class_losses(problem: Problem, losses: Tensor, conditions: Tensor | None) -> Params:
    """How the loss that forget samples should come to depends on their class.

    Each held-out loss −log p of class c becomes −log p′, p′ = r p / (r p + 1 − p) with r the class's share of the
    retain set over its share of both sets: the logit moved by log r, as for a label shift (Saerens et al. 2002).

    Args:
        problem: with held-out data; its notes say where there is too little of them.
        losses: of the held-out samples, nats, float64 [N].
        conditions: their classes, [N]; None where they have none.

    Returns:
        "classes", those of forget and retain set, [C]; "ratio", what the loss of each is to come to over the overall
        one, [C]; "known", the share of its samples that is known for sure, [C]; "level", the mean ratio of the forget
        set; "one_sided", whether its mix of classes is another, while the retain set holds some of them. Nothing where
        the task has no classes.
    """
    forget, retain = (class_counts(stream, problem.task) for stream in (problem.forget, problem.retain))
    if forget is None or retain is None or conditions is None:
        return {}
    classes = torch.cat([forget[0], retain[0]]).unique()
    asked, kept = (spread(counts, classes) for counts in (forget, retain))
    shares, both = kept / kept.sum(), (asked + kept) / (asked + kept).sum()
    shift = torch.where(kept > 0, (shares / both).log(), 0.0)  # what nothing is retained of has no such loss
    here = torch.isin(conditions, classes)
    place = torch.searchsorted(classes, conditions[here])
    later = moved(losses[here], shift[place])
    sums, certain, counts = (
        torch.zeros_like(shift).index_add_(0, place, each)
        for each in (later, (later < CERTAIN).double(), torch.ones_like(later))
    )
    ratio = _drawn_to_the_mean(sums, counts) / losses.mean().clamp_min(1e-12)
    mix = asked / asked.sum()
    level = (mix * ratio).sum()
    there = (mix > 0) & (kept > 0)
    one_sided = torch.tensor(is_one_sided(asked, kept), device=mix.device)
    few = int(counts[there].sum()) if bool(there.any()) else FEW
    if few < FEW:
        problem.note(
            f"the held-out set has {few} samples of the classes to be forgotten, too few to say how far: mostly the "
            "loss of all classes is aimed at. Hold out more of them"
        )
    share = _drawn_to_the_mean(certain, counts)
    return {"classes": classes, "ratio": ratio, "known": share, "level": level, "one_sided": one_sided}


def _drawn_to_the_mean(sums: Tensor, counts: Tensor) -> Tensor:
    """Means of each class, [C], that of all classes counted in with a weight."""
    return (sums + WEIGHT * sums.sum() / counts.sum().clamp_min(1)) / (counts + WEIGHT)


def class_counts(stream: Stream, task: Task) -> tuple[Tensor, Tensor] | None:
    """The classes of a set, [C], and how many samples each has, [C] of float64, of a large set in proportion.

    None where samples have no class.
    """
    found = []
    for batch in stream.once(task, "evaluate", limit=LIMIT):
        condition = task.condition(batch)
        if condition is None:
            return None
        found.append(condition)
    every = torch.cat(found)
    classes, counts = every.unique(return_counts=True)
    return classes, counts.double() * len(stream) / len(every)


def of_class(measured: Params, name: str, condition: Tensor | None) -> Tensor | float:
    """The "ratio" or "known" of each sample's class, [B]; 1 where nothing is known of classes."""
    if condition is None or name not in measured:
        return 1.0
    place = torch.searchsorted(measured["classes"], condition).clamp(max=len(measured["classes"]) - 1)
    known = measured["classes"][place] == condition
    return torch.where(known, measured[name][place], 1.0)


def is_one_sided(asked: Tensor, kept: Tensor) -> bool:
    """Whether forget and retain set have other mixes of classes, while the retain set holds some of the former's.

    Args:
        asked: samples of each class in the forget set, [C].
        kept: in the retain set, [C].
    """
    apart = 0.5 * (asked / asked.sum() - kept / kept.sum()).abs().sum()
    return bool((apart > APART) & ((asked > 0) & (kept > 0)).any())


def spread(counts: tuple[Tensor, Tensor], classes: Tensor) -> Tensor:
    """Counts of these classes, [C]."""
    spread = torch.zeros(len(classes), dtype=torch.float64, device=classes.device)
    return spread.index_add_(0, torch.searchsorted(classes, counts[0]), counts[1])


def moved(losses: Tensor, shift: Tensor) -> Tensor:
    """Cross-entropies −log p after the logit log(p / (1 − p)) was moved by a shift, in nats; +∞ where it is −∞."""
    logit = -losses - torch.log(-torch.expm1(-losses.clamp_min(1e-12)))
    return torch.nn.functional.softplus(-(logit + shift)).nan_to_num(posinf=math.inf)
