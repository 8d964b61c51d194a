"""Samples behind other samples: one source of two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from untrain.data.columns import Columns
from untrain.data.source import Source
from untrain.io import hash_json
from untrain.lazy import torch
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor


class JoinedSource(Source):
    """The samples of one source, and behind them those of another with the same names, shapes and classes.

    Args:
        first: keeps its positions.
        second: its sample i has the position len(first) + i.
    """

    def __init__(self, first: Source, second: Source) -> None:
        self.first, self.second = first, second
        self.labels = torch.cat([first.labels, second.labels])
        self.classes = first.classes
        self.ids = None if first.ids is None or second.ids is None else (*first.ids, *second.ids)
        self.shape = first.shape
        self.in_memory = first.in_memory and second.in_memory
        self.keeps = not self.in_memory and all(source.in_memory or source.keeps for source in (first, second))

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.labels)

    def __getitem__(self, i: int) -> Batch:
        """Sample i; see `Source`."""
        return {name: values[0] for name, values in self.batch(torch.tensor([range(len(self))[i]])).items()}

    def batch(self, indices: Tensor) -> Batch:
        """Samples at these positions, from either source; see `Source`."""
        behind = indices >= len(self.first)
        parts = [(self.first, indices[~behind])] if bool((~behind).any()) else []
        parts += [(self.second, indices[behind] - len(self.first))] if bool(behind.any()) else []
        read = [source.batch(places) for source, places in parts]
        device = next(iter(read[0].values())).device
        order = torch.cat([(~behind).nonzero()[:, 0], behind.nonzero()[:, 0]]).argsort().to(device)
        whole = {name: torch.cat([rows[name].to(device) for rows in read])[order] for name in read[0]}
        return {**whole, "index": indices.to(device)}

    def select(self, indices: Tensor) -> Source:
        """A copy of these samples in memory, numbered from 0."""
        rows = {name: values for name, values in self.batch(indices).items() if name != "index"}
        ids = None if self.ids is None else [self.ids[i] for i in indices.tolist()]
        return Columns(rows, self.labels[indices.cpu()], self.classes, ids)

    def to(self, device: torch.device | str) -> Source:
        """The same samples on another device, where the first source goes there; see `Source`."""
        first = self.first.to(device)
        return self if first is self.first else JoinedSource(first, self.second.to(device))

    def fingerprint(self) -> str:
        """A hash of both sources."""
        return hash_json([self.first.fingerprint(), self.second.fingerprint()])
