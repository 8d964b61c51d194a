"""A recipe's stages on a run folder: the original model, what retraining gives, each method, evaluation, report.

A stage's product carries a fingerprint of all that it was made from. A stage whose product is there with the right
fingerprint is not run again; a product with another one is refused.
"""

import json
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from rich.console import Console
from torch import nn

from untrain.api import (
    check_folder,
    check_sets,
    content_of,
    environment,
    is_temporary,
)
from untrain.runs.recipe import Recipe, read, write
from untrain.data.samples import Source
from untrain.data.sources import load
from untrain.data.splits import Split, Subset, further_split, make_split
from untrain.data.streams import Stream
from untrain.engine import Engine, generator_of, seed_of
from untrain.errors import CheckpointError, DataError, FolderError, SettingError, StaleFile
from untrain.given import prepared
from untrain.diffusion.images import Decode
from untrain.io import hash_json, ensure_dir, write_json, write_text
from untrain.kinds import Kind, kind_of
from untrain.tasks.class_diffusion.domain import Generators
from untrain.diffusion.judges import JUDGE
from untrain.methods.base import Method, Problem, check_runs
from untrain.methods.loop import Checkpoints, run
from untrain.methods.retrain import Retrain
from untrain.models import checkpoints as weights
from untrain.models.parts import train_parts
from untrain.models.subject import Subject
from untrain.report import comparison_table, write_report
from untrain.report.measures import MEASURES
from untrain.saliency import density, save_mask
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.types import Task

ORIGINAL, RETRAINED = "original", "retrained"

Sources = MutableMapping[str, tuple[Source, Source]]
"""Training and test data that were loaded before, by a hash of how they were asked for."""


@dataclass(eq=False)
class Workshop:
    """A recipe with its data, split, kind of model and folder at hand."""

    recipe: Recipe
    engine: Engine
    kind: Kind
    split: Split
    holdout: Source
    test: Source
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model name → what the manifest says of it."""
    processes: int | None = None
    """As how many processes models are made elsewhere, for one that only reads them; None: as many as here."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.recipe.folder

    @property
    def source(self) -> Source:
        """The training images."""
        return self.kind.images

    @property
    def task(self) -> Task:
        """The per-sample functions of the recipe's kind of model."""
        return self.kind.task

    def stream(self, name: str) -> Stream:
        """One set's batches.

        Args:
            name: "train" (forget and retain together), "forget", "retain", "holdout", "test", or "asked": all that
                was asked to be forgotten so far, by requests before this one too.
        """
        recipe = self.recipe
        if name == "test":
            data: Any = self.test
        elif name == "holdout":
            data = self.holdout
        else:
            parts = {"train": torch.cat([self.split.forget, self.split.retain]).sort().values}
            data = Subset(self.kind.data, parts[name] if name in parts else getattr(self.split, name))
        called = "forget" if name == "asked" else name
        return Stream(data, called, self.engine, recipe.batch_size, recipe.seed, recipe.workers)

    def judged(self) -> dict[str, Stream]:
        """The sets that a model is measured on: "forget" (all that was asked so far), "retain" and, of data, "test"."""
        sets = {"forget": self.stream("asked"), "retain": self.stream("retain")}
        return sets | ({"test": self.stream("test")} if len(self.test) else {})

    def module(self, seed: int) -> nn.Module:
        """The recipe's architecture with new weights."""
        return self.kind.module(seed)

    def say(self, text: str) -> None:
        """A line for the person who waits."""
        if self.engine.is_main:
            Console(stderr=True).print(text, highlight=False)


