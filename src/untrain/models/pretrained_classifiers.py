"""Image classifiers of transformers: found in a folder, built, read with their weights, and written as a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from untrain.errors import CheckpointError, ModelError, SettingError, UntrainError
from untrain.lazy import nn, torch
from untrain.models.checkpoints import shards_of
from untrain.models.image_processors import Preparation, save_preparation
from untrain.models.model_folders import copy_inside, replace_folder
from untrain.models.pretrained import CONFIG, check_entries, fetch_folder, read_object, refusal_of
from untrain.models.weight_names import name_some
from untrain.settings import Setting, read_arguments

_FILES = (CONFIG, "preprocessor_config.json", "processor_config.json", "README.md", "LICENSE*")
"""What is read of a classifier besides its weights."""
_WEIGHTS = re.compile(r"(?:model|pytorch_model)(?:\.(\w+?))?(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)")
_INDEX = re.compile(r"(?:model\.safetensors|pytorch_model\.bin)\.index(?:\.(\w+))?\.json")
"""Files of weights as the library names them, with the variant, such as fp16."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl", ".json")

_TRAINED = ", or, to train from what is there, model.train: true"


@dataclass(frozen=True)
class PretrainedClassifier:
    """An image classifier in a folder that transformers saved; nothing is read before it is asked for.

    Attributes:
        place: what the user called it.
        folder: checked; of a hub id, the copy on this disk.
        file: the file of weights that was named; None: the folder was.
        options: fields of the configuration that are other than in the folder.
    """

    place: str
    folder: Path
    file: str | None = None
    options: Mapping[str, Any] | None = None

    @cached_property
    def config(self) -> Any:
        """Its configuration, with the options."""
        with _explained(self.place, True):
            return _configurations(self.place, self.folder, {}, dict(self.options or {}))[1]

    @property
    def outputs(self) -> int:
        """How many classes it tells apart."""
        return int(self.config.num_labels)

    @property
    def channels(self) -> int:
        """Of its images."""
        return int(getattr(self.config, "num_channels", 3))

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The name of every class, by number; None where they have none of their own."""
        return label_names(self.config)

    def is_in(self, folder: Path) -> bool:
        """Returns whether it lies in this folder."""
        return self.folder.resolve() == folder.resolve()

    def read(self, in_channels: int, *, otherwise: str = _TRAINED) -> tuple[nn.Module, list[str]]:
        """Reads it with all its weights, in float32, in training mode; returns what there is to say, too.

        Args:
            in_channels: of the data's images.
            otherwise: what else a message on missing weights advises.

        Raises:
            CheckpointError: if weights are missing, or do not fit the configuration.
        """
        _check_channels(self.config, in_channels, self.place)
        for index in self.folder.glob("*.index*.json"):
            shards_of(index)
        variant, notes = self._variant()
        stored = _stored_types(self.folder, variant)
        with _explained(self.place, True):
            module, loaded = _load(self.folder, self.config, variant, self.file)
        lacking = [*loaded["missing_keys"], *(each[0] for each in loaded["mismatched_keys"])]
        if lacking:
            raise CheckpointError(
                f"{self.place} is no whole {type(module).__name__}: {name_some(lacking)} missing or of another shape. "
                f"Give a folder that holds the classifier with its last layer{otherwise}."
            )
        if loaded["unexpected_keys"]:
            notes.append(
                f"weights that a {type(module).__name__} has not were left out: {name_some(loaded['unexpected_keys'])}"
            )
        if stored - {"F32"}:
            notes.append(
                f"weights are {' and '.join(sorted(stored))} in the file; they are trained in, and given back "
                "in, float32"
            )
        return module.train(), notes

    def new(self, seed: int) -> nn.Module:
        """Builds the same architecture with new weights, in training mode; global random state is left as it was."""
        from transformers import AutoModelForImageClassification

        with torch.random.fork_rng(devices=[]), _explained(self.place, False):
            torch.default_generator.manual_seed(seed)
            return AutoModelForImageClassification.from_config(self.config, trust_remote_code=False).train()

    def _variant(self) -> tuple[str | None, list[str]]:
        """Which of several sets of weights is taken."""
        if self.file is not None:
            match = _WEIGHTS.fullmatch(self.file) or _INDEX.fullmatch(self.file)
            return (match[1] if match else None), []
        named = {path.name: _WEIGHTS.fullmatch(path.name) for path in self.folder.iterdir()}
        variants = {match[1] for match in named.values() if match}
        if None in variants or not variants:
            return None, []
        if len(variants) > 1:
            raise CheckpointError(
                f"{self.place} holds weights in several variants ({', '.join(sorted(map(str, variants)))}): name one "
                f"of their files, such as {next(name for name, match in named.items() if match)}."
            )
        return next(iter(variants)), [f"weights of the variant {next(iter(variants))}, the only one there"]


def find_classifier(checkpoint: str, options: Mapping[str, Any] | None = None) -> PretrainedClassifier | None:
    """Finds the classifier of transformers that a checkpoint is; None where it is a file of weights alone.

    Args:
        checkpoint: a folder with a config.json; a file of weights in one, or the index of its shards; or a hub id.
        options: fields of the configuration.

    Raises:
        CheckpointError: if it is a folder of something else, or not there.
    """
    path = Path(checkpoint).expanduser()
    if os.path.isdir(path) or path.name == CONFIG:
        folder = path.parent if path.name == CONFIG else path
        if not os.path.isfile(folder / CONFIG):
            raise CheckpointError(f"{folder} is a folder without a {CONFIG}: give the file of weights in it.")
        if "model_type" not in read_object(folder / CONFIG):
            raise CheckpointError(f"{folder / CONFIG} has no model_type: it is of no model of transformers. Give one.")
        return PretrainedClassifier(checkpoint, fetch_folder(folder), None, options)
    if os.path.exists(path):
        saved = _WEIGHTS.fullmatch(path.name) or _INDEX.fullmatch(path.name)
        beside = path.parent / CONFIG
        if not saved or not os.path.isfile(beside) or "model_type" not in read_object(beside):
            return None
        return PretrainedClassifier(checkpoint, fetch_folder(path.parent), path.name, options)
    if _HUB_ID.fullmatch(checkpoint) and path.suffix not in _ENDINGS:
        return fetch_classifier(checkpoint, options)
    return None


def fetch_classifier(source: str, options: Mapping[str, Any] | None = None) -> PretrainedClassifier:
    """Returns the classifier of a folder or hub id, with its weights."""
    return PretrainedClassifier(source, fetch_folder(source, _FILES), None, options)


def label_names(config: Any) -> tuple[str, ...] | None:
    """The name of every class that a configuration tells; None where they are but LABEL_0, LABEL_1, …"""
    named = {int(number): str(name) for number, name in (getattr(config, "id2label", None) or {}).items()}
    if all(re.fullmatch(r"LABEL_\d+", name) for name in named.values()):
        return None
    return tuple(named.get(number, str(number)) for number in range(int(config.num_labels)))


def is_classifier(module: Any) -> bool:
    """Returns whether a module is a model of transformers, which saves itself as a folder."""
    return hasattr(module, "save_pretrained") and hasattr(getattr(module, "config", None), "id2label")


def save_classifier(
    module: nn.Module,
    target: Path,
    *,
    prepared: Preparation | None = None,
    classes: Sequence[str] | None = None,
    original: Path | None = None,
    links: bool = False,
) -> None:
    """Writes a folder that `AutoModelForImageClassification` and `AutoImageProcessor` load, whole or not at all.

    Args:
        module: a classifier of transformers.
        target: the folder; a model in it is replaced.
        prepared: how its images are prepared; None: there is no image processor.
        classes: names of its classes, where its configuration has none of its own.
        original: the folder that it began from, whose licence is copied.
        links: whether to copy what links in that folder point at outside of it.

    Raises:
        SettingError: if the target is the original's folder. FolderError: if it cannot be written.
    """
    plain: Any = getattr(module, "_orig_mod", module)
    if original is not None and original.resolve() == target.resolve():
        raise SettingError(f"{target} holds the original, which would be lost: save to another folder.")
    if classes is not None and label_names(plain.config) is None:
        plain.config.id2label = dict(enumerate(classes))
        plain.config.label2id = {name: number for number, name in enumerate(classes)}
    with replace_folder(target) as folder, _without_bars():
        plain.save_pretrained(folder)
        if prepared is not None:
            save_preparation(prepared, folder)
        for licence in [] if original is None else original.glob("LICENSE*"):
            copy_inside(licence, folder / licence.name, original or folder, links=links)


# ── building ────────────────────────────────────────────────────────────────────────────────────────────────────


def build_classifier(
    target: str, pretrained: bool, num_classes: int, in_channels: int, image_size: int | None, options: dict[str, Any]
) -> nn.Module:
    """An image classifier of transformers to be trained: with its weights or, from its configuration, with new ones.

    The last layer is new where the number of classes is another one; all other weights must be there.

    Raises:
        ModelError: if it cannot be built. CheckpointError: if its weights are not whole.
    """
    try:
        from transformers import AutoModelForImageClassification
    except ImportError as error:
        raise SettingError("models of transformers need that library: pip install 'untrain[vision]'.") from error
    place = f"{'hf' if pretrained else 'hf-config'}:{target}"
    sizes: dict[str, Any] = {"num_labels": num_classes}
    if not pretrained:
        sizes |= {"num_channels": in_channels} | ({} if image_size is None else {"image_size": image_size})
    folder = fetch_folder(target, _FILES if pretrained else (CONFIG,), weights=pretrained)
    if pretrained and not any([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        raise CheckpointError(f"{folder} holds no weights: write hf-config:{target} for a model with new ones.")
    with _explained(place, pretrained):
        _, config = _configurations(place, folder, sizes, options)
        if not pretrained:
            return AutoModelForImageClassification.from_config(config, trust_remote_code=False).train()
        _check_channels(config, in_channels, place)
        variant, _ = PretrainedClassifier(place, folder)._variant()
        module, loaded = _load(folder, config, variant, None)
    lacking = [*loaded["missing_keys"], *(each[0] for each in loaded["mismatched_keys"])]
    inner = [name for name in lacking if name.startswith(f"{module.base_model_prefix}.")]
    if inner:
        raise CheckpointError(
            f"{place} is no whole {type(module).__name__}: {name_some(inner)} missing or of another shape. Get it anew."
        )
    return module.train()


def _load(folder: Path, config: Any, variant: str | None, file: str | None) -> tuple[Any, dict[str, Any]]:
    """The library's own reading, which knows under which names it once saved what; and what did not fit."""
    from transformers import AutoModelForImageClassification

    with _without_bars():
        module, loaded = AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            variant=variant,
            dtype=torch.float32,
            use_safetensors=None if file is None else ".bin" not in file,
            ignore_mismatched_sizes=True,  # they are refused by name, or are the last layer
            output_loading_info=True,
            weights_only=True,
            trust_remote_code=False,
        )
    return module, {name: sorted(loaded[name]) for name in ("missing_keys", "mismatched_keys", "unexpected_keys")}


