"""What a search for settings may try: the recipe's own spaces, and those of methods."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

from untrain.errors import SettingError, UnknownName, unknown
from untrain.methods.base import Choice, Method, Optimizer, Range, Space
from untrain.settings import Flaw, Setting, options, settings_of

if TYPE_CHECKING:
    from untrain.runs.recipe import Recipe


def space_of(recipe: "Recipe", entry: str) -> dict[str, Space]:
    """Returns what a search tries for a method's entry: the recipe's own space, else the method's.

    Names of nested settings have a dot: "optimizer.lr".
    """
    given = recipe.compare.spaces.get(entry)
    if given is None:
        return dict(recipe.methods[entry].space)
    return {name: _space(f"compare.spaces.{entry}.{name}", values) for name, values in given.items()}


def is_integer(method: Method, setting: str) -> bool:
    """Returns whether a setting, by its dotted name, takes whole numbers alone."""
    found = _find(type(method), setting)
    kinds = {getattr(option, "__origin__", option) for option in options(found.hint)} if found else set()
    return int in kinds and float not in kinds


def with_settings(method: Method, settings: Mapping[str, Any], optimizer: Optimizer | None = None) -> Method:
    """Returns the method with these settings, by dotted name.

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
                section = settings_of(type(method))[outer].section
                current = optimizer if section is Optimizer and optimizer is not None else section()
            value = with_settings(current, {inner: value})
        changes[outer] = value
    return replace(method, **changes)


def flaws_of_spaces(
    spaces: Mapping[str, Mapping[str, Any]], methods: Mapping[str, Method], entries: Sequence[str], *, searched: bool
) -> Iterator[Flaw]:
    """Yields what is wrong with the spaces of a recipe.

    Args:
        spaces: of its section `compare`.
        methods: those of its entries that are right.
        entries: all of them.
        searched: whether there is a search; then the ends of every space are tried, methods' own too, so that a value
            which a method refuses is found before the search.
    """
    for entry in spaces:
        if entry not in entries:
            text = unknown("entry of compare.spaces", entry, entries)
            yield Flaw(f"compare.spaces.{entry}", text, UnknownName)
    for entry, method in methods.items():
        for name, tried in spaces.get(entry, method.space).items():
            where = f"compare.spaces.{entry}.{name}"
            setting = _find(type(method), name)
            if setting is None:
                text = unknown(f"setting of {entry}", name, settings_of(type(method)))
                yield Flaw(where, text, UnknownName)
                continue
            try:
                space = tried if isinstance(tried, Space) else _space(where, tried)
            except SettingError as error:
                yield Flaw(where, str(error))
                continue
            if searched:
                yield from _flaws_of_values(where, entry, name, setting, method, space)


def _flaws_of_values(
    where: str, entry: str, name: str, setting: Setting, method: Method, space: Space
) -> Iterator[Flaw]:
    cast: Any = round if is_integer(method, name) else float
    values = [cast(space.low), cast(space.high)] if isinstance(space, Range) else space.values
    for value in values:
        reason = "" if setting.fits(value) else f"{name} must be {setting.words}."
        try:
            if not reason:
                with_settings(method, {name: value})
        except SettingError as error:
            reason = str(error)
        if reason:
            said = f"the search would try {name} = {value!r} for {entry}: {reason}"
            yield Flaw(where, f"{said} Say under compare.spaces.{entry} what can be tried.")
            return


def _space(name: str, values: Any) -> Space:
    """What one entry of compare.spaces means."""
    try:
        if isinstance(values, Mapping) and set(values) == {"choices"} and isinstance(values["choices"], list):
            return Choice(tuple(values["choices"]))
        ends = [v for v in values[:2] if type(v) in (int, float)] if isinstance(values, list) else []
        if len(ends) == 2 and values[2:] in ([], ["log"]):
            return Range(float(ends[0]), float(ends[1]), log=len(values) == 3)
    except SettingError as error:
        raise SettingError(f"{name}: {error}") from error
    raise SettingError(f"{name} must be [low, high], [low, high, log] or {{choices: [...]}}, not {values!r}.")


def _find(kind: Any, dotted: str) -> Setting | None:
    """The setting of a dataclass by its dotted name; None if there is no such setting."""
    setting: Setting | None = None
    for part in dotted.split("."):
        setting = settings_of(kind).get(part) if isinstance(kind, type) and is_dataclass(kind) else None
        if setting is None:
            return None
        kind = setting.section
    return setting
