"""Classifiers that judge generated images: given by the user, or trained on real ones by the stages of the run."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from untrain.data.source import Source
from untrain.data.streams import Stream
from untrain.diffusion.features import Features, classifier_features
from untrain.diffusion.sections import Judge
from untrain.domain import Context, Training
from untrain.engine import Engine, seed_of
from untrain.errors import CheckpointError
from untrain.methods.base import Problem
from untrain.models import checkpoints
from untrain.models.classifiers import build
from untrain.models.pretrained_classifiers import fetch_classifier
from untrain.models.recognition import Recognition, measure_accuracy
from untrain.models.subject import Subject
from untrain.settings import join_arguments

JUDGE = "judge"
"""What the model is called that judges."""
HUB = "hf:"
"""What a name begins with that is of a classifier of transformers with its weights."""


def is_given(section: Judge) -> bool:
    """Returns whether a recipe's judge has its weights already."""
    return section.checkpoint is not None or section.name.startswith(HUB)


def build_judge(section: Judge, classes: Sequence[str], shape: Sequence[int], seed: int, engine: Engine) -> nn.Module:
    """Builds the classifier of these classes, for images of this shape (C, H, W), with new weights."""
    sizes = {"num_classes": len(classes), "in_channels": shape[0], "image_size": shape[1]}
    module = build(**join_arguments({"name": section.name, **sizes, "seed": seed}, section.options))
    return module.to(engine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def judge_training(
    section: Judge, task: Recognition, images: Source, train: Source, context: Context, name: str = JUDGE
) -> Training:
    """Says how a recipe's judge is trained.

    Args:
        section: of the recipe.
        task: how inputs are normalised.
        images: all images whose classes it tells apart.
        train: what it is trained on.
        context: where, and the seed.
        name: what it is called.
    """
    engine, seed = context.engine, seed_of(context.seed, name)
    stream = Stream(train, "retain", engine, section.batch_size or context.batch_size, seed)
    init = partial(build_judge, section, images.classes, images.shape, seed, engine)
    return Training(section.train, Problem(Subject(init(), init=init), task, stream, stream, seed=seed))


def read_judge(section: Judge, classes: Sequence[str], shape: Sequence[int], engine: Engine) -> nn.Module:
    """Reads the judge that has its weights already, in evaluation mode.

    Raises:
        CheckpointError: if its weights do not fit, or are of other classes.
    """
    if section.checkpoint is None:
        module = _read_pretrained(section, classes, shape[0])
        return module.to(engine.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    module = build_judge(section, classes, shape, 0, engine)
    try:
        checkpoints.load_into(module, checkpoints.load_state(section.checkpoint)[0])
    except CheckpointError as error:
        raise CheckpointError(f"judge.checkpoint, the classifier that judges samples: {error}") from error
    return module.eval()


def _read_pretrained(section: Judge, classes: Sequence[str], in_channels: int) -> nn.Module:
    """A classifier of transformers as it is: with a new last layer it would know no class."""
    found = fetch_classifier(section.name.removeprefix(HUB), section.options)
    remedy = "Give a judge of the data's classes, in their order, or one that is trained on them, such as small-cnn."
    if found.outputs != len(classes):
        raise CheckpointError(
            f"judge.name, {section.name}, tells {found.outputs} classes apart, and the data have {len(classes)}. "
            f"{remedy}"
        )
    labels = found.labels or classes
    for number, (name, label) in enumerate(zip(classes, labels, strict=True)):
        if name != label and name in labels:
            raise CheckpointError(
                f"judge.name, {section.name}, has other classes than the data under the same numbers: {number} is "
                f"{label!r} to it, and {name!r} in the data. {remedy}"
            )
    return found.read(in_channels, otherwise="")[0]


def judge_features(
    section: Judge, module: nn.Module, task: Recognition, test: Source, engine: Engine
) -> tuple[Features, dict[str, Any]]:
    """Returns a judge as feature network, and what is known of it: name, test accuracy in %, hash.

    Args:
        section: of the recipe.
        module: the classifier.
        task: how its inputs are normalised.
        test: what its accuracy is measured on.
        engine: where.
    """
    right = measure_accuracy(module, task, Stream(test, "test", engine, 256), engine)

    def prepared(images: Tensor) -> Tensor:
        return task.normalize(images.to(engine.device))

    known = {"name": section.name, "test_accuracy": right, "hash": checkpoints.state_hash(module)}
    return classifier_features(module, prepared, section.name), known
