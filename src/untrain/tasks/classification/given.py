"""The model that a recipe is given: what is the original, which classes are meant, how images are prepared for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from untrain.data.classes import Matching, match_classes, number_positions
from untrain.data.geometry import Geometry
from untrain.data.sections import Data
from untrain.data.source import Source
from untrain.errors import CheckpointError, SettingError, UnknownName
from untrain.models import checkpoints
from untrain.models.image_processors import Preparation, read_preparation
from untrain.models.pretrained import read_object
from untrain.models.pretrained_classifiers import PretrainedClassifier, fetch_classifier, find_classifier
from untrain.runs.folder import read_evaluation, read_manifest
from untrain.runs.models import checked_folder, is_run
from untrain.tasks.classification.sections import Model

DEFAULT_MODEL = "small-cnn"
"""What is built where a recipe names no model."""
LOOKED_AT = 512
"""Training samples that tell whether a model knows its classes: their accuracy is right to about 2 points."""
_FAR_BELOW = 20.0
"""Points below what a checkpoint says of itself, from which something is wrong with data or preparation."""


@dataclass(frozen=True)
class Prepared:
    """How a recipe's images are prepared.

    Attributes:
        geometry: how they are brought to one size; None: as the section data says.
        statistics: "mean" and "std" of each channel; None: as the section says, or the images are.
        processor: of transformers, that does the same; None: there is none, or the recipe says otherwise.
        notes: what was taken, as sentences.
    """

    geometry: Geometry | None = None
    statistics: dict[str, Any] | None = None
    processor: Any = None
    notes: list[str] = field(default_factory=list)

    def of(self, task: Any) -> Preparation:
        """As it is written beside a model."""
        return Preparation(self.geometry, tuple(task.mean), tuple(task.std), self.processor)


@dataclass(frozen=True)
class GivenModel:
    """What a recipe's model is given from elsewhere.

    Attributes:
        section: of the recipe.
        deployed: the original, where it is a classifier of transformers.
        base: the classifier whose weights the model's name brings.
        labelled: which of them has the outputs of the original; None: these are the data's classes.
        notes: what was taken for granted, as sentences.
    """

    section: Model
    deployed: PretrainedClassifier | None = None
    base: PretrainedClassifier | None = None
    labelled: PretrainedClassifier | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path | None:
        """The folder that says how images are prepared."""
        known = self.deployed or self.base
        return None if known is None else known.folder

    @property
    def starts_anew(self) -> bool:
        """Whether models are built from the original's configuration, with new weights."""
        return self.deployed is not None and (self.base is None or self.base.is_in(self.deployed.folder))

    @property
    def start_of_references(self) -> str:
        """What retrained models start from, in words."""
        if self.starts_anew:
            return "new weights: those that are given have seen what is to be forgotten"
        return (
            f"the weights of {self.section.name}, as the original is taken to have done: these must not have seen what "
            "is to be forgotten"
        )

    # Classes.

    def match(self, source: Source) -> Matching:
        """Finds which of the model's outputs the data's classes are.

        Raises:
            UnknownName: if one of them is none. DataError: if two are one.
        """
        if self.labelled is None:
            return self._own_classes(source)
        names, chosen = self.labelled.labels, self.section.labels
        if names is not None:
            return match_classes(source.classes, names, chosen, remedy=_REMEDY)
        return _match_unnamed(source.classes, self.labelled.outputs, chosen)

    def _own_classes(self, source: Source) -> Matching:
        """Outputs that have the data's order."""
        if self.section.labels:
            raise SettingError("model.labels says which of a given model's classes are meant: this model has no names.")
        notes, odd = [], number_positions(source.classes)
        if self.section.original is not None and odd is not None:
            notes.append(
                f"{odd}; the checkpoint is taken to have them in this order, as torchvision's ImageFolder does"
            )
        return Matching(tuple(range(len(source.classes))), tuple(source.classes), notes)

    # Images.

    def preparation(self, data: Data) -> Prepared:
        """Returns how images are prepared: as the recipe says, else as the model's image processor does.

        Raises:
            CheckpointError: if that does what the recipe cannot say, and the recipe does not say otherwise.
        """
        known = self.deployed or self.base
        if known is None:
            squared = (self.section.name or "").startswith("hf-config:") and data.image_size is not None
            return Prepared(_square(data.image_size) if squared else None)
        says_all = None not in (data.image_size, data.mean, data.std)
        try:
            theirs = read_preparation(known.folder, known.channels)
        except CheckpointError as error:
            if not says_all:
                raise
            return Prepared(_square(data.image_size), notes=[f"{error} The recipe says it."])
        if theirs is None:
            notes = [] if says_all else [f"{known.place} has no image processor: images are prepared as data says"]
            return Prepared(None if data.image_size is None else _square(data.image_size), notes=notes)
        return _combined(data, theirs)


_REMEDY = "Say in model.labels which is which, {the data's class: the model's class or its number}."


