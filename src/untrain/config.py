"""Recipes: one YAML file says everything about an experiment; every field is also a flag."""

import re
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from untrain.engine import Precision
from untrain.errors import SettingError, unknown
from untrain.methods import METHODS
from untrain.methods.base import Method
from untrain.methods.retrain import Retrain

set_parsing_settings(docstring_parse_attribute_docstrings=True)


@dataclass(frozen=True)
class Data:
    """Where the images come from."""

    name: str = "fashion"
    """Source, see `untrain list`."""
    path: str | None = None
    """File or folder on this machine."""
    image_size: int | None = None
    """Height and width in pixels that images are brought to; null: as they are."""
    grayscale: bool = False
    """Decode images into one channel."""
    limit: int | None = None
    """Use so many training images, balanced over classes."""
    test_limit: int | None = None
    """Use so many test images, balanced over classes."""
    test_fraction: float | None = None
    """Share of every class kept for testing, where the data has no test part."""
    image_column: str | None = None
    """A table's image column, where it is not called image or img."""
    label_column: str | None = None
    """A table's label column, where it is not called label, labels or fine_label."""
    config: str | None = None
    """Configuration of a hub's data set that has several."""


@dataclass(frozen=True)
class Forget:
    """What to forget: exactly one of classes, fraction, count, indices and ids."""

    classes: list[int | str] = field(default_factory=list)
    """Classes by number or name."""
    fraction: float | None = None
    """A random share of the training set, in (0, 1)."""
    count: int | None = None
    """So many random training samples."""
    indices: str | None = None
    """A file of sample numbers (csv, txt, npy)."""
    ids: str | None = None
    """A file of sample ids (csv, txt)."""
    holdout: float = 0.1
    """Share of the data that nothing is ever trained on; it shows how far to forget. 0: none."""
    seed: int | None = None
    """Of the choice; null: the recipe's seed."""


@dataclass(frozen=True)
class Model:
    """The architecture, and the weights where they exist already."""

    name: str = "small-cnn"
    """Model, see `untrain list`; MODULE:FACTORY for your own."""
    checkpoint: str | None = None
    """File of the original model's weights; null: the recipe trains it."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of the model's builder."""


@dataclass(frozen=True)
class Augment:
    """What is done to images in training only."""

    pad: int = 0
    """Pixels of zero padding before a random crop."""
    flip: bool = False
    """Mirror images at random."""


@dataclass(frozen=True)
class Recipe:
    """An experiment: an original model, what it must forget, methods, and how the result is judged."""

    name: str = "unlearning"
    """Title of the report and name of the run folder."""
    task: Literal["classification"] = "classification"
    """What the model was trained on."""
    data: Data = Data()
    forget: Forget = Forget()
    model: Model = Model()
    augment: Augment = Augment()
    train: Retrain = Retrain()
    methods: dict[str, Method] = field(default_factory=dict)
    references: int = 1
    """Retrained models: the first is the target, further ones show the noise floor. 0: none."""
    batch_size: int = 128
    """Samples a batch, over all processes."""
    seed: int = 0
    """Of everything random."""
    evaluate_every: int = 0
    """Steps between two evaluations during a run; 0: none."""
    checkpoint_every: float = 60.0
    """Seconds between two checkpoints of a run."""
    device: str | None = None
    """Null: a CUDA device where there is one, else the CPU."""
    precision: Precision = "no"
    """"no", "bf16" or "fp16"."""
    compile: bool = False
    """Run training steps through torch.compile."""
    workers: int = 0
    """Processes that read images which are not in memory."""
    out: str | None = None
    """Run folder; null: runs/NAME."""

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.out) if self.out else Path("runs") / self.name

    def plain(self) -> dict[str, Any]:
        """As YAML holds it, every method with its name."""
        content = asdict(self)
        content["methods"] = {key: {"method": m.name, **asdict(m)} for key, m in self.methods.items()}
        return content


SECTIONS = {"data": Data, "forget": Forget, "model": Model, "augment": Augment, "train": Retrain}
_ENTRY = re.compile(r'key "([\w.-]+)"')


