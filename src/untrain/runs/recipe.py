"""Recipes: one YAML file says everything about an experiment; every field is also a flag."""

import re
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from untrain.tasks.text_to_image.concepts import ConceptImages
from untrain.engine import Precision
from untrain.errors import SettingError, UnknownName, unknown
from untrain.methods import find
from untrain.methods.base import Choice, Method, Optimizer, Range, Space
from untrain.methods.retrain import Retrain
from untrain.sampling import Sampler
from untrain.settings import fits, hints_of, options, section_of, words
from untrain.small_pipeline import Frame
from untrain.tasks.class_diffusion.task import Redirect
from untrain.diffusion.process import Diffusion as DiffusionSettings

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
    mean: list[float] | None = None
    """Mean of each channel in [0, 1] that images are normalised by; null: measured on the training images. Give what
    a checkpoint was trained with."""
    std: list[float] | None = None
    """Standard deviation of each channel in [0, 1]; goes with mean."""


@dataclass(frozen=True)
class Forget:
    """What to forget: exactly one of classes, fraction, count, indices and ids."""

    classes: list[str | int] = field(default_factory=list)
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
    holdout_from: Literal["train", "test"] | None = None
    """Where it is cut from; null: the training data, or, where a checkpoint may have seen all of these, the test data
    (at most half of them; they are not tested on then)."""
    seed: int | None = None
    """Of the choice; null: the recipe's seed."""
    after: str | None = None
    """Run folder of the request before this one: what it and those before it forgot stays out of the retain set, its
    held-out data stay held out, and all that was asked to be forgotten so far is measured."""


@dataclass(frozen=True)
class Model:
    """The architecture, and the weights where they exist already."""

    name: str | None = None
    """Model, see `untrain list`; MODULE:FACTORY for your own. Null: small-cnn, unet-small for class-diffusion, or what
    the checkpoint's folder says."""
    checkpoint: str | None = None
    """File of the original model's weights, or for a generator a folder or hub id of diffusers, or for text-to-image
    also a single .safetensors or .ckpt file; null: the recipe trains it."""
    vae: str | None = None
    """Folder or hub id of an AutoencoderKL, in whose latents a generator works; null: that of the checkpoint's
    pipeline, or none, and pixels are generated."""
    config: str | None = None
    """Of a text-to-image pipeline in a single file: folder or hub id of a pipeline of the same architecture, or a
    folder with CLIP's vocab.json and merges.txt."""
    gradient_checkpointing: bool = False
    """Of text-to-image: compute activations a second time instead of keeping them: slower, in much less memory."""
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
class Diffusion(DiffusionSettings):
    """The diffusion that a generator is trained on, and how it is trained."""

    redirect: Redirect = "next"
    """What a redirected sample of a class is conditioned on: the class after its own, or another one drawn once for it.
    Concepts of text-to-image have anchors instead."""


@dataclass(frozen=True)
class Generation:
    """How generators are judged."""

    sampler: Sampler = Sampler()
    samples: int = 250
    """Images of each class."""
    batch_size: int = 256
    """Images that are made at once."""
    columns: int = 8
    """Images of each class in the grids of the report, and in those made during a run."""
    train_every: int = 0
    """Steps between two grids of samples while a generator is trained; 0: none."""
    features: str = "judge"
    """Network of the Fréchet distance: "judge", "inception" (then it is called FID), or a file of Inception's
    weights."""


@dataclass(frozen=True)
class Judge:
    """The classifier that says what is seen in generated images."""

    name: str = "small-cnn"
    """Classifier, see `untrain list`."""
    checkpoint: str | None = None
    """File of its weights; null: it is trained here on the training images."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of its builder."""
    classes: list[str] = field(default_factory=list)
    """Names of its classes, in order, where the data do not tell: for a checkpoint that judges text-to-image."""
    train: Retrain = Retrain(epochs=20.0, optimizer=Optimizer("sgd", 0.05, 0.9, 5e-4))
    """How it is trained."""
    batch_size: int | None = None
    """Images in each step of its training; null: the recipe's."""


