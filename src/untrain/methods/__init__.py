"""Methods: ways to unlearn, one file each, on one loop."""

from collections.abc import Mapping
from typing import Any

from untrain.errors import SettingError, lookup
from untrain.methods.base import Method
from untrain.methods.finetune import Finetune
from untrain.methods.retrain import Retrain
from untrain.methods.sfron import SFRon

METHODS: dict[str, type[Method]] = {method.name: method for method in (SFRon, Finetune, Retrain)}
"""Name → class; a method's settings are its fields."""


def make(method: str | type[Method] | Method, settings: Mapping[str, Any]) -> Method:
    """The method with these settings, from its name, its class, or an object that already has some.

    Raises:
        UnknownName: lists the known methods.
        SettingError: a setting is unknown (the known ones are listed), out of range, or contradicts another.
    """
    if isinstance(method, Method):
        if settings:
            raise SettingError(f"a {method.name} object already has its settings: leave out {', '.join(settings)}.")
        return method
    chosen = lookup("method", METHODS, method) if isinstance(method, str) else method
    if not (isinstance(chosen, type) and issubclass(chosen, Method)):
        raise SettingError(f"method must be a name, a class derived from Method, or such an object, not {method!r}.")
    return chosen.from_settings(dict(settings))


def methods() -> dict[str, type[Method]]:
    """The known methods: name → class."""
    return dict(METHODS)
