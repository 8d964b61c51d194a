"""Tasks by name: whatever is installed under the entry point group `untrain.tasks`, ours too.

An entry point names a class derived from `Domain`, or an `Entry` that tells the recipe's sections without importing
what the domain itself needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from untrain.errors import SettingError, UnknownName, unknown
from untrain.plugins import OURS, Plugins
from untrain.settings import describe

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from pathlib import Path

    from untrain.domain import Domain
    from untrain.types import Task

DEFAULT_TASK = "classification"
"""What a model was trained on where nobody says."""


@dataclass(frozen=True)
class Entry:
    """A task that need not be imported before work begins.

    Attributes:
        title: one line for lists.
        Sections: see `Domain`.
        references: see `Domain`.
        target: MODULE:CLASS of the domain.
        listing: see `Domain`.
        sampler: MODULE:FUNCTION, see `Domain`; empty: there is nothing to sample; None: the domain says.
    """

    title: str
    Sections: type
    target: str
    references: int = 1
    listing: Mapping[str, str] = field(default_factory=dict)
    sampler: str | None = None

    @property
    def domain(self) -> "type[Domain]":
        """The domain, imported now."""
        return _import(self.target)

    def find_sampler(self) -> "Callable[..., Path] | None":
        """Imports what makes samples of this task's models; None where these generate nothing."""
        if self.sampler is None:
            return self.domain.sampler
        return _import(self.sampler) if self.sampler else None


def _import(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def _flaw(name: str, loaded: Any) -> str:
    if isinstance(loaded, Entry):
        return ""
    from untrain.domain import flaw_of

    return flaw_of(name, loaded)


INSTALLED = Plugins("untrain.tasks", "task", _flaw)


def names() -> list[str]:
    """Returns the names of all tasks that are installed, ours first; nothing is imported."""
    found = INSTALLED.installed()
    ours = [name for name, entries in found.items() if _are_ours(entries)]
    return [*ours, *sorted(set(found) - set(ours))]


def _are_ours(entries: "Sequence[EntryPoint]") -> bool:
    return any(entry.dist and entry.dist.name == OURS for entry in entries)


def entry(name: str) -> Entry:
    """Returns what is known of a task by name.

    Raises:
        UnknownName: lists the known tasks.
        SettingError: if the distribution that brings it is broken, or another brings the same name; names it.
    """
    found = INSTALLED.installed()
    if name not in found:
        raise UnknownName(unknown("task", name, names()))
    return _entry(name, tuple(found[name]))


@cache
def _entry(name: str, entries: "tuple[EntryPoint, ...]") -> Entry:
    loaded = INSTALLED.load(name, entries)
    return loaded if isinstance(loaded, Entry) else entry_of(loaded)


def entry_of(domain: "type[Domain]") -> Entry:
    """Returns the entry of a domain that is imported already."""
    title = (domain.__doc__ or domain.name).strip().splitlines()[0]
    target = f"{domain.__module__}:{domain.__qualname__}"
    return Entry(title, domain.Sections, target, domain.references, domain.listing)


def domain(name: str) -> "type[Domain]":
    """Returns a task's domain by name; errors as of `entry`."""
    return entry(name).domain


def domain_of(task: "str | Task") -> "type[Domain]":
    """Returns the domain of a task's name, or of a task object: the one whose `task_class` it is.

    A task object of no installed domain has the plain one, which measures losses.
    """
    if isinstance(task, str):
        return domain(task)
    name, installed = getattr(task, "name", None), INSTALLED.installed()
    if isinstance(name, str) and name in installed and isinstance(task, domain(name).task_class):
        return domain(name)
    others = (known for known, entries in installed.items() if not _are_ours(entries))  # their tasks may be unnamed
    for found in filter(None, map(_usable, others)):
        if type(task) is found.task_class:
            return found
    from untrain.domain import PlainDomain

    return PlainDomain


def resolve(task: "str | Task") -> "Task":
    """Returns the task of that name with default settings, or the task object itself.

    Raises:
        SettingError: if it is neither.
    """
    from untrain.types import lacking_functions

    if isinstance(task, str):
        return domain(task).task_class()
    lacking = lacking_functions(task)
    if lacking or isinstance(task, type):
        said = f"lacks {', '.join(lacking)}" if lacking else "is a class: make an object of it"
        what = f"{describe(task)} {said}"
        raise SettingError(f"task must be a name or an object with the functions of untrain.Task; {what}.")
    return task


def tasks() -> Mapping[str, "type[Domain]"]:
    """Returns the tasks that can be used, by name; one that cannot is left out, and `domain` says why."""
    return {name: found for name in names() if (found := _usable(name)) is not None}


def _usable(name: str) -> "type[Domain] | None":
    try:
        return domain(name)
    except SettingError:
        return None
