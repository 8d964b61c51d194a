"""A recipe's stages on a run folder: the original model, what retraining gives, each method, evaluation, report.

A stage's product carries a fingerprint of all that it was made from. A stage whose product is there with the right
fingerprint is not run again; a product with another one is refused.
"""

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from untrain.api import check_sets, content_of, prepared
from untrain.config import Recipe, write
from untrain.data.samples import Source
from untrain.data.sources import channel_statistics, load
from untrain.data.splits import Split, Subset, make_split
from untrain.data.streams import Stream
from untrain.engine import Engine, seed_of
from untrain.errors import FolderError, SettingError, StaleFile
from untrain.evaluation.evaluate import Evaluation, evaluate_models
from untrain.io import hash_json, write_json, write_text
from untrain.methods.base import Checkpoints, Method, Problem, run
from untrain.models import checkpoints as weights
from untrain.models.classifiers import build
from untrain.models.subject import Subject
from untrain.report import comparison_table, write_report
from untrain.saliency import density, save_mask
from untrain.tasks.classification import Classification

ORIGINAL, RETRAINED = "original", "retrained"
_LIBRARIES = ("torch", "accelerate", "safetensors", "numpy", "scikit-learn")


@dataclass(eq=False)
class Workshop:
    """A recipe with its data, split, task and folder at hand."""

    recipe: Recipe
    engine: Engine
    source: Source
    test: Source
    split: Split
    task: Classification
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model name → what the manifest says of it."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.recipe.folder

    def stream(self, name: str) -> Stream:
        """One set's batches: "train" (forget and retain together), "forget", "retain", "holdout" or "test"."""
        recipe = self.recipe
        if name == "test":
            data: Any = self.test
        else:
            parts = {"train": torch.cat([self.split.forget, self.split.retain]).sort().values}
            data = Subset(self.source, parts[name] if name in parts else getattr(self.split, name))
        return Stream(data, name, self.engine, recipe.batch_size, recipe.seed, recipe.workers)

    def module(self, seed: int) -> nn.Module:
        """The recipe's architecture with new weights."""
        chosen, shape = self.recipe.model, self.source.shape
        module = build(
            chosen.name,
            num_classes=len(self.source.classes),
            in_channels=shape[0],
            image_size=shape[1],
            seed=seed,
            **chosen.options,
        )
        return module.to(self.engine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def say(self, text: str) -> None:
        """A line for the person who waits."""
        if self.engine.is_main:
            Console(stderr=True).print(text, highlight=False)


def open_workshop(recipe: Recipe, *, resume: bool = False, fresh: bool = True) -> Workshop:
    """Loads the data, makes or checks the split, and opens the run folder.

    Args:
        recipe: the experiment.
        resume: go on with what the folder holds of this recipe.
        fresh: whether the folder must be new unless `resume`; False for a stage that builds on earlier ones.
    """
    engine = Engine.start(recipe.device, recipe.precision, recipe.compile)
    claim_folder(recipe, resume=resume or not fresh, engine=engine)
    data = asdict(recipe.data)
    limits = {"train": data.pop("limit"), "test": data.pop("test_limit")}
    source, test = (load(**data, part=part, limit=limits[part], seed=recipe.seed) for part in ("train", "test"))
    wanted = asdict(recipe.forget)
    wanted["seed"] = recipe.seed if wanted["seed"] is None else wanted["seed"]
    split = make_split(source, **wanted)
    if engine.is_main:
        write_text(recipe.folder / "config.yaml", write(recipe))
        if (recipe.folder / "split.json").exists():
            kept = Split.load(recipe.folder / "split.json", source)
            if kept.hash != split.hash:
                raise StaleFile(f"{recipe.folder / 'split.json'} is another split than the recipe asks for.")
        else:
            split.save(recipe.folder / "split.json")
    engine.wait()
    mean, std = channel_statistics(source)
    task = Classification(len(source.classes), mean, std, seed=recipe.seed, **asdict(recipe.augment))
    return Workshop(recipe, engine, source, test, split, task, _read_facts(recipe.folder))


def claim_folder(recipe: Recipe, *, resume: bool, engine: Engine) -> None:
    """Makes the run folder, or goes on in one that holds this very recipe.

    Raises:
        FolderError: if it holds something else, or holds this run and `resume` was not asked for.
    """
    folder = recipe.folder
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder} is a file. Choose another folder with --out.")
    if folder.exists() and any(folder.iterdir()) and engine.is_main:
        if not (folder / "config.yaml").exists():
            raise FolderError(f"{folder} is not empty and holds no run. Choose another folder with --out.")
        if not resume:
            raise FolderError(
                f"{folder} already holds a run. Go on with it with --resume, or choose another folder with --out."
            )
        if _identity((folder / "config.yaml").read_text(encoding="utf-8")) != _identity(write(recipe)):
            raise FolderError(f"{folder} holds a run of another recipe. Choose another folder with --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{folder} cannot be made: {error.strerror}. Choose another with --out.") from error


