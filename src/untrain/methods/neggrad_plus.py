"""NegGrad+: descent on the retain set and ascent on the forget set in one step (Kurmanji et al., NeurIPS 2023)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.descent import Descent
from untrain.methods.forgetting import training_mode
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.salun import remember_mask, without_decay
from untrain.methods.steps import finite, losses_of, mask_of, minimise, next_retain_batch, rate_of
from untrain.settings import check_arguments


@check_arguments
@dataclass(frozen=True)
class NegGradPlus(Descent):
    """Each step goes down β · mean ℓ over a retain batch − (1 − β) · mean ℓ over a forget batch."""

    name: ClassVar[str] = "neggrad-plus"
    title: ClassVar[str] = "retain descent minus forget ascent in one step (Kurmanji et al. 2023)"
    divides: ClassVar[bool] = True
    space: ClassVar[Spaces] = {"optimizer.lr": Range(0.001, 0.2, log=True), "beta": Range(0.8, 0.999)}

    epochs: float = 2.5
    """Passes over the retain set, used where `steps` is null; as many forget batches go with them."""
    beta: float = 0.95
    """β in (0, 1], weight of the retain loss; the forget loss has 1 − β."""
    fraction: float | None = None
    """Share of all weights, in (0, 1], that are moved: those with the largest |mean forget gradient|, as in SalUn, and
    without weight decay; null: all."""
    max_norm: float | None = 1.0
    """The joined gradient is clipped to this norm; null: not. The forget loss that is climbed has no bound."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 < self.beta <= 1:
            raise SettingError(f"beta must be in (0, 1], not {self.beta}.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise SettingError(f"fraction must be in (0, 1], not {self.fraction}.")

    def resolved(self, problem: Problem, engine: Engine) -> "NegGradPlus":
        """Steps from epochs; the learning rate from the checkpoint or a range test."""
        method = super().resolved(problem, engine)
        optimizer = with_learning_rate(self.optimizer, problem, engine, method.updates, self.max_norm)
        if self.fraction is not None:
            optimizer = without_decay(optimizer, problem, self.name)
        return replace(method, optimizer=optimizer)  # type: ignore[return-value]

    def start(self, problem: Problem, engine: Engine) -> State:
        """The mask, where there is one, at the original weights; then these."""
        if self.fraction is not None:
            remember_mask(problem, engine, self.fraction)
        return self.begin(problem, engine, problem.subject.module)

    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k, on the k-th batch of each set."""
        engine = state.engine
        forget = state.problem.forget.batch(k, state.problem.task, "forget")
        with training_mode(state, forget):
            up = engine.mean(losses_of(state, forget))
        down = engine.mean(losses_of(state, next_retain_batch(state)))
        log = {"forget_loss": finite(engine, up, "forget"), "retain_loss": finite(engine, down, "retain")}
        loss = self.beta * down - (1 - self.beta) * up
        minimise(state, "optimizer", loss, mask=mask_of(state), max_norm=self.max_norm)
        return {**log, "lr": rate_of(state)}
