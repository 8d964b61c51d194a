"""Libraries that take a second or more to import, imported when something in them is first used.

What the command line, a recipe's reader and `import untrain` need must not wait for torch. Modules that these import
say `from untrain.lazy import nn, torch` in place of `import torch`, and use it as they always would, inside functions:
`torch.cat(…)`, `isinstance(value, torch.Tensor)`. Names that stand in annotations alone come from the library itself,
under `if TYPE_CHECKING:`. What needs the library at import (a subclass of `nn.Module`, a decorator, a tensor as a
constant) goes into a module that only work imports.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["nn", "np", "torch"]

if TYPE_CHECKING:  # type checkers see the libraries themselves
    import numpy as np
    import torch
    from torch import nn
else:

    class LazyModule(ModuleType):
        """Stands for a module until something is asked of it; each name is looked up in the module itself."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self.__name__), name)

    np, torch, nn = (LazyModule(name) for name in ("numpy", "torch", "torch.nn"))
