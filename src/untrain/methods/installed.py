"""Methods of other distributions: whatever is installed under the entry point group `untrain.methods`."""

import inspect
from dataclasses import is_dataclass

from untrain.methods.base import Method
from untrain.plugins import Plugins


def flaw_of(name: str, kind: object) -> str:
    """Says what keeps an object from being the method of this name; empty where nothing does."""
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


INSTALLED = Plugins("untrain.methods", "method", flaw_of)
"""The methods that other distributions bring."""