def _identity(text: str) -> Any:
    """A recipe's text without the fields that do not change its numbers."""
    import yaml

    content = yaml.safe_load(text)
    return {k: v for k, v in content.items() if k not in ("out", "workers", "checkpoint_every", "methods", "references")}


def original(shop: Workshop) -> nn.Module:
    """The model to unlearn: from its checkpoint, else trained by the recipe on forget and retain set together."""
    recipe = shop.recipe
    if recipe.model.checkpoint is None:
        return _trained(shop, ORIGINAL, shop.stream("train"), seed_of(recipe.seed, ORIGINAL))
    module = shop.module(recipe.seed)
    state, facts = weights.load_state(recipe.model.checkpoint)
    weights.load_into(module, state)
    module.eval()
    lr = facts.get("optimizer_lr")
    note = f"weights from {Path(recipe.model.checkpoint).name}"
    shop.facts[ORIGINAL] = {"hash": weights.state_hash(module), "notes": [note], "settings": {}, "peak_lr": lr}
    return module


def retrained(shop: Workshop) -> dict[str, nn.Module]:
    """Models trained from new weights on the retain set alone; the first is the target."""
    names = [RETRAINED, *(f"{RETRAINED}-{i}" for i in range(2, shop.recipe.references + 1))][: shop.recipe.references]
    return {name: _trained(shop, name, shop.stream("retain"), seed_of(shop.recipe.seed, name)) for name in names}


def _trained(shop: Workshop, name: str, data: Stream, seed: int) -> nn.Module:
    """One model trained from new weights."""
    subject = Subject(shop.module(seed), init=lambda: shop.module(seed))
    stream = replace_seed(data, seed)
    return _made(shop, name, shop.recipe.train, Problem(subject, shop.task, stream, stream, seed=seed))


def replace_seed(stream: Stream, seed: int) -> Stream:
    """The same set in the order of another seed."""
    return Stream(stream.data, "retain", stream.engine, stream.batch_size, seed, stream.workers)


def unlearned(shop: Workshop, start: nn.Module) -> dict[str, nn.Module]:
    """What each of the recipe's methods makes of the original."""
    sets = {name: shop.stream(name) for name in ("forget", "retain")}
    if len(shop.split.holdout):
        sets["holdout"] = shop.stream("holdout")
    check_sets({name: stream.data for name, stream in sets.items()})
    prepared(shop.task, start, sets)
    made = {}
    for name, method in shop.recipe.methods.items():
        subject = Subject(start, init=lambda: shop.module(shop.recipe.seed), peak_lr=peak_lr(shop)).copy()
        made[name] = _made(shop, name, method, Problem(subject, shop.task, **sets, seed=shop.recipe.seed))
    return made


def peak_lr(shop: Workshop) -> float | None:
    """The highest learning rate of the original training, where the recipe or the checkpoint tells."""
    if shop.recipe.model.checkpoint is None:
        return shop.recipe.train.optimizer.lr
    return shop.facts[ORIGINAL].get("peak_lr")


def _made(shop: Workshop, name: str, method: Method, problem: Problem) -> nn.Module:
    """The model called `name`: read from the folder if it was made from the same inputs, else made and kept there."""
    path, engine = shop.folder / f"{name}.safetensors", shop.engine
    mark = _mark(shop, method, problem)
    if path.exists():
        state, facts = weights.load_state(path)
        if facts.get("fingerprint") != mark:
            raise StaleFile(f"{path} was made from other data, weights or settings. Remove it, or choose another --out.")
        module = shop.module(0)
        weights.load_into(module, state)
        shop.facts[name] = facts
        return module.eval()
    shop.say(f"[bold]{name}[/bold]: {method.name}")
    start = weights.state_hash(problem.subject.module)
    resume_file = shop.folder / f"{name}.resume.pt"
    saver = Checkpoints(resume_file, mark, resume=True, every=shop.recipe.checkpoint_every)
    finished = run(
        method,
        problem,
        engine,
        checkpoints=saver,
        evaluate=lambda module: _quick(shop, module),
        evaluate_every=shop.recipe.evaluate_every,
    )
    mask = problem.memo.get("mask") if method.name == "sfron" else None
    module = finished.state.module.eval()
    facts = {
        "fingerprint": mark,
        "file": path.name,
        "method": method.name,
        "settings": asdict(finished.method),
        "notes": problem.notes,
        "mask": None if mask is None else dict(zip(("density", "layers"), density(mask), strict=True)),
        "seconds": finished.seconds,
        "clocks": finished.clocks,
        "hash": weights.state_hash(module),
    }
    if engine.is_main:
        if mask is not None:
            save_mask(mask, shop.folder / f"{name}.mask.safetensors", weights_hash=start)
        write_text(shop.folder / f"{name}.history.jsonl", _lines(name, finished.history))
        Subject(module).save(path, facts)
        resume_file.unlink(missing_ok=True)
    shop.facts[name] = facts
    shop.say(f"  {finished.seconds:.1f} s" + "".join(f"; {note}" for note in problem.notes))
    engine.wait()
    return module