@contextmanager
def _without_bars() -> Iterator[None]:
    """The library loads and saves without bars, and without warnings of what is said here."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _stored_types(folder: Path, variant: str | None) -> set[str]:
    """The types of floating weights in the files, as safetensors names them; of pickles, none are told."""
    import safetensors

    middle = "" if variant is None else f".{variant}"
    found: set[str] = set()
    for path in [*folder.glob(f"model{middle}.safetensors"), *folder.glob(f"model{middle}-*.safetensors")]:
        with suppress(safetensors.SafetensorError, OSError), safetensors.safe_open(path, framework="pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118, it is not a mapping
    return {kind for kind in found if "F" in kind}


@contextmanager
def _explained(place: str, pretrained: bool) -> Iterator[None]:
    try:
        yield
    except UntrainError:
        raise
    except Exception as error:  # the library raises what its models raise; the cause is passed on
        raise ModelError(
            f"{place} cannot be built: {refusal_of(error)} Give a folder with a config.json"
            f"{' and weights' if pretrained else ''}, or the name of an image classifier on the hub."
        ) from error


def _configurations(place: str, folder: Path, sizes: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Any]:
    """A folder's configuration as it is, and with sizes and options; these are checked before the library has them."""
    from transformers import AutoConfig

    original = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    _check_options(place, type(original), sizes, options)
    return original, AutoConfig.from_pretrained(folder, trust_remote_code=False, **sizes, **options)