@dataclass(frozen=True)
class ConceptEntry:
    """A concept of a text-to-image recipe: a prompt, or all captions of the data that hold a word."""

    prompt: str | None = None
    """The text, as it would be given to the pipeline."""
    anchor: str | None = None
    """The text that it is redirected to; null: of what is forgotten the empty prompt."""
    images: str | None = None
    """Folder of images of it; null: the pipeline makes them."""
    label: str | None = None
    """What the judge calls it."""
    containing: str | None = None
    """A word instead of a prompt: every caption of the data with it, and its images there."""
    instead: str | None = None
    """The word that takes its place in the anchors."""

    def __post_init__(self) -> None:
        """Checks that it is one of the two."""
        if (self.prompt is None) == (self.containing is None):
            raise SettingError("a concept needs either prompt or containing: a text, or a word of the data's captions.")
        wrong = ("anchor", "images") if self.prompt is None else ("instead",)
        for name in wrong:
            if getattr(self, name) is not None:
                kind = "containing" if self.prompt is None else "prompt"
                raise SettingError(f"{name} does not go with {kind}, which is {getattr(self, kind)!r}.")


@dataclass(frozen=True)
class Concepts:
    """What a text-to-image pipeline must forget and keep."""

    forget: list[ConceptEntry] = field(default_factory=list)
    """Concepts to forget: prompts, or {prompt, anchor, images, label}, or {containing, instead}."""
    retain: list[ConceptEntry] = field(default_factory=list)
    """Concepts to keep, likewise; empty: all other captions of the data."""
    images: ConceptImages = ConceptImages()
    """How images are made of concepts that come without any."""
    keep: bool = False
    """Keep these images and their latents, in RUN/concepts; else they are removed when the run ends."""


@dataclass(frozen=True)
class Detection:
    """What looks for the concept in a text-to-image pipeline's images."""

    detector: Literal["judge", "nudity"] = "judge"
    """The classifier of the section judge, or NudeNet."""
    threshold: float = 0.6
    """NudeNet's score from which on a body part counts as found."""
    forget_prompts: str | None = None
    """A CSV file of prompts that ask for the concept, with a column called prompt; null: the forgotten concepts'."""
    retain_prompts: str | None = None
    """The same of prompts that do not; null: the retained concepts'."""
    clip: str | None = None
    """Folder or hub id of the CLIP model that scores how well images of retained prompts fit these; null: none."""
    blur: bool = True
    """Blur images in the report where the detector fires."""

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0.25 <= self.threshold <= 1:
            raise SettingError(f"detection.threshold must be in [0.25, 1], not {self.threshold}.")


@dataclass(frozen=True)
class Comparison:
    """What `untrain compare` runs: every method of the recipe, on every forget set, with every seed."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """One original and one split for each; they take the place of the recipe's seed."""
    forget_sets: dict[str, Any] = field(default_factory=dict)
    """Name → fields of forget, which say what is forgotten; holdout, holdout_from, seed and after are the recipe's
    where they are not given. Empty: the recipe's own forget is the one set."""
    trials: int = 0
    """Settings that are tried for each method, its own first; 0: no search."""
    tuning_seed: int | None = None
    """Seed of the split and the original that the search works on; null: one above the largest of seeds."""
    spaces: dict[str, Any] = field(default_factory=dict)
    """Method's entry → setting (such as optimizer.lr) → what the search tries: [low, high], [low, high, log] or
    {choices: [...]}. Entries that are not named have their method's own space; one with {} is not searched."""


