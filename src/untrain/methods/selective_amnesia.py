"""Selective amnesia (Heng, Soh: *Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative
Models*, NeurIPS 2023). What is to be forgotten is overwritten by noise, the rest replayed, and weights that matter to
what the model makes are held by elastic weight consolidation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, Literal

from untrain.data.streams import Stream
from untrain.engine import Engine, generator_of
from untrain.lazy import torch
from untrain.methods.base import Decay, Optimizer, Problem, Range, Spaces, State, check_above_zero, check_choice
from untrain.methods.descent import Descent
from untrain.methods.elbo import elbo_fisher
from untrain.methods.forgetting import frozen, joined
from untrain.methods.imagined import check_forgets_a_class, generative, imagined
from untrain.methods.steps import finite, losses_of, minimise, rate_of
from untrain.models.adapters import saliency_space, weights_of
from untrain.models.modes import set_training
from untrain.rows import cut
from untrain.sampling import Sampler
from untrain.settings import check_arguments
from untrain.types import Batch, Params

if TYPE_CHECKING:
    from torch import Tensor


@check_arguments
@dataclass(frozen=True)
class SelectiveAmnesia(Descent):
    """Descent on ℓ(surrogate of D_f) + w ℓ(replay of D_r) + λ Σ_j F_j (θ_j − θ₀_j)².

    F_j = mean_n (∂/∂θ_j Σ_t ℓ_t)², over images n of both sets' conditions: each squares the gradient of the loss summed
    over all timesteps, the evidence lower bound. Published: 20,000 steps, λ 10 for losses summed over pixels (for means
    over D pixels the same pull is λ · D), 500 images a class, each at all 1,000 timesteps.
    """

    name: ClassVar[str] = "selective-amnesia"
    title: ClassVar[str] = "noise for the forgotten, replay and EWC for the rest (Heng & Soh 2023)"
    space: ClassVar[Spaces] = {"optimizer.lr": Range(1e-5, 1e-3, log=True), "lam": Range(1.0, 1e5, log=True)}
    generates: ClassVar[bool] = True

    steps: int | None = 500
    """Optimiser steps; null: as many as `epochs` says."""
    optimizer: Optimizer | None = Optimizer("adam", 1e-4)
    """As published."""
    decay: Decay = "constant"
    """Learning rate over the run: "cosine" to 0, or "constant"."""
    max_norm: float | None = 1.0
    """Gradients are clipped to this norm; null: not."""
    lam: float = 10.0
    """λ, weight of the pull to the original weights."""
    retain_weight: float = 1.0
    """w, weight of the replay."""
    replay: Literal["model", "data"] = "model"
    """What stands for the retain set, and in the Fisher for both: images that the original makes of its conditions
    before the first step, or the data."""
    replay_samples: int = 1000
    """Images to replay, where the model makes them."""
    replay_drop: bool = True
    """Whether what is replayed loses its condition as often as in training; published: never."""
    sampler: Sampler = Sampler(steps=50)
    """How they are made (published: 1,000 steps, η 1, guidance scale 3)."""
    fisher_samples: int = 200
    """Images that make the Fisher, of both sets' conditions in proportion of their sizes."""
    fisher_timesteps: int = 50
    """Timesteps that each is noised to, one of every part of 0 … T − 1; the sum is scaled to all T."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_choice("replay", self.replay, ("model", "data"))
        check_above_zero(lam=self.lam, retain_weight=self.retain_weight, replay_samples=self.replay_samples)
        check_above_zero(fisher_samples=self.fisher_samples, fisher_timesteps=self.fisher_timesteps)

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights and a copy of them; what is replayed; the Fisher."""
        check_forgets_a_class(problem, self.name)
        state = self.begin(problem, engine, problem.subject.module)
        state.frozen["original"] = frozen(problem.subject.module)
        if self.replay == "model":
            with engine.clock("generation"):
                problem.remember("replay", lambda: self._replayed(problem, engine))
        with engine.clock("fisher"):
            problem.remember("fisher", lambda: self._fisher(problem, engine))
        return state

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k, on the k-th batch of each set."""
        problem, engine = state.problem, state.engine
        forget = problem.forget.batch(k, problem.task, "forget")
        noise = generative(problem).surrogate(forget, generator_of(problem.seed, "surrogate", k))
        kept = self._retained(problem, engine).batch(k, problem.task, "retain" if self.replay_drop else "forget")
        set_training(state.module)
        up, down = (engine.mean(losses_of(state, batch)) for batch in (noise, kept))
        log = {"forget_loss": finite(engine, up, "surrogate"), "retain_loss": finite(engine, down, "replay")}
        pull = self.lam * self._distance(state)
        # gradients are summed over the processes
        minimise(
            state, "optimizer", up + self.retain_weight * down + pull / engine.num_processes, max_norm=self.max_norm
        )
        state.retained = k + 1
        return {**log, "pull": float(pull.detach()), "lr": rate_of(state)}

    def _distance(self, state: State) -> Tensor:
        """Σ_j F_j (θ_j − θ₀_j)², a scalar."""
        fisher, original = state.problem.memo["fisher"], state.frozen["original"]
        now, then = (weights_of(module, [*fisher]) for module in (state.module, original))
        return torch.stack([(fisher[n] * (p - then[n]).square()).sum() for n, p in now.items()]).sum()

    def _retained(self, problem: Problem, engine: Engine) -> Stream:
        """What is replayed: the images that the original made, or the retain set."""
        retain = problem.retain
        if self.replay == "data":
            return retain
        images = torch.utils.data.StackDataset(**problem.memo["replay"])  # type: ignore[arg-type]
        return Stream(images, "replay", engine, retain.batch_size, retain.seed)

    def _replayed(self, problem: Problem, engine: Engine) -> Params:
        """Images of the retain set's conditions as a batch; its noise is left out, for every draw has its own."""
        passes = problem.retain.passes(self.replay_samples)
        made = self._images(problem, engine, problem.retain, self.replay_samples)
        whole = joined(list(_first(engine.track(made, "images to replay", passes), self.replay_samples)))
        return {key: value for key, value in whole.items() if key != "noise"}

    def _images(self, problem: Problem, engine: Engine, stream: Stream, count: int) -> Iterator[Batch]:
        """Drawn batches of a set, with what the original makes of their conditions in place of their images."""
        for batch in stream.once(problem.task, "evaluate", limit=count):
            if self.replay == "model":
                made = imagined(problem, engine, problem.subject.module, batch, self.sampler, "replay", stream.name)
                batch = {**batch, "input": made}
            yield batch

    def _fisher(self, problem: Problem, engine: Engine) -> Params:
        """F over both sets' images, as many of each as its share of all samples."""
        forget = max(1, round(self.fisher_samples * len(problem.forget) / (len(problem.forget) + len(problem.retain))))
        retain = self.fisher_samples - forget
        images = chain(
            _first(self._images(problem, engine, problem.forget, forget), forget),
            _first(self._retained(problem, engine).once(problem.task, "evaluate", limit=max(1, retain)), retain),
        )
        with saliency_space(problem.subject.module):  # of adapters, at the weights that they are added to
            return elbo_fisher(problem, engine, images, self.fisher_timesteps, self.fisher_samples)


def _first(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The batches up to so many rows: ready ones come whole."""
    for batch in batches:
        if count <= 0:
            return
        yield cut(batch, slice(count))
        count -= len(batch["input"])
