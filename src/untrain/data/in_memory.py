"""Samples that are rows of tensors in memory, looked at without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from untrain.data.datasets import Rows
from untrain.lazy import torch
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class InMemory:
    """A data set in memory.

    Attributes:
        tensors: all that it shows, or more, by name, each [M, …].
        below: their rows that its samples are, int64 [N]; None: sample i is row i.
        numbered: whether "index" says the row.
    """

    tensors: Batch
    below: Tensor | None = None
    numbered: bool = False

    def rows(self, positions: Tensor) -> Tensor:
        """The rows at these positions of the data set."""
        return positions if self.below is None else self.below[positions]


MOST_BYTES, MOST_ROWS, MOST_OF_SEVERAL = 1 << 24, 8192, 1024
"""Of rows that are looked at together, where they may have to be copied; those of several data sets always are."""


def rows_at_a_time(bases: Sequence[InMemory]) -> int:
    """How many samples to look at together: few calls where rows are short, little memory where they are long."""
    each = [sum(v[:1].numel() * v.element_size() for v in base.tensors.values()) for base in bases]
    return max(1, min(MOST_ROWS if len(bases) == 1 else MOST_OF_SEVERAL, MOST_BYTES // max(1, *each)))


def take(values: Tensor, rows: Tensor) -> Tensor:
    """Copies rows of a tensor, [M, …] → [B, …]; several times as fast as indexing, where rows are of bytes."""
    return values.index_select(0, rows.to(values.device))


def in_order(bases: Sequence[InMemory], rows: Rows, size: int) -> Iterator[Batch | None]:
    """The samples in these rows, so many at a time, which share memory with the data set where they follow each other
    there; None in place of those of several data sets.
    """
    whole = _samples(bases, rows, copies=False) if len(rows.owners) else None
    for start in range(0, len(rows.owners), size):
        part = slice(start, start + size)
        yield _samples(bases, rows.at(part)) if whole is None else {name: v[part] for name, v in whole.items()}


def _samples(bases: Sequence[InMemory], rows: Rows, *, copies: bool = True) -> Batch | None:
    """The samples in these rows; None of several data sets', and where they would be copies that are not wanted."""
    owner = int(rows.owners[0])
    if bool((rows.owners != owner).any()):
        return None
    base = bases[owner]
    places = base.rows(rows.positions)
    span = _span(places)
    if span is None and not copies:
        return None
    index = places if base.numbered and len(bases) == 1 else rows.numbers
    return {**{name: _shared(values, places, span) for name, values in base.tensors.items()}, "index": index}


def numbers_of(bases: Sequence[InMemory], rows: Rows) -> Batch:
    """What is one number a sample, [N] by name."""
    starts = torch.tensor([0, *(len(next(iter(base.tensors.values()))) for base in bases)]).cumsum(0)
    places = torch.empty(len(rows.owners), dtype=torch.int64)
    for owner, base in enumerate(bases):
        own = rows.owners == owner
        places[own] = starts[owner] + base.rows(rows.positions[own])
    names = [n for n in bases[0].tensors if all(n in base.tensors and base.tensors[n].ndim == 1 for base in bases)]
    span = _span(places)
    return {name: _shared(torch.cat([base.tensors[name] for base in bases]), places, span) for name in names}


def _shared(values: Tensor, rows: Tensor, span: slice | None) -> Tensor:
    """Some rows of a tensor, no copy where they follow each other, which `_span` says."""
    return take(values, rows) if span is None else values[span]


def _span(rows: Tensor) -> slice | None:
    """Where rows lie that follow each other; None where they do not."""
    first, last = int(rows[0]), int(rows[-1])
    follow = last - first + 1 == len(rows) and bool((rows.diff() == 1).all())
    return slice(first, last + 1) if follow else None
