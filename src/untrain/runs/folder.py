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
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from untrain.engine import Engine
from untrain.errors import (
    CheckpointError,
    DataError,
    FolderError,
    SettingError,
    StaleFile,
    UnlearningWarning,
    spell,
)
from untrain.folders import is_temporary, was_written
from untrain.io import hash_file, hash_json, write_text
from untrain.methods.base import Method, Problem
from untrain.methods.loop import Checkpoints, run
from untrain.models import checkpoints as weights
from untrain.models.changed_values import bytes_of_state, changed_values, put_values_
from untrain.models.kinds import plain_module
from untrain.models.lora import LoRA, add_factors_, check_loaded, form_of, read_factors, save_lora, write_factors
from untrain.models.subject import Subject
from untrain.reading import parse_json, read_text
from untrain.report import Presentation, Results
from untrain.runs.names import CONFIG, EVALUATION, HISTORY, MANIFEST, ORIGINAL, SPLIT
from untrain.saliency import density, load_mask, save_mask
from untrain.sealed import check_listed, read_sealed, write_sealed
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
        lora: what its adapters learned, which is in the module's weights; None where it trained the weights.
    """

    module: nn.Module
    facts: dict[str, Any]
    method: Method
    mask: Params | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    lora: LoRA | None = None


@dataclass(frozen=True, eq=False)
class DeltaBase:
    """The weights that a method begins from, to which a run folder keeps what it changed.

    Attributes:
        module: has them, in any type; nothing in it is changed.
        place: where they can be read: a file's name in the run folder, a path, a hub id, or words.
        entry: of a torch file, which of its entries holds them; None: the one that does.
    """

    module: nn.Module
    place: str
    entry: str | int | None = None


WORTH = 0.75
"""A delta that takes more than this share of the model's bytes is not worth depending on another file: the model is
kept."""


@dataclass(eq=False)
class RunFolder:
    """A run folder and what is known of its models.

    Attributes:
        path: the folder.
        engine: where its models are made; the main process writes.
        facts: model name → what the manifest says of it.
        processes: as how many processes models are made elsewhere, for one that only reads them; None: as many as here.
        histories: model name → what each step of it logged.
        command: what makes anew what is missing in it, for messages; None: the run that is kept in it, gone on with.
    """

    path: Path
    engine: Engine
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: int | None = None
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    command: str | None = None

    @property
    def remake(self) -> str:
        """What makes anew what is missing in it."""
        return self.command or f"untrain run {self.path} --resume"

    def weights(self, name: str) -> Path:
        """Returns the file of a model's weights."""
        return self.path / f"{name}.safetensors"

    def holds(self, name: str) -> bool:
        """Returns whether a model is finished."""
        return self.weights(name).exists()

    def holds_change(self, name: str) -> bool:
        """Returns whether a model is kept as what changed alone, of the weights that it began from.

        Raises:
            StaleFile: if its file is damaged, or gone.
        """
        try:
            facts = weights.read_facts(self.weights(name))
        except CheckpointError as error:
            raise StaleFile(f"{str(error).removesuffix(' Get it again.')} {self._again}") from error
        return "lora" in facts or "delta" in facts

    @property
    def _again(self) -> str:
        return f"Remove it, and {self.remake} makes it anew."

    def inputs(self, method: Method, problem: Problem) -> dict[str, Any]:
        """Returns all that decides the numbers of what a method makes of a problem, as JSON."""
        engine = self.engine
        parts: list[int | str] = []  # nothing is said where it is not used, as ever
        parts += [] if engine.microbatch is None else [engine.microbatch]
        parts += ["fsdp"] if engine.fsdp else []
        return inputs_of(method, problem, [engine.precision, self.processes or engine.num_processes, *parts])

    def fingerprint(self, method: Method, problem: Problem) -> str:
        """Fingerprints what a method makes of a problem: a hash of all that decides its numbers."""
        return hash_json(self.inputs(method, problem))

    def make_model(
        self,
        name: str,
        method: Method,
        problem: Problem,
        *,
        inputs: Mapping[str, Any] | None = None,
        save: Callable[[nn.Module], bool | None] | None = None,
        say: Callable[[str], None] = lambda text: None,
        part: str = "",
        base: DeltaBase | None = None,
        **how: Any,
    ) -> KeptModel:
        """Reads the model called `name` if it was made from the same inputs, else makes it and keeps it here.

        Args:
            name: of its files.
            method: its settings may be open.
            problem: what the method works on.
            inputs: all that decides its numbers; None: that of method and problem.
            save: writes what else belongs to it, into a folder of its name, before its weights, and returns whether
                that is the whole model; of adapters these are written there, for diffusers or peft, in the place of
                that. None: nothing else belongs to it.
            say: a line for the person who waits.
            part: what a pipeline calls the module, in the names of its adapters; "": it is no part of one.
            base: the weights that it begins from: what changed of them is kept, where that is clearly smaller than the
                model, and where `save`, if there is one, wrote the whole model. None: the model is kept.
            how: more of `methods.loop.run` (resume, every, evaluate, evaluate_every, callbacks).

        Raises:
            StaleFile: if there is one that is damaged, or was made from other inputs.
        """
        inputs, resume_file = inputs or self.inputs(method, problem), self.path / f"{name}.resume.pt"
        if self.holds(name):
            kept = self.read_model(name, inputs, method, problem.subject.module)
            if self.engine.is_main:
                resume_file.unlink(missing_ok=True)  # of a run that was stopped between the two
                if (save is not None or kept.lora is not None) and self._lacking(name):
                    say(f"{name}: its folder is written again")
                    whole = self._write_own(name, kept.module, kept.lora, part, save)
                    kept.facts["files"] = self._files(name)
                    before = base if whole and "delta" in kept.facts else None
                    self._write(name, kept.module, kept.facts, kept.lora, part, before)
            return kept
        say(f"[bold]{name}[/bold]: {method.name}")
        start, peak_lr = weights.state_hash(problem.subject.module), problem.subject.peak_lr
        saver = Checkpoints(resume_file, hash_json(inputs), how.pop("resume", True), how.pop("every", 60.0))
        done = run(method, problem, self.engine, checkpoints=saver, title=name, **how)
        mask, module = problem.memo.get("mask"), done.state.module.eval()
        facts: dict[str, Any] = {
            "fingerprint": hash_json(inputs),
            "made_from": _short_hashes(inputs),
            "file": self.weights(name).name,
            "method": method.name,
            "settings": asdict(done.method),
            "notes": problem.notes,
            "warnings": problem.warnings,
            "aim": done.aim,
            "mask": None if mask is None else dict(zip(("density", "layers"), density(mask), strict=True)),
            "steps": done.method.updates,
            "seconds": done.seconds,
            "clocks": done.clocks,
            "hash": weights.state_hash(module),
            "started_from": start,
            **({} if done.lora is None else {"adapters": asdict(problem.subject.adapters)}),  # type: ignore[arg-type]
            "peak_lr": peak_lr,
            "threads": torch.get_num_threads(),
        }
        if self.engine.is_main:
            if mask is not None:
                save_mask(mask, self._mask(name), weights_hash=start)
            lines = (json.dumps({"model": name, **record}) + "\n" for record in done.history)
            write_text(self._own_history(name), "".join(lines))
            whole = self._write_own(name, module, done.lora, part, save)
            facts["files"] = self._files(name)
            before = base if whole or save is None else None
            self._write(name, module, facts, done.lora, part, before)  # last: where it is, all else is there
            resume_file.unlink(missing_ok=True)
        self.facts[name], self.histories[name] = facts, done.history
        noted = [note for note in problem.notes if note not in problem.warnings]  # these have been said already
        say(f"  {done.seconds:.1f} s" + "".join(f"; {note}" for note in noted))
        self.engine.wait()
        return KeptModel(module, facts, done.method, mask, done.history, done.lora)

    def _write_own(
        self,
        name: str,
        module: nn.Module,
        lora: LoRA | None,
        part: str,
        save: Callable[[nn.Module], bool | None] | None,
    ) -> bool:
        """Writes a model's own folder, which its library loads: of adapters these alone; whether it is the model."""
        if lora is not None:
            form = form_of(module, part)
            check_loaded(lora, module, save_lora(lora, self.path / name, form=form, part=part), form, part)
            return False
        return save is not None and bool(save(module))

    def _write(
        self,
        name: str,
        module: nn.Module,
        facts: dict[str, Any],
        lora: LoRA | None,
        part: str,
        base: DeltaBase | None,
    ) -> None:
        """Writes a model, or what changed alone, which with what it began from gives its weights to the bit."""
        facts.pop("delta", None)
        if lora is not None:
            write_factors(lora, self.weights(name), part, facts)
            return
        values = None if base is None else _worthwhile_delta(base, module)
        if base is None or values is None:
            Subject(module).save(self.weights(name), facts, content=facts["hash"])
            return
        facts["delta"] = {"original": base.place} | ({} if base.entry is None else {"entry": base.entry})
        weights.save(values, self.weights(name), facts)

    def keep_whole(self, name: str, module: nn.Module, save: Callable[[nn.Module], bool | None] | None) -> None:
        """Puts a model in the place of what changed alone, so that the weights that it began from may go.

        Args:
            name: of its files.
            module: as it was read from there.
            save: as of `make_model`; not called where the model has a folder of its own.
        """
        facts, manifest = dict(self.facts[name]), read_manifest(self.path)
        for key in ("lora", "base"):
            facts.pop(key, None)
        if save is not None and not (self.path / name).is_dir():
            save(module)
            facts["files"] = self._files(name)
        self._write(name, module, facts, None, "", None)
        self.facts[name] = facts
        if manifest:
            write_sealed(self.path / MANIFEST, {**manifest, "models": {**manifest.get("models", {}), name: facts}})

    def read_model(
        self, name: str, inputs: Mapping[str, Any] | None, method: Method | None, module: nn.Module
    ) -> KeptModel:
        """Reads a finished model into a module.

        Args:
            name: of its files.
            inputs: what it must have been made from; None: anything.
            method: what made it; None: not known.
            module: of its architecture; where the file holds what changed alone, with the weights that it began from.

        Raises:
            StaleFile: if it is damaged, or was made from other inputs.
        """
        path, again = self.weights(name), self._again
        try:
            state, facts = weights.load_state(path, whole=False)
        except CheckpointError as error:
            raise StaleFile(f"{str(error).removesuffix(' Get it again.')} {again}") from error
        if inputs is not None and facts.get("fingerprint") != hash_json(inputs):
            raise StaleFile(self._other_inputs(name, facts, inputs))
        known = self.facts.get(name, {}).get("hash")
        if inputs is None and known not in (None, facts.get("hash")):
            raise StaleFile(f"{path} is not the model that {MANIFEST} tells of. {again}")
        try:
            lora = _load(state, facts, module)
            resolved = method if method is None else type(method).from_settings(facts["settings"])
        except (CheckpointError, SettingError, LookupError, TypeError, ValueError) as error:
            raise StaleFile(f"{path} does not hold what a run writes: {error} {again}") from error
        check_files(self.path, name, facts, self.remake)
        self.facts[name], self.histories[name] = facts, self._history(name)
        histories = self.histories[name]
        return KeptModel(module.eval(), facts, resolved, None, histories, lora)  # type: ignore[arg-type]

    def _other_inputs(self, name: str, facts: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
        """Says what a model was made from that is not as it is now."""
        before, now = facts.get("made_from", {}), _short_hashes(inputs)
        changed = [_WORDS.get(key, key) for key in now if before.get(key) != now[key]]
        what = "other inputs" if not before else f"other {' and '.join(dict.fromkeys(changed))}"
        other = f"choose another folder ({spell('--out', 'out=')})"
        remedy = f"Ask for the same, {other}, or remove it to have it made anew."
        if before and before.get("weights") != now.get("weights") and name != ORIGINAL:
            remedy = (
                f"The model that it began from has changed since: put {ORIGINAL}.safetensors, or the checkpoint given, "
                f"back as it was, or {other}."
            )
        return f"{self.weights(name)} was made from {what} than what is asked for now. {remedy}"

    # What belongs to a model besides its weights.

    def _mask(self, name: str) -> Path:
        return self.path / f"{name}.mask.safetensors"

    def _own_history(self, name: str) -> Path:
        return self.path / f"{name}.{HISTORY}"

    def _files(self, name: str) -> dict[str, str]:
        """The hash of each file that belongs to a model, by its path within the folder."""
        inside = sorted(path for path in (self.path / name).rglob("*") if path.is_file())
        own = [path for path in (self._mask(name), self._own_history(name)) if path.exists()]
        return {path.relative_to(self.path).as_posix(): hash_file(path) for path in (*own, *inside)}

    def _lacking(self, name: str) -> list[str]:
        """Which files of a model's own folder are gone."""
        listed = self.facts[name].get("files", {})
        return [file for file in listed if file.startswith(f"{name}/") and not (self.path / file).exists()]

    def read_mask(self, name: str) -> Params | None:
        """Reads a model's mask; None where it has none."""
        facts = self.facts[name]
        if facts.get("mask") is None:
            return None
        if not self._mask(name).exists():
            warnings.warn(f"{self._mask(name)} is gone: the mask of {name} is not known any more.", stacklevel=2)
            return None
        return load_mask(self._mask(name), weights_hash=facts["started_from"])

    def making_of(self, name: str, recorded: Sequence[str]) -> dict[str, Any]:
        """Returns what evaluation.json holds of how a model was made: these of its facts, None where unknown."""
        facts = self.facts.get(name, {})
        made = {key: facts.get(key) for key in recorded} | {"clocks": facts.get("clocks", {})}
        return made | ({"warnings": facts["warnings"]} if facts.get("warnings") else {})

    def _history(self, name: str) -> list[dict[str, Any]]:
        path = self._own_history(name)
        if not path.exists():
            if path.name in self.facts.get(name, {}).get("files", {}):
                warnings.warn(f"{path} is gone: the report shows no curve of {name}.", stacklevel=2)
            return []
        return [
            {key: value for key, value in record.items() if key != "model"}
            for record in _records(path, "Remove it to go on without it: it is a record, and the model is whole.")
        ]

    def history(self, left_out: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Returns the records of history.jsonl: each step of each model that was made or read, but those left out."""
        return [
            {"model": name, **record}
            for name, records in self.histories.items()
            if name not in left_out
            for record in records
        ]

    def write_manifest(self, about: Mapping[str, Any], left_out: Sequence[str] = ()) -> dict[str, Any]:
        """Joins the models' histories into history.jsonl and writes manifest.json; returns the manifest.

        Args:
            about: the run's seed, data and split.
            left_out: models whose histories are no part of the run's.
        """
        content = {**describe_environment(self.engine), "command": sys.argv[1:], **about, "models": self.facts}
        if self.engine.is_main:
            lines = (json.dumps(record) + "\n" for record in self.history(left_out))
            write_text(self.path / HISTORY, "".join(lines))
            content["files"] = list_files(self.path)
            write_sealed(self.path / MANIFEST, content)
        return content

    def read_facts(self) -> None:
        """Reads what the manifest says of the folder's models, and what their steps logged; nothing where none is yet.

        Raises:
            StaleFile: if it is damaged.
        """
        manifest = read_manifest(self.path)
        self.facts = dict(manifest.get("models", {}))
        path = self.path / HISTORY
        if path.exists():
            remedy = f"Remove it, and {self.remake} makes it anew from those of each model."
            check_listed(path, manifest.get("files", {}), HISTORY, remedy)
            for record in _records(path, remedy):
                self.histories.setdefault(str(record.pop("model", "")), []).append(record)


def _load(state: weights.State, facts: Mapping[str, Any], module: nn.Module) -> LoRA | None:
    """Brings a module to what a file holds; returns the adapters that it is made of."""
    if "lora" not in facts and "delta" not in facts:
        weights.load_into(module, state)
        return None
    if weights.state_hash(module) != facts.get("started_from"):
        raise CheckpointError("it holds what changed of other weights than those that the run begins from.")
    lora = read_factors(state, facts, module) if "lora" in facts else None
    if lora is None:
        put_values_(weights.plain_state(module), state)
    else:
        add_factors_(module, lora.factors)
    if weights.state_hash(module) != facts.get("hash"):
        raise CheckpointError("with what it holds the weights are not those that were made.")
    return lora


def _worthwhile_delta(base: DeltaBase, module: nn.Module) -> weights.State | None:
    """What a module changed, by name; None where that takes nearly the bytes of the model, or names are others."""
    before, after = (weights.plain_state(plain_module(each)) for each in (base.module, module))
    if not all(isinstance(tensor, torch.Tensor) for tensor in (*before.values(), *after.values())):
        return None
    if {name: tensor.shape for name, tensor in before.items()} != {name: t.shape for name, t in after.items()}:
        return None
    values, _ = changed_values(before, after)
    return values if bytes_of_state(values) <= WORTH * bytes_of_state(after) else None


def check_files(folder: Path, name: str, facts: Mapping[str, Any], remake: str) -> None:
    """Compares what belongs to a model, besides its weights, with the hashes noted for it; what is gone is said later.

    Args:
        folder: of the run.
        name: of the model.
        facts: what its weights' file, or the manifest, says of it.
        remake: what makes anew what is missing.

    Raises:
        StaleFile: names the file.
    """
    for file, digest in facts.get("files", {}).items():
        path = folder / file
        if path.is_file():
            record = "Remove it to go on without it: it is a record, and the model is whole."
            remedy = f"Remove the folder {folder / name}, and {remake} writes it again."
            check_listed(path, {file: digest}, file, remedy if file.startswith(f"{name}/") else record)


def _records(path: Path, remedy: str) -> list[dict[str, Any]]:
    """The records of a history, one a line.

    Raises:
        StaleFile: if it is damaged.
    """
    try:
        records = [parse_json(line) for line in read_text(path).splitlines()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line is no record")
    except (DataError, ValueError) as error:
        raise StaleFile(f"{path} is damaged: {error}. {remedy}") from error
    return records


_LISTED = (CONFIG, SPLIT, EVALUATION, HISTORY, "grids/*", "snapshots/*", "detections/*")
"""Files of a run that commands read again, beside those of its models."""


def list_files(folder: Path, patterns: Sequence[str] = _LISTED) -> dict[str, str]:
    """Returns the hash of each file of a run that commands read again, for the manifest.

    A file that this process did not write keeps the hash that was noted when it was written: had it been damaged since,
    a new one would make it good.
    """
    before = read_manifest(folder).get("files", {})
    found = (path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found if not is_temporary(path.name)}
    return {n: before[n] if n in before and not was_written(path) else hash_file(path) for n, path in names.items()}


_WORDS = {
    "method": "settings",
    "seed": "seed",
    "weights": "weights",
    "peak_lr": "learning rate of the original",
    "train_steps": "steps of the original training",
    "sets": "data, split or batch size",
    "engine": "precision, microbatch, fsdp or number of processes",
    "task": "settings of the task",
    "trained": "parts of the model",
    "adapters": "adapters",
}
"""What the inputs of a model are called in messages."""


def _short_hashes(inputs: Mapping[str, Any]) -> dict[str, str]:
    """A hash of each input, by which one that has changed is found."""
    return {key: hash_json(value)[:16] for key, value in inputs.items()}


def inputs_of(method: Method, problem: Problem, engine: Sequence[Any]) -> dict[str, Any]:
    """Returns all that decides a model's numbers: settings, seed, batch size, data, weights, precision, processes."""
    sets = (problem.forget, problem.retain, problem.holdout)
    module = problem.subject.module
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return {
        "method": {"name": method.name, **asdict(method)},
        "seed": problem.seed,
        "weights": weights.state_hash(module),
        "peak_lr": problem.subject.peak_lr,
        **({"train_steps": problem.subject.train_steps} if hasattr(method, "budget") else {}),
        "sets": [None if s is None else [s.fingerprint(), len(s), s.batch_size] for s in sets],
        "engine": list(engine),
        "task": _task_settings(problem.task),
        "trained": None if len(names) == sum(1 for _ in module.parameters()) else names,
        **({} if problem.subject.adapters is None else {"adapters": asdict(problem.subject.adapters)}),
    }


def _task_settings(task: Task) -> Any:
    """What of a task can be told: its type, and of a dataclass its fields; of what is no JSON, the type."""
    fields: Any = asdict(task) if is_dataclass(task) and not isinstance(task, type) else {}
    return [type(task).__qualname__, json.loads(json.dumps(fields, default=lambda value: type(value).__qualname__))]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads manifest.json of a run folder; {} where there is none.

    Raises:
        StaleFile: if it is damaged.
    """
    content = read_sealed(folder / MANIFEST, f"Remove it, and `untrain run {folder} --resume` makes it anew.") or {}
    models, files = content.get("models", {}), content.get("files", {})
    if not isinstance(files, dict) or not (
        isinstance(models, dict) and all(isinstance(m, dict) for m in models.values())
    ):
        raise StaleFile(f"{folder / MANIFEST} does not hold what a run writes. Remove it, and it is made anew.")
    return content


def warn_of_weak_reference(content: Mapping[str, Any], presentation: Presentation) -> dict[str, Any]:
    """Looks whether the retrained model of an evaluation is good enough to be a target, and warns where it is not.

    Returns:
        "warnings" with what is wrong, for evaluation.json and manifest; {} where nothing is.
    """
    text = presentation.weakness(Results.of_run(content).sets[0])
    if not text:
        return {}
    warnings.warn(text, UnlearningWarning, stacklevel=2)
    return {"warnings": [text]}


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Reads evaluation.json of a run folder; None where there is none.

    Raises:
        StaleFile: if it is damaged.
    """
    return read_sealed(folder / EVALUATION, f"Remove it, and `untrain evaluate {folder}` makes it anew.")


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
    if existing == folder and not resume and any(not is_temporary(path.name) for path in folder.iterdir()):
        raise FolderError(
            f"{folder} already holds a run. Choose another folder, or go on with it: "
            f"{spell('--resume', 'resume=True')}."
        )
    return folder


def remove_temporary(folder: Path) -> None:
    """Removes folders that hold what was computed for a run alone, by their names."""
    for path in folder.iterdir() if folder.exists() else ():
        if is_temporary(path.name) and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


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
