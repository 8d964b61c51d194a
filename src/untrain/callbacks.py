"""Code of a user that hears of what a run does, and the trackers of experiments, which are such code."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from untrain.errors import SettingError, lookup
from untrain.settings import check_arguments

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker
else:  # a tracker is looked at only where one is started
    GeneralTracker = Any

Stage = Literal["begin", "end"]

TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Trackers by name → the libraries that write for them, of which one is enough."""


class Callback(ABC):  # noqa: B024
    """Hears of what a run does; a subclass defines the functions that it is curious about.

    They are called in the main process alone, between two steps; their time does not count as unlearning. What they
    raise ends the run, which can be resumed from its last checkpoint. A class with these three functions is one,
    derived from this or not.
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        """Whether a class has the functions."""
        if cls is not Callback:
            return NotImplemented
        return all(callable(getattr(other, name, None)) for name in ("on_stage", "on_step", "on_evaluate"))

    def on_stage(self, name: str, state: Stage) -> None:  # noqa: B027, nothing by default
        """Called when a part of a run begins or ends.

        Args:
            name: of the model that is made ("original", "retrained", "sfron", …), or "evaluate".
            state: "begin" or "end".
        """

    def on_step(self, step: int, total: int, record: Mapping[str, Any]) -> None:  # noqa: B027
        """Called after each step of a method.

        Args:
            step: how many are done, 1 … `total`; the first of a resumed run is the one after its checkpoint.
            total: how many the method takes.
            record: what the step logged, as in history.jsonl: its losses, "lr", and "step", which counts from 0.
        """

    def on_evaluate(self, name: str, values: Mapping[str, Any]) -> None:  # noqa: B027
        """Called when a model was measured: after the run, or on the way where previews are asked for.

        Args:
            name: of the model; of a preview, the title of its run.
            values: measure → value, as in evaluation.json or history.jsonl.
        """


class TrackerCallback(Callback):
    """Tells a tracker of experiments (TensorBoard, Weights & Biases) of losses, rates and measures.

    Only numbers and settings are told, never a sample. Curves are called MODEL/NAME, such as sfron/forget_loss; their
    steps are counted through the whole run, over all models that it makes. Use it in a `with` block, or `close` it.
    """

    @check_arguments
    def __init__(
        self,
        tracker: str | GeneralTracker,
        *,
        folder: str | Path = ".",
        name: str = "untrain",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Checks that the tracker can be used; it is started with what it is told first.

        Args:
            tracker: "tensorboard", "wandb", or one of accelerate's or of your own, which is started here.
            folder: where it writes; TensorBoard's files come into FOLDER/NAME.
            name: what the run is called there.
            settings: hyperparameters to tell it; nested ones get a dot in their names.

        Raises:
            SettingError: if the name is not known, or its library is not installed.
        """
        if isinstance(tracker, str) and not any(find_spec(library) for library in lookup("tracker", TRACKERS, tracker)):
            raise SettingError(f"the tracker {tracker} is not installed: pip install {tracker}, or leave it out.")
        self.tracker = tracker
        self.folder = Path(folder)
        self.name = name
        self.settings = settings or {}
        self.started: GeneralTracker | None = None
        self.model = ""
        self.before = self.last = 0
        """Steps of the models that were made before, and of this one."""

    def __enter__(self) -> TrackerCallback:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the tracker write what it has kept back."""
        if self.started is not None:
            self.started.finish()
            self.started = None

    def on_stage(self, name: str, state: Stage) -> None:
        """Names the curves of what begins."""
        if state == "begin":
            self.model = name
            self.before, self.last = self.before + self.last, 0

    def on_step(self, step: int, total: int, record: Mapping[str, Any]) -> None:
        """Tells the step's losses and rates."""
        if step <= self.last:  # another method began, in a run without stages
            self.before += self.last
        self.last = step
        self._log(self.model, {key: value for key, value in record.items() if key != "step"})

    def on_evaluate(self, name: str, values: Mapping[str, Any]) -> None:
        """Tells the measures that are numbers."""
        self._log(name, values)

    def _log(self, model: str, values: Mapping[str, Any]) -> None:
        numbers = {key: float(value) for key, value in _flat(values, "/") if isinstance(value, int | float)}
        if numbers:
            named = {f"{model}/{key}" if model else key: value for key, value in numbers.items()}
            self._start().log(named, step=self.before + self.last)

    def _start(self) -> GeneralTracker:
        if self.started is None:
            from accelerate import PartialState

            PartialState()  # which the trackers ask whether this is the main process
            self.started = self._made() if isinstance(self.tracker, str) else self.tracker
            self.started.start()
            self.started.store_init_configuration(dict(_plain(self.settings)))
        return self.started

    def _made(self) -> GeneralTracker:
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        if self.tracker == "wandb":
            return WandBTracker("untrain", name=self.name, dir=str(self.folder))
        return TensorBoardTracker(self.name, self.folder)


def _flat(values: Mapping[str, Any], joint: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested mappings, their keys joined."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, joint, f"{prefix}{key}{joint}")
        else:
            yield f"{prefix}{key}", value


def _plain(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings as trackers take them: numbers, texts and truth values; anything else in words."""
    for key, value in _flat(settings, "."):
        yield key, value if isinstance(value, bool | int | float | str) else str(value)
