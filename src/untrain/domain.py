"""What a task is beyond its loss: the abstract `Domain`, of which every task has one.

A domain knows one kind of model: which sections its recipes have, how models and data are found, read and saved, how
they are measured, previewed and scored in a search, and how a report speaks of them. The stages of a run, comparisons,
the Python interface and the command line are written against it alone. What a domain does not say is done here, by
losses and outputs, as any task has them; a new kind of model begins with `task_class`, `Sections`, `load` and `build`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from untrain.data.kept import KeptRecords
from untrain.data.request import divide, request_name
from untrain.data.sections import Forget
from untrain.data.source import MEMBERS, Source
from untrain.data.splits import Split, Subset, chosen_classes
from untrain.data.streams import Stream
from untrain.engine import Engine, on_device
from untrain.errors import CheckpointError, DataError, ModelError, SettingError, lacks_reference
from untrain.methods.base import Method, Problem
from untrain.metrics.losses import distance as mean_distance
from untrain.metrics.losses import mean_losses, sample_losses
from untrain.models import checkpoints
from untrain.models.adapters import Adapters
from untrain.models.kinds import plain_module
from untrain.models.prepare import check_weights, prepare_task
from untrain.objectives import LossObjective, SearchObjective, check_heldout, share_heldout
from untrain.permissions import NONE, Permissions
from untrain.report.presentation import LOSSES, Distance, Presentation
from untrain.types import Batch, Task, lacking_functions


@dataclass(frozen=True, eq=False)
class Context:
    """Where and how a domain works: what it knows of a run besides its own sections.

    Attributes:
        engine: device, precision, processes.
        folder: the run folder; a domain writes previews and its users' formats there.
        seed: of everything random.
        batch_size: samples a batch, over all processes.
        workers: processes that read samples which are not in memory.
        parts: what of a model its methods train; see `models.parts`.
        evaluate_every: steps between two looks at a model that is being made; 0: none.
        cache: what runs of one process share, such as data that were loaded before.
        permissions: what the person at the keyboard allows.
        data_seed: of which samples there are, where they are limited in number; None: `seed`.
        adapters: what its methods train in the place of weights; None: they train the weights.
        weights: whether models have their weights; False: shapes alone, to plan a run, see `untrain.runs.plan`.
    """

    engine: Engine
    folder: Path
    seed: int = 0
    batch_size: int = 128
    workers: int = 0
    parts: str | Sequence[str] | None = None
    evaluate_every: int = 0
    cache: MutableMapping[str, Any] = field(default_factory=dict)
    permissions: Permissions = NONE
    data_seed: int = None  # type: ignore[assignment]  # filled in below
    adapters: Adapters | None = None
    weights: bool = True

    def __post_init__(self) -> None:
        """Fills the seed of the data in."""
        if self.data_seed is None:
            object.__setattr__(self, "data_seed", self.seed)


@dataclass(frozen=True, eq=False)
class Division:
    """What a run's models are made of and measured on.

    Attributes:
        split: what is forgotten, kept and held out of the training samples.
        holdout: the held-out samples; may be empty.
        test: the samples that models are tested on; may be empty.
        records: all of them by name; None where they have no names.
    """

    split: Split
    holdout: Source
    test: Source
    records: KeptRecords | None = None


@dataclass(frozen=True, eq=False)
class Training:
    """One more model that measuring needs, such as a judge: the stages make it and keep it as they do others."""

    method: Method
    problem: Problem


@dataclass(frozen=True)
class Measurement:
    """What was measured of several models.

    Attributes:
        models: name → measure → value, as evaluation.json holds it; None where a value could not be had, with the
            reason under "missing".
        noise_floor: measure → how far retrained models are from each other; None where there are not several.
        facts: what else belongs to all of it (judges, samplers), as JSON.
    """

    models: Mapping[str, dict[str, Any]]
    noise_floor: Mapping[str, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationSettings:
    """How `untrain.evaluate` measures.

    Attributes:
        options: the domain's `EvaluateOptions`.
        seed: of what measuring draws.
        batch_size: samples a forward pass.
        workers: processes that read a set which is not in memory.
        classes: names of the classes.
    """

    options: Any = None
    seed: int = 0
    batch_size: int = 256
    workers: int = 0
    classes: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Told:
    """What a model tells an audit of samples.

    Attributes:
        signals: name → one number for each sample, float64 [N]; see `untrain.audit.traces.SIGNALS`.
        correct: whether each is recognised, bool [N]; None where that has no meaning.
        scores: accuracy in percent on "base", what all twins keep, and on "test" data.
        notes: what could not be asked, and why.
        planted: of each planted image how far the model's gradient lies along its noise, [P], float64; see
            `untrain.audit.planted`.
    """

    signals: Mapping[str, np.ndarray]
    correct: np.ndarray | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    planted: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class AuditNumber:
    """One number of whole models, by which an audit holds unlearned ones against retrained ones.

    Attributes:
        label: what it is called, in a few words.
        unit: behind a value: " %", or nothing.
        meaning: what it says, in one sentence.
        original: of each original, or of those that can be asked.
        unlearned: of each unlearned model, in the order of the originals that they were made from.
        retrained: of each retrained one.
        digits: decimal places of a value.
        one_sided: whether only values above the retrained ones' are a trace, such as what an attack on a generator
            brings back; else values on either side are.
        p: exact p that no model of the two kinds can be told from the other by it, where the domain has a test of its
            own; None: by permutation of the labels "unlearned" and "retrained".
        tested: whether it enters the verdict; False: it is shown alone.
        facts: what belongs to it besides (budget, trials, samples), as JSON.
        missing: why there are no values; None where there are.
    """

    label: str
    unit: str
    meaning: str
    original: Sequence[float] = ()
    unlearned: Sequence[float] = ()
    retrained: Sequence[float] = ()
    digits: int = 1
    one_sided: bool = False
    p: float | None = None
    tested: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: str | None = None


@dataclass(frozen=True)
class AttackNumber:
    """What is counted of an attack on a model that was to forget.

    Attributes:
        label: of the attack, in a few words.
        meaning: what success means, in one sentence.
        trials: what is counted, in the plural.
        budget: what the attack may spend, as JSON: steps, images, tokens.
        judged: whether it enters the verdict.
        plain: whether it is what the model does without an attack.
        facts: what else decides it, as JSON.
    """

    label: str
    meaning: str
    trials: str
    budget: Mapping[str, Any]
    judged: bool = True
    plain: bool = False
    facts: Any = None


@dataclass(frozen=True, eq=False)
class Attempt:
    """How a model is attacked.

    Attributes:
        options: the domain's `AuditOptions`.
        model: what the model is called.
        seed: of all that is random; the same for every model.
        trained: what was made of the domain's `trainings`.
        pictures: folder for pictures of what came back, MODEL-ATTACK.png.
        placebo: whether the model, the original, is attacked for something that it never learned.
    """

    options: Any
    model: str
    seed: int
    trained: Mapping[str, nn.Module]
    pictures: Path
    placebo: bool = False


@dataclass(frozen=True, eq=False)
class Inquiry:
    """How a model of an audit by references is asked; every model alike.

    Attributes:
        division: what was forgotten and kept.
        rate: a tenth of the original's peak learning rate, for attacks that train; None: not known.
        seed: of the audit.
        options: the domain's `AuditOptions`.
        trained: what was made of the run's `trainings`, on the engine's device.
    """

    division: Division
    rate: float | None
    seed: int
    options: Any = None
    trained: Mapping[str, nn.Module] = field(default_factory=dict)


class UserModel:
    """What a user hands over in Python, taken apart; here a module that is trained as it is.

    Attributes:
        model: as it was given.
        module: what is trained.
        task: its task object.
        named: whether the user gave the task's name alone, so that what the model tells takes the place of defaults.
        pipeline_part: what the pipeline that was given calls the module; empty: as `Domain` says.
    """

    pipeline_part: str = ""

    def __init__(self, model: Any, task: Task, *, named: bool = False) -> None:
        self.model = model
        self.task = task
        self.named = named
        self.module = self.trained_module()

    def trained_module(self) -> nn.Module:
        """Returns what of the user's model is trained.

        Raises:
            ModelError: if there is nothing of that kind.
        """
        return check_module(self.model)

    @contextmanager
    def sets(
        self, given: Mapping[str, Any], engine: Engine, folder: Path | None, seed: int, options: Any = None
    ) -> Iterator[dict[str, Any]]:
        """Yields the sets as the module sees them; what had to be made for them is removed at a good end.

        Args:
            given: "forget", "retain" and perhaps "holdout", as the user gives them.
            engine: device, precision, processes.
            folder: where to keep what is computed until the end; None: a temporary place.
            seed: of what is drawn.
            options: the domain's `UnlearnOptions`.
        """
        yield dict(given)

    def condition_sets(self, given: Mapping[str, Any], options: Any = None) -> Mapping[str, Any] | None:
        """Returns the sets for methods that look at conditions alone; None: those of `sets` will do.

        Args:
            given: "forget", "retain" and perhaps "holdout", as the user gives them.
            options: the domain's `UnlearnOptions`.
        """
        return None

    def aside(self) -> AbstractContextManager[None]:
        """A block within which parts that are not trained leave the accelerator, once the sets are there."""
        return nullcontext()

    def batch_size(self, sets: Mapping[str, Any]) -> int:
        """Returns the samples of a batch where the user does not say."""
        return 128

    def init(self) -> Callable[[], nn.Module] | None:
        """Returns what builds the same architecture with new weights, where that takes more than the module tells."""
        return None

    def save(self, folder: Path, module: nn.Module) -> bool | None:
        """Writes what users of this kind of model expect beside the weights that a run folder holds.

        Returns:
            Whether that is the whole model, as its library loads it: the run folder then need not hold it again.
        """
        return False

    def whole(self, module: nn.Module) -> Any:
        """Returns the unlearned module as the user's type; a compiled model that was changed in place is itself."""
        return self.model if module is self.module else module


