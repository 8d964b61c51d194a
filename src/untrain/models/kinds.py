"""Modules that cannot be trained, refused before anything starts: TorchScript, exported, sharded, quantised ones."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from untrain.engine import preserve_modes
from untrain.errors import ModelError, message_of
from untrain.lazy import nn, torch

_QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "bitsandbytes", "auto_gptq", "gptqmodel", "awq", "quanto")
"""Packages whose layers keep weights in so few bits that no step can change them."""
_INTEGERS = ("int8", "uint8", "int4", "uint4", "qint8", "quint8")


def plain_module(module: nn.Module) -> nn.Module:
    """The module under `torch.compile`, whose parameters are the same; others as they are."""
    return getattr(module, "_orig_mod", module)


def forward_names(model: nn.Module) -> tuple[str, ...]:
    """Names the arguments of a model's `forward`, in order; of one that is wrapped, of what is inside."""
    inner: Any = model
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while (inside := inner.module if isinstance(inner, wrappers) else plain_module(inner)) is not inner:
        inner = inside
    try:
        parameters = inspect.signature(inner.forward).parameters.values()
    except (TypeError, ValueError):  # a forward that is no Python function
        return ()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(each.name for each in parameters if each.kind in named)


def check_kind(module: nn.Module, name: str = "model") -> None:
    """Refuses a module that cannot be copied, switched between modes and trained as Python's own modules can.

    Args:
        module: as it was given.
        name: what it is called in messages.

    Raises:
        ModelError: says what it is, and what to give in its place.
    """
    for place, layer in module.named_modules():
        flaw = _flaw_of(layer)
        if flaw is not None:
            where = f"{place} of the {name}" if place else f"the {name}"
            raise ModelError(f"{where} {flaw}")
    _check_modes(module, name)


def _flaw_of(layer: nn.Module) -> str | None:
    """What keeps a layer from being trained, with the remedy."""
    if isinstance(layer, torch.jit.ScriptModule):
        return "is TorchScript, whose copies have no weights to train: give the Python module that it was made from."
    if isinstance(layer, nn.DataParallel):
        return "is wrapped by DataParallel: give what it wraps, its .module."
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(layer).__mro__}
    if any(kind.startswith("torch.nn.parallel.distributed.") for kind in kinds):
        return "is wrapped by DistributedDataParallel: give its .module; processes share batches by themselves here."
    if any(kind.startswith("torch.distributed.fsdp") for kind in kinds) or _is_sharded(layer):
        return "is sharded over processes (FSDP): gather its weights, and give the module as it was before."
    if any(f"{kind}.".startswith(tuple(f"{each}." for each in _QUANTISED)) for kind in kinds) or _has_integers(layer):
        return (
            "is quantised: steps of training vanish in so few bits. Load the model in float32, unlearn, and quantise "
            "the result."
        )
    return None


def _is_sharded(layer: nn.Module) -> bool:
    return any(type(parameter.data).__name__ == "DTensor" for parameter in layer.parameters(recurse=False))


def _has_integers(layer: nn.Module) -> bool:
    """Whether weights, or the tensors that quantising libraries put in their place, are whole numbers."""
    return any(_is_narrow(parameter) for parameter in _weights(layer))


def _weights(layer: nn.Module) -> Iterator[Any]:
    for parameter in layer.parameters(recurse=False):
        yield parameter
        yield parameter.data


def _is_narrow(tensor: Any) -> bool:
    packed = type(tensor).__module__.startswith(("torchao.", "optimum.quanto."))
    return packed or tensor.is_quantized or str(tensor.dtype).removeprefix("torch.") in _INTEGERS


def _check_modes(module: nn.Module, name: str) -> None:
    """Tries both modes: what torch.export gives has one alone."""
    with preserve_modes(module):
        for mode, switch in (("training", module.train), ("evaluation", module.eval)):
            try:
                switch()
            except Exception as error:  # a module of the user's own can refuse in any way
                raise ModelError(
                    f"the {name} cannot be put into {mode} mode: {type(error).__name__}: {message_of(error)} Give the "
                    "Python module that it was made from."
                ) from error
