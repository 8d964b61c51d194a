"""What was measured of models: the one model of results, of a run and of a comparison, in memory and in files.

A run is a comparison with one seed: each measure of each model is a `Stat` over the seeds. What a hand-made file gets
wrong or leaves out counts as missing; a report says what is missing.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from untrain.errors import FolderError, StaleFile, UntrainError
from untrain.reading import check_regular
from untrain.report.audited import AuditedMethod
from untrain.report.words import label_of
from untrain.sealed import check_listed, fits_seal, unsealed

if TYPE_CHECKING:
    from untrain.report.audit_file import AuditReport

EVALUATION, COMPARISON = "evaluation.json", "comparison.json"
ORIGINAL, TARGET = "original", "retrained"
"""The model before, and the one that others are compared with: trained from scratch without the forget set."""
FIRST = "original-first"
"""Of several requests, the model before the first one."""
SPEEDUP = "speedup"
"""Retraining seconds ÷ seconds; shown under the time instead of in a column."""
FEW = 5
"""With fewer values than this, a confidence interval says little, and is flagged."""

Role = Literal["original", "target", "reference", "method"]
Seed = int | str


@dataclass(frozen=True)
class Stat:
    """One measure of one model over the seeds."""

    values: tuple[float | None, ...] = ()
    """One for each seed, None where it is missing."""
    n: int = 0
    """How many values went into the mean."""
    mean: float | None = None
    std: float | None = None
    """Sample standard deviation (n − 1)."""
    interval: tuple[float, float] | None = None
    """95 % confidence interval of the mean, by Student's t."""
    few: bool = False
    """Whether there are fewer than five values, so that the interval says little."""
    difference: float | None = None
    """Mean over the seeds of value − the retrained model's of the same seed."""

    @classmethod
    def of_value(cls, value: float) -> "Stat":
        """Makes the statistic of a single seed."""
        return cls((value,), 1, value, few=True)

    @classmethod
    def of_json(cls, given: Any) -> "Stat":
        """Reads a measure of comparison.json."""
        if (alone := as_number(given)) is not None:
            return cls.of_value(alone)
        given = as_mapping(given)
        values = tuple(as_number(value) for value in as_sequence(given.get("values")))
        mean, counted = as_number(given.get("mean")), sum(value is not None for value in values)
        if mean is None:
            return cls(values, few=given.get("few") is True)
        n = int(as_number(given.get("n")) or counted or 1)
        ends = [as_number(end) for end in as_sequence(given.get("ci95"))]
        interval = (ends[0], ends[1]) if len(ends) == 2 and ends[0] is not None and ends[1] is not None else None
        few = given["few"] if isinstance(given.get("few"), bool) else n < FEW
        return cls(values, n, mean, as_number(given.get("std")), interval, few, as_number(given.get("difference")))


@dataclass(frozen=True)
class Rank:
    """A method's place by one measure; tied where chance alone could separate it from others."""

    rank: int
    tied: bool

    @classmethod
    def of_json(cls, given: Any) -> "Rank | None":
        """Reads a rank of comparison.json; None: not ranked."""
        rank = as_number(as_mapping(given).get("rank"))
        return None if rank is None else cls(int(rank), as_mapping(given).get("tied") is True)

    def __str__(self) -> str:
        """The rank as shown: "2", or "1=" for a tie."""
        return f"{self.rank}=" if self.tied else str(self.rank)


@dataclass(frozen=True)
class SeedCell:
    """One model with one seed: whether it was made, and where."""

    seed: Seed
    state: str
    error: str = ""
    folder: str = ""

    @classmethod
    def of_json(cls, given: Mapping[str, Any]) -> "SeedCell":
        """Reads a cell of comparison.json."""
        words = (given.get(key) for key in ("state", "error", "folder"))
        return cls(_seed(given.get("seed")), *("" if word is None else str(word) for word in words))


