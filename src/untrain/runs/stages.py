"""A recipe's stages on a run folder: the original model, what retraining gives, each method, evaluation, report.

A stage's product carries a fingerprint of all that it was made from. A stage whose product is there with the right
fingerprint is not run again; a product with another one is refused.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from untrain.callbacks import Callback, Stage
from untrain.data.checks import check_sets
from untrain.data.splits import Split
from untrain.data.streams import Stream
from untrain.domain import Context, Division, Domain
from untrain.engine import Engine, seed_of
from untrain.errors import CheckpointError, FolderError, SettingError, StaleFile
from untrain.folders import PRIVATE, ensure_dir, exclusive_lock, is_temporary
from untrain.io import hash_json
from untrain.methods.base import Method, Problem, check_adapts, check_divides, check_needs, check_runs
from untrain.methods.retrain import Retrain
from untrain.models import checkpoints as weights
from untrain.models.adapters import check_adapters
from untrain.models.parts import train_parts
from untrain.models.precision import widen_
from untrain.models.prepare import prepare_task
from untrain.models.subject import Subject
from untrain.report import Results, run_table, write_report
from untrain.runs.folder import DeltaBase, RunFolder, check_folder, warn_of_weak_reference
from untrain.runs.names import CONFIG, EVALUATION, FIRST, MANIFEST, ORIGINAL, RETRAINED, SPLIT, numbered
from untrain.runs.recipe import Recipe, read_config, write, write_config
from untrain.runs.requests import check_data, first_facts, note_first, open_first, request_facts
from untrain.runs.work import check_work, work_of
from untrain.sealed import write_sealed
from untrain.settings import make


@dataclass(eq=False)
class Experiment:
    """An open recipe: its task's domain, its data divided, and its run folder.

    Attributes:
        recipe: what is asked for.
        engine: where it runs.
        domain: the task's, on the recipe's data.
        division: what is forgotten, kept, held out and tested on.
        folder: the run folder.
        callbacks: hear of steps and stages.
        trained: further models that measuring needs, once they are made.
        first: of a further request, where the model before the first one is.
        notes: what was said of the data while they were loaded, such as what was left out.
    """

    recipe: Recipe
    engine: Engine
    domain: Domain
    division: Division
    folder: RunFolder
    callbacks: Sequence[Callback] = ()
    trained: dict[str, nn.Module] = field(default_factory=dict)
    first: dict[str, Any] | None = None
    notes: Sequence[str] = ()

    def make(self, name: str, method: Method, problem: Problem, start: nn.Module | None = None) -> nn.Module:
        """Reads the model called `name` if it was made from the same inputs, else makes it and keeps it.

        Args:
            name: of the model.
            method: what makes it.
            problem: what the method works on.
            start: the original, of which what a method changed is kept; None: the model is.
        """
        self.announce(name, "begin")
        domain, saves = self.domain, name in self.recipe.methods and self.recipe.store != "delta"
        kept = self.folder.make_model(
            name,
            method,
            problem,
            save=(lambda module: domain.save(name, module)) if saves else None,
            base=None if start is None else self._base(start),
            say=self.say,
            part=domain.pipeline_part,
            every=self.recipe.checkpoint_every,
            evaluate=lambda module, step: domain.preview(name, module, step, domain.evaluation_sets(self.division)),
            evaluate_every=domain.preview_every(method),
            callbacks=self.callbacks,
        )
        self.announce(name, "end")
        return kept.module

    def _base(self, start: nn.Module) -> DeltaBase:
        """The original, and where it can be read again."""
        checkpoint, entry = self.domain.checkpoint, getattr(getattr(self.recipe.sections, "model", None), "entry", None)
        if checkpoint is None:
            return DeltaBase(start, self.folder.weights(ORIGINAL).name)
        return DeltaBase(start, os.path.abspath(checkpoint) if os.path.exists(checkpoint) else checkpoint, entry)

    def announce(self, stage: str, state: Stage) -> None:
        """Tells callbacks of a stage that begins or ends."""
        for callback in self.callbacks if self.engine.is_main else ():
            callback.on_stage(stage, state)

    def say(self, text: str) -> None:
        """Prints a line for the person who waits."""
        if self.engine.is_main:
            Console(stderr=True).print(text, highlight=False)


@contextmanager
def _opened(
    recipe: Recipe, *, resume: bool, fresh: bool = True, callbacks: Sequence[Callback] = ()
) -> Iterator[Experiment]:
    """An experiment whose run folder no other process writes into for as long; arguments as of `open_experiment`."""
    with locked(recipe):
        experiment = open_experiment(recipe, resume=resume, fresh=fresh, callbacks=callbacks)
        work = work_of(recipe, experiment.domain, experiment.division)
        experiment.say(work.sentence(recipe.batch_size))
        for note in experiment.domain.notes:
            experiment.say(f"note: {note}")
        yield experiment


@contextmanager
def locked(recipe: Recipe, folder: Path | None = None, *, name: str = "", wait: bool = False) -> Iterator[None]:
    """Locks a run folder, or what is called `name` in it, for the main process; it is made where it is missing.

    Args:
        recipe: says where it is, and who may read it.
        folder: another one than the recipe's.
        name: of what is locked; "": all of it.
        wait: for another process that is at work; else that is an error.

    Raises:
        FolderError: if another process is at work in it, or it cannot be written.
    """
    engine = _start_engine(recipe)
    if not engine.is_main:
        yield
        return
    place = check_folder(recipe.folder if folder is None else folder, resume=True)
    mode = 0o777 if recipe.permissions.reading else PRIVATE
    with exclusive_lock(place, name=name, wait=wait, mode=mode):
        yield


def open_experiment(
    recipe: Recipe,
    *,
    resume: bool = False,
    fresh: bool = True,
    write: bool = True,
    cache: MutableMapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    divide: Callable[[Domain], Division] = lambda domain: domain.divide(),
    data_seed: int | None = None,
) -> Experiment:
    """Loads the data, makes or checks the split, tries the model, and only then opens the run folder.

    Args:
        recipe: the experiment.
        resume: go on with what the folder holds of this recipe.
        fresh: whether the folder must be new unless `resume`; False for a stage that builds on earlier ones.
        write: whether recipe and split are written; False where another process does that.
        cache: what experiments of one process share, such as data that were loaded before.
        callbacks: hear of steps and stages.
        divide: says what is forgotten, kept and held out; by default what the recipe asks for.
        data_seed: of which samples there are, where they are limited in number; None: the recipe's seed.

    Raises:
        UntrainError: what is wrong with the recipe, the data, the model or the folder; nothing was written then.
    """
    engine = _start_engine(recipe)
    going_on = engine.is_main and holds_run(recipe, resume=resume or not fresh)
    context = context_of(recipe, engine, cache={} if cache is None else cache, data_seed=data_seed)
    with _noting_warnings() as notes:
        domain = recipe.domain(recipe.sections, context)
        if going_on:
            check_data(recipe.folder, domain.source, getattr(recipe.sections, "data", None))
        division = divide(domain)
    check_methods(recipe, domain, division)
    domain.check(division)
    domain.check_references(recipe.references)
    folder = RunFolder(recipe.folder, engine)
    experiment = Experiment(recipe, engine, domain, division, folder, callbacks, notes=notes)
    check_work(work_of(recipe, domain, division), recipe)
    if "after" in division.split.spec:
        experiment.first = first_facts(division.split.spec["after"]["folder"])
    if going_on:
        experiment.folder.read_facts()
    _try_model(experiment)
    if engine.is_main and write:
        write_inputs(experiment, going_on)
    engine.wait()
    return experiment


def context_of(recipe: Recipe, engine: Engine, **how: Any) -> Context:
    """Makes what a recipe's domain knows of the run besides its own sections.

    Args:
        recipe: the experiment.
        engine: where the domain works.
        how: what of a `Context` no recipe says: cache, data_seed, weights.
    """
    return Context(
        engine,
        recipe.folder,
        seed=recipe.seed,
        batch_size=recipe.batch_size,
        workers=recipe.workers,
        parts=recipe.parts,
        evaluate_every=recipe.evaluate_every,
        permissions=recipe.permissions,
        adapters=recipe.adapters,
        **how,
    )


def check_methods(recipe: Recipe, domain: Domain, division: Division) -> None:
    """Refuses methods that cannot run on the task, train the adapters, or do with what is left of the request.

    Raises:
        SettingError: names the method, what is missing, and methods that would run.
    """
    for method in recipe.methods.values():
        check_runs(method, domain.task)
        if recipe.adapters is not None:
            check_adapts(method)
        if recipe.fsdp:
            check_divides(method)
    if not len(division.split.forget):
        check_needs(recipe.methods)


def _start_engine(recipe: Recipe) -> Engine:
    return Engine.start(recipe.device, recipe.precision, recipe.compile, recipe.microbatch, recipe.fsdp)


@contextmanager
def _noting_warnings() -> Iterator[list[str]]:
    """Keeps the texts of warnings, which are shown as ever."""
    said: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, *details: Any, **more: Any) -> None:
            said.append(str(message))
            show(message, *details, **more)

        warnings.showwarning = note
        yield said


def _try_model(experiment: Experiment) -> None:
    """Builds the model once and runs it on two samples, so that a wrong name, option or checkpoint is found at once."""
    domain = experiment.domain
    module = domain.build(experiment.recipe.seed) if domain.checkpoint is None else domain.original()[0]
    widen_(module)
    for method in experiment.recipe.methods.values():
        adapters = method.adapters_of(experiment.recipe.adapters, experiment.recipe.parts)
        if adapters is not None:
            check_adapters(module, adapters)
    few = Stream(domain.few(), "train", experiment.engine, experiment.recipe.batch_size)
    domain.task = prepare_task(domain.task, module, {"train": few}, training=True)


def write_inputs(experiment: Experiment, going_on: bool) -> None:
    """Makes the folder and writes recipe and split into it; a split that is there must be the same.

    Args:
        experiment: open.
        going_on: whether the folder holds a run already.
    """
    folder, split = ensure_dir(experiment.folder.path), experiment.division.split
    path = folder / SPLIT
    if going_on and path.exists():
        check_split(experiment)
    write_config(experiment.recipe)
    if not (going_on and path.exists()):
        split.save(path, experiment.division.records)


def check_split(experiment: Experiment) -> None:
    """Refuses a folder that holds another split.

    Raises:
        StaleFile: names the file.
    """
    path = experiment.folder.path / SPLIT
    kept, asked = Split.load(path, experiment.domain.source), experiment.division.split
    if kept.hash != asked.hash:
        raise StaleFile(f"{path} is another split than the recipe asks for. Choose another folder with --out.")


_OTHER = (
    *("name", "out", "workers", "checkpoint_every", "evaluate_every", "methods", "references", "compare"),
    *("svc_attacks", "generation", "judge", "detection", "store"),
)
"""Fields of a recipe that do not change the numbers of what a folder already holds."""


def holds_run(recipe: Recipe, *, resume: bool, other: Sequence[str] = _OTHER) -> bool:
    """Returns whether the run folder holds a run of this very recipe to go on with; nothing is made or changed.

    A folder with no more than recipe and split in it, left by a run that was stopped before its first checkpoint,
    holds nothing of value: the run starts anew there.

    Args:
        recipe: the experiment.
        resume: whether a run that is there may be gone on with.
        other: fields, by dotted name, in which that run's recipe may differ from this one.

    Raises:
        FolderError: if it holds something else, or holds this run and `resume` was not asked for, or cannot be
            written.
    """
    folder = check_folder(recipe.folder, resume=True)
    names = {path.name for path in folder.iterdir() if not is_temporary(path.name)} if folder.exists() else set()
    if not names:
        return False
    if CONFIG not in names and resume and names & {SPLIT, MANIFEST}:
        return True  # it was removed, being damaged: what was made from another recipe is found by its fingerprint
    kept = _kept_recipe(folder)
    if names <= {CONFIG, SPLIT}:
        return False
    if not resume:
        raise FolderError(
            f"{folder} already holds a run. Go on with it with --resume, or choose another folder with --out."
        )
    usual = Recipe(task=recipe.task, code=recipe.code)  # of fields that an older version did not know
    held = _identity(usual.plain(), other) | _identity(kept, other)
    changed = [name for name, value in _identity(recipe.plain(), other).items() if held.get(name) != value]
    if changed:
        verb = "differs" if len(changed) == 1 else "differ"
        raise FolderError(
            f"{folder} holds a run of another recipe: {', '.join(changed[:5])} {verb}. "
            "Choose another folder with --out."
        )
    return True


def _kept_recipe(folder: Path) -> Mapping[str, Any]:
    """What config.yaml of a run folder says.

    Raises:
        FolderError: if there is none that a run wrote.
    """
    kept = read_config(folder) if (folder / CONFIG).exists() else {}
    if not {"name", "task", "train", "methods"} <= kept.keys():
        raise FolderError(f"{folder} is not empty and holds no run. Choose another folder with --out.")
    return kept


def _identity(content: Mapping[str, Any], other: Sequence[str]) -> dict[str, Any]:
    """A recipe's fields by dotted name, two deep, without those that do not change its numbers."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}.{key}".rstrip("."): entry for key, entry in inner}
    return {name: value for name, value in flat.items() if name not in other and name.split(".")[0] not in other}