def _check_options(place: str, kind: Any, sizes: dict[str, Any], options: dict[str, Any]) -> None:
    """Refuses what is no field of a class of configurations, or of another type, or beyond measure."""
    follows = next((option for option in options if option in {*sizes, "id2label", "label2id"}), None)
    if follows is not None:
        raise SettingError(f"{place}: {follows} follows from the data: leave it out.")
    check_entries(options, f"the options of {place}")
    fields = kind().to_dict()  # not of the folder's file, which may hold anything
    fields |= {alias: fields.get(name) for alias, name in kind.attribute_map.items()}
    known = [name for name in fields if not name.startswith("_") and name not in _NO_OPTIONS]
    read_arguments(place, {name: Setting(name, _hint(fields[name])) for name in known}, options)
    for name, value in options.items():
        if not all(abs(number) <= _LARGEST for number in _numbers(value)):
            raise SettingError(f"{place}: {name} must hold no number beyond ±{_LARGEST:,}.")


_NO_OPTIONS = ("model_type", "architectures", "transformers_version", "name_or_path")
"""Fields of a configuration that say what it is."""
_LARGEST = 2**16
"""No width, depth or size of a published classifier comes near; a slip of the hand asks for terabytes."""


def _hint(default: Any) -> Any:
    """What an option may be whose default is this."""
    if isinstance(default, bool | str | dict):
        return type(default) | None
    if isinstance(default, int | float):
        return int | float | list[Any] | None
    return int | list[Any] | None if isinstance(default, list | tuple) else Any


def _numbers(value: Any) -> Iterator[float]:
    """Every number in a value, however deep."""
    left = [value]
    while left:
        held = left.pop()
        if isinstance(held, int | float):
            yield held
        elif isinstance(held, list | tuple | dict):
            left += held.values() if isinstance(held, dict) else held


def _check_channels(config: Any, in_channels: int, place: str) -> None:
    expected = getattr(config, "num_channels", in_channels)
    if expected != in_channels:
        raise ModelError(f"{place} takes images of {expected} channels; the data has {in_channels}.")
