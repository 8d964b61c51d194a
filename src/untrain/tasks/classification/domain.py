"""Image classifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from untrain.data.samples import Source
from untrain.data.sources import channel_statistics
from untrain.data.splits import Split
from untrain.data.streams import Stream
from untrain.domain import Kind, Make
from untrain.engine import Engine
from untrain.models.classifiers import build
from untrain.runs.recipe import Recipe
from untrain.tasks.classification.evaluate import evaluate_models
from untrain.tasks.classification.task import Classification


class Classifiers(Kind):
    """Judged by accuracies, a membership attack, and the distance to a retrained model."""

    def __init__(self, recipe: Recipe, engine: Engine, source: Source, test: Source) -> None:
        super().__init__(recipe, engine, source, test)
        self.task = classification(recipe, source, **asdict(recipe.augment))

    def module(self, seed: int) -> nn.Module:
        """The recipe's classifier."""
        chosen = self.recipe.model
        return classifier(chosen.name or "small-cnn", self.images, seed, self.engine, chosen.options)

    def measure(
        self,
        models: Mapping[str, nn.Module],
        split: Split,
        sets: Mapping[str, Stream],
        references: Sequence[str],
        make: Make,
        samples: int | None = None,
    ) -> dict[str, Any]:
        """Accuracies, attacks, distances; see `Kind.measure`."""
        recipe = self.recipe
        found = evaluate_models(
            models,
            self.task,
            sets,
            self.engine,
            references=references,
            classes=self.images.classes,
            svc=recipe.svc,
            seed=recipe.seed,
        )
        entries = {name: evaluation.to_dict() for name, evaluation in found.items()}
        floors = [entry.pop("noise_floor") for entry in entries.values()]
        return {"models": entries, "noise_floor": floors[0]}

    def measured(self) -> Any:
        """Whether the support vector attacks are asked for."""
        return self.recipe.svc

    def watch(self, name: str, module: nn.Module, step: int, sets: Mapping[str, Stream]) -> dict[str, float]:
        """Accuracies."""
        found = evaluate_models({"model": module}, self.task, sets, self.engine)["model"]
        return {key: getattr(found, key) for key in ("FA", "RA", "TA") if getattr(found, key) is not None}


def classification(recipe: Recipe, source: Source, **augment: Any) -> Classification:
    """The task of a classifier of these images, normalised as the recipe says or as the images are."""
    mean, std = recipe.data.mean, recipe.data.std
    if mean is None and std is None:
        mean, std = channel_statistics(source)  # type: ignore[assignment]
    return Classification(len(source.classes), _tuple(mean), _tuple(std), seed=recipe.seed, **augment)


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


def classifier(name: str, source: Source, seed: int, engine: Engine, options: Mapping[str, Any]) -> nn.Module:
    """A classifier of these images' classes."""
    channels, size = source.shape[0], source.shape[1]
    count = len(source.classes)
    module = build(name, num_classes=count, in_channels=channels, image_size=size, seed=seed, **options)
    return module.to(engine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
