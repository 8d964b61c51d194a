"""What the names in a dict of tensors mean: which is the label, which the input, and which the model asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from untrain.errors import DataError
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

LABELS = ("label", "labels", "y", "target", "targets")
"""What people call labels; they are never passed to the model."""

INPUTS = (
    "input",
    "inputs",
    "x",
    "image",
    "images",
    "img",
    "pixel_values",
    "input_ids",
    "input_values",
    "input_features",
    "features",
)
"""What people call the input, where the model's `forward` does not say; the first that is there counts."""

RECORDS = ("index", "id", "ids")
"""What tells samples apart; no input, unless `forward` asks for `id` or `ids`."""


def names_samples(key: str, values: Tensor) -> bool:
    """Whether values under this key are names of samples; what is called ids may be tokens too."""
    return key == "index" or (key in RECORDS and values.ndim == 1)


def rename(batch: Batch, names: Mapping[str, str]) -> Batch:
    """Returns the batch under our names: those that the user maps, then the label's.

    Args:
        batch: tensors by the data's names.
        names: the data's name → ours.

    Raises:
        DataError: if several could be the label.
    """
    batch = {names.get(key, key): value for key, value in batch.items()}
    if "label" in names.values():
        return batch
    found = [key for key in LABELS if key in batch]
    if len(found) > 1:
        raise DataError(
            f"{' and '.join(map(repr, found))} could each be the label: say which, names={{{found[-1]!r}: 'label'}}, "
            "or leave the others out."
        )
    return {("label" if key in found else key): value for key, value in batch.items()}


def with_input(batch: Batch) -> Batch:
    """Returns the batch with its input called so, where it has one of the names that people have for it."""
    key = input_key(batch)
    return batch if key is None else {("input" if name == key else name): value for name, value in batch.items()}


def input_key(batch: Collection[str], asked: Sequence[str] = ()) -> str | None:
    """Returns the name of the input: "input", else what `forward` asks for first, else what people call it."""
    own = _inputs(batch, asked)
    chosen = [key for key in ("input", *asked, *INPUTS) if key in own]
    return chosen[0] if chosen else None


def keys_by_name(batch: Collection[str], input: str, asked: Sequence[str]) -> tuple[str, ...]:
    """Returns the names that are passed to `forward` as arguments of these names, in its order.

    The input is among them where `forward` has an argument of its name that is not the first.
    """
    own = [key for key in asked if key in _inputs(batch, asked)]
    first = asked[0] if asked else ""
    if input in own and input != first:
        return tuple(own)
    return tuple(key for key in own if key not in (input, first))


def _inputs(batch: Collection[str], asked: Sequence[str]) -> list[str]:
    """The names in a batch that a model may be given."""
    return [key for key in batch if key not in LABELS and (key not in RECORDS or (key in asked and key != "index"))]
