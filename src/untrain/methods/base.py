"""What a method is, and the loop that every method runs on.

A method says how to start and what one step does. The loop does the rest once for all: progress, history, a stop on
non-finite losses, checkpoints, resume, evaluation during the run, and clocks.
"""

import io
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from untrain.data.streams import Stream
from untrain.engine import Engine, seed_of
from untrain.errors import Diverged, ModelError, SettingError, StaleFile, unknown
from untrain.io import write_bytes
from untrain.models.subject import Subject
from untrain.tasks import TASKS
from untrain.types import Batch, Task, Variant

Decay = Literal["cosine", "constant"]


@dataclass(frozen=True)
class Range:
    """Numbers that a search tries: low … high, both included.

    Attributes:
        low: the least.
        high: the greatest.
        log: whether the search moves by factors instead of by differences.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Checks the order."""
        if not self.low < self.high or (self.log and self.low <= 0) or not math.isfinite(self.high - self.low):
            raise SettingError(f"a range needs low < high, and low > 0 where log; it has {self.low} and {self.high}.")


@dataclass(frozen=True)
class Choice:
    """Values that a search tries, in no order.

    Attributes:
        values: at least one.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Checks that there is something to choose."""
        if not self.values:
            raise SettingError("a choice needs at least one value.")


Space = Range | Choice
"""What a search may try for one setting."""
Spaces = Mapping[str, Space]
"""Setting → what a search tries, a dot before a nested field ("optimizer.lr")."""


@dataclass(frozen=True)
class Optimizer:
    """An optimiser by its name and settings.

    Attributes:
        name: "sgd", "adam" or "adamw".
        lr: learning rate; None: taken from the checkpoint's optimiser, else found by a range test on the retain set.
        momentum: of SGD.
        weight_decay: L2 penalty (sgd, adam) or decoupled decay (adamw).
    """

    name: str = "sgd"
    lr: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Checks the name and the ranges."""
        if self.name not in ("sgd", "adam", "adamw"):
            raise SettingError(unknown("optimizer", self.name, ("sgd", "adam", "adamw")))
        if self.lr is not None and not (self.lr > 0 and math.isfinite(self.lr)):
            raise SettingError(f"the learning rate must be above 0, not {self.lr}.")
        if self.momentum and self.name != "sgd":
            raise SettingError(f"momentum is a setting of sgd; {self.name} has none.")
        if self.momentum < 0 or self.weight_decay < 0:
            raise SettingError("momentum and weight_decay must not be negative.")

    def build(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The torch optimiser over these parameters."""
        if self.lr is None:
            raise SettingError(f"{self.name} has no learning rate yet.")
        if self.name == "sgd":
            return torch.optim.SGD(
                parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, foreach=True
            )
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(parameters, lr=self.lr, weight_decay=self.weight_decay, foreach=True)


