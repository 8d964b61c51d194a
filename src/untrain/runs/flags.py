"""Flags: every field of a recipe, and every argument of a command's function, can be given on the command line."""

import re
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from untrain.errors import SettingError, UnknownName, unknown
from untrain.permissions import Permissions
from untrain.reading import printable
from untrain.runs.origin import parse
from untrain.settings import (
    REQUIRED,
    FieldHelp,
    Findings,
    Setting,
    arguments_of,
    meanings_of,
    options,
    read_values,
    rows_of,
    summary_of,
)

if TYPE_CHECKING:
    from untrain.runs.recipe import RecipeFields

WIDTH = 110


def split(words: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the flags of a command line: dotted name and text of each.

    Raises:
        SettingError: if a word is no flag, or a flag has no value.
    """
    found, rest = [], deque(words)
    while rest:
        word = rest.popleft()
        if not word.startswith("--"):
            raise SettingError(
                f"'{printable(word)}' is neither a recipe nor a flag: one recipe comes first, then --key value."
            )
        name, sign, text = word[2:].partition("=")
        if not sign and (not rest or rest[0].startswith("--")):
            raise SettingError(f"--{name} needs a value: --{name} VALUE.")
        text = text if sign else rest.popleft()
        check_text(text, f"--{printable(name)}")
        check_text(name, f"--{printable(name)}")
        found.append((name, text))
    return found


def check_text(text: str, name: str) -> None:
    """Checks that what the command line gives is text, which every file of a run can hold.

    Raises:
        SettingError: names the flag or argument.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingError(f"{name}: '{printable(text)}' is not text in UTF-8. Rename what it names.") from None
    if "\0" in text:
        raise SettingError(f"{name}: '{printable(text)}' holds a NUL character. Remove it.")


def value(setting: Setting, text: str) -> Any:
    """Returns what a flag's text means: YAML, or the text itself where the setting takes that alone."""
    if Path in options(setting.hint):
        return Path(text)
    parsed = parse(text)
    if setting.section is None and setting.item is None and not setting.fits(parsed) and setting.fits(text):
        return text
    return parsed


def keys_of(hint: Any, rest: Sequence[str]) -> list[str]:
    """Returns the keys of a mapping that the rest of a flag's name gives: each level one, the last all that remains."""
    kinds, keys, left = [hint], [], list(rest)
    while left and (kinds := [get_args(kind)[1] for kind in kinds if get_origin(kind) is dict]):
        kinds = [option for kind in kinds for option in options(kind)]
        deeper = any(get_origin(kind) is dict for kind in kinds)
        keys.append(left.pop(0) if deeper else ".".join(left))
        left = left if deeper else []
    return keys


def recipe_groups(fields: "RecipeFields") -> Iterator[tuple[str, str, list[FieldHelp]]]:
    """Describes all fields of a recipe: yields heading, meaning and fields of each group, common ones first.

    Args:
        fields: which task and methods it has.
    """
    from untrain.runs.recipe import Recipe, common_settings

    common, own = common_settings(), fields.sections
    meanings, told = meanings_of(Recipe), meanings_of(fields.entry.Sections)
    first = [*_leaves(common, meanings), FieldHelp("method", "text, repeatable", None, _METHOD)]
    yield "", summary_of(Recipe), [*first, *_leaves(own, told)]
    for name, setting in (own | common).items():
        if setting.section is not None:
            meaning = told.get(name) or meanings.get(name) or summary_of(setting.section)
            base = setting.default if isinstance(setting.default, setting.section) else None
            yield name, meaning, list(rows_of(setting.section, f"{name}.", base))
    for entry, kind in fields.kinds.items():
        yield f"methods.{entry}", f"{kind.name}: {kind.title}.", list(rows_of(kind, f"methods.{entry}."))


_METHOD = "Entry of the recipe, or a method by name with its defaults, or MODULE:CLASS of your own; takes the place of "
_METHOD += "the recipe's methods."


def _leaves(known: Mapping[str, Setting], meanings: Mapping[str, str]) -> list[FieldHelp]:
    return [FieldHelp(n, s.words, s.default, meanings.get(n, "")) for n, s in known.items() if s.section is None]


def recipe_help(fields: "RecipeFields", command: str = "run") -> str:
    """Returns the help of a command that reads a recipe: every field of its task and methods, as flags."""
    lines = [f"usage: untrain {command} RECIPE.yaml [--key value …]", ""]
    for heading, meaning, rows in recipe_groups(fields):
        lines += textwrap.wrap(f"{heading}: {meaning}" if heading else meaning, WIDTH)
        lines += [line for row in rows for line in field_lines(row)] + [""]
    return "\n".join(lines)


def field_lines(row: FieldHelp) -> list[str]:
    """Returns the lines of a help text on one field."""
    about = row.words if row.is_section or row.default is REQUIRED else f"{row.words}; default {shown(row.default)}"
    about = about.removesuffix("; default null") if row.name == "method" else about
    return [f"  --{row.name}  ({about})", *_meaning(row.meaning)]


def _meaning(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def shown(default: Any) -> str:
    """Returns a default as YAML on one line."""
    import yaml

    text = yaml.safe_dump(default, default_flow_style=True, width=10**6, allow_unicode=True)
    return re.sub(r"\n\.\.\.\n$", "", text).strip()


# ── functions ───────────────────────────────────────────────────────────────────────────────────────────────────


def arguments(function: Callable[..., Any], words: Sequence[str], command: str) -> dict[str, Any]:
    """Returns the arguments that a command line gives to a function: a required first one first, the others as flags.

    Hyphens and underscores in names are the same.

    Args:
        function: typed, with its arguments described under "Args:".
        words: what follows the command.
        command: what it is called in messages, "untrain sample".

    Raises:
        SettingError: if something is unknown, missing or of another type.
    """
    known, rest, given = _flags_of(function), list(words), {}
    first = _first(known)
    if first is not None:
        if not rest or rest[0].startswith("--"):
            raise SettingError(f"give {first.upper()}: see {command} --help.")
        check_text(rest[0], first.upper())
        given[first] = value(known[first], rest.pop(0))
    for flag, text in split(rest):
        name = flag.replace("-", "_")
        if name not in known or name == first:
            flags = [flag_of(each) for each in known if each != first]
            raise UnknownName(f"{unknown('flag', f'--{flag}', flags)} See {command} --help.")
        given[name] = value(known[name], text)
    for name, setting in known.items():
        if setting.default is REQUIRED and name not in given:
            raise SettingError(f"give {flag_of(name)} {name.upper()}: see {command} --help.")
    findings = Findings()
    values = read_values(known, given, findings)
    for flaw in findings.flaws:
        raise flaw.error(f"{flag_of(flaw.name)}{flaw.text.removeprefix(flaw.name)} See {command} --help.")
    return values


def _flags_of(function: Callable[..., Any]) -> dict[str, Setting]:
    """The arguments that a command line can give; permissions are no values."""
    return {name: setting for name, setting in arguments_of(function).items() if setting.hint is not Permissions}


def takes_permissions(function: Callable[..., Any]) -> bool:
    """Returns whether a function has an argument `permissions`: what the person at the keyboard allows."""
    return "permissions" in arguments_of(function)


def _first(known: Mapping[str, Setting]) -> str | None:
    """The argument that is given without a flag, if there is one."""
    name = next(iter(known), None)
    return name if name is not None and known[name].default is REQUIRED else None


def function_help(function: Callable[..., Any], command: str) -> str:
    """Returns the help of a command that is a function."""
    known, meanings = _flags_of(function), meanings_of(function)
    first = _first(known)
    needed = [f"{flag_of(n)} {n.upper()}" for n, s in known.items() if s.default is REQUIRED and n != first]
    usage = [command, *([first.upper()] if first is not None else []), *needed, "[--key value …]"]
    lines = [f"usage: {' '.join(usage)}", "", summary_of(function), ""]
    if first is not None:
        lines += [f"  {first.upper()}", *_meaning(meanings.get(first, ""))]
    rows = [FieldHelp(flag_of(n)[2:], s.words, s.default, meanings.get(n, "")) for n, s in known.items() if n != first]
    return "\n".join([*lines, *(line for row in rows for line in field_lines(row))])


def flag_of(name: str) -> str:
    """The flag that sets a field: --per-sample of per_sample."""
    return f"--{name.replace('_', '-')}"
