"""Classifiers that judge generated images: given by the user, or trained here on real ones."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from untrain.data.samples import Arrays, Source
from untrain.data.streams import Stream
from untrain.diffusion.features import Features, classifier_features
from untrain.domain import Make
from untrain.engine import Engine, seed_of
from untrain.errors import CheckpointError, SettingError
from untrain.methods.base import Problem
from untrain.metrics.accuracy import accuracy
from untrain.models import checkpoints
from untrain.models.subject import Subject
from untrain.runs.recipe import Recipe
from untrain.tasks.classification.domain import classification, classifier
from untrain.tasks.classification.evaluate import predictions
from untrain.tasks.text_to_image.detectors import Classifier, hub_classifier
from untrain.tasks.text_to_image.rendering import JUDGE


def is_given(recipe: Recipe) -> bool:
    """Whether the recipe's judge has its weights already."""
    return recipe.judge.checkpoint is not None or recipe.judge.name.startswith("hf:")


def judge_of(
    recipe: Recipe, engine: Engine, images: Source, train: Source, test: Source, make: Make, name: str = JUDGE
) -> tuple[Features, dict[str, Any]]:
    """The recipe's judge as feature network, and what is known of it: name, test accuracy in %, hash.

    Args:
        recipe: says which one, and how it is trained.
        engine: where.
        images: all images whose classes it tells apart; they say how inputs are normalised.
        train: what it is trained on, unless it is given.
        test: what its accuracy is measured on.
        make: keeps it in the run folder.
        name: what it is called there.
    """
    chosen, task = recipe.judge, classification(recipe, images)
    if is_given(recipe):
        module = given_judge(recipe, images, engine)
    else:
        seed = seed_of(recipe.seed, name)
        stream = Stream(train, "retain", engine, recipe.judge.batch_size or recipe.batch_size, seed)
        init = partial(classifier, chosen.name, images, seed, engine, chosen.options)
        problem = Problem(Subject(init(), init=init), task, stream, stream, seed=seed)
        module = make(name, chosen.train, problem)
    right = accuracy(predictions(module, task, Stream(test, "test", engine, 256), engine).correct)

    def prepared(given: Tensor) -> Tensor:
        labels = torch.zeros(len(given), dtype=torch.int64)
        batch = {"input": given.to(engine.device), "label": labels}
        return task.draw(batch, torch.Generator(), "evaluate")["input"]

    known = {"name": chosen.name, "test_accuracy": right, "hash": checkpoints.state_hash(module)}
    return classifier_features(module, prepared, chosen.name), known


def given_judge(recipe: Recipe, images: Source, engine: Engine) -> nn.Module:
    """The judge that has its weights already, in evaluation mode.

    Raises:
        CheckpointError: if its file does not fit.
    """
    chosen = recipe.judge
    module = classifier(chosen.name, images, 0, engine, chosen.options)
    if chosen.checkpoint is not None:
        try:
            checkpoints.load_into(module, checkpoints.load_state(chosen.checkpoint)[0])
        except CheckpointError as error:
            raise CheckpointError(f"judge.checkpoint, the classifier that judges samples: {error}") from error
    return module.eval()


def labelled_judge(recipe: Recipe, engine: Engine) -> Classifier:
    """The judge that has its weights already and names its classes, where no data do.

    Raises:
        SettingError: if the recipe gives none, or does not say what its classes are called.
    """
    chosen = recipe.judge
    kind, _, source = chosen.name.partition(":")
    if kind == "hf" and chosen.checkpoint is None:
        return hub_classifier(source, engine.device)
    if chosen.checkpoint is None or not chosen.classes:
        raise SettingError(
            "who says whether a concept is there? Give judge.name: hf:ID, a classifier of transformers whose labels "
            "concepts.forget names; or judge.checkpoint and judge.classes; or detection.detector: nudity."
        )
    size = recipe.data.image_size or 32
    like = Arrays(torch.zeros(1, 3, size, size, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), chosen.classes)
    if recipe.data.mean is None:
        raise SettingError("judge.checkpoint needs data.mean and data.std: how its inputs were normalised.")
    module, task = given_judge(recipe, like, engine), classification(recipe, like)

    def prepared(given: Tensor) -> Tensor:
        resized = nn.functional.interpolate(
            given.to(engine.device).float(), (size, size), mode="bilinear", antialias=True
        )
        images = resized.round().clamp(0, 255).to(torch.uint8)
        batch = {"input": images, "label": torch.zeros(len(given), dtype=torch.int64)}
        return task.draw(batch, torch.Generator(), "evaluate")["input"]

    return Classifier(classifier_features(module, prepared, chosen.name), chosen.classes)