def prepare_original(experiment: Experiment) -> nn.Module:
    """Returns the model to unlearn: of its checkpoint, else trained by the recipe on forget and retain set together."""
    recipe, domain, checkpoint = experiment.recipe, experiment.domain, experiment.domain.checkpoint
    if checkpoint is None:
        problem = _training(experiment, domain.stream(experiment.division, "train"), seed_of(recipe.seed, ORIGINAL))
        for note in domain.notes:
            problem.note(note)
        return experiment.make(ORIGINAL, recipe.train, problem)
    module, facts = domain.original()
    rounding = widen_(module.eval())
    digest, before = weights.state_hash(module), experiment.folder.facts.get(ORIGINAL, {}).get("hash")
    if before not in (None, digest):
        raise StaleFile(
            f"the weights of {checkpoint} are not those that the run in {experiment.folder.path} began from: it was "
            "changed or damaged since. Put it back as it was, or choose another folder with --out."
        )
    notes = [f"weights from {Path(checkpoint).name}"]
    notes += [f"weights of {rounding.kinds} brought to float32"] if rounding.types else []
    lr = _trained_lr(facts)
    if lr is not None:
        notes.append(f"its optimiser's learning rate was {lr:g}")
    warned = domain.check_original(module, experiment.division, facts)
    for warning in warned:
        experiment.say(f"[bold]warning[/bold]: {warning}")
    notes += [*facts.get("reading", []), *domain.notes, *warned]
    about: dict[str, Any] = {"source": str(checkpoint), "notes": notes, "settings": {}, "peak_lr": lr}
    about |= {"train_steps": facts["settings"]["steps"]} if facts.get("method") == Retrain.name else {}
    about |= {"seconds": facts["seconds"]} if "seconds" in facts else {}
    about |= {"warnings": warned} if warned else {}
    experiment.folder.facts[ORIGINAL] = {"hash": digest, **about}
    return module


