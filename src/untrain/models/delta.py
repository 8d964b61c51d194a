"""What a method changed, exactly, in a file of its own: the new values of every weight that is another one."""

from __future__ import annotations

from pathlib import Path

from untrain.errors import CheckpointError, ModelError
from untrain.lazy import nn
from untrain.models import checkpoints
from untrain.models.changed_values import changed_values, put_values_
from untrain.models.kinds import plain_module


def save_delta(before: nn.Module, after: nn.Module, path: str | Path) -> float:
    """Writes the changed values; returns their share of all, in [0, 1].

    Args:
        before: the base.
        after: the changed module, of the same architecture.
        path: a .safetensors file.

    Raises:
        ModelError: if nothing changed, or the two are of different architectures.
    """
    old, new = (plain_module(module).state_dict() for module in (before, after))
    found, count = changed_values(old, new)
    if not found:
        raise ModelError("nothing changed: there is no difference to write.")
    checkpoints.save(found, path, {"base": checkpoints.state_hash(before), "hash": checkpoints.state_hash(after)})
    return count / sum(tensor.numel() for tensor in new.values())


def apply_delta(module: nn.Module, path: str | Path) -> nn.Module:
    """Puts the changed values into the base, in place; it is then the changed model to the last bit.

    Args:
        module: the base.
        path: a file that `save_delta` wrote.

    Raises:
        CheckpointError: if it was made for other weights, or does not give the model that it was made of.
    """
    values, facts = checkpoints.load_state(path)
    if checkpoints.state_hash(module) != facts.get("base"):
        raise CheckpointError(f"{path} was made for other weights than these: take the model that it was made for.")
    try:
        put_values_(plain_module(module).state_dict(), values)
    except CheckpointError as error:
        raise CheckpointError(f"{path} does not fit this {type(plain_module(module)).__name__}: {error}") from error
    if checkpoints.state_hash(module) != facts.get("hash"):
        raise CheckpointError(f"{path} is damaged: with its values the model is not the one it was made of.")
    return module
