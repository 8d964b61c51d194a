"""Where each field of a recipe comes from: a line of its file, or a flag."""

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from untrain.errors import SettingError
from untrain.reading import printable, read_text
from untrain.sealed import unsealed
from untrain.settings import MOST_FLAWS, Flaw

DEPTH = 20
"""Levels that a recipe may be nested; its own fields need six, the options of a model a few more."""
FIELDS = 10_000
"""Fields and entries of lists that a recipe may have once its aliases are followed."""
SIZE = 1 << 19
"""Bytes of a recipe: the largest of ours has 3,000, and half a million are read in a second."""
DIGITS = 400
"""Characters of a number: the largest that floating point knows has 309 digits."""
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class Loader(yaml.SafeLoader):
    """YAML of what JSON knows, in which 1e-3 is a number, as in YAML 1.2, and a date is text.

    It stops where a text is nested too deep or has too many fields, before the rest is parsed.
    """

    path: Path | None = None
    _depth = _nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Makes the next node, and counts."""
        self._depth += 1
        self._nodes += 1
        if self._depth > DEPTH or self._nodes > 2 * FIELDS:  # a field is a node for its name, and one for its value
            raise _too_much(_place(self.path, self.peek_event()), self._depth > DEPTH)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads: a text that looks like a number is quoted."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith("timestamp")]
    for first, found in Loader.yaml_implicit_resolvers.items()
}
for _each in (Loader, Dumper):
    _each.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{_FLOAT.pattern}$"), list("-+.0123456789"))


@dataclass
class Origin:
    """Where each field of a recipe comes from.

    Attributes:
        path: the file; None where there is none.
        lines: dotted name of each field in the file → its line, from 1.
        flags: dotted names that flags gave.
    """

    path: Path | None = None
    lines: dict[str, int] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)

    def from_flag(self, name: str) -> bool:
        """Returns whether the command line gave a field, or the section that it is in."""
        return any(name == flag or name.startswith(f"{flag}.") for flag in self.flags)

    def at(self, name: str) -> str:
        """Returns the beginning of a message on a field: file and line of it, or of what it is in; or its flag."""
        if name.startswith("--"):  # a flag that there is not
            return ""
        if name in self.flags:
            return f"--{name}: "
        inside = [flag for flag in self.flags if flag.startswith(f"{name}.")]
        if name not in self.lines and len(inside) == 1:
            return f"--{inside[0]}: "
        if self.path is None or self.from_flag(name):
            return ""
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        return f"{self.path}, line {self.lines[name]}: " if name else f"{self.path}: "

    def sentence(self, flaw: Flaw) -> str:
        """Returns a flaw with where it is."""
        if self.from_flag(flaw.name) and flaw.text.startswith(f"{flaw.name} "):
            return f"--{flaw.text}"
        return self.at(flaw.name) + flaw.text

    def error(self, flaws: list[Flaw]) -> SettingError:
        """Returns one error of what is wrong, a line each, in the order of the file."""
        ordered = sorted(flaws, key=lambda flaw: self._line(flaw.name))
        kinds = {flaw.error for flaw in ordered}
        said = [*map(self.sentence, ordered[:MOST_FLAWS])]
        said += ["… and more. Correct these first."] if len(ordered) > MOST_FLAWS else []
        return (kinds.pop() if len(kinds) == 1 else SettingError)("\n".join(said))

    def _line(self, name: str) -> int:
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        return self.lines.get(name, 0)


def load(path: Path) -> tuple[dict[str, Any], Origin]:
    """Reads a recipe's file, or that of a run folder: its content, and where each field is.

    Raises:
        SettingError: if it cannot be read, is no YAML, gives a field twice, or is nested without end.
    """
    kept = os.path.isdir(path)
    path = path / "config.yaml" if kept else path
    try:
        text = read_text(path, SIZE, SettingError)
    except SettingError as error:
        raise SettingError(f"the recipe {error}") from error
    if kept and unsealed(text) is None:
        raise SettingError(changed(path))
    origin = Origin(path)
    try:
        content = _construct(text, origin)
    except yaml.YAMLError as error:
        raise SettingError(f"the recipe {printable(path)} is not YAML: {error}") from error
    except SettingError:
        raise
    except Exception as error:  # what PyYAML raises at too many digits, or at a text that is not as its tag says
        raise SettingError(f"the recipe {printable(path)} cannot be read: {error}. Quote what is text.") from None
    if not isinstance(content, dict):
        raise SettingError(f"the recipe {path} must hold fields such as name, task and methods.")
    return content, origin


def changed(path: Path) -> str:
    """Returns what is said of a run folder's config.yaml that is not as it was written."""
    return (
        f"{path} is damaged or was changed since it was written: its lines do not fit the hash below them. Remove it "
        f"and give the recipe again: untrain run RECIPE.yaml --out {path.parent} --resume, with changes as flags."
    )


