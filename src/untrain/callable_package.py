"""Packages that are called as the function that they hold under their own name.

`untrain.methods` and `untrain.tasks` are packages and public functions at once: whichever is imported first, both
`untrain.methods()` and `untrain.methods.SFRon` work.
"""

import sys
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package whose call is that of its function of the same name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Calls the function."""
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **named)


def make_callable(package: str) -> None:
    """Lets an imported package be called.

    Args:
        package: its name, "untrain.methods".
    """
    sys.modules[package].__class__ = CallablePackage
