"""Settings: what a dataclass's fields are, which values fit them, and what they mean.

Recipes, flags, help texts, the JSON schema of recipes and the Python interface are made from these descriptions alone.
Types and ranges are pydantic's, strictly: a boolean is no number and a text is no number, but a whole number will do
where any number does. An error says it in words of our own. pydantic is imported with the first value that is checked.
"""

import dataclasses
import inspect
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, is_dataclass
from functools import cache, cached_property, reduce, wraps
from numbers import Integral, Real
from operator import or_
from pathlib import PurePath
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Le

from untrain.errors import SettingError, UnknownName, unknown

if TYPE_CHECKING:
    from pydantic import TypeAdapter

F = TypeVar("F", bound=Callable[..., Any])
MOST_FLAWS = 20
"""Flaws that are looked for and told: to guess what each of ten thousand unknown fields might mean takes minutes."""
REQUIRED: Any = object()
"""The default of a setting that has none."""
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
"""What a generator of random numbers starts from."""
BatchSize = Annotated[int, Ge(1), Le(2**31 - 1)]
"""Samples a batch."""
Workers = Annotated[int, Ge(0), Le(256)]
"""Processes that read samples; each holds a copy of the data set."""
HUBS = ("hf", "hf-config")
"""What stands before the colon in names that are looked up on a hub; anything else is a module."""


class Code:
    """Marks a text in `Annotated` that may name code of the user's own, as MODULE:NAME."""


def names_code(text: Any) -> bool:
    """Returns whether a text would import something: only the person at the keyboard may say that."""
    return isinstance(text, str) and ":" in text and text.partition(":")[0] not in HUBS


@dataclass(frozen=True, eq=False)
class Setting:
    """A field of a dataclass, or an argument of a function.

    Attributes:
        name: as it is written.
        hint: its type.
        default: its value where none is given; `REQUIRED` where one must be.
    """

    name: str
    hint: Any
    default: Any = REQUIRED

    @property
    def section(self) -> Any:
        """The dataclass that the setting's type is, null or not; None for other types."""
        held = [option for option in options(self.hint) if option is not NoneType]
        return held[0] if len(held) == 1 and is_dataclass(held[0]) else None

    @property
    def item(self) -> Any:
        """The dataclass that a list holds; None for other types."""
        held = (get_args(o)[0] for o in options(self.hint) if get_origin(o) is list)
        return next((kind for kind in held if is_dataclass(kind)), None)

    @property
    def nullable(self) -> bool:
        """Whether null is a value."""
        return NoneType in options(self.hint)

    @property
    def names_code(self) -> bool:
        """Whether its text may be MODULE:NAME."""
        hints = [self.hint, *options(self.hint)]
        return any(extra is Code for h in hints for extra in getattr(h, "__metadata__", ()))

    @cached_property
    def adapter(self) -> "TypeAdapter[Any]":
        """The check of a value."""
        from pydantic import ConfigDict, InstanceOf, TypeAdapter

        strict = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
        instance: Any = InstanceOf
        kinds = [instance[kind] if is_dataclass(kind) else kind for kind in options(self.hint)]
        return TypeAdapter(reduce(or_, kinds) if len(kinds) > 1 else self.hint, config=strict)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of its values, where it is no section."""
        from pydantic import PydanticUserError

        try:
            return self.adapter.json_schema()
        except PydanticUserError:  # a class that JSON does not know
            return {}

    @property
    def words(self) -> str:
        """Its type as a person says it: "a number above 0 or null"."""
        kind = self.section or self.item
        if kind is None:
            return _words_of_type(self.hint)
        mapping = f"a mapping of {', '.join(settings_of(kind))} to values"
        if self.section is None:
            text = "text or " if getattr(kind, "shorthand", None) else ""
            mapping = f"a list ([…], each {text}{mapping})"
        return f"{mapping} or null" if self.nullable else mapping

    def fits(self, value: Any) -> bool:
        """Returns whether this is one of its values."""
        from pydantic import ValidationError

        try:
            self.adapter.validate_python(value)
        except ValidationError:
            return False
        return True


def options(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


@cache
def settings_of(kind: Any) -> dict[str, Setting]:
    """Returns a dataclass's settings by name. One whose default is null may be null."""
    hints = _hints(kind)
    found = {}
    for f in dataclasses.fields(kind):
        if f.init:
            default = REQUIRED if f.default is MISSING else f.default
            default = default if f.default_factory is MISSING else f.default_factory()
            hint = hints[f.name]
            found[f.name] = Setting(f.name, hint | None if default is None else hint, default)
    return found