@dataclass(eq=False)
class Problem:
    """What a method works on: the subject, the task, the sets, and what was found out about them so far.

    Attributes:
        subject: the model to change.
        task: per-sample functions; already prepared on the model.
        forget: the forget set's batches.
        retain: the retain set's batches.
        holdout: samples never trained on, or None.
        seed: of everything random in the run.
        memo: results of passes over the data, by name; part of every checkpoint, so a resumed run need not repeat them.
        notes: sentences for the manifest on what was decided and why.
    """

    subject: Subject
    task: Task
    forget: Stream
    retain: Stream
    holdout: Stream | None = None
    seed: int = 0
    memo: dict[str, dict[str, Tensor]] = field(default_factory=dict, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    def remember(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The result called `name`, computed only where it is not known yet."""
        if name not in self.memo:
            self.memo[name] = compute()
        return self.memo[name]

    def note(self, text: str) -> None:
        """Puts a sentence into the notes, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(eq=False)
class State:
    """A run between two steps; everything that a checkpoint holds besides the step's number.

    Attributes:
        problem: what the method works on.
        engine: where it runs.
        module: the module that is changed.
        optimizers: by name.
        schedules: learning-rate schedules by name.
        retained: retain batches used so far.
        frozen: modules that a method needs beside (a teacher), not part of checkpoints.
    """

    problem: Problem
    engine: Engine
    module: nn.Module
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    schedules: dict[str, LRScheduler] = field(default_factory=dict)
    retained: int = 0
    frozen: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Collects the trainable parameters and compiles where the engine is asked to."""
        self.parameters = trainable(self.module)
        self.model = self.engine.compiled(self.module)

    def state_dict(self) -> dict[str, Any]:
        """All that must be found again to go on."""
        return {
            "module": self.module.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "retained": self.retained,
            "scaler": self.engine.scaler.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Puts everything back."""
        self.module.load_state_dict(saved["module"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        for name, schedule in self.schedules.items():
            schedule.load_state_dict(saved["schedules"][name])
        self.retained = saved["retained"]
        if saved["scaler"]:
            self.engine.scaler.load_state_dict(saved["scaler"])


@dataclass(frozen=True)
class Method(ABC):
    """A way to unlearn: a frozen dataclass of its settings."""

    name: ClassVar[str]
    """What it is called in recipes and tables."""
    title: ClassVar[str]
    """One line for `untrain list`, with its source."""
    space: ClassVar[Spaces] = {}
    """The settings that a search tries; the ranges hold the published values."""
    needs: ClassVar[tuple[Variant, ...]] = ()
    """Variants of a batch that the method cannot do without."""

    @abstractmethod
    def resolved(self, problem: Problem, engine: Engine) -> "Method":
        """The method with every setting that was left open filled in; what was decided goes into `problem.notes`."""

    @abstractmethod
    def start(self, problem: Problem, engine: Engine) -> State:
        """Everything before the first step."""

    @abstractmethod
    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k; returns what to log."""

    @property
    @abstractmethod
    def total(self) -> int:
        """How many steps a run takes."""

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Method":
        """The method with these settings; an unknown one is an error that lists the known."""
        known = [f.name for f in fields(cls)]
        for name in settings:
            if name not in known:
                raise SettingError(unknown(f"setting of {cls.name}", name, known))
        defaults: dict[str, Any] = {f.name: f.default for f in fields(cls)}
        nested = {
            name: replace(defaults[name], **value) if isinstance(value, dict) and defaults[name] is not None else value
            for name, value in settings.items()
        }
        return cls(**{n: Optimizer(**v) if isinstance(v, dict) else v for n, v in nested.items()})


@dataclass(frozen=True)
class Descent(Method):
    """Descent on the retain set: what `retrain` and `finetune` share."""

    steps: int | None = None
    """Optimiser steps; None: as many as `epochs` says."""
    epochs: float = 4.0
    """Passes over the retain set, used where `steps` is None."""
    optimizer: Optimizer | None = None
    """Null: what fits the model. A learning rate of null is found."""
    decay: Decay = "cosine"
    """Learning rate over the run: "cosine" to 0, or "constant"."""
    max_norm: float | None = None
    """Gradients are clipped to this norm; None: not."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_steps(self.steps, self.epochs)
        check_choice("decay", self.decay, ("cosine", "constant"))
        check_above_zero(max_norm=self.max_norm)

    @property
    def total(self) -> int:
        """Optimiser steps."""
        return self.steps or 0

    def resolved(self, problem: Problem, engine: Engine) -> "Descent":
        """Steps from epochs."""
        return replace(self, steps=self.steps or max(1, math.ceil(self.epochs * problem.retain.epoch)))

    def step(self, state: State, k: int) -> dict[str, float]:
        """One step of descent on the mean loss of a retain batch."""
        loss = descend(state, "optimizer", max_norm=self.max_norm)
        return {"retain_loss": loss, "lr": rate_of(state)}

    def begin(self, problem: Problem, engine: Engine, module: nn.Module) -> State:
        """A state with the optimiser and its schedule on this module."""
        state = State(problem, engine, module)
        optimizer = (self.optimizer or Optimizer()).build(state.parameters)
        state.optimizers["optimizer"] = optimizer
        state.schedules["optimizer"] = schedule(optimizer, self.decay, self.total)
        return state


def check_runs(method: Method | type[Method], task: Task) -> None:
    """A method must find what it needs in the task; to be called before anything is trained.

    Raises:
        SettingError: names method, task, what is missing, and the methods that would run.
    """
    missing = [kind for kind in method.needs if kind not in task.variants]
    if not missing:
        return
    from untrain.methods import methods  # known only once every method's module is there

    named = next((name for name, known in TASKS.items() if type(task) is known), type(task).__name__)
    others = sorted(name for name, other in methods().items() if set(other.needs) <= set(task.variants))
    raise SettingError(
        f"method {method.name!r} cannot run on task {named!r}: it needs {' and '.join(map(repr, missing))} variants of "
        f"a batch, which this task does not have. Methods that run on it: {', '.join(others) or 'none'}."
    )


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that may be looked at and changed.

    Raises:
        ModelError: if there is none.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError("the model has no parameter with requires_grad: there is nothing to change.")
    return parameters


def schedule(optimizer: torch.optim.Optimizer, decay: Decay, steps: int) -> LRScheduler:
    """The learning-rate schedule over this many optimiser steps; stepped after each."""
    if decay == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return LambdaLR(optimizer, lambda _: 1.0)


def rate_of(state: State, optimizer: str = "optimizer") -> float:
    """The learning rate of an optimiser's next step."""
    return float(state.optimizers[optimizer].param_groups[0]["lr"])


def descend(
    state: State,
    optimizer: str,
    *,
    weight: float = 1.0,
    max_norm: float | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> float:
    """One training step on the next retain batch; returns its mean loss.

    Args:
        state: the run; its count of retain batches moves on.
        optimizer: the optimiser's name in the state; its schedule is stepped too.
        weight: the loss is multiplied by this.
        max_norm: gradients are clipped to this norm.
        penalty: gives a scalar of the weights alone, added to the weighted loss.
    """
    engine = state.engine
    loss = engine.mean(losses_of(state, next_retain_batch(state)))
    value = finite(engine, loss, "retain")
    objective = weight * loss
    if penalty is not None:
        objective = objective + penalty() / engine.num_processes  # gradients are summed over the processes
    minimise(state, optimizer, objective, max_norm=max_norm)
    return value


def next_retain_batch(state: State) -> Batch:
    """The next retain batch, the module in training mode; the count of retain batches moves on."""
    batch = state.problem.retain.batch(state.retained, state.problem.task, "retain")
    state.module.train()
    state.retained += 1
    return batch


def minimise(
    state: State,
    optimizer: str,
    objective: Tensor,
    *,
    mask: list[Tensor] | None = None,
    max_norm: float | None = None,
) -> None:
    """One optimiser step down this process's part of an objective; the optimiser's schedule is stepped too."""
    state.optimizers[optimizer].zero_grad()
    state.engine.backward(objective, state.parameters)
    update(state, optimizer, mask=mask, max_norm=max_norm)
    state.schedules[optimizer].step()


def advance(
    state: State,
    name: str,
    loss: Tensor,
    *,
    up: bool = False,
    mask: list[Tensor] | None = None,
    max_norm: float | None = None,
) -> dict[str, float]:
    """One step of the optimiser called "optimizer", down this process's part of a loss or `up`; returns what to log."""
    value = finite(state.engine, loss, name)
    minimise(state, "optimizer", -loss if up else loss, mask=mask, max_norm=max_norm)
    return {f"{name}_loss": value, "lr": rate_of(state)}


def update(state: State, optimizer: str, *, mask: list[Tensor] | None = None, max_norm: float | None = None) -> None:
    """One optimiser step on the gradients at hand: unscaled, masked, clipped, in this order."""
    chosen = state.optimizers[optimizer]
    state.engine.scaler.unscale_(chosen)
    gradients = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
    if mask is not None:
        torch._foreach_mul_(gradients, mask)
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(state.parameters, max_norm, foreach=True)
    state.engine.step(chosen)


def losses_of(state: State, batch: Batch, *, redirect: nn.Module | None = None) -> Tensor:
    """Per-sample losses of this process's share of a batch, with gradient.

    Args:
        state: the run.
        batch: whole, as drawn.
        redirect: the teacher of the redirect loss; None: the training loss.

    Returns:
        [B_p]; of an empty share, an empty tensor without gradient.

    Raises:
        SettingError: if a batch of one sample meets batch normalisation.
    """
    task = state.problem.task
    if redirect is not None:
        return for_share(state, batch, lambda share: task.redirect_loss(state.model, share, redirect))
    return for_share(state, batch, lambda share: task.loss(state.model, share))


def for_share(state: State, batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
    """Per-sample values of this process's share of a batch, in the engine's precision.

    Args:
        state: the run.
        batch: whole, as drawn.
        compute: share → [B_p].

    Returns:
        [B_p]; of an empty share, an empty tensor without gradient.

    Raises:
        SettingError: if a batch of one sample meets batch normalisation.
    """
    share = state.engine.share(batch)
    if not len(next(iter(share.values()))):
        return state.parameters[0].new_zeros(0, requires_grad=False)  # of the type that other processes sum
    try:
        with state.engine.autocast():
            return compute(share)
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise SettingError(
                "a training batch of one sample reached a batch normalisation layer, which needs at least two: "
                "raise batch_size, or leave the single sample out."
            ) from error
        raise


def mask_of(state: State) -> list[Tensor] | None:
    """The problem's mask, one bool tensor a trainable parameter; None where it has none."""
    mask = state.problem.memo.get("mask")
    if mask is None:
        return None
    return [mask[name] for name, p in state.module.named_parameters() if p.requires_grad]


def finite(engine: Engine, loss: Tensor, name: str) -> float:
    """The loss summed over processes, as a number; an error if it is NaN or infinite."""
    value = float(engine.total(loss))
    if not math.isfinite(value):
        raise Diverged(f"the {name} loss became {value}. Lower the learning rate, or clip gradients (max_norm).")
    return value


def check_steps(steps: int | None, epochs: float) -> None:
    """Steps must be at least 1 and epochs above 0."""
    if steps is not None and steps < 1:
        raise SettingError(f"steps must be at least 1, not {steps}.")
    if not epochs > 0:
        raise SettingError(f"epochs must be above 0, not {epochs}.")


def check_choice(name: str, value: Any, known: Sequence[Any]) -> None:
    """A setting must be one of the known values."""
    if value not in known:
        raise SettingError(unknown(name, str(value), map(str, known)))


def check_above_zero(**settings: float | None) -> None:
    """Settings that are given must be finite and above 0."""
    for name, value in settings.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise SettingError(f"{name} must be above 0, not {value}.")


@dataclass(eq=False)
class Run:
    """A finished run.

    Attributes:
        state: after the last step.
        method: with every setting resolved.
        history: what each step logged.
        clocks: seconds by part: "fisher", "search", "steps", "evaluation".
    """

    state: State
    method: Method
    history: list[dict[str, Any]]
    clocks: dict[str, float]

    @property
    def seconds(self) -> float:
        """Seconds that the unlearning took: everything but evaluation."""
        return sum(seconds for name, seconds in self.clocks.items() if name != "evaluation")


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a run is saved.

    Attributes:
        path: the one file that holds the run's last state.
        fingerprint: a hash of all inputs; a file with another one is refused.
        resume: whether to go on from the file, if there is one.
        every: seconds between two checkpoints.
    """

    path: Path
    fingerprint: str
    resume: bool = False
    every: float = 60.0

    def read(self) -> dict[str, Any] | None:
        """The saved run, or None where there is none to go on from."""
        if not self.resume or not self.path.exists():
            return None
        remedy = "Remove it to start that run anew, or choose another folder."
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            stored = saved["fingerprint"]
        except Exception as error:  # whatever a damaged file makes torch raise
            raise StaleFile(f"{self.path} is damaged and cannot be continued. {remedy}") from error
        if stored != self.fingerprint:
            raise StaleFile(f"{self.path} belongs to a run with other data, weights or settings. {remedy}")
        return saved


def run(
    method: Method,
    problem: Problem,
    engine: Engine,
    *,
    checkpoints: Checkpoints | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 0,
) -> Run:
    """Runs a method from its start, or from its last checkpoint, to its last step.

    Args:
        method: its settings may be open; they are resolved here.
        problem: model, task and sets; its module is changed.
        engine: where to run.
        checkpoints: where to save, and whether to go on from there; None: nowhere.
        evaluate: measures the module during the run; its time counts as evaluation.
        evaluate_every: steps between two such measurements; 0: none.

    Raises:
        Diverged: when a loss is not finite; the module then holds the last good weights, and the message says
            of which step they are.
    """
    saved = checkpoints.read() if checkpoints else None
    history: list[dict[str, Any]] = []
    engine.clocks.clear()
    if saved:
        problem.memo, problem.notes = saved["memo"], list(saved["notes"])
        for memo in problem.memo.values():
            memo.update({name: tensor.to(engine.device) for name, tensor in memo.items()})
    with engine.seeded(seed_of(problem.seed, "start")):
        with engine.clock("search"):
            method = method.resolved(problem, engine)
        state = method.start(problem, engine)
    first = 0
    if saved:
        state.load_state_dict(saved["state"])
        first, history = saved["step"], [json.loads(line) for line in saved["history"]]
        engine.clocks.update(saved["clocks"])
    _steps(method, state, engine, first, history, checkpoints, evaluate, evaluate_every)
    engine.agree_(state.module.buffers())  # each process has seen its own batch statistics
    state.module.eval()
    return Run(state, method, history, dict(engine.clocks))


def _steps(
    method: Method,
    state: State,
    engine: Engine,
    first: int,
    history: list[dict[str, Any]],
    checkpoints: Checkpoints | None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None,
    evaluate_every: int,
) -> None:
    saver = _Saver(checkpoints, state, engine, history)
    saver.save(first)
    with engine.progress(method.name, method.total, first) as bar:
        for k in range(first, method.total):
            try:
                with engine.clock("steps"), engine.seeded(seed_of(state.problem.seed, "step", k)):
                    record = {"step": k, **method.step(state, k)}
            except Diverged as error:
                raise Diverged(f"{method.name}, step {k} of {method.total}: {error} {saver.restore()}") from error
            if evaluate and evaluate_every and (k + 1) % evaluate_every == 0:
                with engine.clock("evaluation"):
                    record |= evaluate(state.module)
            history.append(record)
            bar.advance(" ".join(f"{n} {v:.3g}" for n, v in record.items() if n.endswith("loss")))
            saver.maybe(k + 1, method.total)
    if not _finite(state.module.state_dict()):  # the last step's loss was finite, what it made of the weights is not
        raise Diverged(f"{method.name}: the last step made weights that are not finite. {saver.restore()}")


def _finite(weights: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(w).all()) for w in weights.values() if w.is_floating_point())


@dataclass(eq=False)
class _Saver:
    """Keeps the last good state: on disk every so often, and its weights in memory for when a run diverges."""

    checkpoints: Checkpoints | None
    state: State
    engine: Engine
    history: list[dict[str, Any]]
    good: tuple[int, dict[str, Tensor]] | None = None
    last: float = 0.0

    def maybe(self, step: int, total: int) -> None:
        """Saves when the time has come; keeps weights every tenth of the run."""
        if self.checkpoints and time.monotonic() - self.last >= self.checkpoints.every:
            self.save(step)
        elif step % max(1, total // 10) == 0:
            self.save(step) if self.checkpoints else self.keep(step)

    def keep(self, step: int) -> None:
        """Remembers these weights, unless they are not finite."""
        weights = self.state.module.state_dict()
        if _finite(weights):
            self.good = step, {name: tensor.clone() for name, tensor in weights.items()}

    def save(self, step: int) -> None:
        """Writes the whole state, from the main process."""
        self.keep(step)
        self.last = time.monotonic()
        if self.checkpoints is None or not self.engine.is_main or self.good is None or self.good[0] != step:
            return
        problem = self.state.problem
        content = {
            "fingerprint": self.checkpoints.fingerprint,
            "step": step,
            "state": self.state.state_dict(),
            "memo": problem.memo,
            "notes": problem.notes,
            "clocks": dict(self.engine.clocks),
            "history": [json.dumps(record) for record in self.history],
        }
        with io.BytesIO() as buffer:
            torch.save(content, buffer)
            write_bytes(self.checkpoints.path, buffer.getvalue())

    def restore(self) -> str:
        """Puts the last good weights back and says which they are."""
        if self.good is None:
            return "No earlier weights are known to be good."
        step, weights = self.good
        self.state.module.load_state_dict(weights)
        where = f" and {self.checkpoints.path} holds the whole run at that point" if self.checkpoints else ""
        return f"The model was put back to its last good weights, after step {step}{where}."