@contextmanager
def beside_each_other(
    model: UserModel, sets: Mapping[str, Any], references: Sequence[Any], engine: Engine, how: EvaluationSettings
) -> Iterator[tuple[dict[str, nn.Module], list[str], Task, dict[str, Stream]]]:
    """Yields, on the engine's device, "model" and its references by name, the references' names, task and streams."""
    names = [f"reference-{i}" for i in range(len(references))]
    checked = [check_module(module, "reference") for module in references]
    models = {"model": model.module, **dict(zip(names, checked, strict=True))}
    streams = {n: Stream(data, n, engine, how.batch_size, how.seed, how.workers) for n, data in sets.items()}
    with on_device(engine.device, *models.values()):
        yield models, names, prepare_task(model.task, model.module, streams), streams


def check_module(model: Any, name: str = "model") -> nn.Module:
    """Returns the module that a user gives; of a compiled one what was compiled.

    Raises:
        ModelError: if it is something else, or its weights have no values; see `check_weights`.
    """
    if type(model).__name__ == "ExportedProgram":
        raise ModelError(f"{name} is what torch.export gives, and cannot be trained: give the module it was made from.")
    if not isinstance(model, nn.Module):
        if isinstance(getattr(model, "model", None), nn.Module):
            raise ModelError(f"{name} is a {type(model).__name__}: pass its .model.")
        raise ModelError(
            f"{name} must be a torch.nn.Module, not {type(model).__name__}. Models of other kinds need their task: "
            "pass task=, one of untrain.tasks()."
        )
    return check_weights(plain_module(model), name)


