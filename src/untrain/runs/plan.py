"""`untrain plan`: what a run will need, before anything is made: memory by part, passes, images, disk.

Data are read and divided as a run does it; models have shapes alone, on the meta device, and so no weights are read or
drawn. Each stage's own code takes some of its steps there (`untrain.runs.dry_run`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from untrain.data.source import Source
from untrain.data.streams import Stream
from untrain.domain import Division, Domain
from untrain.engine import Engine, preserve_modes
from untrain.errors import SettingError, message_of
from untrain.methods.base import Method
from untrain.methods.finetune import Finetune
from untrain.models.adapters import Adapters, check_adapters, count_parameters
from untrain.models.checkpoints import bytes_of
from untrain.models.copies import copy_module
from untrain.models.parts import train_parts
from untrain.models.precision import widen_
from untrain.models.prepare import prepare_task
from untrain.models.subject import Subject
from untrain.runs.dry_run import (
    CountingEngine,
    Footprint,
    Passes,
    ShapedProblem,
    ShapedStream,
    ShapesAlone,
    try_method,
)
from untrain.runs.names import ORIGINAL, RETRAINED, numbered
from untrain.runs.recipe import Recipe
from untrain.runs.stages import check_methods, context_of
from untrain.runs.work import check_work, estimate, looks_at_samples, samples_by_set, work_of
from untrain.types import Batch, Task

PARTS = ("weights", "gradients", "optimizer", "found", "copies", "activations", "models", "data")
"""Parts of memory: of the model that is changed, its weights, gradients, states of optimisers, what was found of it
(masks, Fisher diagonals), copies of it, and activations with whatever else is there for a moment; other models of the
run that stay in memory; and the samples."""
OVERHEAD, SLACK = 600 * 10**6, 1.05
"""What a CUDA context takes, and what an allocator wastes: of a card's memory, so much is not there for tensors."""
FLOAT = 4
"""Bytes of a float32."""
HEADER = 120
"""Bytes that a file says of each tensor, about."""
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class StagePlan:
    """What one stage of a run needs.

    Attributes:
        name: of the model that is made, or "evaluate".
        method: what makes it.
        steps: of its optimisers' loop.
        forward: batches that pass through a model, those of copies included.
        backward: batches whose gradients are computed.
        memory: part → bytes at the peak; see `PARTS`.
        guesses: what is a guess, as sentences.
    """

    name: str
    method: str
    steps: int
    forward: int
    backward: int
    memory: Mapping[str, int]
    guesses: Sequence[str] = ()

    @property
    def peak(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class Plan:
    """What a run needs.

    Attributes:
        name: of the recipe.
        parameters: weights of the model, in numbers.
        trained: those of them that methods change.
        batch_size: samples of a batch.
        stages: in their order.
        images: that generators make: "measures" and "samples".
        disk: what is written → bytes.
        beside: modules that measuring or making images needs besides, and that no stage counts, in bytes.
        guesses: what is a guess of all stages, as sentences.
        card: bytes of the memory that it must fit into; None: nobody asked.
    """

    name: str
    parameters: int
    trained: int
    batch_size: int
    stages: Sequence[StagePlan]
    images: Mapping[str, int]
    disk: Mapping[str, int]
    beside: Mapping[str, int]
    guesses: Sequence[str]
    card: int | None = None

    @property
    def peak(self) -> int:
        """Bytes of the stage that needs most."""
        return max((stage.peak for stage in self.stages), default=0)

    def fits(self, stage: StagePlan) -> str:
        """Says whether a stage fits into the card: "fits", "tight" where overhead decides, "too large"."""
        if self.card is None or stage.peak * SLACK + OVERHEAD <= self.card:
            return "fits"
        return "tight" if stage.peak <= self.card else "too large"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        content = asdict(self)
        for stage, entry in zip(self.stages, content["stages"], strict=True):
            entry["peak"] = stage.peak
            entry |= {} if self.card is None else {"fits": self.fits(stage)}
        return {**content, "peak": self.peak, "disk_total": sum(self.disk.values())}

    def text(self) -> str:
        """As a table for people."""
        rows = [["stage", "steps", "passes", "backward", *PARTS, "peak"]]
        for stage in self.stages:
            sizes = [_size(stage.memory.get(part, 0)) for part in PARTS]
            counts = [f"{number:,}" for number in (stage.steps, stage.forward, stage.backward)]
            rows.append([stage.name, *counts, *sizes, _size(stage.peak)])
            if self.card is not None:
                rows[-1].append(self.fits(stage))
        if self.card is not None:
            rows[0].append(f"in {_size(self.card)}")
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [f"plan of {self.name}: nothing was started"]
        changed = "" if self.trained == self.parameters else f", of which {self.trained:,} are trained"
        lines += [f"model: {self.parameters:,} weights{changed}; batches of {self.batch_size}", ""]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]
            lines.append("  ".join(cells).rstrip())
        lines += ["", f"memory at the peak: {_size(self.peak)}" + self._verdict()]
        if self.beside:
            lines.append("besides, in memory: " + ", ".join(f"{n} {_size(b)}" for n, b in self.beside.items()))
        if any(self.images.values()):
            lines.append("images to make: " + ", ".join(f"{count:,} for {n}" for n, count in self.images.items()))
        parts = ", ".join(f"{name} {_size(size)}" for name, size in self.disk.items() if size)
        lines.append(f"disk: {_size(sum(self.disk.values()))} ({parts})")
        told = [*self.guesses, *(f"{stage.name}: {text}" for stage in self.stages for text in stage.guesses)]
        return "\n".join([*lines, "guesses:", *(f"- {text}" for text in told)])

    def _verdict(self) -> str:
        if self.card is None:
            return ""
        found = {self.fits(stage) for stage in self.stages}
        if "too large" in found:
            remedies = "batch_size, microbatch, parts or gradient_checkpointing lower it"
            return f": more than {_size(self.card)}; {remedies}"
        return f": {'tight in' if 'tight' in found else 'fits into'} {_size(self.card)}"