def open_workshop(
    recipe: Recipe,
    *,
    resume: bool = False,
    fresh: bool = True,
    write: bool = True,
    sources: Sources | None = None,
) -> Workshop:
    """Loads the data, makes or checks the split, tries the model, and only then opens the run folder.

    Args:
        recipe: the experiment.
        resume: go on with what the folder holds of this recipe.
        fresh: whether the folder must be new unless `resume`; False for a stage that builds on earlier ones.
        write: whether recipe and split are written; False where another process does that.
        sources: data that were loaded before are taken from here, others are added; None: load them.

    Raises:
        UntrainError: what is wrong with the recipe, the data, the model or the folder; nothing was written then.
    """
    engine = Engine.start(recipe.device, recipe.precision, recipe.compile)
    going_on = engine.is_main and holds_run(recipe, resume=resume or not fresh)
    kind = kind_of(recipe, engine, partial(_loaded, recipe, {} if sources is None else sources))
    split, holdout, test = _parted(recipe, kind)
    for method in recipe.methods.values():
        check_runs(method, kind.task)
    kind.check(split)
    facts = _read_facts(recipe.folder) if going_on else {}
    shop = Workshop(recipe, engine, kind, split, holdout, test, facts)
    _try_model(shop)
    if engine.is_main and write:
        write_inputs(shop, going_on)
    engine.wait()
    return shop


def _loaded(recipe: Recipe, sources: Sources) -> tuple[Source, Source]:
    """The recipe's training and test data."""
    data = asdict(recipe.data)
    limits = {"train": data.pop("limit"), "test": data.pop("test_limit")}
    del data["mean"], data["std"]
    chosen = recipe.seed if any(limits.values()) else None  # nothing else in the data depends on the seed
    key = hash_json([data, limits, chosen])
    if key not in sources:
        train, test = (load(**data, part=part, limit=limits[part], seed=recipe.seed) for part in ("train", "test"))
        sources[key] = train, test
    return sources[key]


def _parted(recipe: Recipe, kind: Kind) -> tuple[Split, Source, Source]:
    """The split that the recipe asks for, the held-out data, and what remains of the test data."""
    source, test, wanted = kind.images, kind.test, asdict(recipe.forget)
    wanted["classes"] = kind.numbered(wanted["classes"])
    if not kind.holds_out:
        wanted["holdout"] = 0.0
    after, place = wanted.pop("after"), wanted.pop("holdout_from")
    wanted["seed"] = recipe.seed if wanted["seed"] is None else wanted["seed"]
    if after is not None:
        before = _split_before(recipe, source)
        share, seed = before.spec["holdout"], before.spec.get("holdout_seed", before.spec["seed"])
        place = before.spec.get("holdout_from", "train")
        del wanted["holdout"]
        split = further_split(source, before, **wanted)
        split.spec.update(holdout=share, holdout_seed=seed)
    else:
        place = place or ("train" if kind.checkpoint is None else "test")
        share, seed = wanted["holdout"], wanted["seed"]
        split = make_split(source, **wanted | ({} if place == "train" else {"holdout": 0.0}))
    holdout: Source = Subset(source, split.holdout)
    if place == "test":
        split.spec.update(holdout=share, holdout_from=place)
        holdout, test = held_out_of_test(test, round(share * len(source)), split, source, seed)
    return split, holdout, test


def _split_before(recipe: Recipe, source: Source) -> Split:
    """The split of the request that this one comes after."""
    folder = recipe.forget.after
    if recipe.model.checkpoint is None:
        raise SettingError(
            f"forget.after: give the model to go on with, such as model.checkpoint: {folder}/sfron.safetensors."
        )
    try:
        return Split.load(f"{folder}/split.json", source)
    except (DataError, StaleFile) as error:
        raise type(error)(f"forget.after must be the run folder of the request before: {error}") from error


