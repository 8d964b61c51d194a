"""Types of settings: whether a value fits one, and what a type is called in a message."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from untrain.errors import SettingError, unknown


def options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def section_of(hint: Any) -> Any:
    """The dataclass among a type's options; None if there is none."""
    return next((option for option in options(hint) if is_dataclass(option)), None)


def hints_of(kind: Any) -> dict[str, Any]:
    """A dataclass's fields: name → type."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def fits(value: Any, option: Any) -> bool:
    """Whether a value is of a type that is no union."""
    if get_origin(option) is Literal:
        return value in get_args(option)
    if get_origin(option) is list:
        return isinstance(value, list) and all(any(fits(v, o) for o in options(get_args(option)[0])) for v in value)
    if get_origin(option) is dict:
        return isinstance(value, dict)
    if option in (int, float):
        return isinstance(value, Integral if option is int else Real) and not isinstance(value, bool)
    return isinstance(option, type) and isinstance(value, option)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def words(hint: Any) -> str:
    """A type as a person says it."""
    said = []
    for option in options(hint):
        if get_origin(option) is Literal:
            said.append(" or ".join(repr(choice) for choice in get_args(option)))
        elif get_origin(option) is list:
            said.append(f"a list ([…]) of {words(get_args(option)[0])}")
        elif get_origin(option) is dict or is_dataclass(option):
            known = [f.name for f in fields(option)] if is_dataclass(option) else []
            said.append(f"a mapping of {', '.join(known) or 'names'} to values")
        else:
            said.append(_WORDS.get(option, str(getattr(option, "__name__", option))))
    return " or ".join(said)


def checked(settings: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Settings for a dataclass with every value of its type; names that it does not have are left to it.

    Raises:
        SettingError: if a value is of another type; says which is wanted.
    """
    hints = hints_of(kind)
    return {name: _checked(name, value, hints[name]) if name in hints else value for name, value in settings.items()}


def _checked(name: str, value: Any, hint: Any) -> Any:
    section = section_of(hint)
    if section is not None and isinstance(value, Mapping):
        for inner in value:
            if inner not in hints_of(section):
                raise SettingError(unknown(f"field of {name}", str(inner), hints_of(section)))
        return checked(value, section)
    if not any(fits(value, option) for option in options(hint)):
        wanted = words(hint) if section is None else f"untrain.{section.__name__}(…) or {words(hint)}"
        plain = isinstance(value, (str, int, float, list, tuple, type(None)))
        raise SettingError(f"{name} must be {wanted}, not {repr(value) if plain else type(value).__name__}.")
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)  # of numpy's, which JSON does not know
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else value
