"""Images that a generator makes while it is unlearned."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from untrain.engine import Engine, generator_of
from untrain.errors import SettingError
from untrain.lazy import nn
from untrain.methods.base import Problem
from untrain.methods.calibration import forgets_a_class
from untrain.sampling import Sampler
from untrain.types import Batch, GenerativeTask

if TYPE_CHECKING:
    from torch import Tensor


def generative(problem: Problem) -> GenerativeTask:
    """The problem's task, which `check_runs` has found to be one of generators."""
    return cast(GenerativeTask, problem.task)


def check_forgets_a_class(problem: Problem, method: str) -> None:
    """Methods that forget a condition as such (a class, a concept's prompt) cannot forget some of its samples.

    Raises:
        SettingError: if the retain set holds the forgotten conditions too.
    """
    if not forgets_a_class(problem):
        raise SettingError(
            f"{method} forgets whole classes or concepts, and the retain set holds samples of the forgotten ones. Move "
            "these to the forget set, or take another method, such as sfron."
        )


def imagined(
    problem: Problem,
    engine: Engine,
    model: nn.Module,
    batch: Batch,
    sampler: Sampler,
    *purpose: object,
    until: float = -1,
) -> Tensor:
    """Images of a drawn batch's conditions as the model makes them, [B, …] as its input; each process makes its share.

    Args:
        problem: task, and the seed of the noise.
        engine: where to run.
        model: makes the images; is left as it was.
        batch: whole, as drawn; a sample's `index` says which noise is its.
        sampler: how they are made.
        purpose: names what they are for, so that no two purposes share noise.
        until: stop at this timestep and give x_t; −1: give x₀.
    """
    share = engine.shard(batch)
    made = share["input"]
    if len(made):  # this process can have no share of a small batch
        generators = [generator_of(problem.seed, *purpose, i) for i in share["index"].tolist()]
        with engine.autocast():
            made = generative(problem).generate(model, share, generators, sampler, until=until)
    return engine.gather(made)
