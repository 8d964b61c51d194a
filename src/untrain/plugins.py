"""Code of other distributions, found by entry points: methods and tasks that are installed beside ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from untrain.errors import SettingError, UnknownName, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

REMEDY = "Mend that distribution or uninstall it."
OURS = "untrain"
"""The name of this distribution, whose own entries no other can replace."""


@dataclass(frozen=True)
class Plugins:
    """What is installed under one group of entry points.

    Attributes:
        group: the entry points', such as "untrain.methods".
        word: what one entry is called in messages: "method".
        flaw: (name, the object that was loaded) → what keeps it from being one; empty where nothing does.
    """

    group: str
    word: str
    flaw: Callable[[str, Any], str]

    def installed(self) -> dict[str, list[EntryPoint]]:
        """Finds the entry points by name, in the order of the path; nothing is imported.

        They are read again once a folder of the path has changed, as every installer changes it.
        """
        found: dict[str, list[EntryPoint]] = {}
        for entry in _read_entries(self.group, tuple(map(_state_of, sys.path))):
            same = found.setdefault(entry.name, [])
            if entry not in same:
                same.append(entry)
        return found

    def load(self, name: str, entries: Sequence[EntryPoint], ours: Collection[str] = ()) -> Any:
        """Imports the entry called `name` from the distribution that brings it.

        Args:
            name: the entry's.
            entries: the entry points of that name, at least one.
            ours: names that are taken, whatever is installed.

        Raises:
            SettingError: if it cannot be imported, is of another kind, or if another has the same name; names the
                distribution.
        """
        where = [distribution_of(entry) for entry in entries]
        if name in ours:
            raise SettingError(
                f"{' and '.join(where)}: the name {name!r} is taken by untrain's own {self.word}. {REMEDY}"
            )
        if len(entries) > 1:
            raise SettingError(
                f"the {self.word} {name!r} comes from {' and from '.join(where)}. Uninstall all but one."
            )
        try:
            loaded = entries[0].load()
        except Exception as error:  # whatever the code of others raises when it is imported
            raise SettingError(
                f"{where[0]}: its {self.word} {name!r} ({entries[0].value}) cannot be imported: "
                f"{type(error).__name__}: {error}. {REMEDY}"
            ) from error
        flaw = self.flaw(name, loaded)
        if flaw:
            raise SettingError(f"{where[0]}: its {self.word} {name!r} ({entries[0].value}) {flaw}. {REMEDY}")
        return loaded


@lru_cache(maxsize=16)
def _read_entries(group: str, path: tuple[object, ...]) -> tuple[EntryPoint, ...]:
    """Reads every distribution of the path, which takes hundredths of a second."""
    from importlib.metadata import entry_points

    return tuple(entry_points(group=group))


def _state_of(place: str) -> tuple[str, int, int]:
    """An entry of the path, which folder that is, and when it last changed."""
    try:
        found = os.stat(place or os.curdir)
    except OSError:
        return place, 0, 0
    return place, found.st_ino, found.st_mtime_ns


def distribution_of(entry: EntryPoint) -> str:
    """Names the distribution of an entry point, with its version."""
    return f"the distribution {entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def import_named(target: str) -> Any:
    """Imports what MODULE:NAME says, from the environment or the working directory; NAME may have dots.

    Only the person at the keyboard may say it: a file that did could run anything.

    Raises:
        UnknownName: if there is no such module or name. SettingError: if importing it fails.
    """
    place, _, names = target.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last, so that no file there hides a library; it stays for worker processes
    try:
        found: Any = import_module(place)
    except Exception as error:  # whatever the user's own code raises when it is imported
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise UnknownName(
                f"unknown module {place!r} of {target}: it lies neither in the working directory nor in the "
                "environment."
            ) from error
        raise SettingError(
            f"module {place!r} of {target} cannot be imported: {type(error).__name__}: {error}. Mend it, or install "
            "what it needs."
        ) from error
    for name in names.split("."):
        if not hasattr(found, name):
            known = [each for each, value in vars(found).items() if callable(value) and each[0] != "_"]
            raise UnknownName(f"module {place!r}: {unknown('attribute', names, known)}")
        found = getattr(found, name)
    return found
