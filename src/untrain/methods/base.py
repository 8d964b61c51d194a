"""What a method is, and what it works on: its settings, the problem, and the state between two steps."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from untrain.data.streams import Stream
from untrain.engine import Engine, is_divided
from untrain.errors import ModelError, SettingError, UnlearningWarning, unknown
from untrain.lazy import nn, torch
from untrain.models.adapters import Adapters
from untrain.models.fsdp import DividedModule, gather_tree
from untrain.models.subject import Subject
from untrain.rows import cut
from untrain.settings import check_arguments, make
from untrain.types import Batch, EditableTask, GenerativeTask, Params, Task, Variant

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim.lr_scheduler import LRScheduler

Decay = Literal["cosine", "constant"]
OPTIMIZERS = ("sgd", "adam", "adamw", "adam8bit", "adamw8bit")
"""Names of optimisers."""

TRIED = 2
"""Samples that something about a model is tried on."""

LARGE = 10**8
"""From so many weights on, optimisers take one tensor after the other: all together is faster for many small ones, but
needs another copy of them all."""


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


@check_arguments
@dataclass(frozen=True)
class Optimizer:
    """An optimiser by its name and settings."""

    kind_field: ClassVar[str] = "name"
    """Settings that are put over a default of another name do not take the rest from it."""

    name: str = "sgd"
    """Name: "sgd", "adam" or "adamw"; or "adam8bit" or "adamw8bit", whose moments take 8 bits."""
    lr: float | None = None
    """Learning rate; null: taken from the checkpoint's optimiser, else found by a range test on the retain set."""
    momentum: float = 0.0
    """Momentum, of sgd alone."""
    weight_decay: float = 0.0
    """L2 penalty (sgd, adam, adam8bit) or decoupled decay (adamw, adamw8bit)."""

    def __post_init__(self) -> None:
        """Checks the name and the ranges."""
        if self.name not in OPTIMIZERS:
            raise SettingError(unknown("optimizer", self.name, OPTIMIZERS))
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise SettingError(f"the learning rate must be above 0, not {self.lr}.")
        if self.momentum and self.name != "sgd":
            raise SettingError(f"momentum is a setting of sgd; {self.name} has none.")
        if self.momentum < 0 or self.weight_decay < 0:
            raise SettingError("momentum and weight_decay must not be negative.")

    @property
    def is_adaptive(self) -> bool:
        """Whether it is one of Adam's kind."""
        return self.name != "sgd"

    def build(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The torch optimiser over these parameters.

        Raises:
            SettingError: if it has no learning rate, or cannot run where they are.
        """
        if self.lr is None:
            raise SettingError(f"{self.name} has no learning rate yet.")
        if self.name.endswith("8bit"):
            from untrain.methods.eight_bit import build_8bit

            return build_8bit(self.name, parameters, lr=self.lr, weight_decay=self.weight_decay)
        together = sum(parameter.numel() for parameter in parameters) < LARGE
        if self.name == "sgd":
            return torch.optim.SGD(
                parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, foreach=together
            )
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(parameters, lr=self.lr, weight_decay=self.weight_decay, foreach=together)


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
        notes: sentences for the manifest on what was decided and why, and all that was warned of.
        warnings: those of the notes that cast doubt on the result.
        forgets_class: whether the forget set holds a condition that the retain set does not, where that is known
            without looking at batches; None: they are looked at.
    """

    subject: Subject
    task: Task
    forget: Stream
    retain: Stream
    holdout: Stream | None = None
    seed: int = 0
    memo: dict[str, dict[str, Tensor]] = field(default_factory=dict, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    warnings: list[str] = field(default_factory=list, init=False)
    forgets_class: bool | None = field(default=None, init=False)

    def remember(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The result called `name`, computed only where it is not known yet."""
        if name not in self.memo:
            self.memo[name] = compute()
        return self.memo[name]

    def note(self, text: str) -> None:
        """Puts a sentence into the notes, once."""
        if text not in self.notes:
            self.notes.append(text)

    def warn(self, text: str) -> None:
        """Puts what casts doubt on the result into the notes and the warnings, and warns of it, once.

        Args:
            text: a few words, which stand in a report's headline, a colon, and the rest.
        """
        if text in self.warnings:
            return
        self.note(text)
        self.warnings.append(text)
        if self.forget.engine.is_main:
            warnings.warn(text, UnlearningWarning, stacklevel=2)


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
        averaged: running averages of the weights, where a method keeps them: what the run gives in the end.
        beside: tensors that a method needs beside, by name; `start` makes them anew, and no checkpoint holds them.
        divided: the module's weights among processes, while they are divided; `module` is its divided one then.
        mask: the problem's mask in parts likewise.
    """

    problem: Problem
    engine: Engine
    module: nn.Module
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    schedules: dict[str, LRScheduler] = field(default_factory=dict)
    retained: int = 0
    frozen: dict[str, nn.Module] = field(default_factory=dict)
    averaged: nn.Module | None = None
    beside: Params = field(default_factory=dict)
    divided: DividedModule | None = None
    mask: Params | None = None

    def __post_init__(self) -> None:
        """Collects the trainable parameters and compiles where the engine is asked to."""
        self.parameters = trainable(self.module)
        self.model = self.engine.compiled(self.module)

    @property
    def result(self) -> nn.Module:
        """The module that the run would give now: the averaged weights where there are any."""
        return self.module if self.averaged is None else self.averaged

    def divide(self) -> None:
        """Divides weights, optimisers, frozen modules, averages and mask among the processes, before the first step.

        Raises:
            ModelError: if the weights cannot be divided. SettingError: if an optimiser's states cannot.
        """
        task, retain = self.problem.task, self.problem.retain
        batch = next(retain.once(task, "fisher", limit=TRIED, batch_size=TRIED))
        few = cut(batch, slice(TRIED))

        def losses(module: nn.Module) -> Tensor:
            with self.engine.forward_pass():
                return task.loss(module, few)

        whole, before = self.module, self.parameters
        divided = DividedModule.of(whole, losses, self.engine)
        self.divided, self.module, self.model = divided, divided.module, divided.module
        self.parameters = trainable(self.module)
        parts = dict(zip(map(id, before), self.parameters, strict=True))
        for name, optimizer in self.optimizers.items():
            if not type(optimizer).__module__.startswith("torch.optim"):
                raise SettingError(
                    f"fsdp cannot divide the states of the {name} optimiser, a {type(optimizer).__name__}: choose sgd, "
                    "adam or adamw, or leave fsdp out."
                )
            for group in optimizer.param_groups:
                group["params"] = [parts[id(parameter)] for parameter in group["params"]]
        for module in (*self.frozen.values(), *([] if self.averaged is None else [self.averaged])):
            divided.divide_(module)
        if "mask" in self.problem.memo:  # whole for its file, and out of an accelerator's memory
            self.problem.memo["mask"] = {name: t.cpu() for name, t in self.problem.memo["mask"].items()}
            self.mask = {name: divided.part_of(t) for name, t in self.problem.memo["mask"].items()}

    def finish(self) -> None:
        """Gives the whole module the weights of now, and lets go of what was divided; every process takes part."""
        if self.divided is None:
            return
        for parameter in self.parameters:
            parameter.grad = None
        self.optimizers.clear()  # first, to make room
        self.frozen.clear()
        self.averaged = self.mask = None
        self.module = self.model = self.divided.finish()
        self.parameters = trainable(self.module)
        self.divided = None

    def gathered_dict(self) -> dict[str, Any]:
        """The state as `state_dict` gives it, of divided weights whole ones, in the main process alone."""
        state = self.state_dict()
        return state if self.divided is None else gather_tree(state, keep=self.engine.is_main)

    def state_dict(self) -> dict[str, Any]:
        """All that must be found again to go on: below adapters no weight changes, and the run begins with them."""
        weights = self.module.state_dict()
        if self.problem.subject.adapters is not None:
            named = self.module.named_parameters(remove_duplicate=False)
            frozen = {name for name, parameter in named if not parameter.requires_grad}
            weights = {name: tensor for name, tensor in weights.items() if name not in frozen}
        return {
            "module": weights,
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "retained": self.retained,
            "scaler": self.engine.scaler.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Puts everything back; of divided weights this process's parts of what was saved whole."""
        self.load_weights(saved["module"], strict=self.problem.subject.adapters is None)
        if self.averaged is not None:
            self.averaged.load_state_dict(self._parts_of(saved["averaged"], self.averaged.state_dict()))
        for name, optimizer in self.optimizers.items():
            numbered = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
            moments = {
                number: self._parts_of(found, {key: numbered[number] for key in found if key != "step"})
                for number, found in saved["optimizers"][name]["state"].items()
            }
            optimizer.load_state_dict({**saved["optimizers"][name], "state": moments})
        for name, schedule in self.schedules.items():
            schedule.load_state_dict(saved["schedules"][name])
        self.retained = saved["retained"]
        if saved["scaler"]:
            self.engine.scaler.load_state_dict(saved["scaler"])

    def load_weights(self, weights: Mapping[str, Tensor], *, strict: bool) -> None:
        """Puts weights back into the module, whole ones or, of divided weights, this process's parts."""
        self.module.load_state_dict(self._parts_of(weights, self.module.state_dict()), strict=strict)

    def _parts_of(self, saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        """Saved tensors, of which those that are whole and divided now are cut."""
        divided = self.divided
        if divided is None:
            return dict(saved)
        cut = {name: t for name, t in saved.items() if is_divided(now.get(name)) and not is_divided(t)}
        return {**saved, **{name: divided.part_of(t) for name, t in cut.items() if t is not None}}


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
    needs_forget: ClassVar[bool] = True
    """Whether it looks at the forget set; one that does not can go on where all of that is gone."""
    needs_samples: ClassVar[bool] = True
    """Whether it looks at samples; one that looks at their conditions alone is given sets in which nothing else says
    anything, and no sample is made or read for it."""
    generates: ClassVar[bool] = False
    """Whether it needs a task whose models make images."""
    classifies: ClassVar[bool] = False
    """Whether it needs a task whose outputs are logits of classes."""
    edits: ClassVar[bool] = False
    """Whether it needs a task whose models hear of conditions through linear maps."""
    adapts: ClassVar[bool] = True
    """Whether adapters can be trained by it in the place of weights; false where weights themselves are set, shrunk or
    made fresh."""
    divides: ClassVar[bool] = False
    """Whether its steps run on weights that are divided among processes: they take losses of the model by
    `losses_of` or `for_share`, and look at weights by operations that know divided tensors."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """`divides` is said by each class for itself: what is derived may look at weights in ways of its own."""
        super().__init_subclass__(**kwargs)
        if "divides" not in vars(cls):
            cls.divides = False

    own_adapters: ClassVar[Adapters | None] = None
    """Adapters that it trains in the place of weights where none are asked for; None: it trains weights then."""

    def wants(self, task: Task) -> tuple[Variant, ...]:
        """What it needs of this task with the settings that it has."""
        return self.needs

    def check_task(self, task: Task) -> None:  # noqa: B027 (nothing by default)
        """Raises a SettingError for a setting that has no meaning on this task; by default each has one."""

    def adapters_of(self, given: Adapters | None, parts: str | Sequence[str] | None) -> Adapters | None:
        """The adapters that it trains: those that are asked for, else its own, which are where `parts` says."""
        if given is not None or self.own_adapters is None or parts is None:
            return self.own_adapters if given is None else given
        return replace(self.own_adapters, targets=parts if isinstance(parts, str) else list(parts))

    @abstractmethod
    def resolved(self, problem: Problem, engine: Engine) -> Method:
        """The method with every setting that was left open filled in; what was decided goes into `problem.notes`."""

    @abstractmethod
    def start(self, problem: Problem, engine: Engine) -> State:
        """Everything before the first step."""

    @abstractmethod
    def step(self, state: State, k: int) -> dict[str, float]:
        """Step k; returns what to log."""

    def aims(self, problem: Problem, batch: Batch, engine: Engine) -> Tensor | None:
        """The loss that each sample of a forget batch was to come to, [B], after the last step; None: the method aims
        at none.
        """
        return None

    @property
    @abstractmethod
    def total(self) -> int:
        """How many steps a run takes."""

    @property
    def updates(self) -> int:
        """How many steps its optimisers take in a run."""
        return self.total

    @property
    def batches(self) -> int:
        """How many batches a run passes, of forget and retain set together: its cost, where one of training is 1."""
        return self.updates

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Method:
        """The method with these settings; a wrong one is an error that says what is allowed."""
        return make(cls, settings)


def check_runs(method: Method | type[Method], task: Task) -> None:
    """A method must find what it needs in the task; to be called before anything is trained.

    Raises:
        SettingError: names method, task, what is missing, and the methods that would run; or the setting that has no
            meaning there.
    """
    missing = _missing(method, task)
    if not missing:
        if isinstance(method, Method):
            method.check_task(task)
        return
    from untrain.methods import methods  # known only once every method's module is there

    named = vars(type(task)).get("name", type(task).__name__)  # what is derived from a task has another name
    others = sorted(name for name, other in methods().items() if not _missing(other, task))
    raise SettingError(
        f"method {method.name!r} cannot run on task {named!r}: it needs {' and '.join(missing)}, which this task does "
        f"not have. Methods that run on it: {', '.join(others) or 'none'}."
    )


def _missing(method: Method | type[Method], task: Task) -> list[str]:
    """What a method needs and the task does not have, in words."""
    wanted = method.wants(task) if isinstance(method, Method) else method.needs
    variants = [repr(kind) for kind in wanted if kind not in task.variants]
    missing = [f"{' and '.join(variants)} variants of a batch"] if variants else []
    if method.generates and not isinstance(task, GenerativeTask):
        missing.insert(0, "a model that makes images")
    if method.classifies and (isinstance(task, GenerativeTask) or not hasattr(task, "num_classes")):
        missing.insert(0, "logits of classes")
    if method.edits and not isinstance(task, EditableTask):
        missing.insert(0, "a model that hears of its conditions through linear maps")
    return missing


def check_adapts(method: Method | type[Method]) -> None:
    """A method must be one that can train adapters in the place of weights.

    Raises:
        SettingError: names it, and those that can.
    """
    if method.adapts:
        return
    raise SettingError(
        f"method {method.name!r} cannot train adapters: it sets, shrinks or renews weights themselves. Leave adapters "
        "out, and save what it changed as a LoRA (save_lora, untrain export --lora), or choose "
        f"{_named_with('adapts')}."
    )


def check_divides(method: Method | type[Method]) -> None:
    """A method must be one whose steps run on divided weights.

    Raises:
        SettingError: names it, and those that can.
    """
    if method.divides:
        return
    raise SettingError(
        f"method {method.name!r} looks at whole weights, and does not run with fsdp. Leave fsdp out, or choose "
        f"{_named_with('divides')}."
    )


def _named_with(trait: Literal["adapts", "divides"]) -> str:
    """The names of the methods of which a trait holds."""
    from untrain.methods import methods

    return ", ".join(sorted(name for name, method in methods().items() if getattr(method, trait)))


def check_needs(methods: Mapping[str, Method]) -> None:
    """Refuses methods that look at the forget set, where nothing of that is left.

    Args:
        methods: by the names of their entries.

    Raises:
        SettingError: names them, and those that would run.
    """
    needing = sorted(name for name, method in methods.items() if method.needs_forget)
    if needing:
        from untrain.methods import WITHOUT_FORGET_SET  # known once every method's module is there
        from untrain.methods import methods as known

        others = sorted(name for name, method in known().items() if not method.needs_forget)
        raise SettingError(
            f"nothing of this request is in the data any more, and {', '.join(needing)} cannot do without it. Restore "
            f"the files, or ask for methods that look at the retain set alone: --method {WITHOUT_FORGET_SET} ("
            f"{', '.join(others)})."
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
        if value is not None and not 0 < value < math.inf:
            raise SettingError(f"{name} must be above 0, not {value}.")
