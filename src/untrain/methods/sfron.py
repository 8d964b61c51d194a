"""SFR-on: forgetting on salient weights inside the manifold that preserves what is retained, online.

Huang, Cheng, Zheng, Wang, He, Li, Huang: *Unified Gradient-Based Machine Unlearning with Remain Geometry
Enhancement*, NeurIPS 2024, arXiv 2409.19732. The symbols are the paper's: α scales the forget gradient, λ shapes the
adaptive weights, γ thresholds the saliency mask, β is the size of the slow step.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from untrain.engine import Engine, local_parts
from untrain.errors import SettingError, spell
from untrain.lazy import torch
from untrain.methods.base import (
    Decay,
    Method,
    Optimizer,
    Problem,
    Range,
    Spaces,
    State,
    check_above_zero,
    check_choice,
    check_steps,
)
from untrain.methods.budget import budget_steps, check_budget
from untrain.methods.calibration import Calibration, borrowed_statistics, held_samples, is_held, statistics
from untrain.methods.fishers import fisher_mask
from untrain.methods.forgetting import normalises
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.redirecting import Teacher, begin_teacher, check_teacher, teacher_of
from untrain.methods.repair import renew_head
from untrain.methods.sfron_defaults import fewest_steps, fitting, objective_of
from untrain.methods.steps import (
    descend,
    finite,
    fitting_split,
    for_parts,
    losses_of,
    mask_of,
    rate_of,
    schedule,
    update,
)
from untrain.models.modes import set_training
from untrain.settings import check_arguments
from untrain.types import Batch, Estimator, Objective, Params, Task, Variant

if TYPE_CHECKING:
    from torch import Tensor

AlphaDecay = Literal["cosine", "linear", "exponential", "constant"]
PUBLISHED_EPS = 1e-15


@check_arguments
@dataclass(frozen=True)
class SFRon(Method):
    """Fast–slow unlearning: each outer step is one masked forget step and several retain steps."""

    name: ClassVar[str] = "sfron"
    title: ClassVar[str] = "forgets on salient weights, retains in between (Huang et al. 2024)"
    divides: ClassVar[bool] = True
    space: ClassVar[Spaces] = {
        "optimizer.lr": Range(0.005, 0.2, log=True),
        "forget_optimizer.lr": Range(3e-4, 3e-3, log=True),
        "calibration.margin": Range(0.7, 1.3),
    }

    steps: int | None = None
    """K, outer steps; null: 50 for a generator, for text-to-image 100, or 1,000 from 100 million weights on; else as
    many as make `epochs` passes over the retain set, but at least 20, and where calibrated at least 40 for a class, and
    else at least 10 for each nat of the held-out loss, up to 40."""
    retain_steps: int | None = None
    """Retain steps in each outer step; null: 3, or 1 for a generator."""
    split: int | None = None
    """Each retain batch is taken in so many steps, of at least 16 samples each, at the rate divided: at the same cost
    in samples, more is repaired. Null: 1."""
    epochs: float = 3.5
    """Passes over the retain set in the whole run, used where `steps` is null."""
    budget: float | None = None
    """Share of the original training's cost, in (0, 1], that forget and retain steps take; null: `epochs` says how
    many."""
    objective: Objective | None = None
    """Of the forget step: "adaptive", ascent weighted by 1/ℓ^λ; plain "ascent"; "redirect", descent towards what is
    predicted for the redirected variant; or "relabel", descent on the training loss under its condition. Null: redirect
    for text-to-image, else adaptive."""
    teacher: Teacher = "current"
    """Of redirection: who says what a sample should be predicted as, the "current" model, as it is in that step, or the
    "original", of which a copy is kept."""
    alpha: float = 1.0
    """α, scale of the forget gradient before it is clipped."""
    decay: AlphaDecay = "cosine"
    """How α falls over the K outer steps; exponential: to one hundredth."""
    lam: float = 0.5
    """λ, exponent of the adaptive weights 1 / ℓ^λ."""
    floor: float | None = None
    """Lower bound of ℓ inside the adaptive weights; null: 0.1 nats, or 0.001 for a generator, whose loss is a mean
    squared error."""
    gamma: float | None = 1.0
    """γ: a weight is salient where F_forget ≥ γ · F_retain; null: no mask."""
    beta: float = 1.0
    """β in (0, 1], size of the slow step."""
    max_norm: float | None = 1.0
    """The masked forget gradient is clipped to this norm; null: not."""
    retain_max_norm: float | None = None
    """The retain gradient is clipped to this norm; null: to 1 for a generator
    (not with `published`), else not."""
    retain_weight: float = 1.0
    """The retain loss is multiplied by this."""
    optimizer: Optimizer | None = None
    """Of the retain steps; null: what fits the model. A learning rate of null is found."""
    retain_decay: Decay | None = None
    """Learning rate of the retain steps over the run: "cosine" to 0, or "constant"; null: constant for a generator,
    else cosine."""
    forget_optimizer: Optimizer | None = Optimizer("adam")
    """Of the forget steps, at a constant rate; null: one optimiser for both. A learning rate of null is 0.001 where
    calibration says how far to forget, that of the retain steps for a generator, and else 0.0001."""
    fisher: Estimator = "sample"
    """Squares of each sample's gradient, or of batch means as published code has it."""
    fisher_samples: int | None = None
    """At most so many samples of each set make its Fisher, chosen by the seed; null: 512, or 1,024 for a generator, and
    all where `fisher` is "batch", as in published code."""
    fisher_draws: int = 1
    """Times that each of them is drawn for its Fisher, where the task draws at random, such as a timestep and noise."""
    online: bool = True
    """False: forget and retain gradient joined in one masked step, K in all (the paper's ablation)."""
    published: bool = False
    """As the authors' code: fisher "batch", one optimiser, ε 1e-15 in mask and weights, β 1, no floor, and batch
    statistics of normalisation layers moved by forget batches too."""
    calibrate: bool = True
    """Whether held-out data, where given, say how far to forget. Without them a forgotten class is still calibrated, by
    its ceiling, where the forget optimiser's rate is left open."""
    calibration: Calibration = Calibration()
    """What calibration does."""
    fresh_head: bool | None = None
    """Whether the last layer begins anew where a whole class is forgotten, so that a few samples do not bring it back;
    the retain set then has to train it, and rows of classes that neither set holds stay. Null: the method's own, which
    is true for shrink-sfron."""

    def __post_init__(self) -> None:
        """Checks ranges and contradictions, and fills in what `published` means."""
        if self.published:
            self._be_published()
        check_steps(self.steps, self.epochs)
        check_budget(self.budget, self.steps)
        check_choice("objective", self.objective or "adaptive", ("adaptive", "ascent", "redirect", "relabel"))
        check_choice("teacher", self.teacher, ("current", "original"))
        check_choice("decay", self.decay, ("cosine", "linear", "exponential", "constant"))
        check_choice("retain_decay", self.retain_decay or "cosine", ("cosine", "constant"))
        check_choice("fisher", self.fisher, ("sample", "batch"))
        check_above_zero(
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            max_norm=self.max_norm,
            retain_max_norm=self.retain_max_norm,
            retain_weight=self.retain_weight,
            retain_steps=self.retain_steps,
            split=self.split,
            fisher_samples=self.fisher_samples,
            fisher_draws=self.fisher_draws,
        )
        if self.beta > 1 or self.lam < 0 or (self.floor or 0) < 0:
            raise SettingError("beta must be in (0, 1]; lam and floor must not be negative.")
        if self.teacher != "current" and self.objective not in (None, "redirect"):
            raise SettingError(f"teacher is a setting of objective='redirect'; {self.objective!r} asks none.")
        self._check_mask()

    def _be_published(self) -> None:
        preset = {"fisher": "batch", "forget_optimizer": None, "beta": 1.0, "floor": 0.0, "calibrate": False}
        standard = {f.name: f.default for f in fields(self)}
        for name, value in preset.items():
            given = getattr(self, name)
            if given not in (value, standard[name]):
                raise SettingError(f"published means {name}={value!r}; it contradicts {name}={given!r}.")
            object.__setattr__(self, name, value)

    def _check_mask(self) -> None:
        if self.gamma is None or self.published:
            return
        if self.forget_optimizer is None and self.online:
            raise SettingError(
                "one optimiser for both kinds of step moves unsalient weights by its momentum and decay: give "
                f"forget_optimizer, or set gamma to {spell('null', 'None')} for no mask, or published to "
                f"{spell('true', 'True')}."
            )
        if self.forget_optimizer is not None and self.forget_optimizer.weight_decay:
            raise SettingError("weight decay of forget_optimizer would move unsalient weights: set it to 0.")

    def wants(self, task: Task) -> tuple[Variant, ...]:
        """Somewhere to redirect to, where that is the objective."""
        return ("redirect",) if objective_of(self, task) in ("redirect", "relabel") else ()

    def check_task(self, task: Task) -> None:
        """A teacher can be chosen only where one is asked."""
        objective = objective_of(self, task)
        if self.teacher != "current" and objective != "redirect":
            raise SettingError(
                f"teacher is a setting of objective='redirect', and that of {type(task).__name__} is {objective!r} "
                "where none is given: give objective='redirect' too, or leave teacher out."
            )
        check_teacher(self.teacher, task)

    @property
    def total(self) -> int:
        """K, outer steps."""
        return self.steps or 0

    @property
    def updates(self) -> int:
        """Of an outer step, one of forgetting and each of retaining."""
        return self.total * (1 + self._retain_updates) if self.online else self.total

    @property
    def _retain_updates(self) -> int:
        """Of an outer step."""
        return (self.retain_steps or 1) * (self.split or 1) if self.online else 1

    @property
    def batches(self) -> int:
        """Of an outer step, one to forget and those to retain."""
        return self.total * (1 + (self.retain_steps or 1)) if self.online else self.total

    def resolved(self, problem: Problem, engine: Engine) -> SFRon:
        """Every setting that was left open, as it fits the task; the retain rate from checkpoint or range test."""
        if self.budget is not None:
            open_steps = replace(self, budget=None)
            each = replace(open_steps, **{**fitting(open_steps, problem), "steps": 1}).batches
            return replace(open_steps, steps=budget_steps(self.budget, problem, cost=each)).resolved(problem, engine)
        found = replace(self, **fitting(self, problem))
        if self.steps is None and found.calibrate:
            found = replace(found, steps=max(found.total, fewest_steps(found, problem, engine)))
        optimizer = with_learning_rate(self.optimizer, problem, engine, found.batches, found.retain_max_norm)
        found = replace(found, **fitting(replace(self, optimizer=optimizer, steps=found.steps), problem))
        split = fitting_split(self.split or 1, problem) if self.online else 1
        return replace(found, split=split, optimizer=for_parts(optimizer, split, self.optimizer))

    def aims(self, problem: Problem, batch: Batch, engine: Engine) -> Tensor | None:
        """What calibration found, if it looked."""
        measured = problem.memo.get("calibration")
        if measured is None or bool(measured.get("one_sided")):  # that comes to a share of samples, not to a loss
            return None
        if self.calibration.follows(measured, problem):
            measured = self.calibration.followed_to_the_end(problem, engine)
        return self.calibration.aims(measured, batch, problem.task)

    def start(self, problem: Problem, engine: Engine) -> State:
        """Mask and calibration at the original weights, then the optimisers."""
        if self.gamma is not None:
            with engine.clock("fisher"):
                problem.remember("mask", lambda: self._mask(problem, engine))
        if self.calibrate:
            with engine.clock("calibration"):
                measured = self.calibration.measured(problem, engine)
            self.calibration.say_if_vague(measured, problem)
        if self.fresh_head:
            renew_head(problem)
        state = State(problem, engine, problem.subject.module)
        begin_teacher(state, self.teacher)
        retain = self.optimizer or Optimizer()
        if not self.online and self.gamma is not None and not self.published:
            retain = replace(retain, weight_decay=0.0)  # in a joined step it would walk around the mask
        state.optimizers["retain"] = retain.build(state.parameters)
        decay = self.retain_decay or "cosine"
        state.schedules["retain"] = schedule(state.optimizers["retain"], decay, self.total * self._retain_updates)
        if self.online and self.forget_optimizer is not None:
            state.optimizers["forget"] = self.forget_optimizer.build(state.parameters)
        return state

    def _mask(self, problem: Problem, engine: Engine) -> Params:
        eps = PUBLISHED_EPS if self.published else 0.0
        how = self.fisher_samples, self.fisher, self.fisher_draws
        return fisher_mask(problem, engine, *how, gamma=self.gamma or 0.0, eps=eps)

    def step(self, state: State, k: int) -> dict[str, float]:
        """Outer step k: forget, retain, slow."""
        if not self.online:
            return self._joined(state, k)
        before = [p.clone() for p in local_parts(state.parameters)] if self.beta < 1 else []
        log = self._forget(state, k)
        losses = [
            descend(state, "retain", weight=self.retain_weight, max_norm=self.retain_max_norm, split=self.split or 1)
            for _ in range(self.retain_steps or 1)
        ]
        if before:  # θ ← θ_before + β (θ_now − θ_before)
            with torch.no_grad():
                now = local_parts(state.parameters)
                torch._foreach_lerp_(before, now, self.beta)
                torch._foreach_copy_(now, before)
        retain_loss = sum(losses) / len(losses)
        if "forget_loss" in log:
            self._hasten(state, log["forget_loss"], retain_loss)
        return {**log, "retain_loss": retain_loss, "lr": rate_of(state, "retain")}

    def _hasten(self, state: State, forget_loss: float, retain_loss: float) -> None:
        """Lets the forget rate grow where calibration says so."""
        measured, optimizer = state.problem.memo.get("calibration"), state.optimizers.get("forget")
        if measured is not None and optimizer is not None and self.calibration.slow(measured, forget_loss, retain_loss):
            for group in optimizer.param_groups:
                group["lr"] *= self.calibration.growth

    def _forget(self, state: State, k: int) -> dict[str, float]:
        """One step on −α_k Σ w_i ℓ_i / Σ w_i, masked and then clipped."""
        batch = state.problem.forget.batch(k, state.problem.task, "forget")
        objective, log = self._objective(state, batch, k)
        if objective is not None:
            optimizer = "forget" if "forget" in state.optimizers else "retain"
            state.optimizers[optimizer].zero_grad()
            state.engine.backward(objective, state.parameters)
            update(state, optimizer, mask=mask_of(state), max_norm=self.max_norm)
        return log

    def _joined(self, state: State, k: int) -> dict[str, float]:
        """Retain and forget gradient in one masked step."""
        problem, engine = state.problem, state.engine
        objective, log = self._objective(state, problem.forget.batch(k, problem.task, "forget"), k)
        set_training(state.module)
        loss = engine.mean(losses_of(state, problem.retain.batch(k, problem.task, "retain")))
        value = finite(engine, loss, "retain")
        state.optimizers["retain"].zero_grad()
        engine.backward(self.retain_weight * loss + (0 if objective is None else objective), state.parameters)
        update(state, "retain", mask=mask_of(state), max_norm=self.max_norm)
        state.schedules["retain"].step()
        state.retained = k + 1
        return {**log, "retain_loss": value}

    def _objective(self, state: State, batch: Batch, k: int) -> tuple[Tensor | None, dict[str, float]]:
        """What the forget step descends on, None where there is none to take, and what to log.

        There is none where the batch is forgotten far enough, and where retaining has the last word.
        """
        problem, engine = state.problem, state.engine
        measured, late = problem.memo.get("calibration"), self.calibration.late(k, self.total)
        alpha = self.alpha_at(k)
        if late and self._has_ended(measured, batch, problem.task):
            return None, {"alpha": alpha, "skipped": True}  # nor is its loss needed
        set_training(state.module)
        with self._statistics(state, measured, batch, late):
            if self.objective == "redirect":
                loss = engine.mean(losses_of(state, batch, redirect=teacher_of(state, self.teacher)))
                return alpha * loss, {"forget_loss": finite(engine, loss, "redirect"), "alpha": alpha}
            if self.objective == "relabel":
                loss = engine.mean(losses_of(state, problem.task.variant(batch, "redirect")))
                return alpha * loss, {"forget_loss": finite(engine, loss, "relabel"), "alpha": alpha}
            losses = losses_of(state, batch)
        value = finite(engine, engine.mean(losses), "forget")
        log = {"forget_loss": value, "alpha": alpha}
        weights = self._weights(losses.detach())
        scale = alpha / engine.global_sum(weights)
        if measured is not None:
            active_samples = self._active_samples(state, measured, batch, losses.detach(), k)
            if not engine.global_sum(active_samples):
                return None, {**log, "skipped": True}
            weights = weights * active_samples
        return -scale * (weights * losses).sum(), log

    def _has_ended(self, measured: Params | None, batch: Batch, task: Task) -> bool:
        """Whether no batch like this one is forgotten any more, once retaining has the last word."""
        return measured is not None and self.objective in ("adaptive", "ascent") and is_held(measured, batch, task)

    def _active_samples(self, state: State, measured: Params, batch: Batch, losses: Tensor, k: int) -> Tensor:
        """Which samples of a forget batch the step is still for, bool [B_p]."""
        problem, engine, task = state.problem, state.engine, state.problem.task
        share = engine.shard(batch), losses, k, self.total, task, engine
        active = self.calibration.active_samples(measured, *share)
        holdout = problem.holdout
        gauged = active & held_samples(measured, share[0], task)  # others have a ceiling
        if holdout is None or not self.calibration.follows(measured, problem) or not engine.global_sum(gauged):
            return active
        unseen = holdout.batch(k, task, "forget")
        with torch.no_grad(), self._statistics(state, measured, unseen, self.calibration.late(k, self.total)):
            known = losses_of(state, unseen)
        measured = self.calibration.followed(measured, engine.shard(unseen), known, task, engine)
        return self.calibration.active_samples(measured, *share)

    def _statistics(
        self, state: State, measured: Params | None, batch: Batch, late: bool
    ) -> AbstractContextManager[None]:
        """How normalisation layers behave in a forget step."""
        problem = state.problem
        if self.published:
            return statistics(state.module, "moved")
        if self.calibration.one_sided(measured, batch, problem) and normalises(state.module):
            company = problem.retain.batch(state.retained, problem.task, "retain")
            return borrowed_statistics(state.module, lambda: losses_of(state, company))
        return statistics(state.module, self.calibration.statistics_of(measured, batch, late, problem.task))

    def _weights(self, losses: Tensor) -> Tensor:
        """w_i ∝ 1 / ℓ_i^λ, constant in the gradient, [B]."""
        if self.objective == "ascent":
            return torch.ones_like(losses)
        eps = PUBLISHED_EPS if self.published else 0.0
        return 1 / (losses.clamp_min(self.floor or 0.0).pow(self.lam) + eps)

    def alpha_at(self, k: int) -> float:
        """α_k."""
        x = k / self.total
        factors = {
            "cosine": (1 + math.cos(math.pi * x)) / 2,
            "linear": 1 - x,
            "exponential": 0.01**x,
            "constant": 1.0,
        }
        return self.alpha * factors[self.decay]