@dataclass(frozen=True)
class NoOptions:
    """A domain's options where it has none."""


class Domain(ABC):
    """One recipe's kind of model, with its data at hand.

    A subclass sets `name`, `task_class` and `Sections` and defines `load` and `build`; every other function has a
    meaning for any task, and is overridden where a kind of model is more than its losses.

    Attributes:
        sections: the recipe's sections, an instance of `Sections`.
        context: where and how it works.
        source: all training samples, labelled; the split is made of these.
        test: the test samples, likewise.
        task: per-sample functions; prepared on the model once the stages have tried it.
        notes: what was taken for granted of model and data, as sentences.
    """

    name: ClassVar[str]
    """What recipes call the task."""
    task_class: ClassVar[type]
    """Its per-sample functions; fields are settings."""
    Sections: ClassVar[type]
    """A frozen dataclass: the recipe's fields that belong to this task. A field `forget` of type `Forget` makes the
    task one whose forget sets are chosen and compared. A method `completed(given)` returns them with what depends on
    which of the common fields a recipe gives; it is called once, when the recipe is read."""
    UnlearnOptions: ClassVar[type] = NoOptions
    """A frozen dataclass: further arguments of `untrain.unlearn`."""
    EvaluateOptions: ClassVar[type] = NoOptions
    """A frozen dataclass: further arguments of `untrain.evaluate`."""
    AuditOptions: ClassVar[type] = NoOptions
    """A frozen dataclass: how much the attacks of an audit may do (steps, images), as flags `--audit.NAME VALUE`."""
    presentation: ClassVar[Presentation] = LOSSES
    """How reports speak of its results; by default of the mean loss of every set."""
    user_model: ClassVar[type[UserModel]] = UserModel
    """What takes a user's model apart."""
    references: ClassVar[int] = 1
    """Retrained models where a recipe does not say; 0 where retraining is out of reach."""
    audit_twins: ClassVar[int] = 6
    """Originals, and as many retrained models, of an audit by references where nobody says it; at least 5."""
    reference_name: ClassVar[str] = "retrained"
    """What the reference that `untrain.evaluate` is given is called in a run folder."""
    recorded: ClassVar[Sequence[str]] = ("seconds",)
    """What evaluation.json holds of how a model was made, beside what was measured: "seconds", "steps"."""
    holds_out: ClassVar[bool] = True
    """Whether held-out data tell its methods how far to forget."""
    pipeline_part: str = ""
    """What a pipeline of diffusers calls the module, by which its loaders find a LoRA; empty: it is no such part."""
    listing: ClassVar[Mapping[str, str]] = {}
    """What recipes of this task can name, for `untrain list`: group (such as "models") → MODULE:TABLE, a mapping whose
    values have a `description`."""

    task: Task

    def __init__(self, sections: Any, context: Context) -> None:
        self.sections = sections
        self.context = context
        self.notes: list[str] = []
        self.source, self.test = _loaded(self.name, self.load())
        self.task = self.make_task()

    # The model and its data.

    @abstractmethod
    def load(self) -> tuple[Source, Source | None]:
        """Loads training and test samples, labelled with the model's numbers; None: there are no test samples.

        Tensors become a source as `Columns`, a map-style data set by `Columns.read`, see `untrain.data.columns`.
        """

    def make_task(self) -> Task:
        """Makes the per-sample functions for these samples; by default with default settings."""
        return self.task_class()

    @abstractmethod
    def build(self, seed: int) -> nn.Module:
        """Builds the recipe's architecture on the engine's device, with new weights by the seed: `engine.seeded`."""

    @property
    def title(self) -> str:
        """What the data are called."""
        data = getattr(self.sections, "data", None)
        return str(getattr(data, "title", getattr(data, "name", self.name)))

    @property
    def data(self) -> Source:
        """The training samples as the model sees them, in the order of `source`."""
        return self.source

    def few(self) -> Source:
        """Returns a few of them, to try a model on."""
        return self.data

    @property
    def checkpoint(self) -> str | None:
        """Where the original's weights come from; None where the stages train it."""
        return self.checkpoint_of(self.sections)

    @classmethod
    def checkpoint_of(cls, sections: Any) -> str | None:
        """Returns where the original's weights come from by the recipe's sections; None where the stages train it."""
        return getattr(getattr(sections, "model", None), "checkpoint", None)

    def original_shape(self) -> nn.Module:
        """Builds the original's architecture, whose values do not matter, to plan a run."""
        return self.build(self.context.seed)

    def original(self) -> tuple[nn.Module, dict[str, Any]]:
        """Reads the model of the checkpoint, and what else that tells."""
        module = self.build(self.context.seed)
        return module, self.read(module, str(self.checkpoint))

    def read(self, module: nn.Module, path: str) -> dict[str, Any]:
        """Reads a user's checkpoint into a module; returns what else it tells."""
        state, facts = checkpoints.load_state(path, getattr(getattr(self.sections, "model", None), "entry", None))
        if "lora" in facts:
            raise CheckpointError(
                f"{path} holds adapters alone, for weights that it does not hold: load them into these "
                "(untrain.models.lora.apply_lora), save the model, and give that."
            )
        try:
            notes = checkpoints.load_into(module, self.renamed(state, module))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return facts | {"reading": [*facts.get("reading", []), *notes]}

    def check_original(self, module: nn.Module, division: Division, facts: Mapping[str, Any]) -> list[str]:
        """Looks at a given original before anything is made of it; returns warnings, as sentences.

        Args:
            module: on the engine's device.
            division: of the samples.
            facts: what its checkpoint tells, as `original` returned it.
        """
        return []

    def renamed(self, state: checkpoints.State, module: nn.Module) -> checkpoints.State:
        """Returns a checkpoint's weights under the module's names, where another code base has others."""
        return state

    def save(self, name: str, module: nn.Module) -> bool | None:
        """Writes what users of this kind of model expect beside the weights that the run folder holds.

        Args:
            name: of the model; the place is `context.folder / name`.
            module: with the weights.

        Returns:
            Whether that is the whole model, as its library loads it: the run folder then need not hold it again.
        """
        return False

    def stream(self, division: Division, name: str, *, data: Any = None) -> Stream:
        """Makes one set's batches.

        Args:
            division: which samples are whose.
            name: "train" (forget and retain together), "forget", "retain", "holdout", "test", "earlier" (what requests
                before this one asked for), or "asked": all that was asked to be forgotten so far; the last two under
                the name "forget".
            data: another set under this name; None: the division's.
        """
        context = self.context
        if data is None:
            data = self._samples(division, name)
        called = "forget" if name in ("asked", "earlier") else name
        return Stream(data, called, context.engine, context.batch_size, context.seed, context.workers)

    def _samples(self, division: Division, name: str) -> Source:
        split = division.split
        if name in ("test", "holdout"):
            return division.test if name == "test" else division.holdout
        parts = {"train": torch.cat([split.forget, split.retain]).sort().values}
        return Subset(self.data, parts[name] if name in parts else getattr(split, name))

    def method_sets(self, division: Division) -> dict[str, Stream]:
        """Returns the sets that a method is given: "forget", "retain" and, where there is one, "holdout".

        Where nothing of a request is left, the retain set stands for "forget", for methods that do not look at it.
        """
        there: dict[str, Any] = {
            "forget": division.split.forget,
            "retain": division.split.retain,
            "holdout": division.holdout,
        }
        found = {name: self.stream(division, name) for name, samples in there.items() if len(samples)}
        return {"forget": found["retain"], **found}

    def condition_sets(self, division: Division) -> dict[str, Stream]:
        """Returns the sets for methods that look at conditions alone (`Method.needs_samples`), by default the same."""
        return self.method_sets(division)

    def sets_for(self, method: Method, division: Division) -> dict[str, Stream]:
        """Returns the sets that this method is given."""
        return self.method_sets(division) if method.needs_samples else self.condition_sets(division)

    def evaluation_sets(self, division: Division) -> dict[str, Stream]:
        """Returns the sets that a model is measured on: "forget" (all that was asked so far), "retain" and "test"."""
        sets = {"forget": self.stream(division, "asked"), "retain": self.stream(division, "retain")}
        return sets | ({"test": self.stream(division, "test")} if len(division.test) else {})

    # What is asked of the recipe.

    def divide(self) -> Division:
        """Divides the samples into what is forgotten, kept, held out and tested on."""
        section = self._forget_section()
        wanted = asdict(section)
        wanted["classes"] = self.numbered(section.classes)
        self.notes += chosen_classes(self.source, section.classes, wanted["classes"])
        if not self.holds_out:
            wanted["holdout"] = 0.0
        root = getattr(getattr(self.sections, "data", None), "path", None)
        how: dict[str, Any] = {"seed": self.context.seed, "checkpoint": self.checkpoint, "root": root}
        split, holdout, test, records = divide(self.source, self.test, wanted, **how)
        records = None if records is None else replace(records, statistics=self.input_statistics())
        return Division(split, holdout, test, records)

    def input_statistics(self) -> Mapping[str, Any]:
        """Returns what inputs are normalised by, "mean" and "std", where a later request must go on with it."""
        return {}

    def _forget_section(self) -> Forget:
        section = getattr(self.sections, "forget", None)
        if not isinstance(section, Forget):
            raise SettingError(f"the task {self.name} has no section forget: its domain must define divide().")
        return section

    def numbered(self, classes: Sequence[str | int]) -> list[str | int]:
        """Returns classes as the recipe gives them, by number or by a name that the source knows."""
        return list(classes)

    def check(self, division: Division) -> None:  # noqa: B027, most have nothing to say
        """Raises what is wrong with the recipe for this kind of model, before anything is made."""

    def check_references(self, count: int) -> None:  # noqa: B027, most can be retrained
        """Raises why models cannot be retrained as often as a recipe asks."""

    @classmethod
    def request_name(cls, sections: Any) -> str:
        """Names the recipe's own forget set, for the folder of a comparison."""
        section = getattr(sections, "forget", None)
        return request_name(section) if isinstance(section, Forget) else "forget"

    @classmethod
    def check_search(cls, sections: Any) -> None:
        """Raises why settings of methods cannot be searched with these sections; by default by `check_heldout`."""
        if cls.holds_out:
            check_heldout(sections, cls.checkpoint_of(sections))

    # Measures.

    def trainings(self, division: Division) -> Mapping[str, Training]:
        """Returns further models that measuring needs, by name; the stages make them and hand them to `measure`."""
        return {}

    def measure(
        self,
        models: Mapping[str, nn.Module],
        division: Division,
        sets: Mapping[str, Stream],
        *,
        references: Sequence[str] = (),
        trained: Mapping[str, nn.Module] | None = None,
    ) -> Measurement:
        """Measures every model.

        Args:
            models: name → module.
            division: what was to be forgotten and kept.
            sets: the "forget", "retain" and, where there is one, the "test" set.
            references: names of the retrained models among them, the target first.
            trained: what was made of `trainings`.
        """
        with self.context.engine.progress("evaluate", len(models)) as bar:
            found = {}
            for name, module in models.items():
                found[name] = self.values(module, self.task, sets, self.context.engine)
                bar.advance(name)
        return beside_references(found, references, self.presentation.distance)

    @classmethod
    def values(cls, module: nn.Module, task: Task, sets: Mapping[str, Stream], engine: Engine) -> dict[str, Any]:
        """Measures one model by itself, of a recipe and in Python; by default the mean loss of every set.

        Args:
            module: on the engine's device.
            task: prepared.
            sets: "forget", "retain" and, where there is one, "test"; `stream.once(task, "evaluate")` gives every
                sample once, in batches.
            engine: `engine.shard(batch)` is this process's part of a batch, `engine.gather(values)` joins all parts.

        Returns:
            Measure → value. Numbers are compared, those of the presentation's `distance` with a retrained model's;
            everything becomes JSON.
        """
        return mean_losses(module, task, sets, engine)

    def measure_request(self, module: nn.Module, samples: Stream) -> dict[str, float]:
        """Measures a model on the samples of some of several requests, to tell them apart; by default their loss."""
        return {"loss": sample_losses(module, self.task, samples, self.context.engine).mean().item()}

    def images_to_make(self, models: int) -> int:
        """Estimates how many images are made to measure so many models, to tell a run's work."""
        return 0

    def passes_to_measure(self, models: int, division: Division) -> int:
        """Estimates how many batches pass through models to measure so many, to tell a run's work."""
        return models * sum(stream.passes() for stream in self.evaluation_sets(division).values())

    def try_measuring(self, module: nn.Module, task: Task, draw: Callable[[int], Batch]) -> None:
        """Does once what takes most memory when a model is measured, to plan a run; by default a batch's losses.

        Args:
            module: without values, in evaluation mode; no gradient is wanted.
            task: prepared.
            draw: gives a batch of so many samples for evaluation.
        """
        task.loss(module, draw(self.context.batch_size))

    def saved_bytes(self, module: nn.Module) -> int:
        """Estimates the bytes of what `save` writes of a model, to plan a run; by default nothing."""
        return 0

    def samples_bytes(self) -> int:
        """Estimates the bytes of samples that are made and kept on disk for as long as a run goes on."""
        return 0

    def samples_to_make(self) -> int:
        """Estimates how many images are made so that methods have samples, where one looks at these."""
        return 0

    def evaluation_facts(self) -> Any:
        """Returns the settings of the recipe that decide what is measured, as JSON."""
        return None

    def preview_every(self, method: Method) -> int:
        """Returns the steps between two looks at a model that the method makes; 0: none."""
        return self.context.evaluate_every

    def preview(self, name: str, module: nn.Module, step: int, sets: Mapping[str, Stream]) -> dict[str, float]:
        """Looks at a model that is being made, after so many steps; returns what to log."""
        found = self.values(module, self.task, sets, self.context.engine)
        return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}

    def on_evaluated(self, evaluation: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> None:  # noqa: B027
        """Called once after evaluation.

        Args:
            evaluation: what evaluation.json holds.
            models: name → what is known of how each model was made.
        """

    def close(self) -> None:  # noqa: B027, most compute nothing that must not stay
        """Removes what was computed for the run alone; called when it came to its good end."""

    # A search for settings.

    def objectives(self, division: Division, own: float, trained: Mapping[str, nn.Module]) -> Sequence[SearchObjective]:
        """Returns what settings are judged by in a search, for one or more forget sets; by default by losses.

        Args:
            division: with the whole of the held-out data.
            own: the part of these that methods are given, in [0, 1).
            trained: what was made of `trainings`.

        Raises:
            DataError: if too little is left to judge by.
        """
        return [LossObjective(part, judged, self) for part, judged in share_heldout(self, division, own)]

    # An audit.

    @classmethod
    def audit_designs(cls, sections: Any) -> tuple[str, ...]:
        """Names the designs by which runs of these sections can be audited, the usual one first; by default none.

        Args:
            sections: of a recipe; see `untrain.audit.designs.DESIGNS`.
        """
        return ()

    def ask(self, module: nn.Module, division: Division, pool: np.ndarray, rate: float | None) -> Told:
        """Asks a model for the audit's signals of some samples; by default it refuses.

        Args:
            module: on the engine's device.
            division: of the model's own run: what it keeps and is tested on.
            pool: positions in the source, int64 [N].
            rate: learning rate at which a copy is trained a little on what is kept; None: not known.

        Raises:
            SettingError: if there are none for this kind of model.
        """
        raise SettingError(
            f"models of the task {self.name} tell nothing of single samples yet: they cannot be audited."
        )

    @classmethod
    def ask_sets(
        cls, module: nn.Module, task: Task, sets: Mapping[str, Stream], engine: Engine, rate: float | None
    ) -> Told:
        """Asks a model for the audit's signals of samples that may be no recipe's; by default it refuses.

        Args:
            module: on the engine's device.
            task: prepared.
            sets: "pool", what is asked; "base", what the model keeps; perhaps "test".
            engine: where it runs.
            rate: learning rate at which a copy is trained a little on the base; None: not known.

        Raises:
            SettingError: if there are none for this kind of model.
        """
        raise SettingError(f"models of the task {cls.name} tell nothing of single samples yet: they cannot be audited.")

    def check_whole(self, division: Division) -> None:  # noqa: B027, most have nothing to say
        """Raises why an audit by references has nothing to ask models of this run; before anything is trained.

        Args:
            division: of the run.
        """

    def audit_needs(self, options: Any) -> list[str]:
        """Returns what asking each model of an audit takes, work and memory, as sentences; by default nothing is said.

        Args:
            options: the domain's `AuditOptions`.
        """
        return []

    def ask_whole(self, module: nn.Module, inquiry: Inquiry) -> Told:
        """Asks one model what the numbers of an audit by references are made from; by default it refuses.

        Originals, unlearned and retrained models are asked alike, each alone: what is drawn must depend on the
        inquiry's division and seed alone, so that all models are asked of the same samples, in the same order, with
        the same noise.

        Args:
            module: on the engine's device; it is left as it was.
            inquiry: how.

        Returns:
            Arrays of any shape in `signals` (kept as they are, so no larger than needed), single numbers in `scores`;
            of these "base" and "test" are accuracies in percent on what is kept, of training and of test data.

        Raises:
            SettingError: if there is nothing to ask of this kind of model.
        """
        raise SettingError(f"models of the task {self.name} cannot be audited by references yet.")

    def audit_numbers(
        self,
        original: Sequence[Told],
        unlearned: Sequence[Told],
        retrained: Sequence[Told],
        seed: int,
        *,
        options: Any = None,
    ) -> Mapping[str, AuditNumber]:
        """Makes numbers of what models told an audit by references, in the order of its card; by default it refuses.

        Args:
            original: of K originals, by `ask_whole`.
            unlearned: of the K models that one method made of these, in their order.
            retrained: of R models retrained without what is forgotten.
            seed: of the audit.
            options: the domain's `AuditOptions`.

        Returns:
            Key, as in audit.json → number. Those that are tested must be exchangeable under the hypothesis that
            unlearned models are distributed as retrained ones, or bring their own exact p.
        """
        raise SettingError(f"models of the task {self.name} cannot be audited by references yet.")

    def audit_figures(
        self, folder: Path, name: str, original: Sequence[Told], unlearned: Sequence[Told], retrained: Sequence[Told]
    ) -> Mapping[str, Any]:
        """Makes the figures of a method's part of an audit by references, as JSON; by default none.

        Args:
            folder: of the audit, where pictures are written.
            name: of the method.
            original: as in `audit_numbers`, and so for unlearned and retrained.

        Returns:
            Name → figure, see `untrain.report.audit`.
        """
        return {}

    def attacks(self, options: Any) -> Mapping[str, Mapping[str, AttackNumber]]:
        """Returns the attacks of an audit by attacks, in their order: name → signal that it tells → what that is.

        Args:
            options: the domain's `AuditOptions`.

        Raises:
            SettingError: if there are none for this kind of model.
        """
        raise SettingError(f"there are no attacks on models of the task {self.name} yet.")

    def attack(self, name: str, module: nn.Module, attempt: Attempt) -> Told:
        """Makes one attack on a model, which is left as it was; by default it refuses.

        Args:
            name: one of `attacks`.
            module: on the engine's device.
            attempt: how.

        Returns:
            Of each signal of the attack 1 for every trial that succeeded, 0 for any other, NaN where there was nothing
            to attack.
        """
        raise SettingError(f"there are no attacks on models of the task {self.name} yet.")

    def attacks_not_tried(self, options: Any) -> Sequence[str]:
        """Names attacks that an audit does not make, for its readers."""
        return ()

    # The Python interface and the command line.

    @classmethod
    def evaluate(
        cls,
        model: UserModel,
        sets: Mapping[str, Any],
        references: Sequence[Any],
        engine: Engine,
        how: EvaluationSettings,
    ) -> Any:
        """Measures a user's model; the evaluation's `to_dict` is what evaluation.json holds of one model.

        Args:
            model: taken apart; nothing in it is changed.
            sets: "forget", "retain" and perhaps "test", as the user gives them.
            references: models retrained without the forget set; the first is the target.
            engine: where to run.
            how: seed, batch size and the like.
        """
        with beside_each_other(model, sets, references, engine, how) as (models, names, task, streams):
            found = {name: cls.values(module, task, streams, engine) for name, module in models.items()}
        measured = beside_references(found, names, cls.presentation.distance)
        return TaskEvaluation(measured.models["model"], measured.noise_floor)

    sampler: ClassVar[Callable[..., Path] | None] = None
    """Makes what models of this kind generate, `untrain sample`: a function whose first argument is the source, and
    whose others, with a default, are flags; None: they generate nothing to sample."""

    @classmethod
    def recognises(cls, source: Path) -> bool:
        """Returns whether a folder or file that is no run can be sampled as a model of this task."""
        return False


@dataclass(frozen=True, repr=False)
class TaskEvaluation:
    """What `untrain.evaluate` measures of one model, by the measures of its task; each is an attribute too.

    Attributes:
        measures: measure → value; "missing" says why one could not be had.
        noise_floor: measure → how far retrained models are from each other; None where there are not several.
    """

    measures: Mapping[str, Any]
    noise_floor: Mapping[str, float] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.measures:
            raise AttributeError(f"{name!r} was not measured; known: {', '.join(self.__dict__.get('measures', ()))}.")
        return self.measures[name]

    def __repr__(self) -> str:
        """Shows the numbers."""
        numbers = {key: value for key, value in self.measures.items() if isinstance(value, int | float)}
        return f"Evaluation({', '.join(f'{key}={value:.4g}' for key, value in numbers.items())})"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**self.measures, "noise_floor": self.noise_floor}