def parse(text: str) -> Any:
    """Reads a flag's value as YAML; text that is no YAML is itself."""
    try:
        return _construct(text, Origin())
    except SettingError:
        raise
    except Exception:  # see `load`
        return text


def _construct(text: str, origin: Origin) -> Any:
    """The value that a text holds; notes where its fields are."""
    loader = Loader(text)
    loader.path = origin.path
    node = loader.get_single_node()
    if node is None:
        return None
    _number(node, "", origin)
    return loader.construct_document(node)


_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
"""What values of a recipe are; YAML also knows dates, sets and bytes, which no file of a run can hold."""


def _place(path: Path | None, at: Any) -> str:
    return "" if path is None else f"{printable(path)}, line {at.start_mark.line + 1}: "


def _too_much(where: str, deep: bool) -> SettingError:
    if deep:
        return SettingError(f"{where}fields are nested more than {DEPTH} deep, or an alias holds itself.")
    return SettingError(
        f"{where}these are more than {FIELDS} fields and entries of lists, aliases followed. Long lists of samples "
        "belong into a file, see forget.indices and forget.ids."
    )


def _number(node: Any, prefix: str, origin: Origin, depth: int = 0) -> None:
    """Notes the line of every field, and refuses what no recipe holds."""
    where = _place(origin.path, node)
    if depth > DEPTH or len(origin.lines) > FIELDS:
        raise _too_much(where, depth > DEPTH)
    _check_node(node, origin, prefix.rstrip("."))
    if isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            origin.lines[f"{prefix}{i}"] = value.start_mark.line + 1
            _number(value, f"{prefix}{i}.", origin, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _check_node(key, origin, "a field's name")
            if not isinstance(key, yaml.ScalarNode):
                raise SettingError(f"{_place(origin.path, key)}the name of a field must be text.")
            name, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if name in origin.lines:
                raise SettingError(f"{_place(origin.path, key)}{name} is given twice. Remove one.")
            origin.lines[name] = line
            _number(value, f"{name}.", origin, depth + 1)


def _check_node(node: Any, origin: Origin, name: str) -> None:
    """Refuses what Python reads and nothing that a run writes can hold; a flag's text is itself then."""
    flaw = _flaw_of(node)
    if flaw and origin.path is None:
        raise ValueError(flaw)
    if flaw:
        raise SettingError(f"{_place(origin.path, node)}{name or 'the recipe'} {flaw}")


def _flaw_of(node: Any) -> str:
    """What is wrong with a value by itself; empty: nothing."""
    if node.tag not in _TAGS:
        return f"has the tag {node.tag!r}, and a recipe has none. Remove it."
    if not isinstance(node, yaml.ScalarNode):
        return ""
    kind, text = node.tag.rpartition(":")[2], node.value
    if "\0" in text:
        return "holds a NUL character. Remove it."
    if any("\ud800" <= c <= "\udfff" for c in text):
        return "holds half a character, \\ud800 to \\udfff. Remove it."
    if kind in ("int", "float") and len(text) > DIGITS:
        return f"is a number of {len(text)} characters. Write at most {DIGITS}."
    if kind == "float" and not _is_finite(text):
        return f"must be a finite number, not {text}."
    return ""


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")))
    except ValueError:  # hours, minutes and seconds, which YAML 1.1 takes for a number
        return True
