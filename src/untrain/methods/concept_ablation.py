"""Concept ablation (Kumari, Zhang, Wang, Shechtman, Zhang, Zhu: *Ablating Concepts in Text-to-Image Diffusion Models*,
ICCV 2023), by its model-based target. The symbols are theirs: c* the forgotten condition, c its anchor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from untrain.engine import Engine, generator_of
from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.methods.base import Decay, Optimizer, Problem, Range, Spaces, State, check_above_zero
from untrain.methods.descent import Descent
from untrain.methods.forgetting import frozen, repeat_rows
from untrain.methods.imagined import check_forgets_a_class, generative, imagined
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.steps import advance, for_share
from untrain.sampling import Sampler
from untrain.settings import check_arguments
from untrain.types import Batch, Variant

if TYPE_CHECKING:
    from torch import Tensor


@check_arguments
@dataclass(frozen=True)
class ConceptAblation(Descent):
    """On images of the anchor, predicts for the forgotten condition what it predicts for the anchor.

    ‖ε_θ(x_t, c*) − sg ε_θ(x_t, c)‖² + λ ‖ε_θ(x_t, c) − ε‖², x_t noised from images that the original makes of c. No
    image of the forgotten condition is looked at or made, and nothing of the retain set.
    """

    name: ClassVar[str] = "concept-ablation"
    title: ClassVar[str] = "teaches the anchor's prediction on images of the anchor, without data (Kumari et al. 2023)"
    space: ClassVar[Spaces] = {"optimizer.lr": Range(1e-5, 1e-3, log=True), "lam": Range(0.1, 10.0, log=True)}
    needs: ClassVar[tuple[Variant, ...]] = ("redirect",)
    needs_samples: ClassVar[bool] = False
    generates: ClassVar[bool] = True

    steps: int | None = 200
    """Optimiser steps (published: 100 to 800); null: as many as `epochs` says."""
    optimizer: Optimizer | None = Optimizer("adam")
    """A learning rate of null is what fits the model (published, for Stable Diffusion: 2e-6 an image of the batch)."""
    decay: Decay = "constant"
    """Learning rate over the run: "cosine" to 0, or "constant"."""
    lam: float = 1.0
    """λ, weight of the anchor's own training loss; 0: none."""
    images: int = 200
    """Images of the anchors that the original makes before the first step, over all of them; at least one of each. 0:
    none; x_t comes of the original on the way from noise to one, and what it predicts for c there stands for ε."""
    sampler: Sampler = Sampler(steps=50, guidance_scale=7.5)
    """How they are made."""
    samples: int = 8
    """Images in each step."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_above_zero(samples=self.samples)
        if not 0 <= self.lam < math.inf or self.images < 0:
            raise SettingError(f"lam and images must not be negative, and are {self.lam} and {self.images}.")
        if not self.images and self.sampler.solver != "ddim":
            raise SettingError("images: 0 stops on the way to an image, which the solver lms cannot: take ddim.")

    def resolved(self, problem: Problem, engine: Engine) -> ConceptAblation:
        """Steps from epochs; the learning rate, where it was left open."""
        method = super().resolved(problem, engine)
        optimizer = with_learning_rate(self.optimizer, problem, engine, method.updates, self.max_norm)
        return replace(method, optimizer=optimizer)  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights, and what they make of the anchors, or a copy of them that will."""
        check_forgets_a_class(problem, self.name)
        state = self.begin(problem, engine, problem.subject.module)
        if not self.images:
            state.frozen["original"] = frozen(problem.subject.module)
            return state
        with engine.clock("images"):
            problem.remember("anchors", lambda: self._anchors(problem, engine))
        return state

    def _anchors(self, problem: Problem, engine: Engine) -> dict[str, Tensor]:
        """Images of each forget row's anchor, [R, n, …], and the rows' `index`, [R] in ascending order."""
        task, found, indices = generative(problem), [], []
        each = math.ceil(self.images / len(problem.forget))
        model = problem.subject.module.eval()
        for batch in problem.forget.once(task, "evaluate"):
            anchors = task.variant(batch, "redirect")
            indices.append(batch["index"])
            made = [imagined(problem, engine, model, anchors, self.sampler, self.name, n) for n in range(each)]
            found.append(torch.stack(made, 1))
        index = torch.cat(indices)
        order = index.argsort()
        return {"images": torch.cat(found)[order], "index": index[order]}

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k: images of anchors, noised anew or on the way, then one step of both losses."""
        state.module.eval()
        batch = repeat_rows(state.problem.forget.batch(k, state.problem.task, "forget"), self.samples)
        batch = self._noised(state, batch, k) if self.images else self._on_the_way(state, batch, k)
        losses = for_share(state, batch, lambda share: self._losses(state, share))
        return advance(state, "forget", state.engine.mean(losses), max_norm=self.max_norm)

    def _noised(self, state: State, batch: Batch, k: int) -> Batch:
        """The rows on images of their anchors that were made before, each noised anew."""
        problem, task = state.problem, generative(state.problem)
        made = problem.memo["anchors"]
        rows = torch.searchsorted(made["index"], batch["index"] % (int(made["index"].max()) + 1))
        generator = generator_of(problem.seed, self.name, k)
        choice = torch.randint(made["images"].shape[1], (self.samples,), generator=generator).to(rows.device)
        return task.draw({**batch, "input": made["images"][rows, choice]}, generator, "forget")

    def _on_the_way(self, state: State, batch: Batch, k: int) -> Batch:
        """The rows at x_t of the original on the way to images of their anchors, all at one t."""
        problem, task = state.problem, generative(state.problem)
        visited = task.visited(self.sampler)
        t = visited[int(torch.randint(len(visited), (), generator=generator_of(problem.seed, self.name, k)))]
        anchors = task.variant(batch, "redirect")
        original = state.frozen["original"]
        seen = imagined(problem, state.engine, original, anchors, self.sampler, self.name, k, until=t)
        return task.at(batch, torch.full((len(seen),), t, device=seen.device), seen)

    def _losses(self, state: State, share: Batch) -> Tensor:
        """Both terms of each sample, [B]."""
        task = state.problem.task
        losses = task.redirect_loss(state.model, share, state.module)
        if not self.lam:
            return losses
        anchors = task.variant(share, "redirect")
        if self.images:
            return losses + self.lam * task.loss(state.model, anchors)
        with torch.no_grad():
            target = task.outputs(state.frozen["original"], anchors)
        return losses + self.lam * task.divergence(task.outputs(state.model, anchors), target)