@dataclass(frozen=True)
class Recipe:
    """An experiment: an original model, what it must forget, methods, and how the result is judged."""

    name: str = "unlearning"
    """Title of the report and name of the run folder."""
    task: Literal["classification", "class-diffusion", "text-to-image"] = "classification"
    """What the model was trained on."""
    data: Data = Data()
    forget: Forget = Forget()
    model: Model = Model()
    augment: Augment = Augment()
    train: Retrain = field(default_factory=Retrain)
    methods: dict[str, Method] = field(default_factory=dict)
    compare: Comparison = Comparison()
    diffusion: Diffusion = Diffusion()
    generation: Generation = Generation()
    judge: Judge = field(default_factory=Judge)
    concepts: Concepts = Concepts()
    frame: Frame = Frame()
    detection: Detection = Detection()
    parts: str | list[str] | None = None
    """What of the model its methods train: full, xattn, noxattn, selfattn or notime of a UNet, or patterns of parameter
    names, such as ["*.attn2.*"]; null: all that can be."""
    references: int | None = None
    """Retrained models: the first is the target, further ones show the noise floor. 0: none; null: 1, and 0 for
    text-to-image."""
    batch_size: int = 128
    """Samples a batch, over all processes."""
    seed: int = 0
    """Of everything random."""
    evaluate_every: int = 0
    """Steps between two evaluations during a run, or two grids of a generator's samples while it unlearns; 0: none."""
    svc: bool = False
    """Whether to run the support vector attacks too, which take about a second for each model."""
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

    def __post_init__(self) -> None:
        """Says how many references there are, where that was left open."""
        if self.references is None:
            object.__setattr__(self, "references", 0 if self.task == "text-to-image" else 1)

    @property
    def trains(self) -> bool:
        """Whether its stages train the original; text-to-image comes with weights, if of a pipeline trained here."""
        return self.model.checkpoint is None and self.task != "text-to-image"

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.out) if self.out else Path("runs") / self.name

    def plain(self) -> dict[str, Any]:
        """As YAML holds it, every method with its name."""
        content = asdict(self)
        content["methods"] = {key: {"method": m.name, **asdict(m)} for key, m in self.methods.items()}
        return content


SECTIONS = {
    "data": Data,
    "forget": Forget,
    "model": Model,
    "augment": Augment,
    "train": Retrain,
    "compare": Comparison,
    "diffusion": Diffusion,
    "generation": Generation,
    "judge": Judge,
    "concepts": Concepts,
    "detection": Detection,
    "frame": Frame,
}
RESERVED = ("original", "retrained", "evaluation", "judge", "concepts", "detections", "grids", "samples")
REQUESTS = ("classes", "fraction", "count", "indices", "ids")
"""The fields of forget that say what is forgotten."""
_KEY = re.compile(r'(?:key|argument) ["\']?(?:--)?([\w.-]+)')


