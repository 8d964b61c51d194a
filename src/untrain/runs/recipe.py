"""Recipes: one YAML file says everything about an experiment; every field is also a flag.

A recipe has the fields that every experiment has, and beside them those of its task: the fields of the `Sections` that
the task's entry in the registry names. Nothing here knows a task.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from annotated_types import Ge

from untrain import registry
from untrain.data.sections import REQUESTS, Forget
from untrain.errors import FolderError, SettingError, UnknownName, unknown
from untrain.folders import LONGEST_NAME, is_name
from untrain.methods import find
from untrain.methods.base import Method
from untrain.methods.retrain import Retrain
from untrain.models.adapters import Adapters
from untrain.permissions import NONE, Permissions, flag_of
from untrain.plugins import import_named
from untrain.runs import flags as command_line
from untrain.runs.names import CONFIG
from untrain.runs.origin import Dumper, Origin, load
from untrain.runs.spaces import flaws_of_spaces
from untrain.sealed import write_sealed_text
from untrain.settings import (
    MOST_FLAWS,
    BatchSize,
    Findings,
    Flaw,
    Seed,
    Setting,
    Workers,
    build,
    describe,
    names_code,
    read_values,
    settings_of,
)

if TYPE_CHECKING:
    from untrain.domain import Domain

_CHOICE = re.compile(r"task|methods?|methods\.([^.]+)\.method")
"""Flags that decide which other flags there are."""
MADE_IN = "made_in"
"""The field of config.yaml that only a run made in Python has, instead of a recipe."""
RESERVED = ("original", "retrained", "evaluation", "judge", "concepts", "detections", "grids", "samples")
"""What no method can be called, alone or before a hyphen: models and files of every run."""


@dataclass(frozen=True)
class ComparisonAudit:
    """An audit of the run of the first seed, on each forget set: see `untrain audit`."""

    design: str | None = None
    """How traces are looked for; null: as what is forgotten has it."""
    twins: Annotated[int, Ge(1)] | None = None
    """Models that are trained for it; null: as the design has it."""
    references: Annotated[int, Ge(0)] | None = None
    """Models that are retrained without what is forgotten; null: as the design has it."""
    seed: Seed = 0
    """Seed of everything random in it; never the one that settings are searched on."""
    options: dict[str, Any] = field(default_factory=dict)
    """How much the attacks on a generator may do; untrain audit RUN --help lists the names."""


@dataclass(frozen=True)
class Comparison:
    """What `untrain compare` runs: every method of the recipe, on every forget set, with every seed."""

    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    """One original and one split for each; they take the place of the recipe's seed."""
    forget_sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name → fields of forget, which say what is forgotten; holdout, holdout_from, seed and after are the recipe's
    where they are not given. Empty: the recipe's own forget is the one set."""
    trials: Annotated[int, Ge(0)] = 0
    """Settings that are tried for each method, its own first; 0: no search."""
    tuning_seed: Seed | None = None
    """Seed of the split and the original that the search works on; null: one above the largest of seeds."""
    spaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Method's entry → setting (such as optimizer.lr) → what the search tries: [low, high], [low, high, log] or
    {choices: [...]}. Entries that are not named have their method's own space; one with {} is not searched."""
    audit: ComparisonAudit | None = None
    """An audit of each forget set; {}: with its defaults; null: none, and averages alone are measured."""


