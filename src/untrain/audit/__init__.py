"""The audit: whether forgotten samples can be told from never-seen ones, by attacks whose false alarms are known.

The package is called as its function: `untrain.audit("runs/fashion-random")`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from untrain.callable_package import make_callable

if TYPE_CHECKING:
    from untrain.audit.python import audit as audit
    from untrain.audit.python import audit_scores as audit_scores


def __getattr__(name: str) -> Any:
    if name not in ("audit", "audit_scores"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("untrain.audit.python"), name)


make_callable(__name__)
