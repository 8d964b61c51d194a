"""Where each field of a recipe comes from: a line of its file, or a flag."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from untrain.errors import SettingError
from untrain.sealed import unsealed
from untrain.settings import Flaw

DEPTH = 20
"""Levels that a recipe may be nested; its own fields need six, the options of a model a few more."""
FIELDS = 20_000
"""Fields that a recipe may have once its aliases are followed."""
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2."""


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads: a text that looks like a number is quoted."""


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
        """Returns one error of all that is wrong, a line each, in the order of the file."""
        ordered = sorted(flaws, key=lambda flaw: self._line(flaw.name))
        kinds = {flaw.error for flaw in ordered}
        return (kinds.pop() if len(kinds) == 1 else SettingError)("\n".join(map(self.sentence, ordered)))

    def _line(self, name: str) -> int:
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        return self.lines.get(name, 0)


def load(path: Path) -> tuple[dict[str, Any], Origin]:
    """Reads a recipe's file, or that of a run folder: its content, and where each field is.

    Raises:
        SettingError: if it cannot be read, is no YAML, gives a field twice, or is nested without end.
    """
    kept = path.is_dir()
    path = path / "config.yaml" if kept else path
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingError(f"the recipe {path} is not text in UTF-8: {error}. Give a YAML file.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"the recipe {path} cannot be read: {reason}. Check the path.") from error
    if kept and unsealed(text) is None:
        raise SettingError(changed(path))
    origin = Origin(path)
    try:
        content = _construct(text, origin)
    except yaml.YAMLError as error:
        raise SettingError(f"the recipe {path} is not YAML: {error}") from error
    except RecursionError:
        raise SettingError(f"the recipe {path} is nested more than {DEPTH} deep. Write it flatter.") from None
    except SettingError:
        raise
    except Exception as error:  # what PyYAML raises at too many digits, or at a text that is not as its tag says
        raise SettingError(f"the recipe {path} cannot be read: {error}. Quote what is text.") from None
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
    node = loader.get_single_node()
    if node is None:
        return None
    _number(node, "", origin)
    return loader.construct_document(node)


def _number(node: Any, prefix: str, origin: Origin, depth: int = 0) -> None:
    """Notes the line of every field, and refuses what no recipe holds."""
    where = "" if origin.path is None else f"{origin.path}, line {node.start_mark.line + 1}: "
    if depth > DEPTH:
        raise SettingError(f"{where}fields are nested more than {DEPTH} deep, or an alias holds itself.")
    if len(origin.lines) > FIELDS:
        raise SettingError(f"{where}aliases make this more than {FIELDS} fields. Write them out.")
    if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
        raise SettingError(f"{where}{prefix.rstrip('.')} holds a NUL character. Remove it.")
    if isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            origin.lines[f"{prefix}{i}"] = value.start_mark.line + 1
            _number(value, f"{prefix}{i}.", origin, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if name in origin.lines:
                raise SettingError(f"{origin.path}, line {line}: {name} is given twice. Remove one.")
            origin.lines[name] = line
            _number(value, f"{name}.", origin, depth + 1)
