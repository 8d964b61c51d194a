"""Image classifiers: how they are found, measured, scored and handed over."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from untrain.data.request import input_statistics, load_data
from untrain.data.samples import Source
from untrain.data.streams import Stream
from untrain.domain import (
    Division,
    Domain,
    EvaluationSettings,
    Measurement,
    SearchObjective,
    UserModel,
    beside_each_other,
)
from untrain.engine import Engine
from untrain.errors import DataError
from untrain.metrics.accuracy import accuracy
from untrain.models.classifiers import build
from untrain.settings import join_arguments
from untrain.tasks.classification.evaluate import Evaluation, evaluate_models, predictions
from untrain.tasks.classification.presentation import ClassificationPresentation
from untrain.tasks.classification.search import heldout_objectives
from untrain.tasks.classification.sections import ClassificationSections
from untrain.tasks.classification.task import Classification


@dataclass(frozen=True)
class EvaluateOptions:
    """What `untrain.evaluate` takes for a classifier besides what it takes for every model."""

    svc_attacks: bool = False
    """Run the support vector attacks too, which take about a second for each model."""


class ClassificationDomain(Domain):
    """Image classification with cross-entropy: judged by accuracies, an attack, and the distance to retraining."""

    name = "classification"
    task_class = Classification
    Sections = ClassificationSections
    EvaluateOptions = EvaluateOptions
    presentation = ClassificationPresentation()
    sections: ClassificationSections
    task: Classification

    def load(self) -> tuple[Source, Source]:
        """Loads the recipe's images."""
        return load_data(
            self.sections.data,
            self.context.seed,
            self.context.cache,
            links=self.context.permissions.links,
            after=self.sections.forget.after,
        )

    def make_task(self) -> Classification:
        """Makes the task for these images, normalised as the recipe says or as the images are."""
        statistics: dict[str, Any] = input_statistics(self.sections.data, self.source, self.sections.forget.after)
        augment = asdict(self.sections.augment)
        return Classification(len(self.source.classes), **statistics, seed=self.context.seed, **augment)

    def input_statistics(self) -> Mapping[str, Any]:
        """Returns mean and deviation of each channel, which later requests go on with."""
        return {"mean": self.task.mean, "std": self.task.std}

    def build(self, seed: int) -> nn.Module:
        """Builds the recipe's classifier."""
        chosen, shape = self.sections.model, self.source.shape
        sizes = {"num_classes": len(self.source.classes), "in_channels": shape[0], "image_size": shape[1]}
        module = build(**join_arguments({"name": chosen.name, **sizes, "seed": seed}, chosen.options))
        return module.to(self.context.engine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

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
        classes, svc = how.classes, how.options.svc_attacks
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