def _loaded(task: str, given: Any) -> tuple[Source, Source]:
    """What `load` gave, as two sources."""
    if not (isinstance(given, tuple) and len(given) == 2):
        raise DataError(
            f"load() of the task {task} must return two sources, of training and of test samples (None: there are no "
            f"test samples), not a {type(given).__name__}."
        )
    for part, source in zip(("training", "test"), given, strict=True):
        if source is not None or part == "training":
            own = isinstance(source, Source)
            lacking = [name for name in MEMBERS if not hasattr(source, name)] if own else []
            if not own or lacking:
                flaw = f"lacks {', '.join(lacking)}" if lacking else "is no untrain.data.source.Source"
                raise DataError(
                    f"load() of the task {task} gave a {type(source).__name__} as {part} samples, which {flaw}. Make "
                    "it a source: untrain.data.columns.Columns takes named tensors, and Columns.read any map-style "
                    "data set."
                )
    source, test = given
    return source, Subset(source, []) if test is None else test


def beside_references(
    models: Mapping[str, dict[str, Any]], references: Sequence[str], distance: Distance | None
) -> Measurement:
    """Puts each model's distance to the first reference beside its values; the other references are the noise floor."""
    if distance is None:
        return Measurement(models)
    lacks = {distance.key: lacks_reference()}
    if not references:
        alone = {n: {**values, "missing": {**values.get("missing", {}), **lacks}} for n, values in models.items()}
        return Measurement(alone)
    target = models[references[0]]
    found = {
        name: {**values, distance.key: mean_distance(values, target, distance.parts)} for name, values in models.items()
    }
    others = [found[name][distance.key] for name in references[1:]]
    known = [value for value in others if value is not None]
    return Measurement(found, {distance.key: sum(known) / len(known)} if known else None)


