"""Rows of a batch: counted, taken, divided."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from untrain.types import Batch

if TYPE_CHECKING:
    import torch

Rows: TypeAlias = "torch.Tensor | slice"
"""Which rows of a batch: bool [B] or numbers, on the CPU, or a slice."""


def count_rows(batch: Batch) -> int:
    """Samples of a batch."""
    return len(next(iter(batch.values())))


def cut(batch: Batch, rows: Rows) -> Batch:
    """The batch of these rows."""
    return {key: value[rows] for key, value in batch.items()}


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """So many parts of a batch, as equal as can be, in order; empty ones where it has fewer rows."""
    rows = count_rows(batch)
    return [cut(batch, slice(*bounds)) for bounds in pairwise(rows * i // count for i in range(count + 1))]
