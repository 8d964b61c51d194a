"""Fisher of a generator's evidence lower bound: of each image's loss, summed over all timesteps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from untrain.engine import Engine, generator_of
from untrain.errors import SettingError
from untrain.lazy import nn, torch
from untrain.methods.base import Problem
from untrain.methods.imagined import generative
from untrain.rows import cut
from untrain.types import Batch, Params, Task

if TYPE_CHECKING:
    from torch import Tensor


def elbo_fisher(problem: Problem, engine: Engine, batches: Iterable[Batch], timesteps: int, total: int) -> Params:
    """F_j = mean_n (∂/∂θ_j Σ_t ℓ_t(θ; x_n))², with the sum over all T timesteps estimated from some.

    Each image, noised to one timestep out of each of so many equal parts of 0 … T − 1, is a batch of its own, whose
    mean gradient is squared: exact, at any batch size, in the memory of a training step.

    Args:
        problem: model and task.
        engine: where to run; processes share each image's timesteps.
        batches: as drawn; each row is an image.
        timesteps: of each image; T of them: all, each once.
        total: how many images there are, for the progress bar.

    Returns:
        Parameter name → tensor of its shape, ≥ 0, in squared units of the loss.

    Raises:
        SettingError: if the diffusion has fewer timesteps.

    Source: Heng & Soh 2023, eq. 7 and appendix.
    """
    from untrain.fisher import fisher_diagonal

    T = generative(problem).timesteps
    if timesteps > T:
        raise SettingError(f"fisher_timesteps is {timesteps}, but the diffusion has {T}.")
    task = cast(Any, InParts(problem.task, problem.retain.rows))
    with closing(engine.track(_noised(problem, batches, timesteps), "Fisher over timesteps", total)) as noised:
        means = fisher_diagonal(problem.subject.module, task, noised, estimator="batch", engine=engine)
    return {name: value * T**2 for name, value in means.items()}


def _noised(problem: Problem, batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Image after image, each as a batch of itself at so many timesteps."""
    task = generative(problem)
    rows = (cut(batch, slice(i, i + 1)) for batch in batches for i in range(len(batch["input"])))
    for n, row in enumerate(rows):
        generator = generator_of(problem.seed, "fisher over timesteps", n)
        copies = {key: value.expand(count, *value.shape[1:]) for key, value in row.items()}
        drawn = task.draw(copies, generator, "fisher")
        yield task.at(drawn, strata(task.timesteps, count, generator).to(row["input"].device))


def strata(T: int, count: int, generator: torch.Generator) -> Tensor:
    """A timestep out of each of `count` ≤ T equal parts of 0 … T − 1, rising, [count]."""
    edges = torch.arange(count + 1) * T // count
    shares = torch.rand(count, generator=generator, dtype=torch.float64)
    return edges[:-1] + (shares * edges.diff()).long()


@dataclass(frozen=True)
class InParts:
    """A task's loss, of at most so many rows at a time: the rest of the activations is computed again backwards."""

    task: Task
    rows: int

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The task's loss, [B]."""
        count = len(batch["input"])
        if count <= self.rows:
            return self.task.loss(model, batch)
        parts = (cut(batch, slice(first, first + self.rows)) for first in range(0, count, self.rows))
        return torch.cat(
            [torch.utils.checkpoint.checkpoint(self.task.loss, model, part, use_reentrant=False) for part in parts]
        )
