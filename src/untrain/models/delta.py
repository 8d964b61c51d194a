"""What a method changed, exactly: the new values of every weight that is another one, and nothing else."""

from __future__ import annotations

from pathlib import Path

from untrain.errors import CheckpointError, ModelError
from untrain.lazy import nn, torch
from untrain.models import checkpoints
from untrain.models.kinds import plain_module

SPARSE = 1 / 3
"""Up to this share of a tensor's values changed, they are kept with their places, of four bytes each."""
PLACES, VALUES = ".places", ".values"


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
    if {n: t.shape for n, t in old.items()} != {n: t.shape for n, t in new.items()}:
        raise ModelError("the two models are of different architectures: there is no difference of their weights.")
    found, count = {}, 0
    for name, now in new.items():
        other = now != old[name].to(now)
        changed = int(other.sum())
        count += changed
        if changed > SPARSE * now.numel():
            found[name] = now
        elif changed:
            places = other.flatten().nonzero().flatten()
            found[name + PLACES], found[name + VALUES] = places.to(torch.int32), now.flatten()[places]
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
    with torch.no_grad():
        for name, tensor in plain_module(module).state_dict().items():
            if name in values:
                tensor.copy_(values[name])
            elif name + PLACES in values:
                places = values[name + PLACES].to(tensor.device, torch.int64)
                tensor.view(-1)[places] = values[name + VALUES].to(tensor)
    if checkpoints.state_hash(module) != facts.get("hash"):
        raise CheckpointError(f"{path} is damaged: with its values the model is not the one it was made of.")
    return module
