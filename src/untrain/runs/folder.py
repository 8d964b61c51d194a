"""A run folder: what it holds, who may write into it, and models that are read from it or made and kept there.

Whoever makes a run, in Python, by a recipe or as a cell of a comparison, keeps it by this code. A model carries a
fingerprint of all that it was made from: one that is there with the right fingerprint is read, one with another is
refused.
"""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from untrain.data.checks import content_hash
from untrain.engine import Engine
from untrain.errors import CheckpointError, FolderError, StaleFile
from untrain.io import ensure_dir, hash_json, write_json, write_text
from untrain.methods.base import Method, Problem
from untrain.methods.loop import Checkpoints, run
from untrain.models import checkpoints as weights
from untrain.models.subject import Subject
from untrain.runs.names import EVALUATION, HISTORY, MANIFEST
from untrain.saliency import density, load_mask, save_mask
from untrain.types import Params, Task

_LIBRARIES = ("torch", "accelerate", "safetensors", "numpy", "scikit-learn")


@dataclass(frozen=True, eq=False)
class KeptModel:
    """A model of a run folder.

    Attributes:
        module: in evaluation mode.
        facts: what the manifest says of it.
        method: with every setting as it was used.
        mask: parameter name → bool tensor of the salient weights; None where the method has none.
        history: what each step logged.
    """

    module: nn.Module
    facts: dict[str, Any]
    method: Method
    mask: Params | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(eq=False)
class RunFolder:
    """A run folder and what is known of its models.

    Attributes:
        path: the folder.
        engine: where its models are made; the main process writes.
        facts: model name → what the manifest says of it.
        processes: as how many processes models are made elsewhere, for one that only reads them; None: as many as here.
        histories: model name → what each step of it logged.
    """

    path: Path
    engine: Engine
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: int | None = None
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def weights(self, name: str) -> Path:
        """Returns the file of a model's weights."""
        return self.path / f"{name}.safetensors"

    def holds(self, name: str) -> bool:
        """Returns whether a model is finished."""
        return self.weights(name).exists()

    def fingerprint(self, method: Method, problem: Problem) -> str:
        """Fingerprints what a method makes of a problem: a hash of all that decides its numbers."""
        processes = self.processes or self.engine.num_processes
        return fingerprint(method, problem, [self.engine.precision, processes])

    def make_model(
        self,
        name: str,
        method: Method,
        problem: Problem,
        *,
        mark: str | None = None,
        save: Callable[[nn.Module], None] | None = None,
        say: Callable[[str], None] = lambda text: None,
        **how: Any,
    ) -> KeptModel:
        """Reads the model called `name` if it was made from the same inputs, else makes it and keeps it here.

        Args:
            name: of its files.
            method: its settings may be open.
            problem: what the method works on.
            mark: its fingerprint; None: that of method and problem.
            save: writes what else belongs to it, before its weights.
            say: a line for the person who waits.
            how: more of `methods.loop.run` (resume, every, evaluate, evaluate_every, callbacks).

        Raises:
            StaleFile: if there is one that is damaged, or was made from other inputs.
        """
        mark, resume_file = mark or self.fingerprint(method, problem), self.path / f"{name}.resume.pt"
        if self.holds(name):
            kept = self.read_model(name, mark, method, problem.subject.module)
            if self.engine.is_main:
                resume_file.unlink(missing_ok=True)  # of a run that was stopped between the two
            return kept
        say(f"[bold]{name}[/bold]: {method.name}")
        start, peak_lr = weights.state_hash(problem.subject.module), problem.subject.peak_lr
        saver = Checkpoints(resume_file, mark, how.pop("resume", True), how.pop("every", 60.0))
        done = run(method, problem, self.engine, checkpoints=saver, title=name, **how)
        mask, module = problem.memo.get("mask"), done.state.module.eval()
        facts = {
            "fingerprint": mark,
            "file": self.weights(name).name,
            "method": method.name,
            "settings": asdict(done.method),
            "notes": problem.notes,
            "mask": None if mask is None else dict(zip(("density", "layers"), density(mask), strict=True)),
            "steps": done.method.updates,
            "seconds": done.seconds,
            "clocks": done.clocks,
            "hash": weights.state_hash(module),
            "started_from": start,
            "peak_lr": peak_lr,
        }
        if self.engine.is_main:
            if mask is not None:
                save_mask(mask, self.path / f"{name}.mask.safetensors", weights_hash=start)
            lines = (json.dumps({"model": name, **record}) + "\n" for record in done.history)
            write_text(self.path / f"{name}.{HISTORY}", "".join(lines))
            if save is not None:
                save(module)
            Subject(module).save(self.weights(name), facts)  # last: where it is, all else is there
            resume_file.unlink(missing_ok=True)
        self.facts[name], self.histories[name] = facts, done.history
        say(f"  {done.seconds:.1f} s" + "".join(f"; {note}" for note in problem.notes))
        self.engine.wait()
        return KeptModel(module, facts, done.method, mask, done.history)

    def read_model(self, name: str, mark: str | None, method: Method | None, module: nn.Module) -> KeptModel:
        """Reads a finished model into a module.

        Args:
            name: of its files.
            mark: the fingerprint that it must have; None: any.
            method: what made it; None: not known.
            module: of its architecture.

        Raises:
            StaleFile: if it is damaged, or was made from other inputs.
        """
        path = self.weights(name)
        try:
            state, facts = weights.load_state(path)
        except CheckpointError as error:
            raise StaleFile(f"{path} is damaged: {error} Remove it, and it is made again.") from error
        if mark is not None and facts.get("fingerprint") != mark:
            raise StaleFile(
                f"{path} was made from other data, weights or settings. Remove it, or choose another --out."
            )
        weights.load_into(module, state)
        self.facts[name], self.histories[name] = facts, self._history(name)
        resolved = method if method is None else type(method).from_settings(facts["settings"])
        return KeptModel(module.eval(), facts, resolved, None, self.histories[name])  # type: ignore[arg-type]

    def read_mask(self, name: str) -> Params | None:
        """Reads a model's mask; None where it has none."""
        facts = self.facts[name]
        if facts.get("mask") is None:
            return None
        return load_mask(self.path / f"{name}.mask.safetensors", weights_hash=facts["started_from"])

    def making_of(self, name: str, recorded: Sequence[str]) -> dict[str, Any]:
        """Returns what evaluation.json holds of how a model was made: these of its facts, None where unknown."""
        facts = self.facts.get(name, {})
        return {key: facts.get(key) for key in recorded} | {"clocks": facts.get("clocks", {})}

    def _history(self, name: str) -> list[dict[str, Any]]:
        path = self.path / f"{name}.{HISTORY}"
        if not path.exists():
            return []
        records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return [{key: value for key, value in record.items() if key != "model"} for record in records]

    def history(self, left_out: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Returns the records of history.jsonl: each step of each model that was made or read, but those left out."""
        return [
            {"model": name, **record}
            for name, records in self.histories.items()
            if name not in left_out
            for record in records
        ]

    def write_manifest(self, about: Mapping[str, Any], left_out: Sequence[str] = ()) -> dict[str, Any]:
        """Writes manifest.json and joins the models' histories into history.jsonl; returns the manifest.

        Args:
            about: the run's seed, data and split.
            left_out: models whose histories are no part of the run's.
        """
        content = {**describe_environment(self.engine), "command": sys.argv[1:], **about, "models": self.facts}
        if self.engine.is_main:
            write_json(self.path / MANIFEST, content)
            lines = (json.dumps(record) + "\n" for record in self.history(left_out))
            write_text(self.path / HISTORY, "".join(lines))
        return content

    def read_facts(self) -> None:
        """Reads what the manifest says of the folder's models, and what their steps logged; nothing where none is yet.

        Raises:
            StaleFile: if it is damaged.
        """
        self.facts = dict(read_manifest(self.path).get("models", {}))
        path = self.path / HISTORY
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            record = json.loads(line)
            self.histories.setdefault(record.pop("model"), []).append(record)


def fingerprint(method: Method, problem: Problem, engine: Sequence[Any]) -> str:
    """Hashes all that decides a model's numbers: settings, seed, batch size, data, weights, precision, processes."""
    sets = (problem.forget, problem.retain, problem.holdout)
    module = problem.subject.module
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return hash_json(
        {
            "method": {"name": method.name, **asdict(method)},
            "seed": problem.seed,
            "weights": weights.state_hash(module),
            "peak_lr": problem.subject.peak_lr,
            "sets": [None if s is None else [content_hash(s), len(s), s.batch_size] for s in sets],
            "engine": list(engine),
            "task": _task_settings(problem.task),
            "trained": None if len(names) == sum(1 for _ in module.parameters()) else names,
        }
    )


def _task_settings(task: Task) -> Any:
    """What of a task can be told: its type, and of a dataclass its fields; of what is no JSON, the type."""
    fields: Any = asdict(task) if is_dataclass(task) and not isinstance(task, type) else {}
    return [type(task).__qualname__, json.loads(json.dumps(fields, default=lambda value: type(value).__qualname__))]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads manifest.json of a run folder; {} where there is none.

    Raises:
        StaleFile: if it is damaged.
    """
    return _read_json(folder / MANIFEST) or {}


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Reads evaluation.json of a run folder; None where there is none.

    Raises:
        StaleFile: if it is damaged.
    """
    return _read_json(folder / EVALUATION)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, ValueError) as error:
        raise StaleFile(f"{path} cannot be read: {error}. Remove it, and it is made again.") from error
    if content is not None and not isinstance(content, dict):
        raise StaleFile(f"{path} does not hold what a run writes. Remove it, and it is made again.")
    return content


