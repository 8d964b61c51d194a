"""Fisher diagonals of the forget and the retain set at the original weights, and the mask that is made of them."""

from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from typing import Any

from untrain.engine import Engine
from untrain.methods.base import Problem
from untrain.models.adapters import saliency_space
from untrain.saliency import mask_above
from untrain.types import Estimator, Params


def fishers_of(
    problem: Problem, engine: Engine, samples: int | None = None, estimator: Estimator = "sample", draws: int = 1
) -> tuple[Params, Params]:
    """F_f and F_r, the Fisher diagonals of the forget and the retain set, over unaugmented data.

    Args:
        problem: model, task and sets; nothing in it changes.
        engine: where to run.
        samples: at most so many samples of each set, chosen by the seed; None: all.
        draws: how often each sample is drawn, where the task draws at random (a timestep and noise).
        estimator: squares of each sample's gradient ("sample"), or of batch means ("batch").

    Returns:
        Two mappings, trained parameter's name → tensor of its shape, ≥ 0; of adapters they are measured at the weights
        that these are added to, see `untrain.models.adapters.Space`.
    """
    forget, retain = _each_fisher(problem, engine, samples, estimator, draws)
    return forget, retain


def fisher_mask(
    problem: Problem, engine: Engine, samples: int | None, estimator: Estimator, draws: int, gamma: float, eps: float
) -> Params:
    """The mask of `saliency_mask` from F_f and F_r, whole in every process; the arguments are those of both.

    With fsdp each process keeps its part of a diagonal, so one diagonal at a time is whole.
    """
    if not engine.fsdp:
        return mask_above(*fishers_of(problem, engine, samples, estimator, draws), gamma, eps)
    whole = _each_fisher(problem, engine, samples, estimator, draws)
    shapes = {name: parameter.shape for name, parameter in problem.subject.module.named_parameters()}
    forget, retain = ({name: engine.own_part(t) for name, t in fisher.items()} for fisher in whole)
    part = mask_above(forget, retain, gamma, eps)
    return {name: engine.join_parts(t, shapes[name]) for name, t in part.items()}


def _each_fisher(
    problem: Problem, engine: Engine, samples: int | None, estimator: Estimator, draws: int
) -> Iterator[Params]:
    """F_f, then F_r; the first can go before the second is computed."""
    from untrain.fisher import Findings, fisher_diagonal

    found = Findings()
    module = problem.subject.module
    if engine.device.type == "meta":  # nothing to be probed: shapes are all that there is
        found = Findings(_Everything(), _Everything(), {True, False})
    for stream in (problem.forget, problem.retain):
        batches = chain.from_iterable(
            stream.once(problem.task, "fisher", limit=samples, time=time) for time in range(draws)
        )
        if estimator == "sample":  # squares of each sample, which do not depend on how samples are batched
            batches = chain.from_iterable(map(engine.parts, batches))
        label, passes = f"Fisher of the {stream.name} set", draws * stream.passes(samples)
        with closing(engine.track(batches, label, passes)) as tracked:
            how: dict[str, Any] = {"estimator": estimator, "engine": engine, "found": found}
            with saliency_space(module) as space:
                fisher = space.fold(fisher_diagonal(module, problem.task, tracked, **how))
        yield fisher
        del fisher


class _Everything(set[Any]):
    """A set that holds whatever it is asked for."""

    def __contains__(self, item: object) -> bool:
        return True

    def issuperset(self, others: Any) -> bool:
        return True