def _hints(kind: Any) -> dict[str, Any]:
    """Types of the fields alone: what else a class annotates may name modules that are imported for checkers only."""
    names = {f.name for f in dataclasses.fields(kind)}
    hints: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        own = {name: hint for name, hint in inspect.get_annotations(owner).items() if name in names}
        bare = type(owner.__name__, (), {"__annotations__": own, "__module__": owner.__module__})
        hints |= get_type_hints(bare, include_extras=True)
    return hints


def arguments_of(function: Callable[..., Any]) -> dict[str, Setting]:
    """Returns a function's arguments by name, without *args, **kwargs, self and cls."""
    hints = get_type_hints(function, include_extras=True)
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = [p for p in inspect.signature(function).parameters.values() if p.kind in plain]
    return {
        p.name: Setting(p.name, hints.get(p.name, Any), REQUIRED if p.default is p.empty else p.default)
        for p in taken
        if p.name not in ("self", "cls")
    }


_RANGES = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "null": "null",
    "object": "a mapping of names to values",
}


def _words(schema: Mapping[str, Any]) -> str:
    """A leaf's JSON schema as a person says it."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_words(option) for option in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(repr(choice) for choice in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        inner = _words(schema.get("items", {}))
        return f"a list ([…], each {inner})"
    said = _TYPES.get(schema.get("type", ""), "a value")
    limits = [f"{word} {schema[key]}" for key, word in _RANGES.items() if key in schema]
    between = " " if [limit.split()[0] for limit in limits] == ["from", "to"] else " and "
    said = " ".join([said, between.join(limits)]).strip()
    return said.replace(str(2**63 - 1), "2⁶³ − 1").replace(str(2**31 - 1), "2³¹ − 1")


def _words_of_type(hint: Any) -> str:
    """A type as a person says it, JSON's or a class: "text or a torch.device"."""
    kinds, inner = options(hint), get_args(hint)
    if len(kinds) > 1:
        return " or ".join(dict.fromkeys(map(_words_of_type, kinds)))
    schema = {} if is_dataclass(hint) else Setting("", hint).schema
    if schema:
        return _words(schema)
    origin = get_origin(hint) or hint
    if origin is type:
        return f"a class derived from {_words_of_type(inner[0]).partition(' ')[2]}"
    if origin is Callable:
        return "a function"
    if not isinstance(origin, type):
        return "a value"
    if issubclass(origin, Sequence) and inner:
        return f"a list ([…], each {_words_of_type(inner[0])})"
    if issubclass(origin, Mapping) and inner:
        return f"a mapping of names to values, each {_words_of_type(inner[1])}"
    name = f"{origin.__module__.partition('.')[0]}.{origin.__name__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Flaw:
    """Something wrong with what was given.

    Attributes:
        name: the dotted name of the setting or section.
        text: what is wrong, in a sentence.
        error: its kind.
    """

    name: str
    text: str
    error: type[SettingError] = SettingError


