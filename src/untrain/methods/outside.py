"""Methods of other distributions: whatever is installed under the entry point group `untrain.methods`."""

import inspect
from collections.abc import Collection, Sequence
from dataclasses import is_dataclass
from importlib.metadata import EntryPoint, entry_points

from untrain.errors import SettingError
from untrain.methods.base import Method

GROUP = "untrain.methods"


def installed() -> dict[str, list[EntryPoint]]:
    """Method's name → the entry points that have it, in the order of the path; nothing is imported."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        same = found.setdefault(entry.name, [])
        if entry not in same:
            same.append(entry)
    return found


def load(name: str, entries: Sequence[EntryPoint], ours: Collection[str]) -> type[Method]:
    """The class of the method called `name`, imported from the distribution that brings it.

    Args:
        name: the method's.
        entries: the entry points of that name, at least one.
        ours: names that `untrain` has itself.

    Raises:
        SettingError: if it cannot be imported, is no method, or if another has the same name; names the distribution.
    """
    where = [_distribution(entry) for entry in entries]
    if name in ours:
        raise SettingError(f"{' and '.join(where)}: the name {name!r} is taken by untrain's own method. {_REMEDY}")
    if len(entries) > 1:
        raise SettingError(f"the method {name!r} comes from {' and from '.join(where)}. Uninstall all but one.")
    try:
        kind = entries[0].load()
    except Exception as error:  # whatever the code of others raises when it is imported
        raise SettingError(
            f"{where[0]}: its method {name!r} ({entries[0].value}) cannot be imported: "
            f"{type(error).__name__}: {error}. {_REMEDY}"
        ) from error
    flaw = _flaw(name, kind)
    if flaw:
        raise SettingError(f"{where[0]}: its method {name!r} ({entries[0].value}) {flaw}. {_REMEDY}")
    return kind


_REMEDY = "Mend that distribution or uninstall it."


def _distribution(entry: EntryPoint) -> str:
    return f"the distribution {entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _flaw(name: str, kind: object) -> str:
    """What keeps an object from being the method of this name; empty where nothing does."""
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        return "is no class derived from untrain.Method"
    if inspect.isabstract(kind):
        return f"does not define {', '.join(sorted(kind.__abstractmethods__))}"
    if "__dataclass_fields__" not in vars(kind) or not is_dataclass(kind):
        return "is not decorated with @dataclass(frozen=True)"
    lacking = [field for field in ("name", "title") if not isinstance(getattr(kind, field, None), str)]
    if lacking:
        return f"has no {' and no '.join(lacking)}"
    return "" if kind.name == name else f"calls itself {kind.name!r}: entry point and class must have one name"
