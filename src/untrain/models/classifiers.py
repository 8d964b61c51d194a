"""Image classifiers to train and to unlearn, by name.

The convolutional networks take images of any size and channel count. Every layer keeps PyTorch's own initialisation,
so `reset_parameters` on each of them draws a new model from the same distribution (the retrained reference needs that).
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Interval

from untrain.errors import ModelError, SettingError, UnknownName, unknown
from untrain.lazy import nn, torch
from untrain.plugins import import_named
from untrain.settings import Setting, arguments_of, read_arguments

Width = Annotated[int, Interval(ge=1, le=512)]
"""Channels of a network's first layer. At 512, ResNet-50 has 1.5 billion parameters: 6 GB, and thrice that to train."""


@dataclass(frozen=True)
class Architecture:
    """A kind of classifier.

    Attributes:
        description: one line, for lists.
        build: makes the module; its arguments after `num_classes` and `in_channels` are its options. None: the
            name stands for a family of names.
        smallest: the smallest image, in pixels, that its pooling leaves something of.
    """

    description: str
    build: Callable[..., nn.Module] | None = None
    smallest: int = 1


def build(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """A classifier by name, on the CPU, in training mode.

    Args:
        name: a key of `MODELS`; "hf:PATH_OR_ID" for an image classifier of transformers with its weights,
            "hf-config:PATH_OR_ID" for one with new weights; "MODULE:FACTORY" for a function of the user's own, which
            gets those of num_classes, in_channels and image_size that it takes.
        num_classes: outputs.
        in_channels: channels of an input.
        image_size: height and width of an input in pixels, for models that must know it.
        seed: of the new weights; global random state is left as it was.
        options: more arguments of the builder (`width` of the named ones), of the factory, or of the configuration.

    Raises:
        UnknownName: lists the known models. SettingError: an option is unknown or a number out of range.
        ModelError: a model of the user's own, or of transformers, cannot be built.
    """
    if num_classes < 1 or in_channels < 1:
        raise SettingError(f"a model needs num_classes ≥ 1 and in_channels ≥ 1, not {num_classes} and {in_channels}.")
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    prefix, colon, target = name.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch the accelerators' generators
        if prefix in ("hf", "hf-config"):
            from untrain.models.pretrained_classifiers import build_classifier

            return build_classifier(target, prefix == "hf", num_classes, in_channels, image_size, options)
        if colon:
            return build_users_own(name, sizes, options, MODELS)
        return _known(name, num_classes, in_channels, image_size, options)


def _known(name: str, num_classes: int, in_channels: int, image_size: int | None, options: dict[str, Any]) -> nn.Module:
    kind = MODELS.get(name)
    if kind is None or kind.build is None:
        raise UnknownName(unknown("model", name, MODELS))
    if image_size is not None and image_size < kind.smallest:
        raise SettingError(f"{name} needs images of at least {kind.smallest} pixels, not {image_size}.")
    known = arguments_of(kind.build)
    del known["num_classes"], known["in_channels"]
    return kind.build(num_classes, in_channels, **read_arguments(name, known, options))


# ── convolutional networks ──────────────────────────────────────────────────────────────────────────────────────


def small_cnn(num_classes: int, in_channels: int, width: Width = 32) -> nn.Module:
    """Four 3×3 convolutions of width, 2·width, 2·width, 2·width channels, halving the image twice.

    93,546 parameters for 28×28 images of one channel and ten classes. The layers are plain and in a row, so it runs
    fast on a CPU, above all in channels_last. An image is halved before ReLU, which then has a quarter of the numbers
    to pass and gives the same: the largest of four is the same before it and after.
    """

    def layer(number: int, channels: int, outputs: int, *, halves: bool = False) -> list[tuple[str, nn.Module]]:
        return [
            (f"conv{number}", nn.Conv2d(channels, outputs, 3, padding=1, bias=False)),
            (f"bn{number}", nn.BatchNorm2d(outputs)),
            *([(f"pool{number}", nn.MaxPool2d(2))] if halves else []),
            (f"relu{number}", nn.ReLU()),
        ]

    wide = 2 * width
    return nn.Sequential(
        OrderedDict(
            [
                *layer(1, in_channels, width, halves=True),
                *layer(2, width, wide, halves=True),
                *layer(3, wide, wide),
                *layer(4, wide, wide),
                ("pool", nn.AdaptiveAvgPool2d(1)),
                ("flatten", nn.Flatten()),
                ("fc", nn.Linear(wide, num_classes)),
            ]
        )
    )


def resnet20(num_classes: int, in_channels: int, width: Width = 16) -> nn.Module:
    """ResNet-20 of He et al. for 32×32 images, shortcuts "A": 269,722 parameters for three channels, ten classes."""
    from untrain.models.resnet import ResNet

    return ResNet(num_classes, in_channels, [width, 2 * width, 4 * width], [3, 3, 3], padded=True)


def resnet18(num_classes: int, in_channels: int, width: Width = 64) -> nn.Module:
    """ResNet-18 with the stem for small images: 11,173,962 parameters for three channels, ten classes."""
    from untrain.models.resnet import ResNet

    return ResNet(num_classes, in_channels, [width, 2 * width, 4 * width, 8 * width], [2, 2, 2, 2])


def resnet34(num_classes: int, in_channels: int, width: Width = 64) -> nn.Module:
    """ResNet-34 with the stem for small images: 21,282,122 parameters for three channels, ten classes."""
    from untrain.models.resnet import ResNet

    return ResNet(num_classes, in_channels, [width, 2 * width, 4 * width, 8 * width], [3, 4, 6, 3])


def resnet50(num_classes: int, in_channels: int, width: Width = 64) -> nn.Module:
    """ResNet-50 with the stem for small images: 23,520,842 parameters for three channels, ten classes."""
    from untrain.models.resnet import ResNet

    return ResNet(num_classes, in_channels, [width, 2 * width, 4 * width, 8 * width], [3, 4, 6, 3], bottleneck=True)


def resnet101(num_classes: int, in_channels: int, width: Width = 64) -> nn.Module:
    """ResNet-101 with the stem for small images: 42,512,970 parameters for three channels, ten classes."""
    from untrain.models.resnet import ResNet

    return ResNet(num_classes, in_channels, [width, 2 * width, 4 * width, 8 * width], [3, 4, 23, 3], bottleneck=True)


def resnet152(num_classes: int, in_channels: int, width: Width = 64) -> nn.Module:
    """ResNet-152 with the stem for small images: 58,156,618 parameters for three channels, ten classes."""
    from untrain.models.resnet import ResNet

    return ResNet(num_classes, in_channels, [width, 2 * width, 4 * width, 8 * width], [3, 8, 36, 3], bottleneck=True)


# ── models from elsewhere ───────────────────────────────────────────────────────────────────────────────────────


def build_users_own(place: str, sizes: dict[str, Any], options: dict[str, Any], known: Iterable[str]) -> nn.Module:
    """Builds a model by a function of the user's own, imported from the working directory or the environment.

    Args:
        place: MODULE:FACTORY.
        sizes: what follows from the data; the function gets those that it takes.
        options: its further arguments.
        known: models that have names, for the message where there is no such module.

    Raises:
        UnknownName: if there is no such module.
        ModelError: if there is no such function, it fails, or returns no module.
    """
    factory = _factory(place, known)
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise ModelError(f"{place} is not a function that makes a model: {error}") from error
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = {*parameters, *(options if anything else ())}
    read_arguments(place, {name: Setting(name, Any) for name in names}, options)  # its annotations are its own affair
    arguments = {name: value for name, value in sizes.items() if anything or name in parameters} | options
    try:
        model = factory(**arguments)
    except Exception as error:  # the user's own code may raise anything; the cause is passed on
        raise ModelError(f"{place} failed with {sorted(arguments)}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{place} must return a torch.nn.Module; it returned {type(model).__name__}.")
    return model.train()


def _factory(place: str, known: Iterable[str]) -> Callable[..., Any]:
    try:
        found = import_named(place)
    except UnknownName as error:
        raise UnknownName(f"{error} Models known by name: {', '.join(known)}.") from error
    except SettingError as error:
        raise ModelError(str(error)) from error
    if not callable(found):
        raise ModelError(f"{place} is a {type(found).__name__}, not a function that makes a model.")
    return found


MODELS: dict[str, Architecture] = {
    "small-cnn": Architecture("four convolutions, 94,000 parameters; 8×8 pixels and more, fast on a CPU", small_cnn, 4),
    "resnet20": Architecture("ResNet-20 for small images, 270,000 parameters", resnet20),
    "resnet18": Architecture("ResNet-18 with the stem for small images, 11 million parameters", resnet18),
    "resnet34": Architecture("ResNet-34 with the stem for small images, 21 million parameters", resnet34),
    "resnet50": Architecture("ResNet-50 with the stem for small images, 24 million parameters", resnet50),
    "resnet101": Architecture("ResNet-101 with the stem for small images, 43 million parameters", resnet101),
    "resnet152": Architecture("ResNet-152 with the stem for small images, 58 million parameters", resnet152),
    "hf:PATH_OR_ID": Architecture("an image classifier of transformers, with its weights"),
    "hf-config:PATH_OR_ID": Architecture("an image classifier of transformers, with new weights"),
    "MODULE:FACTORY": Architecture("a function of your own that returns a torch.nn.Module"),
}
"""The known classifiers, by name; entries with a colon stand for a family of names."""
