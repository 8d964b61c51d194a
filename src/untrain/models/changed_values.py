"""What changed between two states of one model, exactly: new values, not differences, so that nothing is rounded.

Of a tensor the smallest of three forms is kept: all of its new values; those that changed with their places, of four
bytes each; or those that changed with a bitmap, one bit for each place. With n values of b bytes, c of them changed,
that is n b, c (b + 4) and c b + n / 8 bytes: places up to one changed value in 32, the bitmap up to nearly all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from untrain.errors import CheckpointError, ModelError
from untrain.lazy import np, torch

if TYPE_CHECKING:
    from torch import Tensor

PLACES, BITS, VALUES = ".places", ".bits", ".values"
_MOST_PLACES = 2**31 - 1
_BYTES_OF_A_PLACE = 4


def changed_values(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """What of a state is new, on the CPU, and how many values that are.

    Two values are the same if their bits are: 0 and −0 are not, and a NaN is itself.

    Args:
        before: name → tensor. One of another type is brought to the new one's first.
        after: the same names, each with a tensor of the same shape.

    Raises:
        ModelError: if names or shapes are others.
    """
    if {n: t.shape for n, t in before.items()} != {n: t.shape for n, t in after.items()}:
        raise ModelError("the two models are of different architectures: there is no difference of their weights.")
    found: dict[str, Tensor] = {}
    count = 0
    for name, tensor in after.items():
        new = tensor.detach()
        other = _differ(before[name].detach().to(new), new)
        changed = int(other.sum())
        count += changed
        if changed:
            found |= {name + ending: value for ending, value in _smallest(new.cpu(), other.cpu(), changed).items()}
    return found, count


def stem_of(name: str) -> str:
    """The tensor that a name of `changed_values` is of."""
    for ending in (PLACES, BITS, VALUES):
        name = name.removesuffix(ending)
    return name


def _smallest(new: Tensor, other: Tensor, changed: int) -> dict[str, Tensor]:
    """Ending of the name → tensor, of the form that takes the fewest bytes."""
    size, places = new.element_size(), new.numel()
    by_place = changed * (size + _BYTES_OF_A_PLACE) if places <= _MOST_PLACES else size * places
    by_bit = changed * size + -(-places // 8)
    if size * places <= min(by_place, by_bit):
        return {"": new}
    values = new[other]
    if by_place <= by_bit:
        return {PLACES: other.flatten().nonzero().flatten().to(torch.int32), VALUES: values}
    return {BITS: torch.from_numpy(np.packbits(other.flatten().numpy(), bitorder="little")), VALUES: values}


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Where the bits of two tensors of one type and shape differ, bool, of their shape."""
    if one.is_complex():
        return _differ(torch.view_as_real(one), torch.view_as_real(other)).any(-1)
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return one.contiguous().view(kind) != other.contiguous().view(kind)


def put_values_(state: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Puts changed values into a state, in place; it is then the changed one to the last bit.

    Args:
        state: the one before, in the types of the one after.
        values: what `changed_values` gave.

    Raises:
        CheckpointError: if the values are of another architecture; the state is unchanged then.
    """
    left = dict(values)
    found = {}
    for name, tensor in state.items():
        own = {ending: left.pop(name + ending) for ending in ("", PLACES, BITS, VALUES) if name + ending in left}
        if own:
            found[name] = _put(name, tensor, own)
    if left:
        raise CheckpointError(f"it changes {next(iter(left))}, which the model does not have.")
    with torch.no_grad():
        for name, tensor in found.items():
            state[name].copy_(tensor)


def _put(name: str, tensor: Tensor, own: Mapping[str, Tensor]) -> Tensor:
    """The changed tensor, on the CPU."""
    if own.keys() == {""} and own[""].shape == tensor.shape and own[""].dtype == tensor.dtype:
        return own[""]
    places = _places(own, tensor.numel()) if "" not in own and VALUES in own else None
    if places is None or own[VALUES].dtype != tensor.dtype or own[VALUES].shape != places.shape:
        raise CheckpointError(f"what it holds of {name} does not fit the model's, {list(tensor.shape)}.")
    made = tensor.detach().cpu().contiguous().clone()
    made.view(-1)[places] = own[VALUES]
    return made


def _places(own: Mapping[str, Tensor], count: int) -> Tensor | None:
    """Which of so many values are new, int64; None where that is not told, or told of others."""
    if own.keys() == {PLACES, VALUES}:
        places = own[PLACES]
        inside = places.dtype == torch.int32 and places.ndim == 1 and bool(((places >= 0) & (places < count)).all())
        return places.long() if inside else None
    if own.keys() != {BITS, VALUES} or own[BITS].dtype != torch.uint8 or own[BITS].shape != (-(-count // 8),):
        return None
    bits = np.unpackbits(own[BITS].numpy(), count=count, bitorder="little")
    return torch.from_numpy(bits.nonzero()[0])


def bytes_of_state(state: Mapping[str, Tensor]) -> int:
    """Bytes of tensors as a file holds them: each name by itself."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