@dataclass(frozen=True)
class Recipe:
    """An experiment: an original model, what it must forget, methods, and how the result is judged.

    Attributes:
        methods: entry → method with its settings.
        sections: the fields of the recipe's task, an instance of its `Sections`.
        code: dotted name of a field → MODULE:NAME, where code is named, and the person at the keyboard allows it.
        permissions: what that person allows.
    """

    name: str = "unlearning"
    """Title of the report and name of the run folder."""
    task: str = registry.DEFAULT_TASK
    """What the model was trained on, see `untrain list`."""
    train: Retrain = field(default_factory=Retrain)
    """How the original is trained, and the retrained models."""
    methods: dict[str, Method] = field(default_factory=dict)
    compare: Comparison = field(default_factory=Comparison)
    """What `untrain compare` runs."""
    parts: str | list[str] | None = None
    """What of the model its methods train: full, xattn, noxattn, selfattn or notime of a UNet, or patterns of parameter
    names, such as ["*.attn2.*"]; null: all that can be."""
    adapters: Adapters | None = None
    """Low-rank adapters (LoRA) that its methods train in the place of weights, {} with its defaults; null: they train
    the weights."""
    references: Annotated[int, Ge(0)] = None  # type: ignore[assignment]  # filled in below
    """Retrained models: the first is the target, further ones show the noise floor. 0: none; null: what is usual for
    the task, 1 where retraining is within reach."""
    batch_size: BatchSize = 128
    """Samples a batch, over all processes."""
    microbatch: Annotated[int, Ge(1)] | None = None
    """Samples that pass through a model at once in a training step, in each process: a batch passes in parts of so
    many, with the same gradients but for rounding, in less memory and with one forward pass more. Not for models that
    normalise by their batch. Null: the whole batch."""
    seed: Seed = 0
    """Seed of everything random."""
    evaluate_every: Annotated[int, Ge(0)] = 0
    """Steps between two evaluations during a run, or two grids of a generator's samples while it unlearns; 0: none."""
    checkpoint_every: Annotated[float, Ge(0)] = 60.0
    """Seconds between two checkpoints of a run."""
    device: str | None = None
    """Device such as cpu, cuda or cuda:1; null: a CUDA device where there is one, else the CPU."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Numbers that steps compute with: "no" leaves them as the weights are."""
    compile: bool = False
    """Run training steps through torch.compile."""
    fsdp: bool = False
    """Divide trained weights, their gradients, masks and states of optimisers among the processes that accelerate or
    torchrun starts, with the same results but for rounding (FSDP). For methods that take no look at whole weights, and
    not together with adapters, microbatch, compile or fp16."""
    workers: Workers = 0
    """Processes that read images which are not in memory."""
    store: Literal["model", "delta"] | None = None
    """How the run folder keeps what a method makes: "model" whole, once, as plain libraries load it; "delta" as no more
    than what changed of the original, wherever that is clearly smaller; null: model, and in comparisons delta."""
    out: str | None = None
    """Run folder; null: runs/NAME."""
    sections: Any = None
    code: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    permissions: Permissions = field(default=NONE, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Fills in what the task decides."""
        if self.sections is None:
            object.__setattr__(self, "sections", self.entry.Sections())
        if self.references is None:
            object.__setattr__(self, "references", self.entry.references)
        if self.adapters is not None and self.parts is not None:
            raise SettingError(
                "parts says which weights are trained, and with adapters none is: leave parts out, and say by "
                "adapters.targets which layers have one."
            )

    @property
    def entry(self) -> registry.Entry:
        """What is known of the task before its domain is imported."""
        return task_entry(self.code.get("task", self.task))

    @property
    def domain(self) -> "type[Domain]":
        """The task's domain, imported now."""
        return self.entry.domain

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.out) if self.out else Path("runs") / self.name

    @property
    def granted(self) -> list[str]:
        """The flags that name code and give permissions: a command that reads the recipe from its folder needs them."""
        return [*(f"--{name}={value}" for name, value in self.code.items()), *self.permissions.flags]

    def plain(self) -> dict[str, Any]:
        """Returns the recipe as YAML holds it: common fields, the task's beside them, every method with its name."""
        content = {name: getattr(self, name) for name in common_settings()}
        content |= {"train": asdict(self.train), "compare": asdict(self.compare)}
        content["adapters"] = None if self.adapters is None else asdict(self.adapters)
        content["task"] = self.code.get("task", self.task)
        content |= asdict(self.sections)
        content["methods"] = {
            entry: {"method": self.code.get(f"methods.{entry}.method", method.name), **asdict(method)}
            for entry, method in self.methods.items()
        }
        return content