def given_model(section: Model) -> GivenModel:
    """Finds what a recipe's model is given.

    Raises:
        SettingError: if the section contradicts itself. CheckpointError: if something in it is not what it should be.
    """
    if section.train is not None and section.starts_from is None:
        raise SettingError(
            "model.train is of models called hf:PATH_OR_ID, whose weights can be the original as they are."
        )
    if section.train and section.checkpoint is not None:
        raise SettingError(
            "model.train trains what model.name brings, model.checkpoint gives what is trained: give one."
        )
    base = None if section.starts_from is None else fetch_classifier(section.starts_from, section.options)
    if section.checkpoint is None:
        deployed = base if section.original is not None else None
        notes = [] if deployed is None else [_DEPLOYED.format(section.name)]
        return GivenModel(section, deployed, base, deployed, notes)
    deployed = find_classifier(section.checkpoint, section.options)
    if deployed is None:
        fits = base is not None and _fits(base, section)
        return GivenModel(section, None, base, base if fits else None)
    if section.entry is not None:
        raise SettingError("model.entry chooses within a torch file; model.checkpoint is a folder of transformers.")
    if section.name is not None and not section.name.startswith(("hf:", "hf-config:")):
        raise SettingError(
            f"model.checkpoint, {section.checkpoint}, says itself what the model is: leave model.name out."
        )
    if is_run(deployed.folder.parent):
        checked_folder(deployed.folder.parent, deployed.folder.name)
    return GivenModel(section, deployed, base, deployed)


_DEPLOYED = (
    "the original is {} as it is, and is not trained: a section train, or model.train: true, would train it first"
)


def _fits(base: PretrainedClassifier, section: Model) -> bool:
    """Whether a file of weights has the shapes of a folder's model, its last layer included."""
    state, _ = checkpoints.load_state(str(section.checkpoint), section.entry)
    with torch.device("meta"):
        module = base.new(0)
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    return all(state[name].shape == shape for name, shape in own.items() if name in state)


def _match_unnamed(classes: tuple[str, ...], outputs: int, chosen: Mapping[str, Any]) -> Matching:
    """The classes of data among outputs that have no names (LABEL_0, LABEL_1, …)."""
    labels = [f"LABEL_{number}" for number in range(outputs)]
    if chosen:
        found = match_classes(classes, labels, chosen, remedy=_REMEDY)
        called = dict(zip(found.numbers, classes, strict=True))
        return Matching(found.numbers, tuple(called.get(n, labels[n]) for n in range(outputs)), found.notes)
    if len(classes) == outputs:
        odd = number_positions(classes)
        order = ", ".join(f"{number} is {name!r}" for number, name in enumerate(classes[:3]))
        more = "" if outputs <= 3 else ", …"
        notes = [f"the model has no names for its classes; they are taken in the order of the data: {order}{more}"]
        return Matching(tuple(range(outputs)), tuple(classes), notes + ([] if odd is None else [odd]))
    if all(name.isdecimal() and int(name) < outputs for name in classes):
        return match_classes(classes, tuple(map(str, range(outputs))), remedy=_REMEDY)
    raise UnknownName(
        f"the model tells {outputs} classes apart and has no names for them, the data have {len(classes)}: "
        f"{', '.join(map(repr, classes[:3]))}{' …' if len(classes) > 3 else ''}. {_REMEDY}"
    )


def _square(size: int | None) -> Geometry | None:
    return None if size is None else Geometry(size, (size, size))


def _combined(data: Data, theirs: Preparation) -> Prepared:
    """The processor's preparation with what the recipe says otherwise."""
    notes, geometry = [], theirs.geometry
    size = data.image_size
    if size is not None and (geometry is None or geometry.size != (size, size)):
        notes.append(f"data.image_size is {size}; the model's image processor has {geometry or 'images as they are'}")
        geometry = Geometry(size, (size, size), 2 if geometry is None else geometry.resample)
    statistics = {"mean": theirs.mean, "std": theirs.std}
    for name, own in statistics.items():
        said = getattr(data, name)
        if said is not None and tuple(said) != own:
            notes.append(f"data.{name} is {_rounded(said)}; the model's image processor has {_rounded(own)}")
            statistics[name] = tuple(said)
    return Prepared(geometry, statistics, None if notes else theirs.processor, notes)


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


# ── whether a given original knows its classes ──────────────────────────────────────────────────────────────────


def facts_of_run(folder: Path) -> dict[str, Any]:
    """What a run says of a model whose folder lies in it: how it was trained, its accuracy on what it kept, in %."""
    run, name = folder.parent, folder.name
    if not is_run(run):
        return {}
    made = read_manifest(run).get("models", {}).get(name, {})
    facts = {key: made[key] for key in ("peak_lr", "seconds") if made.get(key) is not None}
    measured = ((read_evaluation(run) or {}).get("models") or {}).get(name) or {}
    return facts | ({"accuracy": measured["RA"]} if measured.get("RA") is not None else {})


def told_accuracy(folder: Path) -> float | None:
    """The accuracy that transformers' Trainer noted in a model's folder, in %."""
    for name in ("all_results.json", "eval_results.json"):
        value = read_object(folder / name).get("eval_accuracy") if (folder / name).is_file() else None
        if isinstance(value, int | float) and 0 < value <= 1:
            return 100.0 * value
    return None


def warn_of_accuracy(found: float, classes: int, told: float | None) -> list[str]:
    """Says where an original knows its training data no better than chance, or far worse than it should.

    Args:
        found: its accuracy on training samples, in %.
        classes: in these samples.
        told: what its training says, in %; None: nothing.
    """
    wrong = (
        "its classes may be others, or its images prepared otherwise: look at model.labels, data.image_size, mean, std"
    )
    if classes > 1 and found <= 100 / classes:
        return [f"the original is right on {found:.1f} % of its training data, no better than chance: {wrong}"]
    if told is not None and found < told - _FAR_BELOW:
        return [f"the original is right on {found:.1f} % of its training data, where it says {told:.1f} %: {wrong}"]
    return []
