"""Forget samples are answered as held-out samples of their class are: reference-guided unlearning (ReGUn, 2026)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.descent import Descent
from untrain.methods.forgetting import check_holdout, labels_of, training_mode
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.steps import finite, for_share, losses_of, minimise, next_retain_batch, rate_of
from untrain.settings import check_arguments
from untrain.types import Batch, Params

if TYPE_CHECKING:
    from torch import Tensor


@check_arguments
@dataclass(frozen=True)
class ReGUn(Descent):
    """Each step goes down ω · KL(q_c ‖ p_θ) on a forget batch + (1 − ω) · mean ℓ on a retain batch.

    q_c is the mean of what the original says of held-out samples of the sample's class c. Forget samples of a class
    that has no held-out sample are left out.
    """

    name: ClassVar[str] = "regun"
    title: ClassVar[str] = "D_f answered as held-out samples of its classes are, descent on D_r (ReGUn 2026)"
    space: ClassVar[Spaces] = {"optimizer.lr": Range(0.001, 0.2, log=True), "weight": Range(0.05, 0.7, log=True)}
    classifies: ClassVar[bool] = True

    epochs: float = 2.5
    """Passes over the retain set, used where `steps` is null; as many forget batches go with them."""
    weight: float = 0.5
    """ω in (0, 1), weight of the forget batch."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 < self.weight < 1:
            raise SettingError(f"weight must be in (0, 1), not {self.weight}.")

    def resolved(self, problem: Problem, engine: Engine) -> ReGUn:
        """Steps from epochs; the learning rate from the checkpoint or a range test; held-out data must be there."""
        check_holdout(problem, self.name)
        method = super().resolved(problem, engine)
        optimizer = with_learning_rate(self.optimizer, problem, engine, method.updates, self.max_norm)
        return replace(method, optimizer=optimizer)  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """The original weights, and what they say of held-out samples."""
        with engine.clock("calibration"):
            problem.remember("reference", lambda: mean_answers(problem, engine))
        return self.begin(problem, engine, problem.subject.module)

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k, on the k-th forget batch and the next retain batch."""
        engine, task, reference = state.engine, state.problem.task, state.problem.memo["reference"]
        forget = state.problem.forget.batch(k, task, "forget")

        def divergences(share: Batch) -> Tensor:
            labels = labels_of(task, share)
            found = task.divergence(task.outputs(state.model, share), reference["mean"][labels].log())
            return found * (reference["count"][labels] > 0)

        down = engine.mean(losses_of(state, next_retain_batch(state)))  # first: it moves the running statistics
        with training_mode(state, forget):
            away = engine.mean(for_share(state, forget, divergences))
        log = {"forget_loss": finite(engine, away, "forget"), "retain_loss": finite(engine, down, "retain")}
        minimise(state, "optimizer", self.weight * away + (1 - self.weight) * down, max_norm=self.max_norm)
        return {**log, "lr": rate_of(state)}


def mean_answers(problem: Problem, engine: Engine) -> Params:
    """The mean probabilities that the module gives held-out samples of each class, in evaluation mode.

    Returns:
        "mean", [C, C], a row a class, uniform where no sample is of it; "count", held-out samples of each class, [C].
    """
    stream = check_holdout(problem, "regun")
    task, module = problem.task, problem.subject.module.eval()
    sums, counts = torch.zeros(0), torch.zeros(0)
    with torch.no_grad():
        for batch in engine.track(stream.once(task, "evaluate"), "held-out answers", stream.passes()):
            answers = task.outputs(module, batch).double().softmax(1)  # whole in every process: the same bits
            if not len(sums):
                sums = answers.new_zeros(answers.shape[1], answers.shape[1])
                counts = answers.new_zeros(answers.shape[1])
            labels = labels_of(task, batch)
            sums.index_add_(0, labels, answers)
            counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
    mean = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), 1 / len(counts))
    dtype = next(module.parameters()).dtype
    return {"mean": mean.clamp_min(torch.finfo(torch.float32).tiny).to(dtype), "count": counts}