def common_settings() -> dict[str, Setting]:
    """Returns the fields that recipes of every task have, but for methods."""
    return {n: s for n, s in settings_of(Recipe).items() if n not in ("methods", "sections", "code", "permissions")}


def task_entry(name: str) -> registry.Entry:
    """Returns the entry of a task by name, or by MODULE:CLASS of a domain.

    Raises:
        SettingError: if there is none, or another task has its name.
    """
    if not names_code(name):
        return registry.entry(name)
    from untrain.domain import flaw_of

    domain = import_named(name)
    flaw = flaw_of(getattr(domain, "name", ""), domain)
    if flaw:
        raise SettingError(f"the task {name} {flaw}.")
    if domain.name in registry.names():
        raise SettingError(f"the task {name} calls itself {domain.name!r}, as an installed one. Give it another name.")
    return registry.entry_of(domain)


def method_kind(name: str) -> type[Method]:
    """Returns the class of a method by name, or by MODULE:CLASS.

    Raises:
        SettingError: if there is none.
    """
    if not names_code(name):
        return find(name)
    from untrain.methods.installed import flaw_of

    kind = import_named(name)
    flaw = flaw_of(getattr(kind, "name", ""), kind)
    if flaw:
        raise SettingError(f"the method {name} {flaw}.")
    return kind


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested content by dotted names; lists and empty mappings are values."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        full = f"{prefix}{name}"
        found |= flat(value, f"{full}.") if isinstance(value, Mapping) and value else {full: value}
    return found