@dataclass
class Findings:
    """What turned up while settings were read.

    Attributes:
        flaws: all that is wrong.
        code: dotted name → MODULE:NAME, wherever the user's own code is named.
        in_python: whether messages speak of None and True instead of null and true.
    """

    flaws: list[Flaw] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    in_python: bool = False

    def refuse(self, name: str, setting: Setting, value: Any) -> None:
        """Notes that a value is none of its setting's."""
        self.flaws.append(Flaw(name, f"{name} must be {self.words(setting)}, not {describe(value)}."))

    def words(self, setting: Setting) -> str:
        """Returns a setting's type as a person says it who writes recipes, or Python."""
        text = setting.words
        if self.in_python:
            text = re.sub(r"\bnull\b", "None", text).replace("true or false", "True or False")
        return text


def build(
    kind: Any, given: Mapping[Any, Any], findings: Findings, *, prefix: str = "", base: Any = None, word: str = "field"
) -> Any:
    """Builds a dataclass from settings of any depth; None where something is wrong, which `findings` then holds.

    Args:
        kind: the dataclass.
        given: name → value; for a nested dataclass an instance, or a mapping that is put over its default.
        findings: is added to.
        prefix: stands before the names in messages.
        base: has what is not given; None: the dataclass's defaults.
        word: what an unknown name is called in messages.
    """
    known, before = settings_of(kind), len(findings.flaws)
    values = {} if base is None else {name: getattr(base, name) for name in known}
    values |= read_values(known, given, findings, prefix, word)
    for name, setting in known.items():
        if setting.default is REQUIRED and name not in values:
            text = f"{prefix}{name} must be given: {findings.words(setting)}."
            findings.flaws.append(Flaw(prefix + name, text))
    if len(findings.flaws) > before:
        return None
    try:
        return kind(**values)
    except SettingError as error:
        message = str(error)
        begins = next((name for name in known if message.startswith((f"{name} ", f"{name}=", f"{name}:"))), None)
        said = message if begins is None else prefix + message
        findings.flaws.append(Flaw(_culprit(message, given, prefix), said, type(error)))
        return None


def read_values(
    known: Mapping[str, Setting], given: Mapping[Any, Any], findings: Findings, prefix: str = "", word: str = "field"
) -> dict[str, Any]:
    """Returns the given values of these settings, each of its type; arguments as of `build`."""
    values = {}
    for key, value in given.items():
        name = f"{prefix}{key}"
        if len(findings.flaws) > MOST_FLAWS:
            break
        if key in known:
            values[key] = _read(known[key], value, findings, name)
        else:
            findings.flaws.append(Flaw(name, unknown(word, name, [prefix + each for each in known]), UnknownName))
    return values


