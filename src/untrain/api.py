"""The Python interface: from a user's model and data to a result, in one call."""

import json
import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from untrain import fisher
from untrain.data.splits import check_disjoint, equal_content
from untrain.data.streams import Stream
from untrain.engine import Engine, Precision
from untrain.errors import DataError, FolderError, ModelError, Overlap, StaleFile
from untrain.given import Given, check_model, check_trainable, prepared
from untrain.io import ensure_dir, hash_json, hash_tensors, write_json, write_text
from untrain.methods import find, make
from untrain.methods.base import Method, Problem, check_runs
from untrain.methods.loop import Checkpoints, Run, run
from untrain.models.checkpoints import load_into, load_state, state_hash
from untrain.models.parts import trained
from untrain.models.subject import Subject
from untrain.saliency import density, load_mask, save_mask
from untrain.settings import checked
from untrain.tasks.text_to_image.concepts import ConceptImages
from untrain.types import Params, Task

MODEL_FILE = "model.safetensors"
MASK_FILE = "mask.safetensors"
HISTORY_FILE = "history.jsonl"
RESUME_FILE = "resume.pt"
_LIBRARIES = ("torch", "accelerate", "safetensors", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Result:
    """What unlearning gives back.

    Attributes:
        model: the unlearned model, in evaluation mode, on its own device, of the user's type.
        history: what each step logged: losses in nats, learning rates, α.
        seconds: what the unlearning took, the Fisher pass included, evaluation left out.
        mask: parameter name → bool tensor of the salient weights; None where the method has no mask.
        method: the method with every setting as it was used.
        clocks: the seconds by part.
        notes: what was decided for the user, and why.
    """

    model: Any
    history: list[dict[str, Any]]
    seconds: float
    mask: Params | None
    method: Method
    clocks: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def unlearn(
    model: Any,
    *,
    forget: Any,
    retain: Any,
    task: str | Task = "classification",
    method: str | type[Method] | Method = "sfron",
    holdout: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    init: Callable[[], nn.Module] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    inplace: bool = False,
    device: str | torch.device | None = None,
    precision: Precision = "no",
    compile: bool = False,
    workers: int = 0,
    parts: str | Sequence[str] | None = None,
    images: ConceptImages | None = None,
    **settings: Any,
) -> Result:
    """Makes a model forget: it should then behave as if it had been trained on the retain set alone.

    Args:
        model: any module, or a pipeline of diffusers; it is left as it was unless `inplace`.
        forget: what to forget: a map-style data set of `(x, y)` or dicts, or a list of ready batches; of a
            text-to-image pipeline a `Concept` or several.
        retain: what to keep, likewise; at least a good part of the rest of the training data.
        task: what the model was trained on, a name or a task object.
        method: a name (see `untrain.methods()`), a class, or a method object.
        holdout: samples that the model never saw, likewise: they show how far to forget.
        seed: of everything random; the same seed gives the same result on the same machine.
        batch_size: samples a batch, over all processes; lists of ready batches have their own. None: 128, and of a
            text-to-image pipeline from 2 to 32, the fewer the larger its images.
        init: returns a new model of the same architecture, for methods that need new weights.
        out: a folder for weights, history, mask and manifest, and for checkpoints during the run.
        resume: go on from the last checkpoint in `out`, if there is one.
        inplace: change the model itself instead of a copy.
        device: None takes a CUDA device where there is one, else the CPU.
        precision: "no" never casts; "bf16" or "fp16" autocast the steps.
        compile: run the steps through torch.compile.
        workers: processes that read a data set which is not in memory.
        parts: what is trained: "full", of a UNet also "xattn", "noxattn", "selfattn" and "notime", or patterns of
            parameter names; None: whatever requires a gradient.
        images: how images are made of concepts that come without; they are removed in the end.
        settings: the method's; unknown ones are an error that lists the known.

    Raises:
        UntrainError: one of its kinds, with what is wrong and what to do.
    """
    engine = Engine.start(device, precision, compile)
    chosen = make(method, _typed(method, settings))
    given = Given.of(model, task)
    check_runs(chosen, given.task)
    subject = Subject(given.module, init=init)
    folder = None if out is None else check_folder(Path(out), resume or not engine.is_main)
    asked = {"forget": forget, "retain": retain, "holdout": holdout}
    asked = {name: data for name, data in asked.items() if data is not None}
    home = next((p.device for p in given.module.parameters()), engine.device)
    with given.sets(asked, engine, folder, images, seed) as sets:
        size = given.batch_size(sets) if batch_size is None else batch_size
        streams = {name: Stream(data, name, engine, size, seed, workers) for name, data in sets.items()}
        check_sets(sets, streams)
        working = subject if inplace else _copied(subject)
        try:
            working.module.to(engine.device)
            with trained(working.module, parts):
                check_trainable(working.module)
                problem = Problem(working, given.task, **streams, seed=seed)
                saver, result = None, None
                if folder is not None:
                    saver = Checkpoints(folder / RESUME_FILE, fingerprint(chosen, problem, engine), resume)
                    result = read_result(folder, saver.fingerprint, chosen, working)
                if result is None:  # only now are images made and samples looked at
                    problem = replace(problem, task=prepared(given.task, working.module, streams))
                    check_samples(problem.task, streams)
                    result = _unlearned(chosen, problem, engine, saver, given.module if inplace else None)
        finally:
            working.module.to(home)
    result.model.to(home)
    engine.wait()
    return replace(result, model=given.whole(result.model))


def _unlearned(
    method: Method, problem: Problem, engine: Engine, checkpoints: Checkpoints | None, model: nn.Module | None
) -> Result:
    """What the method makes of the problem; written beside its checkpoints, where there are any."""
    if checkpoints is None:
        return _result(run(method, problem, engine), problem, model)
    started, folder = state_hash(problem.subject.module), ensure_dir(checkpoints.path.parent)
    result = _result(run(method, problem, engine, checkpoints=checkpoints), problem, model)
    if engine.is_main:
        facts = about(problem, engine)
        write_result(result, folder, about=facts, marks=checkpoints.fingerprint, weights_hash=started)
    return result


def _typed(method: str | type[Method] | Method, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A known method's settings, each of its type."""
    kind = find(method) if isinstance(method, str) else method
    return checked(settings, kind) if isinstance(kind, type) and is_dataclass(kind) else settings


def _copied(subject: Subject) -> Subject:
    try:
        return subject.copy()
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"the model cannot be copied by copy.deepcopy: {error}. Pass inplace=True to change the model itself."
        ) from error


def _result(finished: Run, problem: Problem, model: nn.Module | None) -> Result:
    """What a run gives; where `model` is given, it is the one that is changed."""
    module = finished.state.module
    if model is not None and module is not model:  # a method that starts from new weights
        load_into(model, module.state_dict())
        module = model
    mask = problem.memo.get("mask")
    return Result(
        module.eval(), finished.history, finished.seconds, mask, finished.method, finished.clocks, problem.notes
    )


def fisher_diagonal(
    model: nn.Module, task: str | Task, batches: Any, *, estimator: fisher.Estimator = "sample", seed: int = 0
) -> Params:
    """Diagonal of the empirical Fisher information, F_j = mean_n (∂ℓ_n / ∂θ_j)², at the model's weights.

    Args:
        model: in any mode; looked at in evaluation mode and left as it was.
        task: a name or a task object.
        batches: a list of ready batches or a map-style data set; every sample counts once.
        estimator: "sample" squares each sample's gradient; "batch" squares batch means, as published code does,
            and so depends on the batch size.
        seed: of what the task draws (timesteps, noise).

    Returns:
        Parameter name → tensor of the parameter's shape, float32 or wider, ≥ 0; parameters with requires_grad only.

    Raises:
        EmptySet: if there is no sample.
        InexactFisher: if a parameter is used in a way that cannot be done exactly.
    """
    device = next((p.device for p in check_model(model).parameters()), torch.device("cpu"))
    data = batches if hasattr(batches, "__getitem__") else list(batches)
    engine = Engine.start(device)
    stream = Stream(data, "fisher", engine, seed=seed)
    ready = prepared(task, model, {"fisher": stream})
    return fisher.fisher_diagonal(model, ready, stream.once(ready, "fisher"), estimator=estimator, engine=engine)


def check_samples(task: Task, streams: Mapping[str, Stream]) -> None:
    """Draws every sample that is in memory once, so that a label that does not fit is found before the first step.

    Raises:
        DataError: names the sample.
    """
    for name, stream in streams.items():
        if stream.in_memory:
            try:
                for _ in stream.once(task, "evaluate"):
                    pass
            except DataError as error:
                raise type(error)(f"{name} set: {error}") from error


def check_sets(sets: Mapping[str, Any], streams: Mapping[str, Stream]) -> None:
    """Refuses sets that share a sample by index or id; warns where samples in memory are equal.

    Args:
        sets: the sets as they were given.
        streams: their batches, by the same names.

    Raises:
        Overlap: names the two sets.
    """
    names = list(sets)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            try:
                check_disjoint(sets[a], sets[b])
            except Overlap as error:
                raise Overlap(f"{a} and {b}: {error}") from error
            equal = [] if _other_names(streams[a], streams[b]) else equal_content(streams[a].data, streams[b].data)
            if equal:
                warnings.warn(
                    f"{len(equal)} samples of the {a} set are equal to samples of the {b} set (first: number "
                    f"{equal[0][0]} and number {equal[0][1]}). They are different records with the same content; "
                    "what one set teaches, the other undoes.",
                    stacklevel=3,
                )


def _other_names(*streams: Stream) -> bool:
    """Whether ready batches name their input otherwise, so that what to compare is not known."""
    return any("input" not in batch for stream in streams if stream.ready for batch in stream.data)


def check_folder(folder: Path, resume: bool) -> Path:
    """A run's folder, looked at before anything is made; what a stopped process left half-written counts for nothing.

    Raises:
        FolderError: if it holds another run and `resume` was not asked for, or cannot be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise FolderError(f"{existing} is a file. Choose another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise FolderError(f"{existing} cannot be written: you have no permission. Get it or choose another folder.")
    if existing == folder and not resume and any(not is_temporary(path) for path in folder.iterdir()):
        raise FolderError(f"{folder} already holds a run. Choose another folder, or go on with it: resume=True.")
    return folder


def is_temporary(path: Path) -> bool:
    """Whether a file is what a stopped process left half-written; the next one writes it anew."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def fingerprint(method: Method, problem: Problem, engine: Engine) -> str:
    """A hash of all that decides a run's numbers: settings, seed, batch size, data, weights, number of processes."""
    sets = (problem.forget, problem.retain, problem.holdout)
    return hash_json(
        {
            "method": {"name": method.name, **asdict(method)},
            "seed": problem.seed,
            "weights": state_hash(problem.subject.module),
            "sets": [None if s is None else [content_of(s), len(s), s.batch_size] for s in sets],
            "engine": [engine.precision, engine.num_processes],
            "task": _settings_of(problem.task),
            **_trained_names(problem.subject.module),
        }
    )


def _settings_of(task: Task) -> Any:
    """What of a task can be told: its type, and of a dataclass its fields; of what is no JSON, the type."""
    fields: Any = asdict(task) if is_dataclass(task) and not isinstance(task, type) else {}
    return [type(task).__qualname__, json.loads(json.dumps(fields, default=lambda value: type(value).__qualname__))]


def _trained_names(module: nn.Module) -> dict[str, list[str]]:
    """Which parameters are trained, where not all are."""
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return {} if len(names) == sum(1 for _ in module.parameters()) else {"trained": names}


def content_of(stream: Stream) -> str:
    """A hash of a set: of all its content where that is in memory, else of up to 16 of its samples."""
    if hasattr(stream.data, "fingerprint"):
        return str(stream.data.fingerprint())
    if stream.ready:
        return hash_tensors({f"{k}.{name}": t for k, batch in enumerate(stream.data) for name, t in batch.items()})
    count = len(stream) if stream.in_memory else min(16, len(stream))
    positions = torch.linspace(0, len(stream) - 1, count).round().long().unique()
    return hash_tensors(stream._gather(positions, "fingerprint"))


def write_result(result: Result, folder: Path, *, about: Mapping[str, Any], marks: str, weights_hash: str) -> None:
    """Writes mask, history, manifest and weights; the run's checkpoint, no longer needed, is removed.

    The weights come last and carry `marks`, the run's fingerprint: where they are, all else is there.
    """
    model = describe(result)
    if result.mask is not None:
        save_mask(result.mask, folder / MASK_FILE, weights_hash=weights_hash)
    write_text(folder / HISTORY_FILE, "".join(json.dumps(record) + "\n" for record in result.history))
    write_json(folder / "manifest.json", {**about, "model": model})
    facts = {**model, "fingerprint": marks, "started_from": weights_hash}
    Subject(result.model).save(folder / MODEL_FILE, facts)
    (folder / RESUME_FILE).unlink(missing_ok=True)


def read_result(folder: Path, marks: str, method: Method, working: Subject) -> Result | None:
    """What a finished run left in a folder; None where there is none.

    Raises:
        StaleFile: if it was made from other inputs.
    """
    path = folder / MODEL_FILE
    if not path.exists():
        return None
    state, facts = load_state(path)
    if facts.get("fingerprint") != marks:
        raise StaleFile(f"{path} was made from other data, weights or settings. Choose another folder.")
    load_into(working.module, state)
    mask = None
    if facts["mask"] is not None:
        mask = load_mask(folder / MASK_FILE, weights_hash=facts["started_from"])
    history = [json.loads(line) for line in (folder / HISTORY_FILE).read_text(encoding="utf-8").splitlines()]
    resolved = type(method).from_settings(facts["settings"])
    (folder / RESUME_FILE).unlink(missing_ok=True)
    return Result(
        working.module.eval(), history, facts["seconds"], mask, resolved, facts["clocks"], list(facts["notes"])
    )


def describe(result: Result) -> dict[str, Any]:
    """What a manifest says of one unlearned model."""
    mask = None
    if result.mask is not None:
        overall, layers = density(result.mask)
        mask = {"density": overall, "layers": layers}
    return {
        "method": result.method.name,
        "settings": asdict(result.method),
        "notes": result.notes,
        "mask": mask,
        "seconds": result.seconds,
        "clocks": result.clocks,
        "hash": state_hash(result.model),
    }


def about(problem: Problem, engine: Engine) -> dict[str, Any]:
    """What a manifest says of a run's circumstances, and hashes of its data."""
    sets = {"forget": problem.forget, "retain": problem.retain, "holdout": problem.holdout}
    return {
        **environment(engine),
        "seed": problem.seed,
        "batch_size": problem.retain.batch_size,
        "data": {n: {"samples": len(s), "hash": content_of(s)} for n, s in sets.items() if s is not None},
    }


def environment(engine: Engine) -> dict[str, Any]:
    """Versions, time, device, precision, processes and threads, as manifests hold them."""
    return {
        "untrain": version("untrain"),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        "device": str(engine.device),
        "precision": engine.precision,
        "processes": engine.num_processes,
        "threads": torch.get_num_threads(),
    }