@dataclass(frozen=True)
class Entry:
    """One model, over all seeds."""

    name: str
    role: Role
    method: str = ""
    """Its method's name; empty where no method made it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    cells: tuple[SeedCell, ...] = ()
    stats: Mapping[str, Stat] = field(default_factory=dict)
    ranks: Mapping[str, Rank | None] = field(default_factory=dict)
    """Measure → its place among the methods; None: it has none."""
    losses: Mapping[str, Any] = field(default_factory=dict)
    """Histogram of the losses of single samples: "edges", and counts for each set."""
    by_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Measure → class → value."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Of a run: measure that could not be had → why; empty where nobody says."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of a run: whatever else evaluation.json holds of the model: clocks, samples, …"""
    warnings: tuple[str, ...] = ()
    """What casts doubt on it, found when it was made: what is wrong, a colon, and more of it."""

    @classmethod
    def of_json(cls, name: str, given: Mapping[str, Any]) -> "Entry":
        """Reads a model of comparison.json."""
        role, method = given.get("role"), given.get("method")
        known = next((each for each in _ROLES if each == role), None)
        return cls(
            name, known or role_of(name), method if isinstance(method, str) else "", as_mapping(given.get("settings")),
            tuple(SeedCell.of_json(as_mapping(cell)) for cell in as_sequence(given.get("cells"))),
            {str(key): Stat.of_json(value) for key, value in as_mapping(given.get("measures")).items()},
            {str(key): Rank.of_json(value) for key, value in as_mapping(given.get("rank")).items()},
            as_mapping(given.get("losses")), _tables(given.get("by_class")), warnings=_names(given.get("warnings")),
        )  # fmt: skip

    @classmethod
    def of_run(cls, name: str, values: Mapping[str, Any], seed: Seed, manifest: Mapping[str, Any]) -> "Entry":
        """Reads a model of evaluation.json: measure → value, and "missing" with reasons for what could not be had."""
        missing = {str(key): str(reason or "") for key, reason in as_mapping(values.get("missing")).items()}
        facts = {key: value for key, value in values.items() if isinstance(value, Mapping | list) and key not in _OWN}
        stats = {}
        for key, value in values.items():
            if (known := as_number(value)) is not None:
                stats[key] = Stat.of_value(known)
            elif isinstance(value, float):
                missing[key] = missing.get(key) or f"the value was not finite ({value})"
            elif key not in facts and key not in _OWN:
                missing.setdefault(key, "")
        method = manifest.get("method")
        return cls(
            name, role_of(name), method if isinstance(method, str) else "", as_mapping(manifest.get("settings")),
            (SeedCell(seed, "done"),), stats, {}, as_mapping(values.get("losses")), _tables(values.get("by_class")),
            missing, facts, _names(values.get("warnings")) or _names(manifest.get("warnings")),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Returns what comparison.json holds of it."""
        measures = {}
        for key, stat in self.stats.items():
            measures[key] = asdict(stat)
            measures[key]["ci95"] = measures[key].pop("interval")
        cells = [asdict(cell) | {"error": cell.error or None} for cell in self.cells]
        found = {"role": self.role, "method": self.method or None, "settings": self.settings, "cells": cells}
        found |= {"measures": measures, "rank": self.ranks, "losses": self.losses, "by_class": self.by_class}
        return found | ({"warnings": self.warnings} if self.warnings else {})

    @property
    def label(self) -> str:
        """The name as shown."""
        return label_of(self.name)

    @property
    def failed(self) -> tuple[SeedCell, ...]:
        """The cells without a result."""
        return tuple(cell for cell in self.cells if cell.state != "done")

    def stat(self, measure: str) -> Stat:
        """Returns a measure; an empty one where it was not taken."""
        return self.stats.get(measure, Stat())

    def mean(self, measure: str) -> float | None:
        """Returns the mean of a measure over the seeds."""
        return self.stat(measure).mean


_ROLES: tuple[Role, ...] = ("original", "target", "reference", "method")
_OWN = ("missing", "losses", "by_class", "warnings")


@dataclass(frozen=True)
class ForgetSet:
    """All models on one forget set, in the order of the file."""

    name: str
    entries: tuple[Entry, ...]
    spec: Any = None
    """How it was chosen, as JSON."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Samples in each set: "forget", "retain", …"""
    floor: Mapping[str, Stat] = field(default_factory=dict)
    """Noise floor: measure → how far retrained models are from each other."""
    tuning: Mapping[str, Any] = field(default_factory=dict)
    """Method → the trials of its search for settings, as JSON."""
    audits: Mapping[str, AuditedMethod] = field(default_factory=dict)
    """Of a comparison: method → the verdict of the audit of one seed's run; empty where there is none."""
    audited: Mapping[str, Any] = field(default_factory=dict)
    """Of a comparison: of which run the audit is, and how it was made, as JSON."""
    forgotten: tuple[str, ...] = ()
    """Of a run: names of what was to be forgotten, where it has names: classes, prompts, labels."""

    @classmethod
    def of_json(cls, name: str, given: Mapping[str, Any]) -> "ForgetSet":
        """Reads a forget set of comparison.json."""
        entries = (Entry.of_json(str(key), as_mapping(one)) for key, one in as_mapping(given.get("models")).items())
        audited = as_mapping(given.get("audit"))
        audits = {str(k): AuditedMethod.of_json(str(k), v) for k, v in as_mapping(audited.get("verdicts")).items()}
        return cls(
            name, tuple(entries), given.get("spec"), _sizes(given), _floor(given), as_mapping(given.get("tuning")),
            audits, {key: value for key, value in audited.items() if key != "verdicts"},
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Returns what comparison.json holds of it."""
        floor = {key: {"mean": s.mean, "std": s.std, "values": s.values} for key, s in self.floor.items()}
        models = {entry.name: entry.to_json() for entry in self.entries}
        found = {"spec": self.spec, "sizes": self.sizes, "noise_floor": floor, "models": models, "tuning": self.tuning}
        verdicts = {name: audited.to_json() for name, audited in self.audits.items()}
        return found | ({"audit": {**self.audited, "verdicts": verdicts}} if verdicts or self.audited else {})

    def entry(self, name: str) -> Entry | None:
        """Returns a model by its name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def of_role(self, *roles: Role) -> tuple[Entry, ...]:
        """Returns the models of these roles, in order."""
        return tuple(entry for entry in self.entries if entry.role in roles)

    @property
    def original(self) -> Entry | None:
        """The model before anything was forgotten."""
        return next(iter(self.of_role("original")), None)

    @property
    def target(self) -> Entry | None:
        """The retrained model that all are compared with."""
        return next(iter(self.of_role("target")), None)

    @property
    def methods(self) -> tuple[Entry, ...]:
        """What methods made, in the order of the file."""
        return self.of_role("method")

    def before(self, measure: str) -> float | None:
        """Returns the original's mean of a measure; None where there is none."""
        return self.original.mean(measure) if self.original else None

    def aim(self, measure: str) -> float | None:
        """Returns the retrained model's mean of a measure; None where there is none."""
        return self.target.mean(measure) if self.target else None

    def noise(self, measure: str) -> float | None:
        """Returns the noise floor of a measure: how far retrained models are from each other in the mean."""
        return self.floor[measure].mean if measure in self.floor else None

    @property
    def seeds(self) -> int:
        """The largest number of cells that a model has."""
        return max((len(entry.cells) for entry in self.entries), default=0)


@dataclass
class Curve:
    """One value over the steps of a run; step and value lists are of equal length."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass
class Curves:
    """What one run recorded: its curves by name, the forget steps that it skipped, and the forget loss it aimed at."""

    label: str
    series: dict[str, Curve] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    aim: float | None = None

    def append(self, step: int, record: Mapping[str, Any]) -> None:
        """Adds a step's record; a resumed run repeats the steps after its checkpoint, which replaces them."""
        while self.skipped and self.skipped[-1] >= step:
            self.skipped.pop()
        if record.get("skipped") is True:
            self.skipped.append(step)
        for key, value in record.items():
            if key in ("model", "step") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            curve = self.series.setdefault(key, Curve())
            while curve.steps and curve.steps[-1] >= step:
                curve.steps.pop()
                curve.values.pop()
            curve.steps.append(step)
            curve.values.append(float("nan") if (known := as_number(value)) is None else float(known))


@dataclass(frozen=True)
class Results:
    """What was measured in a run, or in a comparison of several.

    Attributes:
        name: of the comparison, of a run's data or of its folder.
        task: what the models do; empty where nobody says. A caller looks its presentation up; nothing here does.
        sets: the forget sets; of a run one.
        seeds: of a comparison, or of the run.
        classes: names of the classes, in the data's order; or the prompts of the evaluation.
        settings: the recipe, as JSON.
        manifest: versions, time, device, and how each model was made.
        history: of a run: model → its curves.
        unreadable: lines of the history that could not be read, for instance the last one of a killed run.
        config: the recipe as text; None: unknown.
        folder: where it is; None: nowhere yet.
        facts: of a run: whatever else evaluation.json holds: judges, samplers, …
        compared: whether it is a comparison.
        measured: whether anything was measured; a run that was not has models, curves and times alone.
        audit: of a run: what its audit found; None: it was not audited.
    """

    name: str
    task: str
    sets: tuple[ForgetSet, ...]
    seeds: tuple[Seed, ...] = ()
    classes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Curves] = field(default_factory=dict)
    unreadable: int = 0
    config: str | None = None
    folder: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    compared: bool = False
    measured: bool = True
    audit: "AuditReport | None" = None

    @classmethod
    def of_run(
        cls,
        evaluation: Mapping[str, Any] | None,
        *,
        manifest: Mapping[str, Any] | None = None,
        history: Iterable[Mapping[str, Any]] = (),
        config: str | None = None,
        folder: Path | None = None,
    ) -> "Results":
        """Makes the results of one run.

        Args:
            evaluation: what evaluation.json holds; None: nothing was measured yet.
            manifest: what manifest.json holds.
            history: the records of history.jsonl, one a step of a model.
            config: the text of config.yaml.
            folder: of the run.

        Raises:
            UntrainError: if there is no model in the evaluation, or without one, in manifest and history.
        """
        manifest, (curves, unreadable) = manifest or {}, curves_of(history)
        made, measured = as_mapping(manifest.get("models")), evaluation is not None
        evaluation = {"models": _unmeasured(made, curves)} if evaluation is None else evaluation
        models = {str(name): as_mapping(values) for name, values in as_mapping(evaluation.get("models")).items()}
        if not models:
            raise UntrainError(
                f"{EVALUATION if folder is None else folder / EVALUATION} holds no model: expected "
                "{'models': {name: {measure: value}}}. Make it again with `untrain evaluate`."
            )
        seed = _seed(manifest.get("seed"))
        entries = (Entry.of_run(name, values, seed, as_mapping(made.get(name))) for name, values in models.items())
        data, split = as_mapping(manifest.get("data")), as_mapping(manifest.get("split"))
        name = data.get("name") or ("run" if folder is None else folder.resolve().name)
        one = ForgetSet(
            "", tuple(entries), split.get("spec"), _sizes(evaluation), _floor(evaluation),
            forgotten=_names(evaluation.get("forgotten")),
        )  # fmt: skip
        return cls(
            str(name), _task(evaluation) or _task(manifest), (one,), (seed,), _names(evaluation.get("classes")),
            as_mapping(evaluation.get("settings")), manifest, curves, unreadable, config, folder,
            {key: value for key, value in evaluation.items() if key not in _NO_FACTS}, measured=measured,
        )  # fmt: skip

    @classmethod
    def of_comparison(
        cls,
        content: Mapping[str, Any],
        *,
        manifest: Mapping[str, Any] | None = None,
        config: str | None = None,
        folder: Path | None = None,
    ) -> "Results":
        """Reads the content of comparison.json.

        Raises:
            UntrainError: if there is no forget set with a model in it.
        """
        given = as_mapping(as_mapping(content).get("forget_sets"))
        sets = tuple(ForgetSet.of_json(str(name), as_mapping(one)) for name, one in given.items())
        sets = tuple(one for one in sets if one.entries)
        if not sets:
            raise UntrainError(
                f"{COMPARISON if folder is None else folder / COMPARISON} holds no model: expected {{'forget_sets': "
                "{name: {'models': {name: …}}}}. Make it again with `untrain compare`."
            )
        name = content.get("name")
        return cls(
            name if isinstance(name, str) and name else "comparison", _task(content), sets,
            tuple(_seed(seed) for seed in as_sequence(content.get("seeds"))), _names(content.get("classes")),
            as_mapping(content.get("settings")), manifest or {}, config=config, folder=folder, compared=True,
        )  # fmt: skip

    @classmethod
    def read(cls, folder: str | Path) -> "Results":
        """Reads the folder of a run or of a comparison.

        Raises:
            FolderError: if there is no such folder.
            UntrainError: if it is neither, or a file that is there cannot be read.
        """
        folder = Path(folder)
        if not os.path.isdir(folder):
            raise FolderError(f"there is no folder {folder}. Give one that `untrain run` or `untrain compare` wrote.")
        command = (
            f"untrain compare {folder} --resume" if (folder / COMPARISON).exists() else f"untrain evaluate {folder}"
        )
        manifest = _read_if_there(folder / "manifest.json", command)
        _check_files(folder, manifest or {}, command)
        config = read_config_text(folder) if (folder / "config.yaml").exists() else None
        if (folder / COMPARISON).exists():
            content = read_json(folder / COMPARISON, command)
            return cls.of_comparison(content, manifest=manifest, config=config, folder=folder)
        evaluation = _read_if_there(folder / EVALUATION, "untrain evaluate")
        history = folder / "history.jsonl"
        if evaluation is None and manifest is None and not history.exists():
            raise UntrainError(
                f"{folder / EVALUATION} is missing, and a report is made from it. Make it with `untrain evaluate`."
            )
        records = read_history(history) if history.exists() else ()
        return cls.of_run(evaluation, manifest=manifest, history=records, config=config, folder=folder)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of comparison.json."""
        found = {"name": self.name, "task": self.task, "seeds": self.seeds, "classes": self.classes}
        sets = {one.name: one.to_json() for one in self.sets}
        return _plain(found | {"settings": self.settings, "forget_sets": sets})

    def manifest_of(self, name: str) -> Mapping[str, Any]:
        """Returns what the manifest says of how a model was made."""
        return as_mapping(as_mapping(self.manifest.get("models")).get(name))


_NO_FACTS = (
    *("task", "classes", "models", "settings", "sizes", "noise_floor", "forgotten"),
    *("mark", "fingerprint", "warnings"),
)


def task_of(folder: str | Path) -> str | None:
    """Returns the task that a run's or a comparison's folder names; None where it names none.

    Raises:
        UntrainError: if a file that should name it cannot be read.
    """
    for name in (COMPARISON, EVALUATION, "manifest.json"):
        if found := _task(_read_if_there(Path(folder) / name, "untrain run") or {}):
            return found
    return None


def curves_of(records: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Curves], int]:
    """Collects the curves of each model from the records of its steps; counts records without model or step."""
    found: dict[str, Curves] = {}
    unreadable = 0
    for record in records:
        try:
            name, step = str(record["model"]), int(record["step"])
        except (ValueError, TypeError, KeyError, OverflowError):
            unreadable += 1
            continue
        found.setdefault(name, Curves(label_of(name))).append(step, record)
    return found, unreadable


def role_of(name: str) -> Role:
    """Returns what a model is by its name: original, target, another retrained model, or made by a method."""
    if name in (ORIGINAL, FIRST, TARGET):
        return "target" if name == TARGET else "original"
    return "reference" if re.fullmatch(rf"{TARGET}-\d+", name) else "method"


# Files.


def read_text(path: Path) -> str:
    """Reads the text of a file; bytes that are not UTF-8 become replacement characters.

    Raises:
        UntrainError: if it cannot be read.
    """
    try:
        check_regular(path)
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UntrainError(f"cannot read {path}: {error.strerror or error}. Give yourself the permission.") from None


def read_json(path: Path, command: str) -> Mapping[str, Any]:
    """Reads the object in a JSON file, which `command` makes.

    Raises:
        UntrainError: if it cannot be read or holds something else.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UntrainError(f"{path} is not JSON ({error}). Make it again with `{command}`.") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UntrainError(f"{path} must hold one JSON object, not a {kind}. Make it again with `{command}`.")
    if not fits_seal(content):
        raise StaleFile(
            f"{path} is damaged or was changed after it was written: its content does not fit its hash. Make it again "
            f"with `{command}`."
        )
    return content


def read_config_text(folder: Path) -> str:
    """Reads the text of config.yaml, without the hash below it.

    Raises:
        StaleFile: if it was changed since it was written.
    """
    path = folder / "config.yaml"
    text = unsealed(read_text(path))
    if text is None:
        raise StaleFile(
            f"{path} is damaged or was changed since it was written: its lines do not fit the hash below them. Remove "
            "it, and the page is made without it."
        )
    return text


def _check_files(folder: Path, manifest: Mapping[str, Any], command: str) -> None:
    """Compares the files that a page is made from with the hashes that the manifest notes."""
    files = as_mapping(manifest.get("files"))
    for name in files:
        if name.startswith(("snapshots/", "detections/")) or name == "config.yaml":
            remedy = "Remove it, and the page is made without it."
        else:
            remedy = f"Remove it, and `{command}` makes it anew."
        if (folder / name).is_file():
            check_listed(folder / name, files, name, remedy)


def read_history(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the records of a history, line by line; an empty one for each line that cannot be read.

    Raises:
        UntrainError: if the file cannot be read.
    """
    try:
        check_regular(path)
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip():
                    try:
                        yield as_mapping(json.loads(line))
                    except (ValueError, RecursionError):
                        yield {}
    except OSError as error:
        raise UntrainError(f"cannot read {path}: {error.strerror or error}. Give yourself the permission.") from None


def _read_if_there(path: Path, command: str) -> Mapping[str, Any] | None:
    return read_json(path, command) if path.exists() else None


# What a hand-made file gets wrong counts as missing.


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Returns the value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_sequence(value: Any) -> Sequence[Any]:
    """Returns the value if it is a list or tuple, else an empty one."""
    return value if isinstance(value, list | tuple) else ()


def as_number(value: Any) -> float | None:
    """Returns the value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None  # a longer integer fits no float


def as_numbers(value: Any) -> dict[str, float]:
    """Returns the numbers of a mapping by name; empty where it is none."""
    return {str(key): known for key, one in as_mapping(value).items() if (known := as_number(one)) is not None}


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it: objects as their fields, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _tables(given: Any) -> dict[str, dict[str, float]]:
    return {str(key): as_numbers(values) for key, values in as_mapping(given).items()}


def _sizes(given: Mapping[str, Any]) -> dict[str, int]:
    return {key: int(size) for key, size in as_numbers(given.get("sizes")).items()}


def _floor(given: Mapping[str, Any]) -> dict[str, Stat]:
    found = {str(key): Stat.of_json(value) for key, value in as_mapping(given.get("noise_floor")).items()}
    return {key: stat for key, stat in found.items() if stat.mean is not None}


def _names(given: Any) -> tuple[str, ...]:
    return tuple(str(name) for name in as_sequence(given))


def _task(content: Mapping[str, Any]) -> str:
    task = content.get("task")
    return task if isinstance(task, str) else ""


def _seed(given: Any) -> Seed:
    return given if isinstance(given, int) and not isinstance(given, bool) else "" if given is None else str(given)


def _unmeasured(made: Mapping[str, Any], curves: Mapping[str, Curves]) -> dict[str, dict[str, Any]]:
    """Returns what manifest and history know of models that an evaluation would hold too: their times and steps."""
    keys = ("seconds", "clocks", "steps")
    found = {name: {key: one[key] for key in keys if key in one} for name in made if (one := as_mapping(made[name]))}
    return found or {name: {} for name in curves}