def read(path: str | Path | None, flags: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, with flags (`--data.name digits`, `--methods.sfron.alpha 2`) put over it.

    Args:
        path: a YAML file; None: the defaults, with `sfron` as the one method.
        flags: what the command line gives.

    Raises:
        SettingError: names a wrong field, the file and the line.
    """
    raw, lines = _load(Path(path)) if path is not None else ({}, {})
    entries = _entries(raw, lines, path)
    parser = _parser(entries)
    content = {**raw, "methods": {name: settings for name, (_, settings) in entries.items()}}
    _check_fields(content, _destinations(parser), lines, path)
    try:
        given = parser.parse_args(["--content", yaml.safe_dump(content), *flags])
        chosen = vars(parser.instantiate(given))
        del chosen["content"]
    except ArgumentError as error:
        raise SettingError(_located(str(error), lines, path)) from error
    except SettingError as error:
        raise SettingError(f"{path}: {error}" if path else str(error)) from error
    chosen["methods"] = dict(vars(chosen["methods"])) if entries else {}
    recipe = Recipe(**chosen)
    if recipe.references < 0 or recipe.batch_size < 1:
        raise SettingError("references must not be negative, and batch_size must be at least 1.")
    return recipe


def write(recipe: Recipe) -> str:
    """The recipe as YAML."""
    return yaml.safe_dump(_yaml(recipe.plain()), sort_keys=False, allow_unicode=True)


def _yaml(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _yaml(entry) for key, entry in value.items()}
    return [_yaml(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _parser(entries: Mapping[str, tuple[type[Method], dict[str, Any]]]) -> ArgumentParser:
    """Flags for every field; each of the recipe's methods has a group of its own."""
    parser = ArgumentParser(prog="untrain run RECIPE.yaml", exit_on_error=False, description=Recipe.__doc__)
    parser.add_argument("--content", action="config", help=SUPPRESS)
    parser.add_class_arguments(Recipe, skip={*SECTIONS, "methods"})
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)
    for name, (method, _) in entries.items():
        parser.add_class_arguments(method, f"methods.{name}")
    return parser


def _load(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A YAML file's content, and the line of every field by its dotted name."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the recipe {path} cannot be read: {error}. Check the path.") from error
    try:
        content, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SettingError(f"the recipe {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise SettingError(f"the recipe {path} must hold fields such as data, forget and methods.")
    lines: dict[str, int] = {}
    _number(node, "", lines)
    return content, lines


def _number(node: Any, prefix: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            lines[name] = key.start_mark.line + 1
            _number(value, f"{name}.", lines)


def _entries(
    raw: Mapping[str, Any], lines: Mapping[str, int], path: Any
) -> dict[str, tuple[type[Method], dict[str, Any]]]:
    """Each entry under `methods`: its class and its settings. An entry's name is its method unless it says `method`."""
    given = raw.get("methods", {"sfron": {}})
    if isinstance(given, list):
        given = dict.fromkeys(given, {})
    if not isinstance(given, Mapping):
        raise SettingError(_at("methods", lines, path) + "methods must map names to settings.")
    entries = {}
    for name, settings in given.items():
        settings = dict(settings or {})
        method = settings.pop("method", name)
        if not re.fullmatch(r"[\w-]+", str(name)) or name in ("original", "retrained"):
            raise SettingError(_at(f"methods.{name}", lines, path) + f"{name!r} cannot be a method's name here.")
        if method not in METHODS:
            raise SettingError(_at(f"methods.{name}", lines, path) + unknown("method", method, METHODS))
        entries[str(name)] = METHODS[method], settings
    return entries


def _destinations(parser: ArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions if action.dest != "help"}


def _check_fields(content: Mapping[str, Any], known: set[str], lines: Mapping[str, int], path: Any) -> None:
    """Refuses fields that no setting has."""
    for name, field_name in _flat(content, known):
        if field_name not in known:
            group = name.rpartition(".")[0]
            prefix = f"{group}." if group else ""
            near = {k[len(prefix) :].split(".")[0] for k in known if k.startswith(prefix)}
            raise SettingError(_at(name, lines, path) + unknown("field", name, {prefix + n for n in near}))


def _flat(content: Mapping[str, Any], known: set[str], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        inside = isinstance(value, Mapping) and any(k.startswith(f"{name}.") for k in known)
        found += _flat(value, known, f"{name}.") if inside and value is not None else [(name, name)]
    return found


def _at(name: str, lines: Mapping[str, int], path: Any) -> str:
    """The place of a field in the file, or of the nearest field above it."""
    while name and name not in lines:
        name = name.rpartition(".")[0]
    if path is None:
        return ""
    return f"{path}, line {lines[name]}: " if name else f"{path}: "


def _located(message: str, lines: Mapping[str, int], path: Any) -> str:
    found = _ENTRY.search(message)
    return (_at(found.group(1), lines, path) if found else "") + message
