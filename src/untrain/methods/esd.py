"""Erased Stable Diffusion (Gandikota, Materzyńska, Fiotto-Kaufman, Bau: *Erasing Concepts from Diffusion Models*,
ICCV 2023). The symbols are theirs: η is the negative guidance, θ* the original.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from untrain.engine import Engine, generator_of
from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.methods.base import Decay, Optimizer, Problem, Range, Spaces, State, check_above_zero, check_choice
from untrain.methods.descent import Descent
from untrain.methods.forgetting import frozen, repeat_rows
from untrain.methods.imagined import check_forgets_a_class, generative, imagined
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.steps import advance, for_share
from untrain.sampling import Sampler
from untrain.settings import check_arguments
from untrain.types import Batch, Task, Variant

if TYPE_CHECKING:
    from torch import Tensor

RATE = 1e-4
"""The largest learning rate that is taken where none is given: nothing holds what is retained."""


@check_arguments
@dataclass(frozen=True)
class ESD(Descent):
    """Teaches the model to steer away from what the original would make of the forgotten condition; no image is used.

    ε_θ(x_t, c) is moved to ε_θ*(x_t, ∅) − η (ε_θ*(x_t, c) − ε_θ*(x_t, ∅)), where x_t is what the model as it is now
    makes of c and noise up to a timestep t. Of the forget set only the conditions are looked at, and nothing of the
    retain set: what is retained is hurt the less, the fewer and smaller the steps.
    """

    name: ClassVar[str] = "esd"
    title: ClassVar[str] = "steers away from the forgotten condition, without data (Gandikota et al. 2023)"
    space: ClassVar[Spaces] = {"optimizer.lr": Range(1e-5, 1e-3, log=True), "eta": Range(0.5, 3.0)}
    needs: ClassVar[tuple[Variant, ...]] = ("unconditional",)
    needs_samples: ClassVar[bool] = False
    generates: ClassVar[bool] = True

    steps: int | None = 200
    """Optimiser steps (published: 1,000); null: as many as `epochs` says."""
    optimizer: Optimizer | None = Optimizer("adam")
    """A learning rate of null is 1e-4, or what fits the model where that is less (published, for Stable Diffusion:
    1e-5)."""
    decay: Decay = "constant"
    """Learning rate over the run: "cosine" to 0, or "constant"."""
    eta: float = 1.0
    """η, negative guidance."""
    erase_from: Literal["prompt", "anchor"] = "prompt"
    """What is drawn otherwise afterwards: the forgotten "prompt" itself; or its "anchor", out of which the prompt's
    meaning is taken: ε_θ(x_t, anchor) moves to ε_θ*(x_t, anchor) − η (ε_θ*(x_t, prompt) − ε_θ*(x_t, ∅))."""
    sampler: Sampler = Sampler(steps=50, guidance_scale=3.0)
    """How x_t is made, at the published start guidance of 3."""
    samples: int = 8
    """Images x_t made in each step, all at the same t (published: 1)."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_above_zero(eta=self.eta, samples=self.samples)
        check_choice("erase_from", self.erase_from, ("prompt", "anchor"))
        if self.sampler.solver != "ddim":
            raise SettingError("esd stops on the way to an image, which the solver lms cannot: take ddim.")

    def wants(self, task: Task) -> tuple[Variant, ...]:
        """To start from the anchor takes one."""
        return self.needs if self._neutral == "unconditional" else (*self.needs, "redirect")

    def resolved(self, problem: Problem, engine: Engine) -> ESD:
        """Steps from epochs; the learning rate, where it was left open."""
        method = super().resolved(problem, engine)
        optimizer = self.optimizer or Optimizer("adam")
        if optimizer.lr is None:
            found = with_learning_rate(None, problem, engine, method.updates, self.max_norm).lr
            optimizer = replace(optimizer, lr=min(RATE, found or RATE))
        return replace(method, optimizer=optimizer)  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights, and a copy of them as the teacher."""
        check_forgets_a_class(problem, self.name)
        state = self.begin(problem, engine, problem.subject.module)
        state.frozen["original"] = frozen(problem.subject.module)
        return state

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k: x_t of the model as it is now, then one step towards the negatively guided original there."""
        task, module = generative(state.problem), state.module.eval()
        batch = repeat_rows(state.problem.forget.batch(k, task, "forget"), self.samples)
        visited = task.visited(self.sampler)
        choice = torch.randint(len(visited), (), generator=generator_of(state.problem.seed, "esd", k))
        t = visited[int(choice)]
        drawn = self._changed(task, batch)
        seen = imagined(state.problem, state.engine, module, drawn, self.sampler, "esd", k, until=t)
        batch = task.at(batch, torch.full((len(seen),), t, device=seen.device), seen)
        distances = for_share(state, batch, lambda share: self._distances(state, share))
        return advance(state, "forget", state.engine.mean(distances), max_norm=self.max_norm)

    def _distances(self, state: State, share: Batch) -> Tensor:
        """Divergence of the prediction for c from its target, [B]."""
        task, original = state.problem.task, state.frozen["original"]
        with torch.no_grad():
            conditional = task.outputs(original, share)
            unconditional = task.outputs(original, task.variant(share, "unconditional"))
            neutral = self._neutral == "unconditional"
            start = unconditional if neutral else task.outputs(original, task.variant(share, "redirect"))
            target = start - self.eta * (conditional - unconditional)
        return task.divergence(task.outputs(state.model, self._changed(task, share)), target)

    @property
    def _neutral(self) -> Variant:
        """What the target is without the forgotten condition."""
        return "unconditional" if self.erase_from == "prompt" else "redirect"

    def _changed(self, task: Task, batch: Batch) -> Batch:
        """The batch under the condition whose prediction is moved."""
        return batch if self.erase_from == "prompt" else task.variant(batch, "redirect")