def _mark(shop: Workshop, method: Method, problem: Problem) -> str:
    recipe = shop.recipe
    return hash_json(
        {
            "method": {"name": method.name, **asdict(method)},
            "split": shop.split.hash,
            "set": content_of(problem.retain),
            "weights": weights.state_hash(problem.subject.module),
            "peak_lr": problem.subject.peak_lr,
            "task": asdict(shop.task),
            "seed": problem.seed,
            "batch_size": recipe.batch_size,
            "engine": [recipe.precision, shop.engine.num_processes],
        }
    )


def _lines(name: str, history: list[dict[str, Any]]) -> str:
    return "".join(json.dumps({"model": name, **record}) + "\n" for record in history)


def _quick(shop: Workshop, module: nn.Module) -> dict[str, float]:
    """Accuracies during a run."""
    sets = {name: shop.stream(name) for name in ("forget", "retain", "test")}
    found = evaluate_models({"model": module}, shop.task, sets, shop.engine)["model"]
    return {name: getattr(found, name) for name in ("FA", "RA", "TA") if getattr(found, name) is not None}


def evaluated(shop: Workshop, models: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Every measure of every model; written as evaluation.json."""
    shop.say("[bold]evaluate[/bold]")
    streams = {name: shop.stream(name) for name in ("forget", "retain", "test")}
    references = [name for name in models if name.split("-")[0] == RETRAINED]
    found: dict[str, Evaluation] = evaluate_models(
        models, shop.task, streams, shop.engine, references=references, classes=shop.source.classes
    )
    entries = {}
    for name, evaluation in found.items():
        facts = shop.facts.get(name, {})
        clocks = facts.get("clocks", {})
        entries[name] = {**evaluation.to_dict(), "seconds": facts.get("seconds"), "clocks": clocks}
        entries[name].pop("noise_floor")
    content = {
        "models": entries,
        "noise_floor": next(iter(found.values())).noise_floor,
        "settings": shop.recipe.plain(),
        "classes": list(shop.source.classes),
        "sizes": {part: len(getattr(shop.split, part)) for part in ("forget", "retain", "holdout")}
        | {"test": len(shop.test)},
    }
    if shop.engine.is_main:
        write_json(shop.folder / "evaluation.json", content)
    return content


def write_manifest(shop: Workshop) -> None:
    """Writes manifest.json and joins the models' histories into history.jsonl."""
    if not shop.engine.is_main:
        return
    split = {"kind": shop.split.kind, "spec": shop.split.spec, "hash": shop.split.hash}
    data = {"name": shop.recipe.data.name, "hash": shop.source.fingerprint(), "classes": list(shop.source.classes)}
    write_json(
        shop.folder / "manifest.json",
        {
            "untrain": version("untrain"),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
            "command": sys.argv[1:],
            "device": str(shop.engine.device),
            "processes": shop.engine.num_processes,
            "threads": torch.get_num_threads(),
            "seed": shop.recipe.seed,
            "data": data,
            "split": split,
            "models": shop.facts,
        },
    )
    parts = [shop.folder / f"{name}.history.jsonl" for name in shop.facts]
    write_text(shop.folder / "history.jsonl", "".join(p.read_text() for p in parts if p.exists()))


def _read_facts(folder: Path) -> dict[str, dict[str, Any]]:
    manifest = folder / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8"))["models"] if manifest.exists() else {}


def existing_models(shop: Workshop) -> dict[str, nn.Module]:
    """Every finished model of the run folder, in the order in which it was made."""
    names = [ORIGINAL, *(n for n in shop.facts if n.startswith(RETRAINED)), *shop.recipe.methods]
    models = {}
    for name in names:
        path = shop.folder / f"{name}.safetensors"
        if path.exists():
            module = shop.module(0)
            state, shop.facts[name] = weights.load_state(path)
            weights.load_into(module, state)
            models[name] = module.eval()
    if not models:
        raise SettingError(f"{shop.folder} holds no model yet: run `untrain train` or `untrain unlearn` first.")
    return models


def run_recipe(recipe: Recipe, *, resume: bool = False) -> Path:
    """Everything a recipe asks for; returns the report's path."""
    shop = open_workshop(recipe, resume=resume)
    models = {ORIGINAL: original(shop)}
    models |= retrained(shop)
    models |= unlearned(shop, models[ORIGINAL])
    content = evaluated(shop, models)
    write_manifest(shop)
    return finish(shop, content)


def finish(shop: Workshop, content: dict[str, Any]) -> Path:
    """Prints the table and writes the report."""
    if not shop.engine.is_main:
        return shop.folder / "report.html"
    Console().print(comparison_table(content).rich())
    path = write_report(shop.folder)
    Console().print(f"report: {path}", highlight=False, soft_wrap=True)
    return path
