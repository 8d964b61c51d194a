"""The original's answers to the forget set smoothed, and trained on: LoTUS.

Spartalis, Semertzidis, Gavves, Daras: *LoTUS: Large-Scale Machine Unlearning with a Taste of Uncertainty*, CVPR 2025.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from untrain.data.streams import Stream
from untrain.engine import Engine, generator_of, preserve_modes
from untrain.errors import SettingError
from untrain.lazy import nn, torch
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.forgetting import check_holdout, frozen, labels_of
from untrain.methods.union import Union
from untrain.rows import Rows, cut
from untrain.settings import check_arguments
from untrain.types import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor


@check_arguments
@dataclass(frozen=True)
class LoTUS(Union):
    """Forget rows descend on cross-entropy with softmax((z_θ₀ + g) / τ), g of Gumbel; retain rows on the training loss.

    τ = exp(α (accuracy of θ on D_f − accuracy of θ₀ on D_h)), renewed with each pass over the forget set: the more of
    it is known, the smoother the targets.
    """

    name: ClassVar[str] = "lotus"
    title: ClassVar[str] = "smooths the original's answers on D_f until they are as unsure as on D_h (LoTUS 2025)"
    space: ClassVar[Spaces] = {"optimizer.lr": Range(0.001, 0.2, log=True), "alpha": Range(1.0, 8.0)}
    classifies: ClassVar[bool] = True

    epochs: float = 2.5
    """Passes over the forget set, each with as many retain rows; used where `steps` is null."""
    alpha: float = 2.0
    """α, how fast τ grows with the gap of accuracies."""
    balanced: bool = True
    """Whether each step takes a whole forget batch beside the retain batch: a part of the retain set is seen, as in the
    paper; else both sets are seen in proportion."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 <= self.alpha < math.inf:
            raise SettingError(f"alpha must not be negative, but it is {self.alpha}.")

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights, and a copy of them as the teacher."""
        check_holdout(problem, self.name)
        state = self.begin(problem, engine, problem.subject.module)
        state.frozen["original"] = frozen(problem.subject.module)
        return state

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k; τ first, where a pass over the forget set begins."""
        problem, engine, original = state.problem, state.engine, state.frozen["original"]
        known = problem.memo.setdefault("temperature", {})
        if not known:
            holdout = check_holdout(problem, self.name)
            known["holdout"] = accuracy(problem.task, original, holdout, engine)
        if not known.get("tau") or k % math.ceil(problem.forget.epoch) == 0:
            gap = accuracy(problem.task, state.module, problem.forget, engine) - known["holdout"]
            known["tau"] = torch.exp(self.alpha * gap)
        return {**super().step(state, k), "tau": float(known["tau"])}

    def retain_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """The training loss."""
        return state.problem.task.loss(model, share)[rows]

    def forget_losses(self, state: State, model: nn.Module, share: Batch, rows: Rows) -> Tensor:
        """Cross-entropy with the teacher's answers, disturbed and smoothed."""
        task, tau = state.problem.task, state.problem.memo["temperature"]["tau"]
        with torch.no_grad():
            taught = cut(share, rows)
            logits = task.outputs(state.frozen["original"], taught)
            targets = ((logits + gumbel_noise(state, taught, logits)) / tau.to(logits)).softmax(1)
        return -(targets * task.outputs(model, share)[rows].log_softmax(1)).sum(1)


def gumbel_noise(state: State, rows: Batch, logits: Tensor) -> Tensor:
    """Standard Gumbel noise −log(−log u) of the shape of logits [B_p, C], of each sample by itself and of the step."""
    names = state.problem.seed, "gumbel", state.retained
    draws = [
        torch.rand(logits.shape[1], generator=generator_of(*names, i), dtype=torch.float64)
        for i in rows["index"].tolist()
    ]
    return -torch.log(-torch.log(torch.stack(draws).clamp_min(1e-300))).to(logits)


def accuracy(task: Task, module: nn.Module, stream: Stream, engine: Engine) -> Tensor:
    """The share of a set that a classifier names rightly, 0 … 1, in evaluation mode; modes are put back."""
    right = torch.zeros((), device=engine.device, dtype=torch.float64)
    with preserve_modes(module), torch.no_grad():
        module.eval()
        for batch in stream.once(task, "evaluate"):
            right += (task.outputs(module, batch).argmax(1) == labels_of(task, batch)).sum()
    return right / len(stream)
