"""Image classifiers: how they are found, measured, scored and handed over."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from untrain.data.classes import class_number
from untrain.data.request import input_statistics, load_data
from untrain.data.source import Source
from untrain.data.splits import Subset
from untrain.data.streams import Stream
from untrain.domain import (
    AuditNumber,
    Division,
    Domain,
    EvaluationSettings,
    Inquiry,
    Measurement,
    SearchObjective,
    Told,
    UserModel,
    beside_each_other,
)
from untrain.engine import Engine
from untrain.errors import DataError
from untrain.io import write_text
from untrain.metrics.accuracy import accuracy
from untrain.models.card import CARD, licence_of
from untrain.models.checkpoints import bytes_of, plain_state
from untrain.models.classifiers import build
from untrain.models.pretrained import CONFIG
from untrain.models.pretrained_classifiers import PretrainedClassifier, is_classifier, label_names, save_classifier
from untrain.models.recognition import measure_accuracy
from untrain.models.saving import configured_names
from untrain.runs.names import ORIGINAL
from untrain.settings import join_arguments
from untrain.tasks.classification.card import ClassifierCard, classifier_card
from untrain.tasks.classification.class_audit import ask_class, class_numbers
from untrain.tasks.classification.class_sets import check_class_sets, class_sets, forgotten_classes
from untrain.tasks.classification.evaluate import Evaluation, evaluate_models, predictions
from untrain.tasks.classification.given import (
    DEFAULT_MODEL,
    LOOKED_AT,
    facts_of_run,
    given_model,
    told_accuracy,
    warn_of_accuracy,
)
from untrain.tasks.classification.presentation import ClassificationPresentation
from untrain.tasks.classification.search import heldout_objectives
from untrain.tasks.classification.sections import ClassificationSections
from untrain.tasks.classification.signals import ASKED_AT_ONCE, RELEARNING_BATCH, ask_classifier
from untrain.tasks.classification.task import Classification
from untrain.types import Task


@dataclass(frozen=True)
class EvaluateOptions:
    """What `untrain.evaluate` takes for a classifier besides what it takes for every model."""

    svc_attacks: bool = False
    """Run the support vector attacks too, which take about a second for each model."""


class ClassifierModel(UserModel):
    """A classifier; one of transformers is written as it saves itself."""

    def save(self, folder: Path, module: nn.Module) -> bool:
        """Writes a folder that transformers loads, where the module is one of its kind; returns whether it will."""
        if not is_classifier(module):
            return False
        save_classifier(module, folder)
        return configured_names(module) == set(plain_state(module))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """What its classes are called, where its configuration tells."""
        return label_names(self.module.config) if is_classifier(self.module) else None


class ClassificationDomain(Domain):
    """Image classification with cross-entropy: judged by accuracies, an attack, and the distance to retraining."""

    name = "classification"
    task_class = Classification
    Sections = ClassificationSections
    EvaluateOptions = EvaluateOptions
    presentation = ClassificationPresentation()
    user_model = ClassifierModel
    sections: ClassificationSections
    task: Classification

    def load(self) -> tuple[Source, Source]:
        """Loads the recipe's images, prepared and numbered as the given model has them."""
        data = self.sections.data
        self.given = given_model(self.sections.model)
        self.notes += self.given.notes
        self.prepared = self.given.preparation(data)
        source, test = load_data(
            data,
            self.context.data_seed,
            self.context.cache,
            links=self.context.permissions.links,
            geometry=self.prepared.geometry,
            after=self.sections.forget.after,
            numbered=self.given.labelled is None,
        )
        found = self.given.match(source)
        self.notes += [*self.prepared.notes, *found.notes]
        self.named = {name: found.names[number] for name, number in zip(source.classes, found.numbers, strict=True)}
        return found.renumber(source), found.renumber(test)

    def make_task(self) -> Classification:
        """Makes the task for these images, normalised as the recipe or the given model says, or as the images are."""
        after = self.sections.forget.after
        statistics: dict[str, Any] = self.prepared.statistics or input_statistics(
            self.sections.data, self.source, after
        )
        augment = asdict(self.sections.augment)
        return Classification(len(self.source.classes), **statistics, seed=self.context.seed, **augment)

    def input_statistics(self) -> Mapping[str, Any]:
        """Returns mean and deviation of each channel, which later requests go on with."""
        return {"mean": self.task.mean, "std": self.task.std}

    @classmethod
    def checkpoint_of(cls, sections: Any) -> str | None:
        """Returns where the original's weights come from; None where the recipe trains it."""
        return sections.model.original

    def numbered(self, classes: Sequence[str | int]) -> list[str | int]:
        """The data's own names, the model's, or one of its synonyms."""
        if self.given.labelled is None:
            return list(classes)
        names = self.source.classes
        return [class_number(names, self.named.get(c, c)) if isinstance(c, str) else c for c in classes]

    def build(self, seed: int) -> nn.Module:
        """Builds the recipe's classifier, or the given one's architecture with new weights."""
        chosen, shape, engine = self.sections.model, self.source.shape, self.context.engine
        if self.given.starts_anew:
            module = cast(PretrainedClassifier, self.given.deployed).new(seed)
        else:
            sizes = {"num_classes": len(self.source.classes), "in_channels": shape[0], "image_size": shape[1]}
            name = chosen.name or DEFAULT_MODEL
            module = build(**join_arguments({"name": name, **sizes, "seed": seed}, chosen.options))
        return module.to(engine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def original_shape(self) -> nn.Module:
        """Builds the given classifier's architecture, or the recipe's."""
        deployed = self.given.deployed
        return super().original_shape() if deployed is None else deployed.new(self.context.seed)

    def saved_bytes(self, module: nn.Module) -> int:
        """Counts the weights of a folder that transformers loads."""
        return bytes_of(module) if is_classifier(module) else 0

    def original(self) -> tuple[nn.Module, dict[str, Any]]:
        """Reads the given classifier of transformers, or a file of weights into the recipe's."""
        deployed = self.given.deployed
        if deployed is None:
            return super().original()
        module, notes = deployed.read(self.source.shape[0])
        module = module.to(self.context.engine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module, {**facts_of_run(deployed.folder), "reading": notes}

    def check_references(self, count: int) -> None:
        """Says what retrained models start from, where that is not plain."""
        if count and self.given.deployed is not None:
            begins = self.given.start_of_references
            self.notes.append(f"retrained models start from {begins}")

    def check_original(self, module: nn.Module, division: Division, facts: Mapping[str, Any]) -> list[str]:
        """Looks whether it knows its training images: if not, classes or preparation are wrong."""
        stream = self.stream(division, "train")
        known = len(self.source.labels.unique())
        folder = None if self.given.deployed is None else self.given.deployed.folder
        told = facts.get("accuracy") or (None if folder is None else told_accuracy(folder))
        task, engine = cast(Classification, self.task), self.context.engine
        return warn_of_accuracy(measure_accuracy(module, task, stream, engine, limit=LOOKED_AT), known, told)

    def save(self, name: str, module: nn.Module) -> bool:
        """Writes a folder that transformers loads, where the model is one of its kind; returns whether it will."""
        if not self.context.engine.is_main or not is_classifier(module):
            return False
        save_classifier(
            module,
            self.context.folder / name,
            prepared=self.prepared.of(self.task),
            classes=self.source.classes,
            original=self.given.folder,
            links=self.context.permissions.links,
        )
        return configured_names(module) == set(plain_state(module))

    def on_evaluated(self, evaluation: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the card of every folder that a method's model has."""
        for name in evaluation["models"] if self.context.engine.is_main else ():
            folder = self.context.folder / name
            if (folder / CONFIG).is_file():
                write_text(folder / CARD, classifier_card(self._card(name, evaluation, models)))

    def _card(
        self, name: str, evaluation: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]
    ) -> ClassifierCard:
        forget, made = self.sections.forget, models[name]
        shown = [each for each in self.presentation.measures if each.key not in ("steps", "seconds")]
        return ClassifierCard(
            forgotten=[str(each) for each in forget.classes],
            count=evaluation["sizes"]["forget"],
            kept=evaluation["sizes"]["retain"],
            method=made["method"],
            settings=made["settings"],
            base=self.checkpoint,
            base_hash=models[ORIGINAL]["hash"],
            hash=made["hash"],
            versions={library: version(library) for library in ("untrain", "torch", "transformers")},
            evaluation=evaluation,
            entry=name,
            measures=shown,
            seed=self.context.seed,
            licence={} if self.given.folder is None else licence_of(self.given.folder),
        )

    def measure(
        self,
        models: Mapping[str, nn.Module],
        division: Division,
        sets: Mapping[str, Stream],
        *,
        references: Sequence[str] = (),
        trained: Mapping[str, nn.Module] | None = None,
    ) -> Measurement:
        """Measures accuracies, attacks and distances; see `Domain.measure`."""
        found = evaluate_models(
            models,
            self.task,
            sets,
            self.context.engine,
            references=references,
            classes=self.source.classes,
            svc=self.sections.svc_attacks,
            seed=self.context.seed,
        )
        return measurement_of(found)

    def measure_request(self, module: nn.Module, samples: Stream) -> dict[str, float]:
        """Measures the accuracy."""
        return {"FA": accuracy(predictions(module, self.task, samples, self.context.engine).correct)}

    def evaluation_facts(self) -> Any:
        """Returns whether the support vector attacks are asked for."""
        return self.sections.svc_attacks

    def preview(self, name: str, module: nn.Module, step: int, sets: Mapping[str, Stream]) -> dict[str, float]:
        """Measures accuracies."""
        found = evaluate_models({"model": module}, self.task, sets, self.context.engine)["model"]
        return {key: getattr(found, key) for key in ("FA", "RA", "TA") if getattr(found, key) is not None}

    def objectives(self, division: Division, own: float, trained: Mapping[str, nn.Module]) -> Sequence[SearchObjective]:
        """Shares the held-out data out: to the methods, and in two halves to the score; for each forget set."""
        return heldout_objectives(self, division, own)

    @classmethod
    def audit_designs(cls, sections: ClassificationSections) -> tuple[str, ...]:
        """By references where classes are forgotten; by coins where samples are; or, if asked for, without twins."""
        return ("refs", "single") if sections.forget.classes else ("coins", "refs", "single")

    def ask(self, module: nn.Module, division: Division, pool: np.ndarray, rate: float | None) -> Told:
        """Asks a classifier for its confidence, its features, and what it relearns; see `Domain.ask`."""
        engine, seed = self.context.engine, self.context.seed
        kept = Subset(self.data, division.split.retain)
        sets = {
            "pool": Stream(Subset(self.data, torch.from_numpy(pool)), "pool", engine, ASKED_AT_ONCE, seed),
            "base": Stream(kept, "retain", engine, RELEARNING_BATCH, seed),
        }
        if len(division.test):
            sets["test"] = Stream(division.test, "test", engine, ASKED_AT_ONCE, seed)
        return self.ask_sets(module, self.task, sets, engine, rate)

    @classmethod
    def ask_sets(
        cls, module: nn.Module, task: Task, sets: Mapping[str, Stream], engine: Engine, rate: float | None
    ) -> Told:
        """Asks a classifier, whose classes its prepared task knows; see `Domain.ask_sets`."""
        classes = cast(int, cast(Classification, task).num_classes)
        return ask_classifier(module, task, sets, engine, num_classes=classes, rate=rate)

    def check_whole(self, division: Division) -> None:
        """Raises which class has no test images, or that there are too few samples to ask about."""
        check_class_sets(self, division)

    def ask_whole(self, module: nn.Module, inquiry: Inquiry) -> Told:
        """Asks a classifier for its recall, answers, features, and what it relearns; see `Domain.ask_whole`."""
        return ask_class(
            module,
            self.task,
            class_sets(self, inquiry.division, inquiry.seed),
            self.context.engine,
            forgotten=forgotten_classes(self, inquiry.division),
            num_classes=len(self.source.classes),
            rate=inquiry.rate,
        )

    def audit_numbers(
        self,
        original: Sequence[Told],
        unlearned: Sequence[Told],
        retrained: Sequence[Told],
        seed: int,
        *,
        options: Any = None,
    ) -> Mapping[str, AuditNumber]:
        """Makes five numbers of classifiers, and what describes them besides; see `Domain.audit_numbers`."""
        return class_numbers(original, unlearned, retrained, seed)

    @classmethod
    def evaluate(
        cls,
        model: UserModel,
        sets: Mapping[str, Any],
        references: Sequence[Any],
        engine: Engine,
        how: EvaluationSettings,
    ) -> Evaluation:
        """Measures a user's classifier; see `Domain.evaluate`."""
        if sets.get("test") is None:
            raise DataError("a classifier is evaluated on test data too: pass test=, samples that it never saw.")
        svc = how.options.svc_attacks
        classes = how.classes if how.classes is not None else cast(ClassifierModel, model).labels
        with beside_each_other(model, sets, references, engine, how) as (models, names, task, streams):
            count = getattr(task, "num_classes", None)
            if classes is not None and count not in (None, len(classes)):
                raise DataError(
                    f"classes has {len(classes)} names, but the model has {count} outputs: name each of them."
                )
            found = evaluate_models(
                models, task, streams, engine, references=names, classes=classes, svc=svc, seed=how.seed
            )
        return found["model"]


def measurement_of(found: Mapping[str, Evaluation]) -> Measurement:
    """Returns evaluations of several models as results: the noise floor is of all of them."""
    entries = {name: evaluation.to_dict() for name, evaluation in found.items()}
    floors = [entry.pop("noise_floor") for entry in entries.values()]
    return Measurement(entries, floors[0])
