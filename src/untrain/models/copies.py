"""Deep copies of modules."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator
from types import CellType, FunctionType
from typing import Any

from untrain.engine import tensor_attributes
from untrain.errors import ModelError, message_of
from untrain.lazy import nn


def shallow_copy(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters are its own, with flags of its own, and lie in the memory of the module's.

    Given other data (`parameter.data = …`) or moved, one of them leaves the module's as they are; written into, it does
    not. Buffers are copied, as in `copy_module`, of which the errors are too.
    """
    return _copied(module, {id(p): _lying_in(p) for p in module.parameters()})


def _lying_in(parameter: nn.Parameter) -> nn.Parameter:
    if type(parameter) is not nn.Parameter:  # of a kind of its own, which may need more than data
        return copy.deepcopy(parameter)
    return nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)


def copy_module(module: nn.Module, shared: Iterable[nn.Parameter] = ()) -> nn.Module:
    """A deep copy of a module, hooks and all.

    Tensors that hooks computed of parameters, such as the weight of a pruned layer, are copied by their values: the
    copy's own hooks compute them anew.

    Args:
        module: any.
        shared: parameters of it that the copy has in common with it.

    Raises:
        ModelError: if a part of it cannot be copied, or would go on using what it was copied from.
    """
    return _copied(module, {id(parameter): parameter for parameter in shared})


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy, in which what is known by its id is taken to be copied already."""
    bound = next(_bound_hooks(module), None)
    if bound is not None:
        raise ModelError(
            f"a hook or replaced forward of {bound or 'the model'} holds a layer or parameter of the model, and a copy "
            "would go on using the original's. Let it take them from the module that it is called with, or define it "
            "as a method. Of methods that need no copy to compare with, such as sfron and finetune, inplace=True "
            "changes the model itself."
        )
    for layer in module.modules():
        memo |= {id(tensor): tensor.detach().clone() for _, tensor in tensor_attributes(layer) if not tensor.is_leaf}
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # a module of the user's own can refuse in any way
        raise ModelError(
            f"the model cannot be copied by copy.deepcopy: {message_of(error)}. Take out of it what cannot be copied "
            "(kept outputs, files, locks), or let it define __deepcopy__. Of methods that need no copy to compare "
            "with, such as sfron and finetune, inplace=True changes the model itself."
        ) from error


def _bound_hooks(module: nn.Module) -> Iterator[str]:
    """Names of layers with a function that closes over parts of the module: functions are not copied."""
    own = {id(part) for part in (*module.modules(), *module.parameters())}
    for name, layer in module.named_modules():
        hooks = (*layer._forward_pre_hooks.values(), *layer._forward_hooks.values(), *vars(layer).values())
        if any(_holds(hook, own, set()) for hook in hooks if isinstance(hook, FunctionType)):
            yield name


def _holds(value: Any, own: Collection[int], seen: set[int]) -> bool:
    """Whether a function's closure leads to one of these objects."""
    if id(value) in own or id(getattr(value, "__self__", None)) in own:
        return True
    if not isinstance(value, FunctionType) or id(value) in seen:
        return False
    seen.add(id(value))
    cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
    return any(_holds(each, own, seen) for each in (*cells, *(value.__defaults__ or ())))