def read_memory(text: str) -> int:
    """Bytes of a size such as "24GB" or "80GiB".

    Raises:
        SettingError: if it is none.
    """
    number = text.strip().rstrip("bBiIkKmMgGtT")
    unit = text.strip()[len(number) :].upper()
    try:
        found = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        found = math.nan
    if not 0 < found < math.inf:
        raise SettingError(f"--memory must be a size such as 24GB or 80GiB, not {text!r}.")
    return int(found)


def plan_recipe(recipe: Recipe, memory: int | None = None) -> Plan:
    """Says what a run of a recipe will need; nothing is made or written.

    Args:
        recipe: the experiment.
        memory: bytes that it must fit into; None: nothing is compared.

    Raises:
        UntrainError: what is wrong with the recipe or the data.
    """
    return _Planner(recipe).plan(memory)


@dataclass(frozen=True)
class _Planned:
    """A model that a run makes.

    Attributes:
        found: what making it takes.
        own: bytes that it takes in memory afterwards, beside the original.
        file: bytes of its file of weights.
        folder: bytes of its own folder.
    """

    found: Footprint
    own: int
    file: int
    folder: int = 0


class _Planner:
    """A recipe whose models have shapes alone."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.engine = CountingEngine(microbatch=recipe.microbatch)
        host = Engine(torch.device("cpu"))
        with ShapesAlone():  # text encoders may ask whether a mask leaves out any token
            self.domain: Domain = recipe.domain(recipe.sections, context_of(recipe, host, weights=False))
        self.division: Division = self.domain.divide()
        check_methods(recipe, self.domain, self.division)
        self.domain.check_references(recipe.references)
        self.module = self._built(self.domain.original_shape)
        few = Stream(self.domain.few(), "train", host, recipe.batch_size)
        self.few = None if few.ready else few.gather(torch.arange(min(2, len(few))), "few")
        with ShapesAlone():
            stream = ShapedStream(few, self.few, self.engine)
            self.task: Task = prepare_task(self.domain.task, self.module, {"train": stream})

    def _built(self, build: Callable[[], nn.Module]) -> nn.Module:
        """A module as the domain builds it, without values."""
        context = self.domain.context
        self.domain.context = replace(context, engine=self.engine)
        try:
            with torch.device("meta"):
                module = build().to("meta")
        finally:
            self.domain.context = context
        widen_(module)
        return module

    def _shaped(self, stream: Stream) -> ShapedStream:
        return ShapedStream(stream, self.few, self.engine)

    # Stages.

    def plan(self, memory: int | None) -> Plan:
        """The whole plan."""
        recipe, domain = self.recipe, self.domain
        held = 0 if domain.checkpoint is None else bytes_of(self.module)
        data = self._data_bytes()
        stages, models = [], []
        for name, method, work in self._makings():
            model = work()
            stages.append(_stage(name, method.name, model.found, {"models": held, "data": data}))
            models.append(model)
            held += model.own
        stages += self._judges(held, data)
        count = len(models) + int(domain.checkpoint is not None)
        stages.append(self._evaluation(count, held, data))
        check_work(work_of(recipe, domain, self.division), recipe)
        samples = looks_at_samples(recipe)
        return Plan(
            recipe.name,
            sum(p.numel() for p in self.module.parameters()),
            self._trained(),
            recipe.batch_size,
            stages,
            {"measures": domain.images_to_make(count), "samples": domain.samples_to_make() if samples else 0},
            self._disk(models, samples),
            self._beside(),
            _guesses(recipe),
            memory,
        )

    def _trained(self) -> int:
        """Weights that methods change, in numbers; of adapters their own."""
        recipe, module = self.recipe, copy_module(self.module)
        if recipe.adapters is not None:
            return count_parameters(module, recipe.adapters)[0]
        if recipe.parts is not None:
            train_parts(module, recipe.parts)
        return sum(p.numel() for p in module.parameters() if p.requires_grad)

    def _makings(self) -> list[tuple[str, Method, Callable[[], _Planned]]]:
        """The original, where it is trained, the references, and what each method makes of it."""
        recipe, wanted = self.recipe, []
        if self.domain.checkpoint is None:
            wanted.append((ORIGINAL, "train"))
        wanted += [(name, "retain") for name in numbered(RETRAINED, recipe.references)]
        found = [(name, recipe.train, partial(self._training, which)) for name, which in wanted]
        return found + [(name, method, partial(self._method, method)) for name, method in recipe.methods.items()]

    @cache  # noqa: B019, a planner lives as long as one plan
    def _training(self, which: str) -> _Planned:
        stream = self._shaped(self.domain.stream(self.division, which))
        subject = self._subject()
        problem = ShapedProblem(subject, self.task, stream, stream, seed=self.recipe.seed)
        own = bytes_of(self.module)
        return _Planned(self._tried(self.recipe.train, problem), own, self._file(own))

    def _file(self, content: int) -> int:
        return content + HEADER * len(self.module.state_dict())

    def _subject(self) -> Subject:
        module = copy_module(self.module)
        return Subject(module, init=partial(copy_module, module))

    def _method(self, method: Method) -> _Planned:
        domain, recipe = self.domain, self.recipe
        if method.needs_samples:
            sets = {name: self._shaped(s) for name, s in domain.method_sets(self.division).items()}
        else:
            with ShapesAlone():
                given = domain.condition_sets(self.division)
            sets = {name: ShapedStream(s, None, self.engine) for name, s in given.items()}
        subject = self._subject()
        if domain.checkpoint is None:  # else it tells, and is not read
            subject.peak_lr = recipe.train.peak_lr
            subject.train_steps = recipe.train.count_steps(domain.stream(self.division, "train"))
        adapters = subject.adapters = method.adapters_of(recipe.adapters, recipe.parts)
        subject.shares = adapters is not None
        if recipe.parts is not None and adapters is None:
            train_parts(subject.module, recipe.parts)
        problem = ShapedProblem(subject, self.task, **sets, seed=recipe.seed)
        split, labels = self.division.split, domain.source.labels
        problem.forgets_class = not bool(torch.isin(labels[split.forget], labels[split.retain]).all())
        found = self._tried(method, problem)
        if adapters is not None:
            return self._adapted(found, adapters)
        own = bytes_of(self.module)
        return _Planned(found, own, self._file(own), domain.saved_bytes(self.module))

    def _adapted(self, found: Footprint, adapters: Adapters) -> _Planned:
        """A model whose adapters alone are kept, and whose other weights are the original's."""
        layers = check_adapters(self.module, adapters)
        weights: list[torch.Tensor] = [getattr(layer, "weight") for layer in layers.values()]  # noqa: B009
        own = FLOAT * sum(weight.numel() for weight in weights)
        if adapters.base is None:  # the frozen weights lie in the memory of the original's
            shared = sum(p.numel() * p.element_size() for p in self.module.parameters())
            found = replace(found, weights=max(0, found.weights - shared))
        file = (found.learned or 0) + 2 * HEADER * len(layers)
        return _Planned(found, own, file, file)

    def _tried(self, method: Method, problem: ShapedProblem) -> Footprint:
        """What a method takes; where it cannot go without values, what a plain training step would take."""
        module, sets = problem.subject.module, (problem.forget, problem.retain, problem.holdout)
        with preserve_modes(module):
            try:
                return try_method(method, problem, self.engine)
            except Exception as error:  # a method may need values in any way
                why = message_of(error)
        plain = ShapedProblem(Subject(copy_module(module), peak_lr=1e-3), problem.task, *sets[:2], seed=problem.seed)
        found = try_method(Finetune(steps=2), plain, self.engine)
        sizes = samples_by_set(self.division.split)
        work = estimate(replace(self.recipe, methods={"method": method}), sizes, trained=0, images=0)
        trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
        guess = (
            f"it cannot be tried without values ({why}); taken for plain training by Adam, with two Fisher diagonals"
        )
        return replace(
            found, optimizer=2 * trained, found=2 * trained, steps=work.steps, guesses=(*found.guesses, guess)
        )

    def _judges(self, models: int, data: int) -> list[StagePlan]:
        """Further models that measuring needs; they are small, and built as they are."""
        stages = []
        for name, training in self.domain.trainings(self.division).items():
            given = training.problem
            module = copy_module(given.subject.module).to("meta")
            stream = ShapedStream(given.retain, None, self.engine)
            subject = Subject(module, init=partial(copy_module, module))
            problem = ShapedProblem(subject, given.task, stream, stream, seed=given.seed)
            found = self._tried(training.method, problem)
            stages.append(_stage(name, training.method.name, found, {"models": models, "data": data}))
        return stages

    def _evaluation(self, made: int, models: int, data: int) -> StagePlan:
        """Measuring all models: one more batch, without gradients."""
        memory, guesses = ShapesAlone(), list[str]()
        with preserve_modes(self.module), torch.no_grad(), memory:
            self.module.eval()
            start = memory.count([*self.module.parameters(), *self.module.buffers()])
            try:
                self.domain.try_measuring(self.module, self.task, self._drawn)
            except Exception as error:  # a task of the user's own may need values in any way
                guesses.append(
                    f"measuring cannot be tried without values ({message_of(error)}): its activations are left out"
                )
        parts = {"activations": memory.peak - start, "models": models, "data": data}
        forward = self.domain.passes_to_measure(made, self.division)
        return StagePlan("evaluate", "", 0, forward, 0, {**dict.fromkeys(PARTS, 0), **parts}, guesses)

    def _drawn(self, rows: int) -> Batch:
        stream = self.domain.stream(self.division, "retain")
        return next(self._shaped(stream).once(self.task, "evaluate", limit=rows, batch_size=rows))

    # What else there is.

    def _data_bytes(self) -> int:
        """Bytes of samples that lie in memory, on the device that computes."""
        total = 0
        for source in (self.domain.source, self.domain.test, self.division.holdout):
            root = source.root()[0] if isinstance(source, Source) else None
            if root is not None and root.keeps:
                total += len(root) * math.prod(root.shape)
            tensors = None if root is None or not root.in_memory else root.tensors()
            total += sum(t.numel() * t.element_size() for t in (tensors or {}).values())
        return total

    def _disk(self, models: Sequence[_Planned], samples: bool) -> dict[str, int]:
        masks = [model.found.mask for model in models]
        return {
            "weights": sum(model.file for model in models),
            "masks": sum(mask and self._file(mask) for mask in masks),
            "models' folders": sum(model.folder for model in models),
            "checkpoints, while a model is made": max((model.found.saved for model in models), default=0),
            "samples, until the run ends": self.domain.samples_bytes() if samples else 0,
        }

    def _beside(self) -> dict[str, int]:
        pipeline = getattr(self.domain, "pipeline", None)
        parts = {} if pipeline is None else pipeline.components
        found = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        vae = getattr(self.domain, "vae", None)
        found |= {} if vae is None else {"vae": vae}
        trained = getattr(pipeline, self.domain.pipeline_part or "", None)
        return {name: bytes_of(part) for name, part in found.items() if part is not trained}


