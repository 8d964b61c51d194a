"""Saliency unlearning: random labels, on salient weights only (Fan, Liu, Zhang, Wong, Wei, Liu: *SalUn*, ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from untrain.data.streams import Stream
from untrain.engine import Engine, preserve_modes
from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.methods.base import Optimizer, Problem, Range, Spaces, State
from untrain.methods.random_label import RandomLabel
from untrain.methods.steps import losses_of
from untrain.models.adapters import saliency_space
from untrain.saliency import largest_mask
from untrain.settings import check_arguments
from untrain.types import Params


@check_arguments
@dataclass(frozen=True)
class SalUn(RandomLabel):
    """Random labels on the weights with the largest |mean forget gradient|; no step moves another weight."""

    name: ClassVar[str] = "salun"
    title: ClassVar[str] = "random labels on the weights with the largest forget gradient (Fan et al. 2024)"
    divides: ClassVar[bool] = True
    space: ClassVar[Spaces] = {
        "optimizer.lr": Range(0.001, 0.2, log=True),
        "fraction": Range(0.1, 0.9),
        "epochs": Range(2.0, 6.0),
    }

    fraction: float = 0.5
    """Share of all weights that are salient, in (0, 1]."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise SettingError(f"fraction must be in (0, 1], not {self.fraction}.")

    def resolved(self, problem: Problem, engine: Engine) -> SalUn:
        """As random-label; without weight decay, which would walk around the mask."""
        method = super().resolved(problem, engine)
        optimizer = without_decay(method.optimizer or Optimizer(), problem, self.name)
        return replace(method, optimizer=optimizer)  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """The mask at the original weights, then the optimiser."""
        remember_mask(problem, engine, self.fraction)
        return super().start(problem, engine)


def without_decay(optimizer: Optimizer, problem: Problem, method: str) -> Optimizer:
    """The optimiser without weight decay, which would walk around a mask; a note says so."""
    if optimizer.weight_decay:
        problem.note(f"{method} runs without weight decay, which would move weights that are not salient")
    return replace(optimizer, weight_decay=0.0)


def remember_mask(problem: Problem, engine: Engine, fraction: float) -> None:
    """Finds the mask of the weights with the largest |mean forget gradient|, this share of all, if it is not known.

    Of adapters the gradient is that of the weights which they are added to.
    """

    def found() -> Params:
        with saliency_space(problem.subject.module) as space:
            gradient = forget_gradient(problem, engine)
        return largest_mask(space.fold_magnitudes(gradient), fraction)

    with engine.clock("saliency"):
        problem.remember("mask", found)


def forget_gradient(problem: Problem, engine: Engine) -> Params:
    """∇ mean ℓ over the whole forget set, as of `mean_gradient`."""
    return mean_gradient(problem, engine, problem.forget)


def mean_gradient(problem: Problem, engine: Engine, stream: Stream, limit: int | None = None) -> Params:
    """∇ mean ℓ over a whole set, in evaluation mode on unaugmented data; nothing in the problem changes.

    Args:
        problem: model and task.
        engine: sums over processes.
        stream: the set.
        limit: take so many samples at most, chosen by the seed; None: all.

    Returns:
        Parameter name → tensor of the parameter's shape, float32 or wider, the same in every process.
    """
    module, task, count = problem.subject.module, problem.task, 0
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    totals = {n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for n, p in named.items()}
    with preserve_modes(module):
        state = State(problem, replace(engine, compile=False), module.eval())
        batches = stream.once(task, "fisher", limit=limit)
        for batch in engine.track(batches, f"gradient of the {stream.name} set", stream.passes(limit)):
            losses = losses_of(state, batch)
            count += engine.global_batch_size(losses)
            if len(losses):  # this process can have no share of a small batch
                found = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
                for total, gradient in zip(totals.values(), found, strict=True):
                    total += 0 if gradient is None else gradient
                del found, gradient  # or they would still be there beside the next batch's
    engine.all_reduce_(totals.values())
    engine.broadcast_(totals.values())  # to the last bit, since a mask is made of it
    return {name: total.div_(count) for name, total in totals.items()}
