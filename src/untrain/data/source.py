"""What a source is: the one kind of data set that is our own, marked by its class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from untrain.lazy import torch
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor


class Source(ABC):
    """A map-style data set of samples, each of a class, that can gather many of them at once.

    A data set is a source because its class is derived from this one: what others call `batch`, `to` or `labels` may
    mean anything.

    Attributes:
        labels: class number of every sample, int64 [N], on the CPU; samples without classes are all of one.
        classes: name of every class, by number.
        ids: a name for every sample that is unique within the source, or None.
        shape: of one input, such as (C, H, W).
        in_memory: whether the inputs are tensors in memory, which need no worker processes.
        keeps: whether inputs that were read on access stay in memory, so that worker processes would read them in vain.
    """

    labels: Tensor
    classes: tuple[str, ...]
    ids: tuple[str, ...] | None
    shape: tuple[int, ...]
    in_memory: bool
    keeps: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def __getitem__(self, i: int) -> Batch:
        """Sample i: tensors by name, "index" among them, int64 []; of images {"input": [C, H, W], "label": []}."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """Samples at these positions, int64 [B], gathered: the same tensors, each [B, …]."""

    @abstractmethod
    def select(self, indices: Tensor) -> Source:
        """A source of its own that holds these samples alone, numbered from 0."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Source:
        """The source with its tensors on a device; a source that decodes on access stays on the CPU."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content in hexadecimal; the same data has the same one everywhere."""

    def root(self) -> tuple[Source, Tensor]:
        """The source that this one is a view of, and its samples' positions there, int64 [N]; here itself."""
        return self, torch.arange(len(self))

    def tensors(self) -> Batch | None:
        """All its samples by name, each tensor [N, …], not to be changed; None of what must be asked for them."""
        return None

    def digests(self, positions: Tensor) -> list[str] | None:
        """Hashes of these samples' content, where they are known without reading it; None where they are not."""
        return None


MEMBERS = ("labels", "classes", "ids", "shape", "in_memory")
"""The attributes that a source sets when it is made."""