def write(recipe: Recipe) -> str:
    """Returns the recipe as YAML."""
    return yaml.dump(_listed(recipe.plain()), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def write_config(recipe: Recipe) -> None:
    """Writes the recipe into its run folder."""
    write_sealed_text(recipe.folder / CONFIG, write(recipe))


def read_config(folder: Path) -> dict[str, Any]:
    """Returns what config.yaml of a run folder says, unchecked.

    Raises:
        FolderError: if it is missing, or none of fields.
    """
    path = folder / CONFIG
    try:
        content, _ = load(folder)
    except SettingError as error:
        raise FolderError(f"{path} is not what a run writes: {error}") from error
    return content


def _flaws_of_name(name: Any) -> list[Flaw]:
    """What keeps a recipe's name from being the name of one folder in runs/."""
    if not isinstance(name, str):
        return []  # said where its type is checked
    if is_name(name):
        return []
    text = f"name must be the name of a folder, not {name[:80]!r}: without / and \\ and control characters, of at most"
    return [Flaw("name", f"{text} {LONGEST_NAME} bytes, and begin with neither a dot nor a hyphen.")]


def _is_short(name: str) -> bool:
    """Whether a name leaves room for what stands beside it in a file's; a letter may take four bytes."""
    return len(name) <= LONGEST_NAME // 2 and len(name.encode()) <= LONGEST_NAME


def _listed(value: Any) -> Any:
    """Tuples as lists, which YAML knows; nothing is shared, which would become an alias."""
    if isinstance(value, Mapping):
        return {key: _listed(entry) for key, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, (list, tuple)) else value


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────


def read(
    path: str | Path | None,
    flags: Sequence[str] = (),
    *,
    task: str | None = None,
    methods: Sequence[str] | None = None,
    permissions: Permissions = NONE,
) -> Recipe:
    """Reads the recipe of a file, with flags (`--data.name digits`, `--methods.sfron.alpha 2`) put over it.

    Args:
        path: a YAML file, or a run folder, whose recipe is in its config.yaml; None: the defaults, with `sfron` as
            the one method.
        flags: what the command line gives.
        task: as the flag `--task`: the task's name, or MODULE:CLASS of a `Domain`.
        methods: as the flag `--method`, given for each: entries of the recipe, methods by name, or MODULE:CLASS.
        permissions: what the person at the keyboard allows.

    Raises:
        SettingError: names every wrong field, with file and line.
    """
    draft = _Draft(path, flags, task, methods, permissions)
    for name, text in draft.given:
        draft.put(name, text)
    recipe = draft.recipe()
    if recipe is None or draft.flaws:
        raise draft.error()
    return recipe


@dataclass
class RecipeFields:
    """Which fields a recipe has.

    Attributes:
        task: its name.
        entry: what is known of the task.
        kinds: entry → class of its method.
    """

    task: str
    entry: registry.Entry
    kinds: dict[str, type[Method]]

    @property
    def sections(self) -> dict[str, Setting]:
        """The task's own fields."""
        return settings_of(self.entry.Sections)

    def below(self, parts: Sequence[str]) -> dict[str, Setting]:
        """Returns the fields below a dotted name; none where it is no section, or not known."""
        methods = {entry: Setting(entry, kind) for entry, kind in self.kinds.items()}
        known = common_settings() | self.sections | {"methods": Setting("methods", None)}
        for i, part in enumerate(parts):
            setting = known.get(part)
            if setting is None:
                return {}
            inner = {} if setting.section is None else settings_of(setting.section)
            known = methods if (i, part) == (0, "methods") else inner
        return known


def recipe_fields(
    path: str | Path | None,
    flags: Sequence[str] = (),
    *,
    task: str | None = None,
    methods: Sequence[str] | None = None,
    permissions: Permissions = NONE,
) -> RecipeFields:
    """Returns which fields a recipe has, whatever is wrong with their values; arguments and errors as of `read`."""
    draft = _Draft(path, flags, task, methods, permissions)
    return draft.fields


class _Draft:
    """A recipe that is being read.

    Attributes:
        content: its fields, as file and flags give them.
        origin: where each comes from.
        fields: which fields there are.
        given: flags that are not in the content yet.
        flaws: all that is wrong so far.
        code: dotted name → MODULE:NAME of what may run.
        permissions: what the person at the keyboard allows.
    """

    def __init__(
        self,
        path: str | Path | None,
        flags: Sequence[str],
        task: str | None,
        methods: Sequence[str] | None,
        permissions: Permissions,
    ) -> None:
        self.permissions = permissions
        self.path = None if path is None else Path(path)
        self.content, self.origin = ({}, Origin()) if self.path is None else load(self.path)
        if self.content.get(MADE_IN) == "python":
            raise SettingError(
                f"{self.path} holds a run that was made in Python: its model and data are known there alone. Go on "
                "with it by untrain.unlearn(..., out=..., resume=True), or untrain.evaluate(..., out=...)."
            )
        self.flaws: list[Flaw] = []
        self.code: dict[str, str] = {}
        chosen = list(methods or ())
        self.given = command_line.split(flags)
        for name, text in [*([("task", task)] if task else []), *self.given]:
            if name == "task":
                self._set("task", text)
            elif name == "method":
                chosen.append(text)
            elif name == "methods":
                self._set("methods", command_line.parse(text))
        self._list_methods()
        for name, text in self.given:
            if entry := (match := _CHOICE.fullmatch(name)) and match[1]:
                self.content["methods"].setdefault(entry, {})["method"] = text
                self.origin.flags.add(name)
        self.given = [(name, text) for name, text in self.given if not _CHOICE.fullmatch(name)]
        name, entry = self._task()
        self.fields = RecipeFields(name, entry, {})
        self._choose(chosen)
        self._find_methods()

    def _set(self, name: str, value: Any) -> None:
        self.content[name] = value
        self.origin.flags.add(name)

    def error(self) -> SettingError:
        """Returns one error of all that is wrong."""
        error = self.origin.error(self.flaws)
        if (
            self.path is not None
            and os.path.isdir(self.path)
            and any(f.text.startswith("unknown field") for f in self.flaws)
        ):
            return type(error)(
                f"{self.path} holds a run of another version of untrain, or of another program: its recipe has fields "
                f"that are not known here. Run the recipe anew in another folder.\n{error}"
            )
        return error

    # Task and methods.

    def _task(self) -> tuple[str, registry.Entry]:
        name = self.content.get("task", registry.DEFAULT_TASK)
        if not isinstance(name, str):
            self.flaws.append(Flaw("task", f"task must be text, not {describe(name)}."))
            raise self.error()
        if names_code(name):
            self._note_code("task", name)
            if name not in self.code.values():
                raise self.error()
        try:
            entry = task_entry(name)
        except SettingError as error:
            hint = " A class of your own: --task MODULE:CLASS." if isinstance(error, UnknownName) else ""
            raise type(error)(f"{self.origin.at('task')}{error}{hint}") from error
        for field_name in {*settings_of(entry.Sections)} & {*settings_of(Recipe), "method"}:
            raise SettingError(f"the task {name} has a field {field_name}, which is one of every recipe. Rename it.")
        return entry.domain.name if names_code(name) else name, entry

    def _note_code(self, name: str, value: str) -> None:
        """Code is named by the person at the keyboard, or by a file that this person trusts with it."""
        if self.permissions.code or self.origin.from_flag(name):
            self.code[name] = value
        else:
            text = f"{name} names code, {value!r}, which would run: if you trust it, add --{name} {value}, or "
            self.flaws.append(Flaw(name, f"{text}{flag_of('code')} for all that this file names."))

    def _list_methods(self) -> None:
        """The entries as a mapping; `sfron` where a recipe says nothing of methods."""
        given = self.content.get("methods", {"sfron": {}})
        if isinstance(given, list) and all(isinstance(each, str) for each in given):
            for twice in sorted(each for each, count in Counter(given).items() if count > 1)[:MOST_FLAWS]:
                self.flaws.append(Flaw("methods", f"methods lists {twice!r} twice. Remove one."))
            given = {name: {} for name in given}
        elif not isinstance(given, Mapping | None):
            self.flaws.append(
                Flaw("methods", f"methods must map names to settings, or list names, not {describe(given)}.")
            )
            given = {}
        self.content["methods"] = entries = {}
        for name, settings in (given or {}).items():
            if isinstance(settings, Mapping | None):
                entries[str(name)] = dict(settings or {})
            else:
                text = f"methods.{name} must hold settings, not {describe(settings)}."
                self.flaws.append(Flaw(f"methods.{name}", text))

    def _choose(self, chosen: Sequence[str]) -> None:
        """What `--method` says: entries of the recipe keep their settings, other methods have their defaults."""
        if not chosen:
            return
        entries, kept = self.content["methods"], {}
        for name in chosen:
            try:
                kind = method_kind(name) if name not in entries else None
            except SettingError as error:
                raise type(error)(f"--method: {error}") from error
            found = name if kind is None else kind.name
            kept[found] = entries.get(found, {})
            if names_code(name):
                kept[found]["method"] = name
                self.origin.flags.add(f"methods.{found}.method")
        self.content["methods"] = kept

    def _find_methods(self) -> None:
        """The class of every entry; an entry's name is its method unless it says `method`."""
        known: dict[str, type[Method]] = {}  # each is looked for once: that reads the list of installed distributions
        for entry, settings in self.content["methods"].items():
            where = f"methods.{entry}"
            if len(self.flaws) > MOST_FLAWS:
                return
            if not re.fullmatch(r"[\w-]+", entry) or not _is_short(entry) or entry.split("-")[0] in RESERVED:
                text = f"{describe(entry)} cannot name a method here: use at most {LONGEST_NAME // 2} letters, digits, "
                text += "_ and -, and neither "
                self.flaws.append(Flaw(where, f"{text}{' nor '.join(RESERVED)}, which are models of every run."))
                continue
            name = settings.pop("method", entry)
            if not isinstance(name, str):
                self.flaws.append(Flaw(f"{where}.method", f"{where}.method must be text, not {describe(name)}."))
                continue
            if names_code(name):
                self._note_code(f"{where}.method", name)
                if f"{where}.method" not in self.code:
                    continue
            try:
                if name not in known:
                    known[name] = method_kind(name)
                self.fields.kinds[entry] = known[name]
            except SettingError as error:
                self.flaws.append(Flaw(f"{where}.method", str(error), type(error)))

    # Flags.

    def put(self, name: str, text: str) -> None:
        """Puts a flag over the content."""
        parts = name.split(".")
        for i, part in enumerate(parts):
            known = self.fields.below(parts[:i])
            if part not in known and part.replace("-", "_") in known:
                part = parts[i] = part.replace("-", "_")
                name = ".".join(parts)
            if part not in known:
                self._note_unknown(parts, i)
                return
            setting = known[part]
            keys = command_line.keys_of(setting.hint, parts[i + 1 :])
            if keys or i + 1 == len(parts):
                break
        path = [*parts[: i + 1], *keys]
        self.origin.flags.add(name)
        try:
            value = command_line.value(Setting(part, Any) if keys else setting, text)
        except SettingError as error:
            self.flaws.append(Flaw(name, str(error)))
            return
        held = self.content
        for part in path[:-1]:
            inner = held.get(part)
            held[part] = dict(inner) if isinstance(inner, Mapping) else {}
            held = held[part]
        before = held.get(path[-1])
        merges = setting.section is not None and isinstance(value, Mapping) and isinstance(before, Mapping)
        held[path[-1]] = {**(before or {}), **value} if merges else value

    def _note_unknown(self, parts: Sequence[str], at: int) -> None:
        """An unknown flag; lists those of its group, with what follows where that makes a flag."""
        known = self.fields.below(parts[:at])
        while not known and at:
            at -= 1
            known = self.fields.below(parts[:at])
        names = [*known, "method"] if at == 0 else list(known)
        full = [[*parts[:at], each, *parts[at + 1 :]] for each in names]
        whole = [".".join(each) for each in full if each[-1] in self.fields.below(each[:-1])]
        names = whole if whole and len(parts) > at + 1 else [".".join([*parts[:at], each]) for each in names]
        text = unknown("flag", f"--{'.'.join(parts)}", [f"--{each}" for each in names])
        text += self._owner(".".join(parts)) + " Every flag: untrain run RECIPE.yaml --help."
        self.flaws.append(Flaw(f"--{'.'.join(parts)}", text, UnknownName))

    # Values.

    def recipe(self) -> Recipe | None:
        """Builds the recipe; None where something is wrong."""
        findings = Findings()
        given = {name: value for name, value in self.content.items() if name not in ("methods", "task")}
        if given.get("references", 0) is None:
            del given["references"]
        if self.path is not None and os.path.isdir(self.path) and "out" not in self.origin.flags:
            given["out"] = str(self.path)
        own = {name: given.pop(name) for name in self.fields.sections if name in given}
        self.flaws += _flaws_of_name(given.get("name"))
        common = read_values(common_settings() | {"methods": Setting("methods", None)}, given, findings)
        sections = build(self.fields.entry.Sections, own, findings)
        if hasattr(sections, "completed"):
            sections = sections.completed(frozenset(given))
        methods: dict[str, Any] = {
            entry: build(kind, self.content["methods"][entry], findings, prefix=f"methods.{entry}.")
            for entry, kind in self.fields.kinds.items()
        }
        for name, value in findings.code.items():
            self._note_code(name, value)
        self.flaws += [self._explained(flaw) for flaw in findings.flaws]
        methods = {entry: method for entry, method in methods.items() if method is not None}
        if (training := common.get("train")) is not None and training.optimizer is None:
            self.flaws.append(Flaw("train.optimizer", "train.optimizer must not be null: the recipe trains with it."))
        if (comparison := common.get("compare")) is not None:
            common["compare"] = self._compared(comparison, methods)
        if self.flaws:
            return None
        own = {"task": self.fields.task, "sections": sections, "methods": methods}
        return Recipe(**common, **own, code=self.code, permissions=self.permissions)

    def _explained(self, flaw: Flaw) -> Flaw:
        """An unknown field, with the task that has it."""
        if flaw.error is not UnknownName or flaw.name.startswith("methods."):
            return flaw
        known = [*common_settings(), *self.fields.sections, "methods"]
        text = flaw.text if "." in flaw.name else unknown("field", flaw.name, known)
        return Flaw(flaw.name, text + self._owner(flaw.name), UnknownName)

    def _owner(self, name: str) -> str:
        """Says which other tasks have a field; empty where none has."""
        outer, _, last = name.rpartition(".")
        parts = outer.split(".") if outer else []
        owners = [own.task for own in self._others if last in own.below(parts)]
        if not owners:
            return ""
        word = "task" if len(owners) == 1 else "tasks"
        return f" {name} belongs to {word} {' and '.join(owners)}; this recipe's task is {self.fields.task}."

    @cached_property
    def _others(self) -> list[RecipeFields]:
        """The fields of all other tasks."""
        found = []
        for name in registry.names():
            try:
                found += [RecipeFields(name, registry.entry(name), {})] if name != self.fields.task else []
            except SettingError:  # a distribution that is broken
                continue
        return found

    # The section `compare`.

    def _compared(self, given: Comparison, methods: Mapping[str, Method]) -> Comparison:
        """The section with every field inside its mappings known and of its type."""
        if not given.seeds or len({*given.seeds}) < len(given.seeds):
            self.flaws.append(Flaw("compare.seeds", "compare.seeds must list at least one seed, and none twice."))
        if given.tuning_seed in given.seeds:
            text = "must not be one of compare.seeds: the search would see the splits that are compared."
            self.flaws.append(Flaw("compare.tuning_seed", f"compare.tuning_seed {text}"))
        forgets = self.fields.sections.get("forget")
        by_samples = forgets is not None and issubclass(forgets.section or object, Forget)
        if not by_samples and (len(given.forget_sets) > 1 or any(given.forget_sets.values())):
            text = (
                f"must be empty: it names samples and classes, and recipes of task {self.fields.task} have no forget."
            )
            self.flaws.append(Flaw("compare.forget_sets", f"compare.forget_sets {text}"))
            return given
        sets = (
            given.forget_sets
        )  # of a task that forgets otherwise: the name alone, as its comparison's config.yaml has it
        if by_samples:
            sets = {name: self._forget_set(name, wanted) for name, wanted in given.forget_sets.items()}
        spaces = flaws_of_spaces(given.spaces, methods, [*self.fields.kinds], searched=given.trials > 0)
        self.flaws += islice(spaces, MOST_FLAWS)
        return replace(given, forget_sets=sets)

    def _forget_set(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        where, findings = f"compare.forget_sets.{name}", Findings()
        if not re.fullmatch(r"[\w.-]+", name) or not _is_short(name) or name.startswith(".") or name == "tuning":
            text = f"cannot name a forget set: use at most {LONGEST_NAME // 2} letters, digits, dots, _ and -, and not "
            text += "tuning."
            findings.flaws.append(Flaw(where, f"{describe(name)} {text}"))
        built = build(self.fields.sections["forget"].section, given, findings, prefix=f"{where}.")
        if built is not None and len([f for f in REQUESTS if given.get(f) not in (None, [])]) != 1:
            findings.flaws.append(Flaw(where, f"{where} must give exactly one of {', '.join(REQUESTS)}."))
        self.flaws += findings.flaws
        return {} if built is None else {f: getattr(built, f) for f in given}