def flaw_of(name: str, loaded: Any) -> str:
    """Says what keeps an object from being the domain of a task of this name; empty where nothing does."""
    if not (isinstance(loaded, type) and issubclass(loaded, Domain)):
        return "is no class derived from untrain.Domain"
    lacking = sorted(loaded.__abstractmethods__)
    lacking += [each for each in ("name", "task_class", "Sections") if not hasattr(loaded, each)]
    if lacking:
        return f"does not define {', '.join(lacking)}"
    undefined = lacking_functions(loaded.task_class)
    if undefined:
        return f"has a task_class, {loaded.task_class.__name__}, that does not define {', '.join(undefined)}"
    if not isinstance(loaded.presentation, Presentation):
        return "has a presentation that is no object of a class derived from untrain.Presentation"
    if not is_dataclass(loaded.Sections):
        return "has Sections that are not decorated with @dataclass(frozen=True)"
    return "" if loaded.name == name else f"calls itself {loaded.name!r}: entry point and class must have one name"


class PlainDomain(Domain):
    """A task object of no domain: its models are measured by their losses."""

    name = "task"
    task_class = object
    Sections = NoOptions

    def load(self) -> tuple[Source, Source]:
        """Refuses: such a task comes from Python alone, with its data."""
        raise SettingError("a task object has no recipes: derive a Domain for it, see docs/adding-a-task.md.")

    def build(self, seed: int) -> nn.Module:
        """Refuses, as `load`."""
        raise SettingError("a task object has no recipes: derive a Domain for it, see docs/adding-a-task.md.")