def held_out_of_test(test: Source, count: int, split: Split, source: Source, seed: int) -> tuple[Source, Source]:
    """Some test samples, without the classes that are forgotten whole, and the rest that is still tested on.

    Args:
        test: the test data.
        count: how many to take; at most half of them are.
        split: says which classes are retained.
        source: the training data that the split points into.
        seed: of the choice.
    """
    order = torch.randperm(len(test), generator=generator_of(seed, "holdout from test"))
    chosen, rest = (part.sort().values for part in order.tensor_split([min(count, len(test) // 2)]))
    held = torch.isin(test.labels[chosen], source.labels[split.retain])
    return Subset(test, chosen[held]), Subset(test, rest)


def _try_model(shop: Workshop) -> None:
    """Builds the model once and runs it on two samples, so that a wrong name, option or checkpoint is found at once."""
    seed = shop.recipe.seed
    module = shop.module(seed) if shop.kind.checkpoint is None else shop.kind.original(seed)[0]
    few = Stream(shop.kind.few(), "train", shop.engine, shop.recipe.batch_size)
    shop.kind.task = prepared(shop.task, module, {"train": few})


def write_inputs(shop: Workshop, going_on: bool) -> None:
    """Makes the folder and writes recipe and split into it; a split that is there must be the same.

    Args:
        shop: its workshop.
        going_on: whether the folder holds a run already.
    """
    folder = ensure_dir(shop.folder)
    path = folder / "split.json"
    if going_on and path.exists() and Split.load(path, shop.source).hash != shop.split.hash:
        raise StaleFile(f"{path} is another split than the recipe asks for. Choose another folder with --out.")
    write_text(folder / "config.yaml", write(shop.recipe))
    if not (going_on and path.exists()):
        shop.split.save(path)


_OTHER = (
    *("name", "out", "workers", "checkpoint_every", "evaluate_every", "methods", "references"),
    *("compare", "svc", "generation", "judge", "detection"),
)
"""Fields of a recipe that do not change the numbers of what a folder already holds."""


def holds_run(recipe: Recipe, *, resume: bool, other: Sequence[str] = _OTHER) -> bool:
    """Whether the run folder holds a run of this very recipe to go on with; nothing is made or changed.

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
    names = {path.name for path in folder.iterdir() if not is_temporary(path)} if folder.exists() else set()
    if not names:
        return False
    kept = _kept_recipe(folder)
    if names <= {"config.yaml", "split.json"}:
        return False
    if not resume:
        raise FolderError(
            f"{folder} already holds a run. Go on with it with --resume, or choose another folder with --out."
        )
    held = _identity(kept, other)
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
    try:
        kept = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        kept = None
    if not isinstance(kept, dict) or not {"name", "data", "forget", "model", "train", "methods"} <= kept.keys():
        raise FolderError(f"{folder} is not empty and holds no run. Choose another folder with --out.")
    return kept


def _identity(content: Mapping[str, Any], other: Sequence[str]) -> dict[str, Any]:
    """A recipe's fields by dotted name, without those that do not change its numbers."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}.{key}".rstrip("."): entry for key, entry in inner}
    return {name: value for name, value in flat.items() if name not in other and name.split(".")[0] not in other}


def original(shop: Workshop) -> nn.Module:
    """The model to unlearn: from its checkpoint, else trained by the recipe on forget and retain set together."""
    recipe, checkpoint = shop.recipe, shop.kind.checkpoint
    if checkpoint is None:
        return _trained(shop, ORIGINAL, shop.stream("train"), seed_of(recipe.seed, ORIGINAL))
    module, facts = shop.kind.original(recipe.seed)
    module.eval()
    notes = [f"weights from {Path(checkpoint).name}"]
    lr = _trained_lr(facts)
    if lr is not None:
        notes.append(f"its optimiser's learning rate was {lr:g}")
    about: dict[str, Any] = {"source": str(checkpoint), "notes": notes, "settings": {}, "peak_lr": lr}
    about |= {"seconds": facts["seconds"]} if "seconds" in facts else {}
    shop.facts[ORIGINAL] = {"hash": weights.state_hash(module), **about}
    return module


def _trained_lr(facts: Mapping[str, Any]) -> float | None:
    """The peak learning rate that a checkpoint tells: its optimiser's, or that of the recipe which trained it."""
    if facts.get("method") == Retrain.name:
        return facts["settings"]["optimizer"]["lr"]
    return facts.get("peak_lr", facts.get("optimizer_lr"))


def retrained_names(recipe: Recipe) -> list[str]:
    """What a recipe's references are called; the first is the target."""
    return [RETRAINED if i == 1 else f"{RETRAINED}-{i}" for i in range(1, (recipe.references or 0) + 1)]


def retrained(shop: Workshop, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Models trained from new weights on the retain set alone; None: all that the recipe asks for."""
    names = retrained_names(shop.recipe) if names is None else names
    return {name: _trained(shop, name, shop.stream("retain"), seed_of(shop.recipe.seed, name)) for name in names}


def _trained(shop: Workshop, name: str, data: Stream, seed: int) -> nn.Module:
    """One model trained from new weights."""
    return make(shop, name, shop.recipe.train, _training(shop, data, seed))


def _training(shop: Workshop, data: Stream, seed: int) -> Problem:
    """What a model is trained on from new weights."""
    subject = Subject(shop.module(seed), init=lambda: shop.module(seed))
    stream = replace_seed(data, seed)
    return Problem(subject, shop.task, stream, stream, seed=seed)


def replace_seed(stream: Stream, seed: int) -> Stream:
    """The same set in the order of another seed."""
    return Stream(stream.data, "retain", stream.engine, stream.batch_size, seed, stream.workers)


def unlearned(shop: Workshop, start: nn.Module, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """What the recipe's methods make of the original; None: each of them."""
    sets, names = method_sets(shop), [*shop.recipe.methods] if names is None else names
    if any(not (shop.folder / f"{name}.safetensors").exists() for name in names):  # else no sample need be had
        check_sets({name: stream.data for name, stream in sets.items()}, sets)
        prepared(shop.task, start, sets)
    made = {}
    for name in names:
        made[name] = make(shop, name, shop.recipe.methods[name], unlearning(shop, start, sets))
    return made


def method_sets(shop: Workshop) -> dict[str, Stream]:
    """The sets that a method is given: "forget", "retain" and, where there is one, "holdout"."""
    names = ("forget", "retain", "holdout") if len(shop.holdout) else ("forget", "retain")
    return {name: shop.stream(name) for name in names}


def unlearning(shop: Workshop, start: nn.Module, sets: Mapping[str, Stream]) -> Problem:
    """What a method works on: a copy of the original, and the sets."""
    subject = Subject(start, init=lambda: shop.module(shop.recipe.seed), peak_lr=peak_lr(shop)).copy()
    if shop.recipe.parts is not None:
        train_parts(subject.module, shop.recipe.parts)
    return Problem(subject, shop.task, **sets, seed=shop.recipe.seed)


def peak_lr(shop: Workshop) -> float | None:
    """The highest learning rate of the original training, where the recipe or the checkpoint tells."""
    optimizer = shop.recipe.train.optimizer
    if shop.kind.checkpoint is None:
        return None if optimizer is None else optimizer.lr
    return shop.facts.get(ORIGINAL, {}).get("peak_lr")


def make(shop: Workshop, name: str, method: Method, problem: Problem) -> nn.Module:
    """The model called `name`: read from the folder if it was made from the same inputs, else made and kept there."""
    path, engine = shop.folder / f"{name}.safetensors", shop.engine
    resume_file = shop.folder / f"{name}.resume.pt"
    fingerprint = mark(shop, method, problem)
    if path.exists():
        module = _kept(shop, name, path, fingerprint, problem.subject.module)
        if engine.is_main:
            resume_file.unlink(missing_ok=True)  # of a run that was stopped between the two
        return module
    shop.say(f"[bold]{name}[/bold]: {method.name}")
    start = weights.state_hash(problem.subject.module)
    saver = Checkpoints(resume_file, fingerprint, resume=True, every=shop.recipe.checkpoint_every)
    finished = run(
        method,
        problem,
        engine,
        checkpoints=saver,
        evaluate=lambda module, step: shop.kind.watch(name, module, step, shop.judged()),
        evaluate_every=shop.kind.every(method),
    )
    mask = problem.memo.get("mask")
    module = finished.state.module.eval()
    facts = {
        "fingerprint": fingerprint,
        "file": path.name,
        "method": method.name,
        "settings": asdict(finished.method),
        "notes": problem.notes,
        "mask": None if mask is None else dict(zip(("density", "layers"), density(mask), strict=True)),
        "steps": finished.method.updates,
        "seconds": finished.seconds,
        "clocks": finished.clocks,
        "hash": weights.state_hash(module),
        "peak_lr": peak_lr(shop),
    }
    if engine.is_main:
        if mask is not None:
            save_mask(mask, shop.folder / f"{name}.mask.safetensors", weights_hash=start)
        write_text(shop.folder / f"{name}.history.jsonl", _lines(name, finished.history))
        if name in shop.recipe.methods:
            shop.kind.keep(name, module)
        Subject(module).save(path, facts)  # last: where it is, all else is there
        resume_file.unlink(missing_ok=True)
    shop.facts[name] = facts
    shop.say(f"  {finished.seconds:.1f} s" + "".join(f"; {note}" for note in problem.notes))
    engine.wait()
    return module


def _kept(shop: Workshop, name: str, path: Path, fingerprint: str, module: nn.Module) -> nn.Module:
    """A finished model of the run folder, read into a module.

    Raises:
        StaleFile: if it is damaged, or was made from other inputs.
    """
    try:
        state, facts = weights.load_state(path)
    except CheckpointError as error:
        raise StaleFile(f"{path} is damaged: {error} Remove it, and it is made again.") from error
    if facts.get("fingerprint") != fingerprint:
        raise StaleFile(f"{path} was made from other data, weights or settings. Remove it, or choose another --out.")
    weights.load_into(module, state)
    shop.facts[name] = facts
    return module.eval()


def mark(shop: Workshop, method: Method, problem: Problem) -> str:
    """The fingerprint of what a method makes of a problem: a hash of all that decides its numbers."""
    recipe = shop.recipe
    alone = problem.forget is problem.retain  # trained from new weights: what is forgotten has no part in it
    return hash_json(
        {
            "method": {"name": method.name, **asdict(method)},
            "split": None if alone else shop.split.hash,
            "set": content_of(problem.retain),
            "holdout": content_of(problem.holdout) if problem.holdout else None,
            "weights": weights.state_hash(problem.subject.module),
            "peak_lr": problem.subject.peak_lr,
            "task": asdict(problem.task),  # type: ignore[call-overload]
            "seed": problem.seed,
            "batch_size": recipe.batch_size,
            "engine": [recipe.precision, shop.processes or shop.engine.num_processes],
            **({} if alone or recipe.parts is None else {"parts": recipe.parts}),
        }
    )


def original_mark(shop: Workshop) -> str:
    """The fingerprint of the original that a recipe trains."""
    return mark(shop, shop.recipe.train, _training(shop, shop.stream("train"), seed_of(shop.recipe.seed, ORIGINAL)))


def _lines(name: str, history: list[dict[str, Any]]) -> str:
    return "".join(json.dumps({"model": name, **record}) + "\n" for record in history)


def evaluated(shop: Workshop, models: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Every measure of every model; written as evaluation.json."""
    shop.say("[bold]evaluate[/bold]")
    references = [name for name in models if name.split("-")[0] == RETRAINED]
    found = shop.kind.measure(models, shop.split, shop.judged(), references, partial(make, shop))
    shown = {measure.key for measure in MEASURES[shop.recipe.task]}
    for name, entry in found["models"].items():
        facts = shop.facts.get(name, {})
        entry |= {key: facts.get(key) for key in ("steps", "seconds") if key in shown} | {
            "clocks": facts.get("clocks", {})
        }
    content = {
        "task": shop.recipe.task,
        "classes": list(shop.source.classes),
        **found,
        "settings": shop.recipe.plain(),
        "sizes": sizes(shop),
        "mark": evaluation_mark(shop, models),
    }
    if shop.engine.is_main:
        write_json(shop.folder / "evaluation.json", content)
    return content


def sizes(shop: Workshop) -> dict[str, int]:
    """Samples in each set; "forget" is all that was asked so far, "earlier" what requests before this one asked."""
    split = shop.split
    found = {"forget": len(split.asked), "retain": len(split.retain), "holdout": len(shop.holdout)}
    return found | {"test": len(shop.test)} | ({"earlier": len(split.earlier)} if len(split.earlier) else {})


def evaluation_mark(shop: Workshop, names: Iterable[str]) -> str:
    """A fingerprint of an evaluation: the models, by what is known of each, what is measured, and by which version."""
    known = {name: shop.facts[name].get("fingerprint", shop.facts[name]["hash"]) for name in names}
    return hash_json([version("untrain"), shop.kind.measured(), known])


def open_generator(
    folder: Path, name: str
) -> tuple[nn.Module, ClassDiffusion, tuple[int, ...], tuple[str, ...], Decode | None]:
    """A finished generator of a run folder: module, task, shape of what it makes, its classes, decoder of latents.

    Raises:
        SettingError: if the run is of another task. StaleFile: if the file is damaged.
    """
    recipe = read(folder)
    if recipe.task != "class-diffusion":
        raise SettingError(f"{folder} is a run of task {recipe.task}: images can be sampled of class-diffusion alone.")
    shop = open_workshop(replace(recipe, references=0, methods={}), fresh=False, write=False)
    if name == ORIGINAL and not recipe.trains:
        module = original(shop)
    else:
        module = shop.module(0)
        weights.load_into(module, weights.load_state(folder / f"{name}.safetensors")[0])
    kind = cast(Generators, shop.kind)
    return module.eval(), kind.task, kind.shape, kind.images.classes, kind.decode


def write_manifest(shop: Workshop) -> None:
    """Writes manifest.json and joins the models' histories into history.jsonl."""
    if not shop.engine.is_main:
        return
    split = {"kind": shop.split.kind, "spec": shop.split.spec, "hash": shop.split.hash}
    data = {"name": shop.kind.title, "hash": shop.source.fingerprint(), "classes": list(shop.source.classes)}
    content = {
        **environment(shop.engine),
        "command": sys.argv[1:],
        "seed": shop.recipe.seed,
        "data": data,
        "split": split,
        "models": shop.facts,
    }
    write_json(shop.folder / "manifest.json", content)
    parts = [shop.folder / f"{name}.history.jsonl" for name in shop.facts if name.split("-")[0] != JUDGE]
    write_text(shop.folder / "history.jsonl", "".join(p.read_text() for p in parts if p.exists()))


def _read_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """What the manifest of a run folder says of its models; nothing where there is none yet."""
    manifest = folder / "manifest.json"
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))["models"] if manifest.exists() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StaleFile(f"{manifest} cannot be read: {error}. Remove it, and it is made again.") from error


def run_recipe(recipe: Recipe, *, resume: bool = False) -> Path:
    """Everything a recipe asks for; returns the report's path."""
    shop = open_workshop(recipe, resume=resume)
    models = {ORIGINAL: original(shop)}
    models |= retrained(shop)
    models |= unlearned(shop, models[ORIGINAL])
    return _judged(shop, models)


def train_recipe(recipe: Recipe, *, resume: bool = False) -> None:
    """What a recipe trains from new weights: the original, unless it has a checkpoint, and the references."""
    shop = open_workshop(recipe, resume=resume)
    original(shop)
    retrained(shop)
    write_manifest(shop)


def unlearn_recipe(recipe: Recipe, *, resume: bool = False) -> None:
    """A recipe's methods on the original, which is trained where it is not there yet."""
    shop = open_workshop(recipe, resume=resume, fresh=False)
    unlearned(shop, original(shop))
    write_manifest(shop)
    shop.kind.close()


def evaluate_recipe(recipe: Recipe, *, resume: bool = False) -> Path:
    """Measures every finished model of the run folder; returns the report's path.

    Raises:
        SettingError: if the folder does not hold the original yet.
    """

    def there(name: str) -> bool:
        return (recipe.folder / f"{name}.safetensors").exists()

    if recipe.trains and not there(ORIGINAL):
        raise SettingError(f"{recipe.folder} holds no model yet: run `untrain train` or `untrain unlearn` first.")
    shop = open_workshop(recipe, resume=resume, fresh=False)
    models = {ORIGINAL: original(shop)}
    models |= retrained(shop, [*filter(there, retrained_names(recipe))])
    models |= unlearned(shop, models[ORIGINAL], [*filter(there, recipe.methods)])
    return _judged(shop, models)


def _judged(shop: Workshop, models: Mapping[str, nn.Module]) -> Path:
    content = evaluated(shop, models)
    write_manifest(shop)
    shop.kind.told(content, shop.facts)
    path = finish(shop, content)
    shop.kind.close()
    return path


def finish(shop: Workshop, content: dict[str, Any]) -> Path:
    """Prints the table and writes the report."""
    if not shop.engine.is_main:
        return shop.folder / "report.html"
    table, console = comparison_table(content), Console()
    if console.width >= 100:
        console.print(table.rich())
    else:  # the drawn table would cut its values off
        print(table.text())
    path = write_report(shop.folder)
    Console().print(f"report: {path}", highlight=False, soft_wrap=True)
    return path
