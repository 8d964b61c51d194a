"""Deep copies of modules."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from untrain.engine import tensor_attributes
from untrain.errors import ModelError, message_of
from untrain.lazy import nn


def copy_module(module: nn.Module, shared: Iterable[nn.Parameter] = ()) -> nn.Module:
    """A deep copy of a module, hooks and all.

    Tensors that hooks computed of parameters, such as the weight of a pruned layer, are copied by their values: the
    copy's own hooks compute them anew.

    Args:
        module: any.
        shared: parameters of it that the copy has in common with it.

    Raises:
        ModelError: if a part of it cannot be copied.
    """
    memo: dict[int, Any] = {id(parameter): parameter for parameter in shared}
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