def _trained_lr(facts: Mapping[str, Any]) -> float | None:
    """The peak learning rate that a checkpoint tells: its optimiser's, or that of the recipe which trained it."""
    if facts.get("method") == Retrain.name:
        try:
            return make(Retrain, facts["settings"]).peak_lr
        except (SettingError, LookupError) as error:
            raise CheckpointError(
                f"what the checkpoint says of its training is not what untrain writes: {error}"
            ) from error
    return facts.get("peak_lr", facts.get("optimizer_lr"))


def reference_names(recipe: Recipe) -> list[str]:
    """Returns what a recipe's references are called; the first is the target."""
    return numbered(RETRAINED, recipe.references)


def train_references(experiment: Experiment, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Trains models from new weights on the retain set alone; None: all that the recipe asks for."""
    recipe = experiment.recipe
    names = reference_names(recipe) if names is None else names
    retain = experiment.domain.stream(experiment.division, "retain")
    return {
        name: experiment.make(name, recipe.train, _training(experiment, retain, seed_of(recipe.seed, name)))
        for name in names
    }


def _training(experiment: Experiment, data: Stream, seed: int) -> Problem:
    """What a model is trained on from new weights: the set in an order of its own."""
    domain = experiment.domain
    module = domain.build(seed)
    widen_(module)
    subject = Subject(module, init=lambda: domain.build(seed))
    stream = Stream(data.data, "retain", data.engine, data.batch_size, seed, data.workers)
    return Problem(subject, domain.task, stream, stream, seed=seed)


def original_fingerprint(experiment: Experiment) -> str:
    """Fingerprints the original that a recipe trains."""
    recipe = experiment.recipe
    data = experiment.domain.stream(experiment.division, "train")
    return experiment.folder.fingerprint(recipe.train, _training(experiment, data, seed_of(recipe.seed, ORIGINAL)))


def unlearn_methods(
    experiment: Experiment, start: nn.Module, names: Sequence[str] | None = None
) -> dict[str, nn.Module]:
    """Returns what the recipe's methods make of the original; None: each of them."""
    recipe, domain = experiment.recipe, experiment.domain
    chosen = {name: recipe.methods[name] for name in (recipe.methods if names is None else names)}
    given: dict[bool, dict[str, Stream]] = {}
    for method in chosen.values():
        if method.needs_samples not in given:
            given[method.needs_samples] = domain.sets_for(method, experiment.division)
    missing = {method.needs_samples for name, method in chosen.items() if not experiment.folder.holds(name)}
    for sets in (given[needs_samples] for needs_samples in sorted(missing)):  # of the others no sample need be had
        there = {name: stream for name, stream in sets.items() if name != "forget" or stream is not sets["retain"]}
        check_sets({name: stream.data for name, stream in there.items()}, there)
        prepare_task(domain.task, start, sets, training=True)
    return {
        name: experiment.make(name, method, unlearning(experiment, start, given[method.needs_samples], method), start)
        for name, method in chosen.items()
    }


def unlearning(experiment: Experiment, start: nn.Module, sets: Mapping[str, Stream], method: Method) -> Problem:
    """Returns what a method works on: a copy of the original, and the sets.

    Below adapters, and where the weights of the steps are divided, the copy lies in the original's memory.
    """
    recipe, domain = experiment.recipe, experiment.domain
    anew = seed_of(recipe.seed, "fresh weights")  # not those that the original began with, which a user has not
    peak, steps = peak_lr(experiment), train_steps(experiment)
    adapters = method.adapters_of(recipe.adapters, recipe.parts)
    how: dict[str, Any] = {"peak_lr": peak, "train_steps": steps, "adapters": adapters}
    subject = Subject(start, init=lambda: domain.build(anew), **how).copy(
        share=adapters is not None or experiment.engine.fsdp
    )
    if recipe.parts is not None and adapters is None:
        train_parts(subject.module, recipe.parts)
    return Problem(subject, domain.task, **sets, seed=recipe.seed)


def peak_lr(experiment: Experiment) -> float | None:
    """Returns the highest learning rate of the original training, where the recipe or the checkpoint tells."""
    if experiment.domain.checkpoint is None:
        return experiment.recipe.train.peak_lr
    return experiment.folder.facts.get(ORIGINAL, {}).get("peak_lr")


def train_steps(experiment: Experiment) -> int | None:
    """Returns how many steps the original training took, where the recipe or a checkpoint of ours tells."""
    if experiment.domain.checkpoint is None:
        return experiment.recipe.train.count_steps(experiment.domain.stream(experiment.division, "train"))
    return experiment.folder.facts.get(ORIGINAL, {}).get("train_steps")


def train_helpers(experiment: Experiment) -> dict[str, nn.Module]:
    """Makes the further models that measuring needs, such as judges, once."""
    if not experiment.trained:
        trainings = experiment.domain.trainings(experiment.division)
        experiment.trained = {name: experiment.make(name, t.method, t.problem) for name, t in trainings.items()}
    return experiment.trained


def evaluate_models(experiment: Experiment, models: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Measures every model; what is found is written as evaluation.json."""
    experiment.say("[bold]evaluate[/bold]")
    recipe, domain, folder = experiment.recipe, experiment.domain, experiment.folder
    references = [name for name in models if name.split("-")[0] == RETRAINED]
    trained = train_helpers(experiment)
    experiment.announce("evaluate", "begin")
    sets = domain.evaluation_sets(experiment.division)
    found = domain.measure(models, experiment.division, sets, references=references, trained=trained)
    entries = {name: dict(values) for name, values in found.models.items()}
    for name, entry in entries.items():
        entry |= folder.making_of(name, domain.recorded)
        if requests := measure_requests(experiment, models[name]):
            entry["requests"] = requests
        for callback in experiment.callbacks if experiment.engine.is_main else ():
            callback.on_evaluate(name, entry)
    content = {
        "task": recipe.task,
        "classes": list(domain.source.classes),
        "models": entries,
        "noise_floor": found.noise_floor,
        **found.facts,
        "settings": recipe.plain(),
        "sizes": set_sizes(experiment.division),
        "mark": evaluation_fingerprint(experiment, models),
    }
    if experiment.engine.is_main:
        content |= warn_of_weak_reference(content, domain.presentation)
        write_sealed(folder.path / EVALUATION, content)
    experiment.announce("evaluate", "end")
    return content


def measure_requests(experiment: Experiment, module: nn.Module) -> dict[str, dict[str, float]]:
    """Measures a model on this request's samples ("new") and on those of earlier ones; nothing where there are none."""
    domain, split = experiment.domain, experiment.division.split
    if not len(split.earlier):
        return {}
    streams = {
        "new": domain.stream(experiment.division, "forget"),
        "earlier": domain.stream(experiment.division, "earlier"),
    }
    found = {name: domain.measure_request(module, stream) for name, stream in streams.items()}
    return {name: values for name, values in found.items() if values}


def set_sizes(division: Division) -> dict[str, int]:
    """Counts samples in each set; "forget" is all that was asked so far, "earlier" what requests before asked."""
    split = division.split
    found = {"forget": len(split.asked), "retain": len(split.retain), "holdout": len(division.holdout)}
    found["test"] = len(division.test)
    return found | ({"earlier": len(split.earlier)} if len(split.earlier) else {})


def evaluation_fingerprint(experiment: Experiment, names: Iterable[str]) -> str:
    """Fingerprints an evaluation: the models, by what is known of each, what is measured, and by which version."""
    facts = experiment.folder.facts
    known = {name: facts[name].get("fingerprint", facts[name]["hash"]) for name in names}
    return hash_json([version("untrain"), experiment.domain.evaluation_facts(), known])


def write_manifest(
    experiment: Experiment, warnings: Sequence[str] = (), *, searched: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes manifest.json and joins the models' histories into history.jsonl; returns the manifest.

    Args:
        experiment: its models are made.
        warnings: what casts doubt on the evaluation as a whole; those of single models stand with them.
        searched: of a comparison: the methods whose settings were searched, and the seed of that search.
    """
    split, domain = experiment.division.split, experiment.domain
    data = {"name": domain.title, "hash": domain.source.fingerprint(), "classes": list(domain.source.classes)}
    records = experiment.division.records
    told = [] if records is not None and records.hashed else [*experiment.notes]  # ids may stand in them
    spec = {name: value for name, value in split.spec.items() if name not in ("after", "skipped")}  # said in "request"
    about: dict[str, Any] = {
        "task": experiment.recipe.task,
        "seed": experiment.recipe.seed,
        "data": data | ({"notes": told} if told else {}),
        "split": {"kind": split.kind, "spec": spec, "hash": split.hash},
        "request": request_facts(split, records),
    }
    if experiment.first is not None:
        about["request"]["first"] = experiment.first
    about |= {"warnings": list(warnings)} if warnings else {}
    about |= {"searched": dict(searched)} if searched else {}
    return experiment.folder.write_manifest(about, [*experiment.trained])


def run_recipe(recipe: Recipe, *, resume: bool = False, callbacks: Sequence[Callback] = ()) -> Path:
    """Does everything that a recipe asks for; returns the report's path."""
    with _opened(recipe, resume=resume, callbacks=callbacks) as experiment:
        models = {ORIGINAL: prepare_original(experiment)}
        models |= train_references(experiment)
        models |= unlearn_methods(experiment, models[ORIGINAL])
        return _evaluate_and_report(experiment, models)


def train_recipe(recipe: Recipe, *, resume: bool = False, callbacks: Sequence[Callback] = ()) -> None:
    """Trains what a recipe trains from new weights: the original, unless it has a checkpoint, and the references."""
    with _opened(recipe, resume=resume, callbacks=callbacks) as experiment:
        prepare_original(experiment)
        train_references(experiment)
        write_manifest(experiment)


def unlearn_recipe(recipe: Recipe, *, resume: bool = False, callbacks: Sequence[Callback] = ()) -> None:
    """Runs a recipe's methods on the original, which is trained where it is not there yet."""
    with _opened(recipe, resume=resume, fresh=False, callbacks=callbacks) as experiment:
        unlearn_methods(experiment, prepare_original(experiment))
        write_manifest(experiment)
        experiment.domain.close()


def evaluate_recipe(recipe: Recipe, *, resume: bool = False, callbacks: Sequence[Callback] = ()) -> Path:
    """Measures every finished model of the run folder; returns the report's path.

    Raises:
        SettingError: if the folder does not hold the original yet.
    """
    trains = recipe.domain.checkpoint_of(recipe.sections) is None
    if trains and not (recipe.folder / f"{ORIGINAL}.safetensors").exists():
        raise SettingError(f"{recipe.folder} holds no model yet: run `untrain train` or `untrain unlearn` first.")
    with _opened(recipe, resume=resume, fresh=False, callbacks=callbacks) as experiment:
        holds = experiment.folder.holds
        models = {ORIGINAL: prepare_original(experiment)}
        models |= train_references(experiment, [*filter(holds, reference_names(recipe))])
        models |= unlearn_methods(experiment, models[ORIGINAL], [*filter(holds, recipe.methods)])
        return _evaluate_and_report(experiment, models)


def _with_first(experiment: Experiment, models: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    """Puts the model before the first of several requests beside the original, where it can be had."""
    module = None if experiment.first is None else open_first(experiment.domain, experiment.first)
    if experiment.first is None or module is None:
        return models
    experiment.folder.facts[FIRST] = note_first(experiment.first)
    rest = {name: model for name, model in models.items() if name != ORIGINAL}
    return {ORIGINAL: models[ORIGINAL], FIRST: module, **rest}


def _evaluate_and_report(experiment: Experiment, models: Mapping[str, nn.Module]) -> Path:
    if not len(experiment.division.split.asked):
        return _report_unmeasured(experiment)
    models = _with_first(experiment, models)
    evaluation = evaluate_models(experiment, models)
    manifest = write_manifest(experiment, evaluation.get("warnings", ()))
    experiment.domain.on_evaluated(evaluation, experiment.folder.facts)
    path = report_run(experiment, evaluation, manifest)
    experiment.domain.close()
    return path


def _report_unmeasured(experiment: Experiment) -> Path:
    """Makes the page of a run that has nothing to measure forgetting on: all that was ever asked is gone."""
    folder = experiment.folder
    experiment.say("nothing that was asked to be forgotten is in the data any more: there is nothing to measure it on")
    manifest = write_manifest(experiment)
    history, config = folder.history([*experiment.trained]), write(experiment.recipe)
    results = Results.of_run(None, manifest=manifest, history=history, config=config, folder=folder.path)
    experiment.domain.close()
    path = folder.path / "report.html"
    if experiment.engine.is_main:
        write_report(results, experiment.domain.presentation)
        Console().print(f"report: {path}", highlight=False, soft_wrap=True)
    return path


def report_run(experiment: Experiment, evaluation: Mapping[str, Any], manifest: Mapping[str, Any]) -> Path:
    """Prints the table and writes the report; returns the report's path."""
    folder, presentation = experiment.folder, experiment.domain.presentation
    if not experiment.engine.is_main:
        return folder.path / "report.html"
    history, config = folder.history([*experiment.trained]), write(experiment.recipe)
    results = Results.of_run(evaluation, manifest=manifest, history=history, config=config, folder=folder.path)
    path = write_report(results, presentation)
    table, console = run_table(results, presentation), Console()
    if console.width >= 100:
        console.print(table.rich())
    else:  # the drawn table would cut its values off
        print(table.text())
    Console().print(f"report: {path}", highlight=False, soft_wrap=True)
    return path
