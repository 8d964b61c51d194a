"""What a design of an audit is: which models it takes, what they are asked, and what their answers show."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from untrain.audit.finding import Audit
from untrain.audit.plan import AuditPlan
from untrain.compare.plan import Cell
from untrain.compare.pool import Cache
from untrain.domain import Told
from untrain.errors import CheckpointError, StaleFile
from untrain.folders import ensure_dir
from untrain.models import checkpoints
from untrain.runs import stages
from untrain.runs.names import ORIGINAL
from untrain.runs.recipe import Recipe
from untrain.runs.stages import Experiment

SIGNALS_OF = "signals"
"""The cell of a group that asks its models, and the folder of what they told."""
ReadTold = Callable[[str, str], Told]
"""From a group and a model's name to what it told."""


class Design(ABC):
    """A design: it names the groups of models, opens each as a run folder, asks the models, and scores their answers.

    What costs anything is done when it is first asked for, so a design may be made to name its cells alone.

    Attributes:
        name: as in audit.json.
        takes: fields of the plan that it takes beyond those that every design takes.
        fixed: facts that an audit must share with the one that it goes on with.
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ("design", "seed", "twins")

    def __init__(self, plan: AuditPlan, cache: Cache | None = None) -> None:
        """Keeps what an audit is asked for.

        Args:
            plan: what is asked for.
            cache: what cells of this process share.
        """
        self.plan, self.cache = plan, cache

    @classmethod
    @abstractmethod
    def sizes(cls, recipe: Recipe, twins: int | None, references: int | None) -> tuple[int, int]:
        """Returns K and R; None: the design's own number."""

    @classmethod
    @abstractmethod
    def check_plan(cls, plan: AuditPlan) -> None:
        """Refuses what can be refused before anything is read.

        Raises:
            SettingError: if twins are too few, or they cannot be trained.
        """

    @cached_property
    def run(self) -> Experiment:
        """The run that is audited; nothing is written."""
        experiment = stages.open_experiment(self.plan.recipe, fresh=False, write=False, cache=self.cache)
        stages.check_split(experiment)
        return experiment

    def needs(self) -> list[str]:
        """Returns what asking each model takes, work and memory, as sentences for the person who waits."""
        return self.run.domain.audit_needs(self.plan.options)

    def prepare(self) -> None:  # noqa: B027, most need nothing
        """Makes what every cell needs, before the first is begun."""

    @property
    @abstractmethod
    def groups(self) -> list[str]:
        """Every run folder of the audit."""

    @abstractmethod
    def models(self, group: str) -> list[str]:
        """Returns the models of a group."""

    @abstractmethod
    def cells(self) -> list[Cell]:
        """Returns every cell, in the order in which they should be begun."""

    @abstractmethod
    def open(self, group: str) -> Experiment:
        """Opens the run folder of a group; what is not there yet is written."""

    @abstractmethod
    def load(self, experiment: Experiment, group: str, names: list[str]) -> Mapping[str, nn.Module]:
        """Returns models of a group, on the CPU; those that are not there are made."""

    @abstractmethod
    def ask(self, experiment: Experiment, group: str, name: str, module: nn.Module) -> Told:
        """Asks a model, which is on the engine's device."""

    @abstractmethod
    def finish(self, experiment: Experiment) -> None:
        """Removes what nobody needs once a group's models were asked."""

    @abstractmethod
    def mark_of(self, group: str, name: str) -> str:
        """Fingerprints what a model's answers are made from: all that decides its making, and what it is asked."""

    def heading(self) -> dict[str, Any]:
        """Returns the facts that audits of every design begin with; the run is named by its folder, not by its path."""
        return {"version": 1, "design": self.name, "run": self.plan.recipe.folder.name, "seed": self.plan.seed}

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Says what decides every number of the audit but its models, before anything is trained.

        Raises:
            DataError: if the run's samples do not allow an audit.
        """

    @abstractmethod
    def score(self, read: ReadTold) -> Audit:
        """Judges every method by what its models told."""

    def asked_by(self, cell: Cell) -> list[str]:
        """Returns the models of its group that a cell asks; none if it makes one."""
        return self.models(cell.group) if cell.name == SIGNALS_OF else []

    def file_of(self, group: str, name: str) -> Path:
        """Returns the file of what a model told."""
        return self.plan.folder / group / SIGNALS_OF / f"{name}.safetensors"

    def read_told(self, group: str, name: str) -> Told | None:
        """Reads what a model told; None: it was not asked yet.

        Raises:
            StaleFile: names the file that is damaged or was made from other inputs.
        """
        path = self.file_of(group, name)
        if not path.exists():
            return None
        again = f"Remove it, and untrain audit {self.plan.recipe.folder} --resume makes it anew."
        return load_told(path, self.mark_of(group, name), again)

    def unasked(self, group: str, names: list[str]) -> list[str]:
        """Names the models whose answers are not there."""
        return [name for name in names if self.read_told(group, name) is None]

    def is_done(self, cell: Cell) -> bool:
        """Returns whether the answers that a cell is for are there; an original is for those of every method.

        Raises:
            StaleFile: if answers are there that were made from other inputs, or are damaged.
        """
        models = self.models(cell.group)
        return not self.unasked(cell.group, models if cell.name in (SIGNALS_OF, ORIGINAL) else [cell.name])


def load_told(path: Path, mark: str, again: str) -> Told:
    """Reads what a model told.

    Raises:
        StaleFile: if the file is damaged or its fingerprint is another.
    """
    try:
        found, facts = checkpoints.load_state(path)
    except CheckpointError as error:
        raise StaleFile(f"{str(error).removesuffix(' Get it again.')} {again}") from error
    if facts.get("fingerprint") != mark:
        raise StaleFile(f"{path} was made from other inputs than this audit's. {again}")
    arrays = {key: tensor.numpy() for key, tensor in found.items()}
    correct, planted = arrays.pop("correct", None), arrays.pop("planted", None)
    scores = {key: float(value) for key, value in facts["scores"].items()}
    return Told(arrays, None if correct is None else correct.astype(bool), scores, tuple(facts["notes"]), planted)


def save_told(path: Path, told: Told, mark: str) -> None:
    """Writes what a model told, with the fingerprint of what it was made from."""
    ensure_dir(path.parent)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in told.signals.items()}
    if told.correct is not None:
        tensors["correct"] = torch.from_numpy(told.correct.astype(np.uint8))
    if told.planted is not None:
        tensors["planted"] = torch.from_numpy(told.planted)
    facts = {"fingerprint": mark, "notes": list(told.notes), "scores": dict(told.scores)}
    checkpoints.save(tensors, path, facts)