def read_arguments(owner: str, known: Mapping[str, Setting], given: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns the arguments for a function of this name, each of its type, before it is called.

    Args:
        owner: what messages call the function.
        known: the arguments that it takes, as `arguments_of` gives them.
        given: name → value.

    Raises:
        SettingError: says what is wrong with the first argument that is.
    """
    findings = Findings()
    values = read_values(known, given, findings, word="option")
    for flaw in findings.flaws:
        raise flaw.error(f"{owner}: {flaw.text}")
    return values


def join_arguments(own: Mapping[str, Any], options: Mapping[Any, Any]) -> dict[str, Any]:
    """Joins the arguments that a caller gives by itself with the options that a person may give besides.

    Raises:
        SettingError: if an option is one of the caller's own.
    """
    twice = next((name for name in options if name in own), None)
    if twice is not None:
        raise SettingError(f"options: {twice} follows from the data and the recipe. Leave it out.")
    return {**own, **{str(name): value for name, value in options.items()}}


def _culprit(message: str, given: Mapping[Any, Any], prefix: str) -> str:
    """The one given setting that a message mentions; else the section."""
    words = set(message.replace(",", " ").replace(";", " ").replace(":", " ").split())
    named = [f"{prefix}{key}" for key in given if key in words]
    return named[0] if len(named) == 1 else prefix.rstrip(".")


def _read(setting: Setting, value: Any, findings: Findings, name: str) -> Any:
    """A setting's value of its type; None where it is of another, which `findings` then holds."""
    section = setting.section
    if section is not None:
        if value is None:
            value = None if setting.nullable else {}
        if value is None or isinstance(value, section):
            return value
        if isinstance(value, Mapping):
            base = setting.default if isinstance(setting.default, section) else None
            base = None if base is not None and _is_another(section, value, base) else base
            return build(section, value, findings, prefix=f"{name}.", base=base)
    elif setting.item is not None and isinstance(value, Sequence) and not isinstance(value, str):
        one = Setting("", setting.item)
        return [_read(one, _spelled_out(each, one), findings, f"{name}.{i}") for i, each in enumerate(value)]
    elif setting.item is None:
        if setting.names_code and names_code(value):
            findings.code[name] = value
        return _checked(setting, _plain_number(value), findings, name)
    findings.refuse(name, setting, value)
    return None


def _is_another(section: Any, value: Mapping[Any, Any], default: Any) -> bool:
    """Whether a mapping says that it is of another kind than the default, whose other values are then not meant.

    A section that is of several kinds calls the field that says which `kind_field`.
    """
    told = getattr(section, "kind_field", None)
    return told is not None and told in value and value[told] != getattr(default, told)


def _spelled_out(value: Any, one: Setting) -> Any:
    """An entry of a list; a text alone stands for the field that its class calls `shorthand`."""
    shorthand = getattr(one.section, "shorthand", None)
    return {shorthand: value} if shorthand and isinstance(value, str) else value


def _plain_number(value: Any) -> Any:
    """Numbers of numpy and the like, which JSON does not know, as Python's own."""
    if isinstance(value, bool | int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _checked(setting: Setting, value: Any, findings: Findings, name: str) -> Any:
    from pydantic import ValidationError

    if isinstance(value, str | PurePath) and (flaw := _flaw_of_text(str(value))):
        findings.flaws.append(Flaw(name, f"{name} {flaw}"))
        return None
    try:
        found = value if _is_plainly(setting, value) else setting.adapter.validate_python(value)
        if not isinstance(found, int) or -(2**63) <= found < 2**63:
            return found
        findings.flaws.append(Flaw(name, f"{name} is a whole number of more than 64 bits. Give a smaller one."))
        return None
    except ValidationError as error:
        place = error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
    except Exception:  # what a hostile object raises when it is looked at
        place = ()
    if get_origin(setting.hint) is dict and isinstance(value, Mapping) and place and place[-1] != "[key]":
        inner = Setting(str(place[0]), get_args(setting.hint)[1])
        return _checked(inner, value[place[0]], findings, f"{name}.{place[0]}")
    findings.refuse(name, setting, value)
    return None


def _flaw_of_text(text: str) -> str:
    """Why neither file nor system takes a text; empty where they do."""
    if "\0" in text:
        return "holds a NUL character. Remove it."
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return "holds half a character (a surrogate), which no file takes. Remove it."
    return ""


def _is_plainly(setting: Setting, value: Any) -> bool:
    """Whether a value is of a type without a range, so that what is made at import needs no pydantic."""
    kind = type(value)
    if kind is float and not math.isfinite(value):
        return False
    return setting.hint is Any or (kind in (bool, int, str, float, NoneType) and kind in options(setting.hint))


def describe(value: Any) -> str:
    """Returns a value as messages have it: short; of what is neither number, text nor collection its type.

    It never fails, whatever the value is.
    """
    try:
        if isinstance(value, str):
            return repr(value) if len(value) <= 80 else f"{value[:60]!r}… ({len(value)} characters)"
        if not isinstance(value, bool | int | float | list | tuple | dict | NoneType):
            return type(value).__name__
        if isinstance(value, list | tuple | dict) and len(value) > 1000:
            return f"a {type(value).__name__} of {len(value)}"
        text = repr(value)
    except Exception:  # a number of too many digits, a list that holds itself too deep, a __repr__ of the user's own
        return type(value).__name__
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def make(kind: Any, given: Mapping[str, Any]) -> Any:
    """Builds a dataclass from settings that code gives.

    Raises:
        SettingError: says what is wrong with the first setting that is.
    """
    findings = Findings(in_python=True)
    made = build(kind, given, findings, word=f"setting of {getattr(kind, 'name', kind.__name__)}")
    for flaw in findings.flaws:
        raise flaw.error(flaw.text)
    return made


def check_arguments(function: F) -> F:
    """Decorates a function, or a dataclass: what it is called with is checked by the types of its arguments.

    Numbers of numpy become Python's, and a mapping becomes the dataclass that an argument must be. An argument whose
    type is `Any` is looked at by the function itself.

    The decorated function raises:
        SettingError: names the argument, and what it must be.
    """
    if isinstance(function, type):
        kind: Any = function
        kind.__init__ = _checking(kind.__init__, kind.__name__, lambda: settings_of(kind))
        return function
    return _checking(function, function.__name__, cache(lambda: arguments_of(function)))


def _checking(function: F, name: str, known: Callable[[], Mapping[str, Setting]]) -> F:
    signature = inspect.signature(function)

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise SettingError(f"{name}: {error}.") from None
        settings, findings = known(), Findings(in_python=True)
        given = {n: v for n, v in bound.arguments.items() if n in settings and v is not settings[n].default}
        read = read_values(settings, given, findings)
        for flaw in findings.flaws:
            raise flaw.error(flaw.text)
        bound.arguments.update(read)
        return function(*bound.args, **bound.kwargs)

    return checked  # type: ignore[return-value]


# ── describing ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class FieldHelp:
    """One line of a help text or a table.

    Attributes:
        name: the setting's dotted name.
        words: its type.
        default: its value where none is given; None also where it is a section that has no value itself.
        meaning: what it does.
        is_section: whether its own settings follow.
    """

    name: str
    words: str
    default: Any
    meaning: str
    is_section: bool = False


def rows_of(kind: Any, prefix: str = "", base: Any = None) -> Iterator[FieldHelp]:
    """Describes a dataclass's settings, nested ones after the section that holds them.

    Args:
        kind: the dataclass.
        prefix: stands before the names.
        base: has the defaults; None: the dataclass.
    """
    meanings = meanings_of(kind)
    for name, setting in settings_of(kind).items():
        default = setting.default if base is None else getattr(base, name)
        section, full = setting.section, prefix + name
        meaning = meanings.get(name) or ("" if section is None else summary_of(section))
        if section is None:
            yield FieldHelp(full, setting.words, default, meaning)
        else:
            yield FieldHelp(full, "null or a section" if setting.nullable else "a section", None, meaning, True)
            yield from rows_of(section, f"{full}.", default if isinstance(default, section) else None)


def meanings_of(described: Any) -> dict[str, str]:
    """Returns what the docstrings of a dataclass or function say of its settings: name → text on one line.

    Python's None is null there, as YAML has it.
    """
    owners = reversed(described.__mro__) if isinstance(described, type) else (described,)
    found: dict[str, str] = {}
    for owner in owners:
        if owner is not object:
            found |= _documented(owner)
    return {name: text[:1].upper() + text[1:] if text[:1].isascii() else text for name, text in found.items()}


@cache
def _documented(owner: Any) -> dict[str, str]:
    """What one class's or function's own docstrings say; its source is parsed for that, which takes long."""
    from docstring_parser import parse_from_object

    told = {p.arg_name: " ".join((p.description or "").split()) for p in parse_from_object(owner).params}
    return {name: re.sub(r"\bNone\b", "null", text) for name, text in told.items()}


def summary_of(described: Any) -> str:
    """Returns the first line of a docstring."""
    return (inspect.getdoc(described) or "").partition("\n")[0]