def check_folder(folder: Path, *, resume: bool) -> Path:
    """Looks at a run's folder before anything is made; what a stopped process left half-written counts for nothing.

    Raises:
        FolderError: if it holds another run and `resume` was not asked for, or cannot be written.
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise FolderError(f"{folder} cannot be a folder: {error.strerror}. Choose another one.") from error
    if not existing.is_dir():
        raise FolderError(f"{existing} is a file. Choose another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise FolderError(f"{existing} cannot be written: you have no permission. Get it or choose another folder.")
    if existing == folder and not resume and any(not is_temporary(path) for path in folder.iterdir()):
        raise FolderError(f"{folder} already holds a run. Choose another folder, or go on with it: resume=True.")
    return folder


def is_temporary(path: Path) -> bool:
    """Returns whether a file is what a stopped process left half-written; the next one writes it anew."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_temporary(folder: Path) -> None:
    """Removes folders that hold what was computed for a run alone, by their names."""
    for path in folder.iterdir() if folder.exists() else ():
        if is_temporary(path) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def open_folder(folder: Path, engine: Engine) -> RunFolder:
    """Makes a run folder where it is missing."""
    return RunFolder(ensure_dir(folder), engine)


def describe_environment(engine: Engine) -> dict[str, Any]:
    """Returns versions, time, device, precision, processes and threads, as manifests hold them."""
    return {
        "untrain": version("untrain"),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "device": str(engine.device),
        "precision": engine.precision,
        "processes": engine.num_processes,
        "threads": torch.get_num_threads(),
    }
