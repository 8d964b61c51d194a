"""The Python interface: from a user's model and data to a result, in one call."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import nn

from untrain import fisher, registry
from untrain.callbacks import Callback
from untrain.data.batches import check_given
from untrain.data.checks import check_places, check_samples, check_sets
from untrain.data.datasets import is_data_set, loader_batch_size
from untrain.data.sameness import Known
from untrain.data.splits import split_of_sets
from untrain.data.streams import Stream
from untrain.domain import Domain, EvaluationSettings, check_module
from untrain.engine import Engine, Precision
from untrain.errors import DataError, Overlap, SettingError, convert_errors, unknown
from untrain.folders import PRIVATE, exclusive_lock
from untrain.methods import find, make
from untrain.methods.base import Method, Problem, check_adapts, check_divides, check_runs
from untrain.methods.loop import run
from untrain.methods.requests import ASKED, request_kind
from untrain.models.adapters import Adapters, check_adapters, lora_of, merged_copy, without_adapters
from untrain.models.checkpoints import load_into, state_hash
from untrain.models.checkpoints import save as save_weights
from untrain.models.hub import HubCard, check_repo, push_folder, write_hub_card
from untrain.models.kinds import check_kind
from untrain.models.lora import LoRA, check_loaded, extract_lora, form_of, save_lora
from untrain.models.parts import trained
from untrain.models.precision import Rounding, keep_types, widen_
from untrain.models.prepare import check_trainable, prepare_task
from untrain.models.saving import check_names, check_saved, has_adapters, save_note
from untrain.models.subject import Subject
from untrain.report import write_report
from untrain.runs.folder import (
    DeltaBase,
    RunFolder,
    check_folder,
    read_evaluation,
    read_manifest,
    warn_of_weak_reference,
)
from untrain.runs.names import EVALUATION, ORIGINAL, RETRAINED, SPLIT, numbered
from untrain.runs.python import check_python_folder, read_python_run, write_python_run
from untrain.sealed import write_sealed
from untrain.settings import BatchSize, Seed, Workers, check_arguments, describe
from untrain.settings import make as make_settings
from untrain.types import Estimator, Params, Task


@dataclass(frozen=True, eq=False)
class Change:
    """The module that was given and the unlearned one, of which a LoRA is made.

    Attributes:
        before: the user's own; None: it was changed in place, and is gone.
        after: the unlearned one.
        part: what a pipeline calls it; empty: it is no part of one.
    """

    before: nn.Module | None
    after: nn.Module
    part: str = ""


_GONE = (
    "the model was changed in place, and what it was before is gone: leave inplace out, or train adapters "
    "(adapters={...}) and save these at their own rank."
)


@dataclass(frozen=True, repr=False)
class Result:
    """What unlearning gives back.

    Attributes:
        model: the unlearned model, in evaluation mode, on its own device, of the user's type.
        history: what each step logged: losses in nats, learning rates, α.
        seconds: what the unlearning took, the Fisher pass included, evaluation left out.
        mask: parameter name → bool tensor of the salient weights; None where the method has no mask.
        method: the method with every setting as it was used.
        clocks: the seconds by part.
        notes: what was decided for the user, and why; and what casts doubt on the result.
        warnings: those of the notes that cast doubt: no forget step was taken, the loss aimed at was not reached, …
        lora: what adapters learned that were trained in the place of weights; None: weights were trained.
        change: the trained module before and after.
    """

    model: Any
    history: list[dict[str, Any]]
    seconds: float
    mask: Params | None
    method: Method
    clocks: dict[str, float]
    notes: list[str]
    warnings: list[str]
    lora: LoRA | None
    change: Change

    def save_lora(self, path: str | Path, *, rank: int | None = None, kohya: bool = False) -> LoRA:
        """Writes what was changed as a LoRA for the model that was given: for diffusers, else for peft.

        A pipeline whose class has no `load_lora_weights`, as PixArt's, gets it for peft:
        `PeftModel.from_pretrained(pipe.transformer, path).merge_and_unload()`.

        Args:
            path: a folder, or for diffusers a .safetensors file: `pipe.load_lora_weights(path)` loads either.
            rank: at most this; less where the change of every matrix is of less. None: of adapters that were trained
                their own, so that these are written as they are; else 16.
            kohya: of a pipeline with a UNet, the names of kohya's trainer, which most interfaces load.

        Returns:
            The LoRA: its `kept` is the share of the squared change that it holds, `lost` what none can carry.

        Raises:
            SettingError: if the model was changed in place and no adapters were trained, or fewer ranks are asked for
                than these have, or kohya has no names for it. ModelError: if nothing changed that a LoRA can carry.
        """
        after, part, lora, base = self.change.after, self.change.part, self.lora, self.change.before
        form = form_of(after, part, kohya=kohya)
        if has_adapters(after):  # the model came with them
            lora, base = lora_of(after), without_adapters(after)
        if lora is None or (rank is not None and rank < lora.rank):
            if base is None:
                raise SettingError(_GONE if lora is None else f"{_GONE} Its adapters are of rank {lora.rank}.")
            lora = extract_lora(base, merged_copy(after), rank=16 if rank is None else rank)
        written = save_lora(lora, path, form=form, part=part)
        check_loaded(lora, after if base is None else base, written, form, part)
        return lora

    def push_to_hub(
        self,
        repo: str,
        *,
        lora: bool = False,
        rank: int | None = None,
        base: str = "a model of the user's own",
        public: bool = False,
        update: bool = False,
        api: Any = None,
    ) -> str:
        """Uploads the model, or what was changed as a LoRA, with a card, to the Hugging Face hub; returns its address.

        Args:
            repo: USER/NAME; it must be new.
            lora: upload a LoRA instead of the model.
            rank: of the LoRA, as of `save_lora`.
            base: hub id of the model that was given, or what it is, for the card.
            public: whether everybody can see the repository; else it is private.
            update: whether the repository may be there already.
            api: an `HfApi`; None: a new one, with the token of your own login (`hf auth login`).

        Raises:
            SettingError: if the name is none, the repository is there, or the model was changed in place and `lora`.
            FolderError: if the upload fails.
        """
        check_repo(repo)
        with TemporaryDirectory(prefix="untrain-hub-") as temporary:
            place = Path(temporary) / "model"
            place.mkdir()
            if lora:
                kept = self.save_lora(place, rank=rank)
                holds = f"A LoRA of rank {kept.rank}, which holds {100 * kept.kept:.4g} % of the squared change."
            elif hasattr(self.model, "save_pretrained"):
                self.model.save_pretrained(place)
                holds = "The whole model, as its library loads it."
            else:
                save_weights(self.model, place / "model.safetensors")
                holds = "The weights of the unlearned model, as a state dict: `model.safetensors`."
            write_hub_card(place, self._hub_card(base, holds, lora=lora))
            message = f"Upload of a model made to forget by {self.method.name}"
            return push_folder(place, repo, public=public, update=update, message=message, api=api)

    def _hub_card(self, base: str, holds: str, *, lora: bool) -> HubCard:
        before = self.change.before
        after = None if before is None or lora else state_hash(self.change.after)
        return HubCard(
            base=base,
            forgotten="Samples of the user's own, which are not named here.",
            method=self.method.name,
            settings=asdict(self.method),
            holds=holds,
            before="not known, it was changed in place" if before is None else state_hash(before),
            after=after,
            took=f"It took {len(self.history)} steps and {self.seconds:.0f} s.",
            warnings=self.warnings,
            versions={library: version(library) for library in ("untrain", "torch")},
            tags=("lora",) if lora else (),
        )

    def __repr__(self) -> str:
        """Shows the method, its steps and seconds, the last losses, and how much the mask holds."""
        last = {key: value for record in self.history for key, value in record.items()}
        losses = [f"{key}={last[key]:.4g}" for key in ("forget_loss", "retain_loss", "loss") if key in last]
        share = []
        if self.mask is not None:
            kept, whole = (sum(int(count(m)) for m in self.mask.values()) for count in (torch.sum, torch.numel))
            share = [f"mask={kept / max(1, whole):.1%}"]
        shown = [repr(self.method.name), f"steps={len(self.history)}", f"seconds={self.seconds:.4g}", *losses, *share]
        return f"Result({', '.join(shown)})" + "".join(f"\n  warning: {text}" for text in self.warnings)


@check_arguments
def unlearn(
    model: Any,
    *,
    forget: Any,
    retain: Any,
    task: str | Task = registry.DEFAULT_TASK,
    method: str | type[Method] | Method | None = None,
    holdout: Any = None,
    seed: Seed = 0,
    batch_size: BatchSize | None = None,
    init: Callable[[], nn.Module] | None = None,
    train_steps: Annotated[int, Ge(1)] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    store: Literal["model", "delta"] = "model",
    inplace: bool = False,
    device: str | torch.device | None = None,
    precision: Precision = "no",
    compile: bool = False,
    microbatch: Annotated[int, Ge(1)] | None = None,
    fsdp: bool = False,
    workers: Workers = 0,
    parts: str | Sequence[str] | None = None,
    adapters: Adapters | Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Result:
    """Makes a model forget: it should then behave as if it had been trained on the retain set alone.

    Args:
        model: any module, or a pipeline of diffusers; it is left as it was unless `inplace`.
        forget: what to forget: a map-style data set of `(x, y)` or dicts (of torch, or of Hugging Face's `datasets`),
            a DataLoader of one, or a list of ready batches; of a text-to-image pipeline a `Concept` or several.
        retain: what to keep, likewise; at least a good part of the rest of the training data.
        task: what the model was trained on, a name or a task object.
        method: a name (see `untrain.methods()`), a class, or a method object. None: `sfron`; with a `budget` (share of
            the original training's cost, in (0, 1]), or with `train_steps`, `shrink-sfron` for samples and whole
            classes, and for samples `shrink-perturb` where the request is one-sided or there are no held-out data. The
            notes say which, and why.
        holdout: samples that the model never saw, likewise: they show how far to forget.
        seed: of everything random; the same seed gives the same result on the same machine.
        batch_size: samples a batch, over all processes; lists of ready batches have their own. None: a DataLoader's
            own, else 128, and of a text-to-image pipeline from 2 to 32, the fewer the larger its images.
        init: returns a new model of the same architecture, for methods that need new weights.
        train_steps: how many steps the model was trained for, in batches of this size, by which a `budget` counts;
            that is 0.2 where neither it nor a method is given. None: taken to have been 30 passes over both sets.
        out: a run folder: weights, history, mask and manifest, and checkpoints during the run, as recipes write them.
        resume: go on from the last checkpoint in `out`, if there is one.
        store: how `out` keeps the result: "model" whole, once, as plain libraries load it; "delta" as no more than what
            changed of the model that was given, which `resume=True` puts together again.
        inplace: change the model itself instead of a copy.
        device: None takes a CUDA device where there is one, else the CPU.
        precision: "no" never casts; "bf16" or "fp16" autocast the steps.
        compile: run the steps through torch.compile.
        microbatch: samples that pass through the model at once in a training step: a batch passes in parts of so many,
            with the same gradients but for rounding, in less memory. None: the whole batch.
        fsdp: divide trained weights, gradients, masks and states of optimisers among the processes that accelerate
            starts.
        workers: processes that read a data set which is not in memory.
        parts: what is trained: "full", of a UNet also "xattn", "noxattn", "selfattn" and "notime", or patterns of
            parameter names; None: whatever requires a gradient.
        adapters: low-rank adapters that are trained in the place of weights, `untrain.Adapters(rank=8)` or its fields;
            they are in the result's weights, and `Result.save_lora` writes them as they are. None: weights are trained.
        callbacks: hear of steps and stages, see `untrain.Callback`.
        settings: the method's, and what the task takes besides (`images` of a text-to-image pipeline); unknown ones
            are an error that lists the known.

    Raises:
        UntrainError: one of its kinds, with what is wrong and what to do.
    """
    engine = Engine.start(device, precision, compile, microbatch, fsdp)
    domain = registry.domain_of(task)
    options, settings = _take_options(domain.UnlearnOptions, settings)
    chosen = _make_method(method or DEFAULT_METHOD, settings)
    user = domain.user_model(model, registry.resolve(task), named=isinstance(task, str))
    check_runs(chosen, user.task)
    if fsdp:
        check_divides(chosen)
    check_kind(user.module)
    check_names(user.module)
    _check_store(store, out, inplace)
    lora = _make_adapters(adapters, user.module, chosen, parts)
    parts = parts if lora is None else None  # by now the adapters' targets
    part = (user.pipeline_part or domain.pipeline_part) if user.module is not user.model else ""
    subject = Subject(user.module, init=init or user.init(), train_steps=train_steps, adapters=lora)
    path = None if out is None else Path(out)
    given = _given_sets(forget=forget, retain=retain, holdout=holdout)
    known = _check_apart(given)
    home = next((p.device for p in user.module.parameters()), engine.device)
    alone = None if chosen.needs_samples else user.condition_sets(given, options)
    made = user.sets(given, engine, path, seed, options) if alone is None else nullcontext(dict(alone))
    with _locked(path, engine, resume=resume), made as sets, user.aside():
        usual = user.batch_size(sets) if batch_size is None else batch_size
        sizes = {name: batch_size or loader_batch_size(given.get(name)) or usual for name in sets}
        streams = {name: Stream(data, name, engine, sizes[name], seed, workers) for name, data in sets.items()}
        compared = check_sets(sets, streams, known)
        working = subject if inplace else subject.copy(share=fsdp)
        with _widened(working.module, lora, engine.device, home) as rounding:
            with trained(working.module, parts):
                if lora is None:
                    check_trainable(working.module)
                check_saved(working.module)
                problem = Problem(working, user.task, **streams, seed=seed)
                for note in compared:
                    problem.note(note)
                call = _Call(problem, streams, engine, callbacks, user.module, inplace, part)
                if method is None:
                    chosen, why = _fitting_method(chosen, settings, train_steps is not None, call)
                    problem.note(f"method: {chosen.name}, {why}")
                if path is None:
                    result = _run(chosen, call)
                else:
                    how: dict[str, Any] = {"resume": resume}
                    how["base"] = None if inplace else DeltaBase(user.module, _place_of(user.model))
                    if store == "model":
                        how["save"] = lambda module: user.save(path / chosen.name, rounding.rounded(module))
                    result = _run_in(path, chosen, call, _describe(domain, problem, parts), how)
            result.notes.extend([*rounding.describe(result.model), *save_note(result.model)])
            rounding.restore_(result.model)
    result.model.to(home)
    engine.wait()
    return replace(result, model=user.whole(result.model))


@dataclass(frozen=True, eq=False)
class _Call:
    """What a call of `unlearn` works on, once what was given is looked at.

    Attributes:
        given: the problem, whose task has not seen model and samples yet.
        streams: the batches of its sets, by name.
        engine: where it runs.
        callbacks: those of the user.
        module: the user's own.
        inplace: whether that is what is changed, and not a copy.
        part: what a pipeline calls it; empty: it is no part of one.
    """

    given: Problem
    streams: Mapping[str, Stream]
    engine: Engine
    callbacks: Sequence[Callback]
    module: nn.Module
    inplace: bool
    part: str

    @cached_property
    def prepared(self) -> Problem:
        """The problem with a task that has seen model and samples; what is noted of either is noted of both."""
        task = prepare_task(self.given.task, self.given.subject.module, self.streams, training=True)
        ready = replace(self.given, task=task)
        ready.notes = self.given.notes
        return ready

    def checked(self) -> Problem:
        """The prepared problem, whose samples are looked at, which may take long; it notes what is found."""
        check_samples(self.prepared.task, self.streams)
        for stream in self.streams.values():
            for note in stream.notes:
                self.prepared.note(note)
        return self.prepared

    def change_to(self, module: nn.Module) -> Change:
        """What was changed into this module; in place, the user's takes its weights where a method began anew."""
        if self.inplace and module is not self.module:
            load_into(self.module, module.state_dict())
        before, after = (None, self.module) if self.inplace else (self.module, module)
        return Change(before, after.eval(), self.part)


def _make_adapters(
    given: Adapters | Mapping[str, Any] | None, module: nn.Module, method: Method, parts: Any
) -> Adapters | None:
    """The adapters to train, if any, looked at before anything is computed."""
    if given is None:
        own = method.adapters_of(None, parts)
        if own is not None:
            check_adapters(module, own)
        return own
    if parts is not None:
        raise SettingError(
            "parts says which weights are trained, and with adapters none is: leave parts out, and say by "
            f"adapters.targets which layers have one: Adapters(targets={parts!r})."
        )
    made: Adapters = given if isinstance(given, Adapters) else make_settings(Adapters, dict(given))
    check_adapts(method)
    check_adapters(module, made)
    return made


def _check_store(store: str, out: str | Path | None, inplace: bool) -> None:
    """Refuses to keep what changed of a model where there is no place for it, or no such model afterwards."""
    if store == "delta" and (out is None or inplace):
        raise SettingError(
            "store='delta' says how the run folder keeps the result, "
            + ("and there is none: give out=." if out is None else "and the model before is gone: leave inplace out.")
        )


def _place_of(model: Any) -> str:
    """Where a model that was given comes from, where it tells."""
    told = getattr(model, "name_or_path", None)  # of a pipeline, and of a model of transformers
    return told if isinstance(told, str) and told else "the model that untrain.unlearn was given"


@contextmanager
def _widened(
    module: nn.Module, adapters: Adapters | None, device: torch.device, home: torch.device
) -> Iterator[Rounding]:
    """Brings a module to the device and, but for what is frozen below adapters, to float32, and back in the end.

    Yields how it came.
    """
    if adapters is None:
        rounding = widen_(module, keep=True)
    else:
        rounding = keep_types(module, [f"{name}.weight" for name in check_adapters(module, adapters)])
    try:
        module.to(device)
        yield rounding
    finally:
        rounding.restore_(module)
        module.to(home)


@contextmanager
def _locked(path: Path | None, engine: Engine, *, resume: bool) -> Iterator[None]:
    """Locks the run folder, if there is one, for the main process, and looks at what it holds."""
    if path is None or not engine.is_main:
        yield
        return
    check_folder(path, resume=True)
    with exclusive_lock(path, mode=PRIVATE):
        check_python_folder(check_folder(path, resume=resume))
        yield


DEFAULT_METHOD = "sfron"
"""The paper's own."""


BUDGET = 0.2
"""Share of the original training's cost that is taken where its length is told and no other says how long to take."""
LENGTHS = ("budget", "steps", "epochs")
"""Settings that say how long a method takes."""


def _fitting_method(default: Method, settings: Mapping[str, Any], told: bool, call: _Call) -> tuple[Method, str]:
    """The method that fits the request, where none is named, and why.

    Methods that erase ask that the retain set can train a model anew, which only its user knows: who gives a budget, or
    says how long that training was, says so. Else it is the default. Nor do they train adapters.
    """
    lengths = {name for name in LENGTHS if settings.get(name) is not None}
    if "budget" not in lengths and (lengths or not told):
        return default, (
            "the default; with a budget, or where train_steps tells how long the original training was, weights are "
            "shrunk first, which leaves less of single records, and of a class that a few samples bring back"
        )
    problem = call.prepared
    kind = request_kind(problem)
    asked = ASKED[kind]
    if kind == "concept":
        return default, f"which forgets {asked}"
    if problem.subject.adapters is not None:
        return default, "since adapters are trained"
    if kind == "class" or (kind == "samples" and problem.holdout is not None):
        fitting, why = "shrink-sfron", f"which leaves least of {asked} at a given cost"
    else:
        fitting = "shrink-perturb"
        why = (
            f"which leaves least of {asked}" if kind == "one-sided" else f"which forgets {asked} without held-out data"
        )
        others = sorted(settings.keys() - {each.name for each in fields(find(fitting))})
        if others:
            return default, f"since {', '.join(others)} is given; shrink-perturb, {why}, has none"
    if not lengths:
        problem.note(f"budget: {BUDGET:g} of the original training, since nothing else says how long to take")
        settings = {**settings, "budget": BUDGET}
    return _make_method(fitting, settings), why


_MEANT = {
    **dict.fromkeys(("lr", "learning_rate"), 'optimizer=untrain.Optimizer("adam", lr=…)'),
    **dict.fromkeys(
        ("momentum", "weight_decay"), 'optimizer=untrain.Optimizer("sgd", lr=…, momentum=…, weight_decay=…)'
    ),
    **dict.fromkeys(("criterion", "loss", "loss_fn"), "task=, an object whose loss it is"),
    "num_steps": "steps=",
    "num_epochs": "epochs=",
    "num_workers": "workers=",
}
"""What others call a setting → what it is here."""


def _make_method(method: str | type[Method] | Method, settings: Mapping[str, Any]) -> Method:
    """The method with its settings; names that other libraries have for a setting are refused with its own."""
    try:
        return make(method, settings)
    except SettingError as error:
        meant = next((name for name in settings if name in _MEANT and repr(name) in str(error)), None)
        if meant is None:
            raise
        raise SettingError(f"unlearn has no argument {meant!r}: give {_MEANT[meant]}.") from error


def _given_sets(**sets: Any) -> dict[str, Any]:
    """The sets that are there, of which forget and retain must be."""
    for name in ("forget", "retain"):
        if sets[name] is None:
            raise DataError(
                f"the {name} set is None: give a data set, a DataLoader, or a list of ready batches. Every method is "
                "given both; of what to keep, a part will do, and gradient-ascent alone takes no step on it."
            )
    return {name: data for name, data in sets.items() if data is not None}


def _check_apart(given: Mapping[str, Any]) -> dict[str, Known]:
    """Refuses data sets that share a sample, as they were given: what is computed of them may not tell any more."""
    sets = {name: data for name, data in given.items() if is_data_set(data)}
    for name, data in sets.items():
        check_given(data, name)
    return check_places(sets)


def _take_options(kind: type, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A domain's own options, taken out of what else was given."""
    names = {each.name for each in fields(kind)}
    own = {name: value for name, value in settings.items() if name in names}
    return make_settings(kind, own), {name: value for name, value in settings.items() if name not in names}


def _run(method: Method, call: _Call) -> Result:
    """What the method makes of the problem."""
    problem = call.checked()
    done = run(method, problem, call.engine, callbacks=call.callbacks)
    change, told = call.change_to(done.state.module), (problem.notes, problem.warnings)
    mask = problem.memo.get("mask")
    return Result(change.after, done.history, done.seconds, mask, done.method, done.clocks, *told, done.lora, change)


def _run_in(path: Path, method: Method, call: _Call, about: Mapping[str, Any], how: Mapping[str, Any]) -> Result:
    """The same in a run folder: read where it is finished, else made there and kept.

    Args:
        path: the folder.
        method: with its settings.
        call: what it works on.
        about: what the folder says of the run.
        how: how it keeps the model, as of `RunFolder.make_model`.
    """
    folder = RunFolder(path, call.engine, command=f"untrain.unlearn(..., out={str(path)!r}, resume=True)")
    if call.engine.is_main and how["resume"]:
        folder.read_facts()
    name, problem = method.name, call.given
    inputs = folder.inputs(method, problem)  # of the task as it was given: to look at samples may take long
    if not folder.holds(name):
        problem = call.checked()
        if call.engine.is_main:
            write_python_run(path, {**about, "methods": {name: method}})
            sets = {name: stream.data for name, stream in call.streams.items()}
            write_sealed(path / SPLIT, split_of_sets(sets, problem.seed), compact=True)
    kept = folder.make_model(name, method, problem, inputs=inputs, callbacks=call.callbacks, part=call.part, **how)
    folder.write_manifest(about["manifest"])
    mask, facts, change = kept.mask, kept.facts, call.change_to(kept.module)
    if mask is None:
        mask = folder.read_mask(name)
    told = list(facts["notes"]), list(facts.get("warnings", []))
    made = change.after, kept.history, facts["seconds"], mask, kept.method, facts["clocks"]
    return Result(*made, *told, kept.lora, change)


def _describe(domain: type[Domain], problem: Problem, parts: str | Sequence[str] | None) -> dict[str, Any]:
    """What a run folder says of a run made in Python: its settings, and hashes of its data."""
    sets = {"forget": problem.forget, "retain": problem.retain, "holdout": problem.holdout}
    data = {n: {"samples": len(s), "hash": s.fingerprint()} for n, s in sets.items() if s is not None}
    own = {"task": domain.name, "seed": problem.seed, "batch_size": problem.retain.batch_size}
    return {**own, "parts": parts, "manifest": {**own, "data": data}}


@check_arguments
def evaluate(
    model: Any,
    *,
    forget: Any,
    retain: Any,
    test: Any = None,
    task: str | Task = registry.DEFAULT_TASK,
    reference: Any = None,
    out: str | Path | None = None,
    seed: Seed = 0,
    batch_size: BatchSize | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "no",
    workers: Workers = 0,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Any:
    """Measures how far a model forgot and what it kept.

    Args:
        model: the model to look at; nothing in it is changed. Several by name, {"original": …, "sfron": …}, are
            measured one beside the other.
        forget: what was to be forgotten: a data set, a DataLoader or a list of ready batches.
        retain: what was to be kept, likewise.
        test: samples that the model never saw, likewise; a classifier needs them.
        task: as in `unlearn`.
        reference: a model retrained without the forget set, or several: the first is the target of every
            distance, the others show the noise floor. None: measures that need one say so in `.missing`.
        out: a run folder, that of `unlearn` or a new one: the evaluation and a report page are written into it, with
            the references beside the model.
        seed: of the samples that attacks are fitted on; other measures draw nothing.
        batch_size: samples a forward pass. None: the smallest of the DataLoaders', else 256.
        device: as in `unlearn`.
        precision: as in `unlearn`.
        workers: as in `unlearn`.
        classes: names of the classes.
        options: what the task takes besides: of a classifier `svc_attacks`; of generators `judge` (a classifier of
            images in [−1, 1], for text-to-image a detector), `samples` (images of each class or prompt) and `sampler`;
            of text-to-image also `clip`.

    Returns:
        An `Evaluation`; of a generator of classes a `GenerationEvaluation`, of a text-to-image pipeline a
        `ConceptEvaluation`, of a task of one's own what its domain gives. Of several models, by name. Generators need
        no `test`; the `reference` of a pipeline is the original one, from whose images of retained prompts the
        distance is measured.
    """
    engine = Engine.start(device, precision)
    path = None if out is None else Path(out)
    domain, resolved = registry.domain_of(task), registry.resolve(task)
    own, unknown_options = _take_options(domain.EvaluateOptions, options)
    if unknown_options:
        known = [each.name for each in fields(domain.EvaluateOptions)]
        raise SettingError(unknown(f"argument of evaluate for task {domain.name}", next(iter(unknown_options)), known))
    references = reference if isinstance(reference, (list, tuple)) else [] if reference is None else [reference]
    sets = _given_sets(forget=forget, retain=retain, test=test)
    try:
        _check_apart(sets)
    except Overlap as error:
        warnings.warn(f"{error} Until then, what is measured of both says less than it seems to.", stacklevel=2)
    models = model if isinstance(model, Mapping) else {"model": model}
    if not models:
        raise DataError("there is no model to evaluate.")
    for name in models:
        if not isinstance(name, str):
            raise SettingError(f"models are given by name, a text each, not {describe(name)}.")
    loaders = [size for data in sets.values() if (size := loader_batch_size(data)) is not None]
    how = EvaluationSettings(own, seed, batch_size or min(loaders, default=256), workers, classes)
    found = {}
    names = numbered(domain.reference_name, len(references))
    others = {} if out is None else dict(zip(names, references, strict=True))  # a page shows what it compares with
    with _locked(path, engine, resume=True):
        for name, each in {**models, **others, **models}.items():
            user = domain.user_model(each, resolved, named=isinstance(task, str))
            found[name] = domain.evaluate(user, sets, references, engine, how)
        if path is not None and engine.is_main:
            _keep_evaluation(path, domain, found, classes, engine)
    return {name: found[name] for name in models} if isinstance(model, Mapping) else found["model"]


def _keep_evaluation(
    path: Path, domain: type[Domain], found: Mapping[str, Any], classes: Sequence[str] | None, engine: Engine
) -> None:
    """Writes evaluation.json as the stages do, and the report's page; models measured before stay in it."""
    folder = RunFolder(path, engine)
    folder.read_facts()
    about = read_python_run(path)
    if about is None:
        about = {"task": domain.name}
        write_python_run(path, {**about, "methods": {}})
    alone = [name for name in folder.facts if name not in (ORIGINAL, RETRAINED)]
    entries = {}
    for name, evaluation in found.items():
        entry = dict(evaluation.to_dict())
        floor = entry.pop("noise_floor", None)
        called = alone[0] if name == "model" and len(alone) == 1 else name
        entries[called] = entry | folder.making_of(called, domain.recorded)
    before = read_evaluation(path) or {}
    content = {
        "task": domain.name,
        "classes": list(classes or before.get("classes", [])),
        "models": {**before.get("models", {}), **entries},
        "noise_floor": floor if floor is not None else before.get("noise_floor"),
    }
    doubts = warn_of_weak_reference(content, domain.presentation)
    content |= doubts
    write_sealed(path / EVALUATION, content)
    manifest = about | read_manifest(path)
    kept = {key: manifest[key] for key in ("task", "seed", "batch_size", "data") if key in manifest}
    folder.write_manifest(kept | doubts)
    write_report(path, domain.presentation)


@check_arguments
def fisher_diagonal(
    model: nn.Module, task: str | Task, batches: Any, *, estimator: Estimator = "sample", seed: Seed = 0
) -> Params:
    """Diagonal of the empirical Fisher information, F_j = mean_n (∂ℓ_n / ∂θ_j)², at the model's weights.

    Args:
        model: in any mode; looked at in evaluation mode and left as it was.
        task: a name or a task object.
        batches: a list of ready batches, what yields some, a map-style data set, or a DataLoader; every sample counts
            once.
        estimator: "sample" squares each sample's gradient; "batch" squares batch means, as published code does,
            and so depends on the batch size.
        seed: of what the task draws (timesteps, noise).

    Returns:
        Parameter name → tensor of the parameter's shape, float32 or wider, ≥ 0; parameters with requires_grad only.

    Raises:
        EmptySet: if there is no sample.
        InexactFisher: if a parameter is used in a way that cannot be done exactly.
    """
    model = check_module(model)
    check_kind(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    data = batches
    if isinstance(batches, Iterable) and not is_data_set(batches):
        with convert_errors(DataError, "the batches cannot be read"):
            data = list(batches)
    engine = Engine.start(device)
    stream = Stream(data, "fisher", engine, loader_batch_size(data) or 128, seed=seed)
    ready = prepare_task(registry.resolve(task), model, {"fisher": stream})
    return fisher.fisher_diagonal(model, ready, stream.once(ready, "fisher"), estimator=estimator, engine=engine)