def read(path: str | Path | None, flags: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, with flags (`--data.name digits`, `--methods.sfron.alpha 2`) put over it.

    Args:
        path: a YAML file, or a run folder, whose recipe is in its config.yaml; None: the defaults, with `sfron` as
            the one method.
        flags: what the command line gives.

    Raises:
        SettingError: names a wrong field, the file and the line.
    """
    place = _Place() if path is None else _load(Path(path))
    methods, content = _checked(place)
    over = tuple(flag.split("=")[0].removeprefix("--") for flag in flags if flag.startswith("--"))
    place.lines = {name: line for name, line in place.lines.items() if name not in over}
    for name in over:
        _drop_list(content, name)
    parser = _parser(methods)
    try:
        given = parser.parse_args(["--content", yaml.safe_dump(content, sort_keys=False), *flags])
        chosen = vars(parser.instantiate(given))
    except ArgumentError as error:
        raise SettingError(_flag_error(str(error), parser, methods)) from error
    except (SettingError, ValueError) as error:  # of the dataclasses; a ValueError where the parser wrapped it
        reasons = re.findall(r"^  - (?!Expected)(.*)", str(error), re.MULTILINE)
        reason = reasons[0] if reasons else str(error)
        raise SettingError(place.mentioned(reason) + reason) from error
    del chosen["content"]
    made = vars(chosen["methods"]) if methods else {}
    chosen["methods"] = {name: made[name.replace("-", "_")] for name in methods}  # the parser renames hyphens
    if path is not None and Path(path).is_dir() and "out" not in over:
        chosen["out"] = str(path)
    recipe = Recipe(**chosen)
    _check_ranges(recipe, place)
    return replace(recipe, compare=_checked_comparison(recipe, place))


def _drop_list(content: dict[str, Any], name: str) -> None:
    """Takes a list out that a flag gives: the parser would fill the flag's entries up with what it held."""
    *sections, last = name.split(".")
    for section in sections:
        content = content.get(section, {}) if isinstance(content, dict) else {}
    if isinstance(content, dict) and isinstance(content.get(last), list):
        del content[last]


def write(recipe: Recipe) -> str:
    """The recipe as YAML."""
    return yaml.safe_dump(_yaml(recipe.plain()), sort_keys=False, allow_unicode=True)


def _yaml(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _yaml(entry) for key, entry in value.items()}
    return [_yaml(entry) for entry in value] if isinstance(value, (list, tuple)) else value


@dataclass
class _Place:
    """A recipe's file as it was read, so that an error can say where it is.

    Attributes:
        path: the file; None where there is none.
        content: its fields.
        lines: dotted name of each field → its line, from 1.
    """

    path: Path | None = None
    content: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def at(self, name: str) -> str:
        """File and line of a field, or of the nearest field above it."""
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        if self.path is None:
            return ""
        return f"{self.path}, line {self.lines[name]}: " if name else f"{self.path}: "

    def mentioned(self, message: str) -> str:
        """File, and the line of the one field that a message speaks of, where there is one."""
        words = set(re.findall(r"\w+", message))
        fields = [name for name in self.lines if name.rpartition(".")[2] in words]
        return self.at(fields[0]) if len(fields) == 1 else ""


def _load(path: Path) -> _Place:
    """A YAML file's content, and the line of every field by its dotted name."""
    path = path / "config.yaml" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingError(f"the recipe {path} cannot be read: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"the recipe {path} is not text in UTF-8: {error}. Give a YAML file.") from error
    try:
        content, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SettingError(f"the recipe {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise SettingError(f"the recipe {path} must hold fields such as data, forget and methods.")
    place = _Place(path, content)
    _number(node, "", place)
    return place


def _number(node: Any, prefix: str, place: _Place) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name in place.lines:
            raise SettingError(f"{place.path}, line {key.start_mark.line + 1}: {name} is given twice. Remove one.")
        place.lines[name] = key.start_mark.line + 1
        _number(value, f"{name}.", place)


def _checked(place: _Place) -> tuple[dict[str, type[Method]], dict[str, Any]]:
    """The methods' classes by entry, and the content with every field known and of its type."""
    raw = dict(place.content)
    given = raw.pop("methods", {"sfron": {}})
    if isinstance(given, list):
        given = {str(name): {} for name in given}
    if not isinstance(given, Mapping | None):
        raise SettingError(place.at("methods") + "methods must map names to settings, or list names.")
    if place.path is not None and "methods" in place.content and not given:
        given = {}
    entries = {str(name): _entry(str(name), settings, place) for name, settings in (given or {}).items()}
    content = _fitting(raw, Recipe, "", place, also=("methods",))
    if entries:
        content["methods"] = {name: settings for name, (_, settings) in entries.items()}
    return {name: method for name, (method, _) in entries.items()}, content


def _entry(name: str, settings: Any, place: _Place) -> tuple[type[Method], dict[str, Any]]:
    """A method's class and settings. An entry's name is its method unless it says `method`."""
    where = f"methods.{name}"
    if not isinstance(settings, Mapping | None):
        raise SettingError(f"{place.at(where)}{where} must hold settings, not {settings!r}.")
    settings = dict(settings or {})
    method = str(settings.pop("method", name))
    if not re.fullmatch(r"[\w-]+", name) or name.split("-")[0] in RESERVED:
        raise SettingError(
            f"{place.at(where)}{name!r} cannot name a method here: use letters, digits, _ and -, and neither "
            f"{' nor '.join(RESERVED)}, which are models of every run."
        )
    try:
        kind = find(method)
    except SettingError as error:
        raise type(error)(place.at(where) + str(error)) from error
    return kind, _fitting(settings, kind, f"{where}.", place)


def _fitting(given: Mapping[Any, Any], kind: Any, prefix: str, place: _Place, also: tuple[str, ...] = ()) -> Any:
    """Fields for a dataclass, each known and of its type."""
    hints = hints_of(kind)
    result = {}
    for key, value in given.items():
        name = f"{prefix}{key}"
        if key not in hints:
            known = [prefix + known for known in {*hints, *also}]
            raise SettingError(place.at(name) + unknown("field", name, known))
        result[key] = _typed(value, hints[key], name, place)
    return result


def _typed(value: Any, hint: Any, name: str, place: _Place) -> Any:
    """A field's value, as its type has it.

    Raises:
        SettingError: if it is of another type; says which is wanted.
    """
    section = section_of(hint)
    if section is not None and value is None and type(None) not in options(hint):
        return {}
    if section is not None and isinstance(value, Mapping):
        return _fitting(value, section, f"{name}.", place)
    if float in options(hint) and isinstance(value, str) and _is_float(value):
        return float(value)  # YAML takes 1e-3 for text
    if isinstance(value, list) and _entry_type(hint) is not None:
        entries = [{"prompt": each} if isinstance(each, str) else each for each in value]
        return [_typed(each, _entry_type(hint), name, place) for each in entries]
    if not any(fits(value, option) for option in options(hint)):
        raise SettingError(f"{place.at(name)}{name} must be {words(hint)}, not {value!r}.")
    return value


def _entry_type(hint: Any) -> Any:
    """The dataclass that a list holds; None for other types."""
    return next((get_args(o)[0] for o in options(hint) if get_origin(o) is list and is_dataclass(get_args(o)[0])), None)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_ranges(recipe: Recipe, place: _Place) -> None:
    least: dict[str, float] = {
        "references": 0,
        "batch_size": 1,
        "evaluate_every": 0,
        "checkpoint_every": 0,
        "workers": 0,
    }
    for name, limit in least.items():
        if not getattr(recipe, name) >= limit:
            reason = f"{name} must be at least {limit}, not {getattr(recipe, name)}."
            raise SettingError(place.mentioned(reason) + reason)
    if recipe.train.optimizer is None:
        raise SettingError(f"{place.at('train.optimizer')}train.optimizer must not be null: the recipe trains with it.")


def _checked_comparison(recipe: Recipe, place: _Place) -> Comparison:
    """The section `compare` with every field inside its mappings known and of its type."""
    chosen = recipe.compare
    for name, wrong in {
        "compare.seeds": not chosen.seeds or len({*chosen.seeds}) < len(chosen.seeds),
        "compare.trials": chosen.trials < 0,
        "compare.tuning_seed": chosen.tuning_seed in chosen.seeds,
    }.items():
        if wrong:
            raise SettingError(f"{place.at(name)}{name} {_WRONG[name]}")
    sets = {str(name): _forget_set(str(name), given, place) for name, given in chosen.forget_sets.items()}
    spaces = {str(entry): _entry_spaces(str(entry), given, recipe, place) for entry, given in chosen.spaces.items()}
    checked = replace(chosen, forget_sets=sets, spaces=spaces)
    if chosen.trials:
        for entry in recipe.methods:
            _check_space(entry, replace(recipe, compare=checked), place)
    return checked


_WRONG = {
    "compare.seeds": "must list at least one seed, and none twice.",
    "compare.trials": "must be at least 0.",
    "compare.tuning_seed": "must not be one of compare.seeds: the search would see the splits that are compared.",
}


def _forget_set(name: str, given: Any, place: _Place) -> dict[str, Any]:
    where = f"compare.forget_sets.{name}"
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith(".") or name == "tuning":
        raise SettingError(
            f"{place.at(where)}{name!r} cannot name a forget set: use letters, digits, dots, _ and -, and not tuning."
        )
    if not isinstance(given, Mapping):
        raise SettingError(f"{place.at(where)}{where} must say what to forget by one of {', '.join(REQUESTS)}.")
    fitting = _fitting(given, Forget, f"{where}.", place)
    if len([field for field in REQUESTS if fitting.get(field) not in (None, [])]) != 1:
        raise SettingError(f"{place.at(where)}{where} must give exactly one of {', '.join(REQUESTS)}.")
    return fitting


def _entry_spaces(entry: str, given: Any, recipe: Recipe, place: _Place) -> dict[str, Any]:
    where = f"compare.spaces.{entry}"
    if entry not in recipe.methods:
        raise UnknownName(place.at(where) + unknown("entry of compare.spaces", entry, recipe.methods))
    if not isinstance(given, Mapping):
        raise SettingError(f"{place.at(where)}{where} must map settings, such as optimizer.lr, to what is tried.")
    for setting, values in given.items():
        _space(f"{where}.{setting}", values, place)
        if _setting_hint(type(recipe.methods[entry]), str(setting)) is None:
            known = [f.name for f in fields(recipe.methods[entry])]
            raise SettingError(place.at(f"{where}.{setting}") + unknown(f"setting of {entry}", str(setting), known))
    return {str(setting): values for setting, values in given.items()}


def _space(name: str, values: Any, place: _Place) -> Space:
    """What one entry of compare.spaces means."""
    try:
        if isinstance(values, Mapping) and set(values) == {"choices"} and isinstance(values["choices"], list):
            return Choice(tuple(values["choices"]))
        if isinstance(values, list) and len(values) in (2, 3) and values[2:] in ([], ["log"]):
            numbers = [float(v) for v in values[:2] if fits(v, float) or (isinstance(v, str) and _is_float(v))]
            if len(numbers) == 2:
                return Range(numbers[0], numbers[1], log=len(values) == 3)
    except SettingError as error:
        raise SettingError(f"{place.at(name)}{name}: {error}") from error
    raise SettingError(
        f"{place.at(name)}{name} must be [low, high], [low, high, log] or {{choices: [...]}}, not {values!r}."
    )


def space_of(recipe: Recipe, entry: str) -> dict[str, Space]:
    """What a search tries for a method's entry: the recipe's own space, else the method's; a dot in nested names."""
    given = recipe.compare.spaces.get(entry)
    if given is None:
        return dict(recipe.methods[entry].space)
    return {name: _space(f"compare.spaces.{entry}.{name}", values, _Place()) for name, values in given.items()}


def whole(method: Method, setting: str) -> bool:
    """Whether a setting, by its dotted name, takes whole numbers alone."""
    known = options(_setting_hint(type(method), setting))
    return int in known and float not in known


def _setting_hint(kind: Any, setting: str) -> Any:
    """The type of a method's setting by its dotted name; None if there is no such setting."""
    for part in setting.split("."):
        kind = section_of(kind) or kind
        if not is_dataclass(kind) or part not in hints_of(kind):
            return None
        kind = hints_of(kind)[part]
    return kind


def with_settings(method: Method, settings: Mapping[str, Any], optimizer: Optimizer | None = None) -> Method:
    """The method with these settings, by dotted name.

    Args:
        method: has all others.
        settings: such as {"optimizer.lr": 0.01}.
        optimizer: stands where the method's is null; None: plain SGD.

    Raises:
        SettingError: if the method refuses them.
    """
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        outer, _, inner = name.partition(".")
        if inner:
            current = changes.get(outer, getattr(method, outer))
            if current is None:
                section = section_of(hints_of(type(method))[outer])
                current = optimizer if section is Optimizer and optimizer is not None else section()
            value = with_settings(current, {inner: value})
        changes[outer] = value
    return replace(method, **changes)


def _check_space(entry: str, recipe: Recipe, place: _Place) -> None:
    """Tries the ends of a space one by one, so that a value which the method refuses is found before the search."""
    method = recipe.methods[entry]
    for name, space in space_of(recipe, entry).items():
        where, hint = f"compare.spaces.{entry}.{name}", _setting_hint(type(method), name)
        if isinstance(space, Range):
            cast: Any = round if whole(method, name) else float
            tried: Sequence[Any] = [cast(space.low), cast(space.high)]
        else:
            tried = space.values
        for value in tried:
            try:
                with_settings(method, {name: _typed(value, hint, where, _Place())})
            except SettingError as error:
                raise SettingError(
                    f"{place.at(where)}the search would try {name} = {value!r} for {entry}: {error} "
                    f"Say under compare.spaces.{entry} what can be tried."
                ) from error


def _parser(methods: Mapping[str, type[Method]]) -> ArgumentParser:
    """Flags for every field; each of the recipe's methods has a group of its own."""
    parser = ArgumentParser(
        prog="untrain run",
        usage="untrain run RECIPE.yaml [--key value …]",
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
        description=Recipe.__doc__,
        epilog=_optimizer_help(),
    )
    parser.add_argument("--content", action="config", help=SUPPRESS)
    parser.add_class_arguments(Recipe, skip={*SECTIONS, "methods"})
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)
    for name, method in methods.items():
        parser.add_class_arguments(method, f"methods.{name}")
    return parser


def _optimizer_help() -> str:
    """What the fields of an optimiser mean; jsonargparse does not show the fields of what may be null."""
    described = (Optimizer.__doc__ or "").partition("Attributes:")[2].split()
    return "Every optimizer has fields, such as --train.optimizer.lr: " + " ".join(described)


def _flag_error(message: str, parser: ArgumentParser, methods: Mapping[str, type[Method]]) -> str:
    """What is wrong with a flag, in our own words where the parser's message tells which flag it is."""
    stray = re.match(r"[Uu]nrecognized arguments: (\S+)", message)
    if stray and not stray.group(1).startswith("--"):
        return f"{stray.group(1)!r} is neither a recipe nor a flag: one recipe comes first, then --key value."
    if stray:
        return _unknown_flag(stray.group(1).split("=")[0], parser)
    found = _KEY.search(message)
    nested = re.search(r"NestedArg\(key='(.+?)', val='?(.*?)'?\)", message)
    name = (found.group(1) if found else "") + (f".{nested.group(1)}" if nested else "")
    hint = _hint_of(name, methods)
    if hint is None:
        return _unknown_flag(f"--{name}", parser) if nested else message
    value = nested.group(2) if nested else next(iter(re.findall(r"(?:Got value|Given value): (.*)", message)), None)
    return f"--{name} must be {words(hint)}" + ("." if value is None else f", not {value!r}.")


def _unknown_flag(flag: str, parser: ArgumentParser) -> str:
    """The sentence about an unknown flag; lists those of its group."""
    hidden = ("-h", "--content", "--print")
    known = [o for o in parser._option_string_actions if not o.endswith((".help", "+")) and not o.startswith(hidden)]
    group = flag
    near: list[str] = []
    while group and not near:
        group = group.rpartition(".")[0]
        near = [option for option in known if option.startswith(f"{group}.")] if group else known
    top = [option for option in near if group or "." not in option]
    return f"{unknown('flag', flag, top)} Every flag: untrain run RECIPE.yaml --help."


def _hint_of(name: str, methods: Mapping[str, type[Method]]) -> Any:
    """The type of a field by its dotted name; None if there is no such field."""
    kind: Any = Recipe
    parts = name.split(".")
    if parts[0] == "methods" and len(parts) > 2 and parts[1] in methods:
        kind, parts = methods[parts[1]], parts[2:]
    for part in parts:
        kind = section_of(kind)
        if kind is None or part not in hints_of(kind):
            return None
        kind = hints_of(kind)[part]
    return kind
