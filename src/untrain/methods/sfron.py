"""SFR-on: forgetting on salient weights inside the manifold that preserves what is retained, online.

Huang, Cheng, Zheng, Wang, He, Li, Huang: *Unified Gradient-Based Machine Unlearning with Remain Geometry
Enhancement*, NeurIPS 2024, arXiv 2409.19732. The symbols are the paper's: α scales the forget step, λ shapes the
adaptive weights, γ thresholds the saliency mask, β is the slow step's size.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.fisher import fisher_diagonal
from untrain.methods.base import (
    Decay,
    Method,
    Optimizer,
    Problem,
    State,
    check_above_zero,
    check_choice,
    check_steps,
    descend,
    finite,
    losses_of,
    schedule,
    update,
)
from untrain.methods.learning_rate import with_learning_rate
from untrain.saliency import saliency_mask
from untrain.types import Params

PUBLISHED_EPS = 1e-15


@dataclass(frozen=True)
class SFRon(Method):
    """Fast–slow unlearning: one masked forget step, then several retain steps, in each outer step."""

    name: ClassVar[str] = "sfron"
    title: ClassVar[str] = "forgets on salient weights, retains in between (Huang et al. 2024)"

    steps: int | None = None
    """K, outer steps; None: as many as make `epochs` passes over the retain set."""
    retain_steps: int = 5
    """Retain steps in each outer step."""
    epochs: float = 4.0
    """Passes over the retain set in the whole run, used where `steps` is None."""
    objective: Literal["adaptive", "ascent", "redirect"] = "adaptive"
    """The forget step: ascent weighted by 1/ℓ^λ, plain ascent, or descent towards the redirected variant."""
    alpha: float = 1.0
    """α, scale of the forget gradient."""
    decay: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    """How α falls over the outer steps."""
    lam: float = 0.5
    """λ, exponent of the adaptive weights 1 / ℓ^λ."""
    floor: float = 0.01
    """Lower bound in nats of ℓ inside the adaptive weights."""
    gamma: float | None = 1.0
    """γ, a weight is salient where F_forget ≥ γ F_retain; None: no mask."""
    beta: float = 1.0
    """β in (0, 1], size of the slow step."""
    max_norm: float | None = 1.0
    """The masked forget gradient is clipped to this norm; None: not."""
    retain_max_norm: float | None = None
    """The retain gradient is clipped to this norm; None: not."""
    retain_weight: float = 1.0
    """The retain loss is multiplied by this."""
    optimizer: Optimizer = Optimizer("sgd", None, 0.9, 5e-4)
    """Of the retain steps; a learning rate of None is found, see `Optimizer`."""
    retain_decay: Decay = "cosine"
    """The retain learning rate over the run: "cosine" to 0, or "constant"."""
    forget_optimizer: Optimizer | None = Optimizer("adam", 1e-3)
    """Of the forget steps, at a constant rate; None: one optimiser for both."""
    fisher: Literal["sample", "batch"] = "sample"
    """Squares of per-sample gradients, or of batch means as published code has it."""
    fisher_samples: int | None = None
    """Samples of each set that the Fisher uses, chosen by the seed; None: all."""
    online: bool = True
    """False: the forget and retain gradients joined in one masked step (the paper's ablation)."""
    published: bool = False
    """The authors' code: one optimiser, batch-mean Fisher, ε = 1e-15, β = 1, batch statistics moved by forget batches."""
    calibrate: bool = True
    """Whether held-out data, where given, say how far to forget."""

    @property
    def total(self) -> int:
        return self.steps or 0

    def resolved(self, problem: Problem, engine: Engine) -> "SFRon":
        method = self
        if method.published:
            method = replace(method, fisher="batch", forget_optimizer=None, beta=1.0, floor=0.0)
        steps = method.steps or max(1, math.ceil(method.epochs * problem.retain.epoch / method.retain_steps))
        return replace(method, steps=steps, optimizer=with_learning_rate(method.optimizer, problem, engine))

    def start(self, problem: Problem, engine: Engine) -> State:
        if self.gamma is not None:
            with engine.clock("fisher"):
                problem.remember("mask", lambda: self._mask(problem, engine))
        if self._target(problem, engine) is not None:
            pass
        state = State(problem, engine, problem.subject.module)
        retain = self.optimizer.build(state.parameters)
        state.optimizers["retain"] = retain
        state.schedules["retain"] = schedule(retain, self.retain_decay, self.total * self.retain_steps)
        state.optimizers["forget"] = self.forget_optimizer.build(state.parameters) if self.forget_optimizer else retain
        return state

    def _mask(self, problem, engine):
        fishers = [
            fisher_diagonal(
                problem.subject.module, problem.task, stream.once(problem.task, "fisher", limit=self.fisher_samples),
                estimator=self.fisher, engine=engine,
            )
            for stream in (problem.forget, problem.retain)
        ]
        return saliency_mask(*fishers, gamma=self.gamma, eps=PUBLISHED_EPS if self.published else 0.0)

    def _target(self, problem, engine):
        if not self.calibrate or problem.holdout is None:
            return None
        def compute():
            module = problem.subject.module.eval()
            with torch.no_grad():
                losses = torch.cat([problem.task.loss(module, b) for b in problem.holdout.once(problem.task, "evaluate")])
            return {"loss": losses.mean()}
        return problem.remember("target", compute)["loss"]

    def step(self, state: State, k: int) -> dict[str, float]:
        before = [p.detach().clone() for p in state.parameters] if self.beta < 1 else []
        log = self._forget(state, k)
        for _ in range(self.retain_steps):
            loss = descend(state, "retain", weight=self.retain_weight, max_norm=self.retain_max_norm)
        if before:
            with torch.no_grad():
                for p, b in zip(state.parameters, before):
                    p.copy_(b + self.beta * (p - b))
        return {**log, "retain_loss": loss}

    def _alpha(self, k):
        return self.alpha * (1 + math.cos(math.pi * k / self.total)) / 2 if self.decay == "cosine" else self.alpha

    def _forget(self, state, k):
        problem, engine = state.problem, state.engine
        batch = problem.forget.batch(k, problem.task, "forget")
        state.module.train()
        with statistics_frozen(state.module, not self.published):
            losses = losses_of(state, batch)
        value = finite(engine, engine.mean(losses), "forget")
        target = problem.memo.get("target")
        if target and (value > float(target["loss"]) or k >= 0.8 * self.total):
            return {"forget_loss": value, "skipped": True}
        w = losses.detach().clamp_min(self.floor).pow(self.lam).add(PUBLISHED_EPS if self.published else 0).reciprocal()
        total = engine.total(w)
        state.optimizers["forget"].zero_grad()
        engine.backward(-self._alpha(k) * (w * losses).sum() / total, state.parameters)
        mask = None
        if "mask" in problem.memo:
            names = [n for n, p in state.module.named_parameters() if p.requires_grad]
            mask = [problem.memo["mask"][n] for n in names]
        update(state, "forget", mask=mask, max_norm=self.max_norm)
        return {"forget_loss": value, "skipped": False}


@contextmanager
def statistics_frozen(module: nn.Module, frozen: bool = True) -> Iterator[None]:
    """Layers with running statistics in evaluation mode inside the block."""
    layers = [m for m in module.modules() if getattr(m, "running_mean", None) is not None and m.training] if frozen else []
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
