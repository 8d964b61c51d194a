"""Fisher diagonals of the forget and the retain set at the original weights."""

from contextlib import closing
from itertools import chain
from typing import Any

from untrain.engine import Engine
from untrain.methods.base import Problem
from untrain.models.adapters import saliency_space
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
    from untrain.fisher import Findings, fisher_diagonal

    fishers, found = [], Findings()
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
                fishers.append(space.fold(fisher_diagonal(module, problem.task, tracked, **how)))
    forget, retain = fishers
    return forget, retain


class _Everything(set[Any]):
    """A set that holds whatever it is asked for."""

    def __contains__(self, item: object) -> bool:
        return True

    def issuperset(self, others: Any) -> bool:
        return True
