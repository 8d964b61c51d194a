"""Libraries that take a second or more to import, imported when something in them is first used.

What the command line, a recipe's reader and `import untrain` need must not wait for torch. Modules that these import
say `from untrain.lazy import nn, torch` in place of `import torch`, and use it as they always would, inside functions:
`torch.cat(…)`, `isinstance(value, torch.Tensor)`. Names that stand in annotations alone come from the library itself,
under `if TYPE_CHECKING:`. What needs the library at import (a subclass of `nn.Module`, a decorator, a tensor as a
constant) goes into a module that only work imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Image", "nn", "np", "stats", "torch"]

if TYPE_CHECKING:  # type checkers see the libraries themselves
    import numpy as np
    import torch
    from PIL import Image
    from scipy import stats
    from torch import nn
else:

    class LazyModule:
        """Stands for a module, which is imported when something is first asked of it."""

        __slots__ = ("__dict__", "_name")

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            module = import_module(self._name)
            self.__dict__ = vars(module)  # the module's own: from now on as fast as the module, and never behind it
            return getattr(module, name)

    Image, nn, np, stats, torch = map(LazyModule, ("PIL.Image", "torch.nn", "numpy", "scipy.stats", "torch"))