def _stage(name: str, method: str, found: Footprint, beside: Mapping[str, int]) -> StagePlan:
    memory = {part: getattr(found, part) for part in PARTS[:6]} | dict(beside)
    passes: Passes = found.passes
    return StagePlan(name, method, found.steps, round(passes.forward), round(passes.backward), memory, found.guesses)


def _guesses(recipe: Recipe) -> list[str]:
    """What no dry run tells."""
    found = [
        "sizes are of tensors: a library's workspaces, and on a GPU its context (about 0.6 GB) and what its allocator "
        "holds in reserve (about 5 %), come on top; on a CPU Python and its libraries, about 0.5 GB",
        "how many steps a method takes may depend on losses, which are not known yet; passes are those of the steps "
        "that were tried, on average",
        "disk holds no pictures, histories and reports, a few MB",
    ]
    if recipe.precision != "no":
        found.append(f"activations are counted in float32; {recipe.precision} takes about half of that")
    if recipe.compile:
        found.append("torch.compile may keep fewer activations")
    if recipe.fsdp:
        found.append(
            "sizes are without fsdp, which divides a method's weights, gradients and states of optimisers by the "
            "number of processes, and adds the weights and gradients of the layer at work"
        )
    return found


def _size(size: int) -> str:
    """Bytes in words."""
    unit = next((unit for unit in ("TB", "GB", "MB", "KB") if size >= UNITS[unit]), "B")
    return f"{size / UNITS[unit]:.3g} {unit}" if size else "0"


def plan_text(plan: Plan, *, as_json: bool) -> str:
    """What `untrain plan` prints."""
    return json.dumps(plan.to_dict(), indent=2) if as_json else plan.text()
