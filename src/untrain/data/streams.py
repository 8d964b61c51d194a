"""Seeded, resumable batches: batch k of a set is a pure function of the set, the seed and k.

There is no iterator state to save: a run that stopped after k batches goes on by asking for batch k. Batches are
cut from an endless chain of permutations of the set, so every batch is full and every sample comes equally often.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from untrain.data.batches import SampleReader, ready_batches
from untrain.data.source import Source
from untrain.engine import Engine, generator_of, seed_of
from untrain.errors import DataError, EmptySet, SettingError, UntrainError, convert_errors
from untrain.io import hash_chunks, hash_tensors
from untrain.lazy import torch
from untrain.rows import count_rows
from untrain.types import Batch, Role, Task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Stream:
    """The batches of one set.

    Attributes:
        data: a list of ready batches, used as they are, in their order, again from the first when they run out;
            or a map-style data set of `(x, y)` or dicts, or a DataLoader of one, shuffled by the seed.
        name: what the set is called in messages and in seeds ("forget", "retain", …).
        engine: where batches go.
        batch_size: samples per batch, over all processes; a set smaller than that is one batch.
        seed: of shuffling and of all that is drawn.
        workers: processes that read a data set which does not gather batches by itself.
        alike: whether every batch must have the names and types of the first, as where losses are computed of them.
    """

    data: Any
    name: str
    engine: Engine
    batch_size: int = 128
    seed: int = 0
    workers: int = 0
    alike: bool = True
    _reader: tuple[int, Iterator[Batch]] | None = field(default=None, repr=False)
    _kinds: dict[str, torch.dtype] | None = field(default=None, repr=False)
    _orders: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _fingerprint: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Checks the set and brings array data to the device."""
        if self.batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, not {self.batch_size}.")
        if self.workers < 0:
            raise SettingError(f"workers must be at least 0, not {self.workers}.")
        self.ready = isinstance(self.data, list)
        self._left_out: dict[str, None] = {}
        self._samples: SampleReader | None = None
        if self.ready:
            self.data = ready_batches(self.data, self.name, self._left_out)
            self.size = sum(count_rows(batch) for batch in self.data)
        else:
            self._samples = SampleReader(self.data, self.name, self.engine.device)
            self._samples.check_finite()
            self.data, self.size, self._left_out = self._samples.data, len(self._samples), self._samples.left_out
        if self.size == 0:
            raise EmptySet(f"the {self.name} set is empty: give it at least one sample.")

    def __len__(self) -> int:
        """Samples in the set."""
        return self.size

    @property
    def in_memory(self) -> bool:
        """Whether the samples are tensors in memory, so that looking at all of them costs next to nothing."""
        return self._samples is None or self._samples.in_memory

    @property
    def keeps(self) -> bool:
        """Whether samples that were read stay in memory, though not all of them are there yet."""
        return isinstance(self.data, Source) and self.data.keeps

    @property
    def notes(self) -> list[str]:
        """What of the set is not used, as far as it has been read."""
        notes: list[str] = []
        if self._samples is not None:
            notes += self._samples.notes
            if (own := self._samples.batch_size) is not None:
                word = "as in" if own == self.batch_size else f"not of {own} as in"
                notes.append(f"{self.name}: batches of {self.batch_size}, {word} the DataLoader")
        if self._left_out:
            left = ", ".join(map(repr, self._left_out))
            notes.append(f"{self.name}: {left} of each sample is no number and was left out")
        return notes

    @property
    def rows(self) -> int:
        """Samples per batch: the batch size, or the whole set where that is smaller."""
        return min(self.batch_size, self.size)

    @property
    def epoch(self) -> float:
        """Batches that one pass over the set takes."""
        return float(len(self.data)) if self.ready else self.size / self.rows

    def batch(self, k: int, task: Task, role: Role) -> Batch:
        """Batch k, drawn for a role, on the device; whole, not yet shared out among processes."""
        raw = self.data[k % len(self.data)] if self.ready else self._read(k)
        return self._drawn(raw, task, role, k)

    def once(
        self, task: Task, role: Role, *, limit: int | None = None, batch_size: int | None = None, time: int = 0
    ) -> Iterator[Batch]:
        """Every sample once, in order, drawn for a role.

        Args:
            task: draws what is random.
            role: what the batches are for.
            limit: take this many samples, chosen by the seed (of ready batches: the first ones that reach it).
            batch_size: samples per batch; None takes the stream's.
            time: which pass this is; each draws anew what is random.
        """
        for k, raw in enumerate(self._raw_once(limit, batch_size or self.batch_size)):
            yield self._drawn(raw, task, role, f"once-{k}" + (f"-{time}" if time else ""))

    def passes(self, limit: int | None = None) -> int:
        """How many batches `once` gives; of ready batches, at most so many."""
        if self.ready:
            return len(self.data)
        samples = self.size if limit is None else min(limit, self.size)
        return -(-samples // self.batch_size)

    def _raw_once(self, limit: int | None, batch_size: int) -> Iterator[Batch]:
        if self.ready:
            taken = 0
            for batch in self.data:
                if limit is not None and taken >= limit:
                    return
                taken += count_rows(batch)
                yield batch
            return
        order = torch.arange(self.size)
        if limit is not None and limit < self.size:
            choice = torch.randperm(self.size, generator=generator_of(self.seed, self.name, "limit"))
            order = choice[:limit].sort().values
        for k, indices in enumerate(order.split(min(batch_size, self.size))):
            yield self.gather(indices, f"once-{k}")

    def some(self, positions: Tensor, task: Task, role: Role) -> Iterator[Batch]:
        """Some samples of the set, positions ascending, drawn for a role."""
        if not self.ready:
            for k, part in enumerate(positions.split(self.batch_size)):
                yield self._drawn(self.gather(part, f"some-{k}"), task, role, f"some-{k}")
            return
        first = 0
        for k, batch in enumerate(self.data):
            rows = positions[(positions >= first) & (positions < first + count_rows(batch))] - first
            first += count_rows(batch)
            if len(rows):
                yield self._drawn({name: value[rows] for name, value in batch.items()}, task, role, f"some-{k}")
            elif self.alike:
                self._check_alike(batch)

    def _drawn(self, raw: Batch, task: Task, role: Role, k: object) -> Batch:
        if self.alike:
            self._check_alike(raw)
        generator = generator_of(self.seed, self.name, role, "draw", k)
        with _naming(self.name), convert_errors(DataError, f"the task cannot use a batch of the {self.name} set"):
            return task.draw(self.engine.to_device(raw), generator, role)

    def _check_alike(self, batch: Batch) -> None:
        """Every batch has the names and types of the first: another type would be scaled, or computed, otherwise."""
        kinds = {key: value.dtype for key, value in batch.items()}
        if self._kinds is None:
            self._kinds = kinds
        if kinds != self._kinds:
            first, other = (", ".join(f"{key} {kind}" for key, kind in each.items()) for each in (self._kinds, kinds))
            raise DataError(
                f"batches of the {self.name} set differ: one has {first}, another {other}. Give every sample the same "
                "names and types."
            )

    def indices(self, k: int) -> Tensor:
        """Positions in the set of the samples of batch k, [rows]."""
        first, rows = k * self.rows, self.rows
        parts = []
        while rows > 0:
            epoch, offset = divmod(first, self.size)
            part = self._order(epoch)[offset : offset + rows]
            parts.append(part)
            first, rows = first + len(part), rows - len(part)
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        """The permutation of one pass over the set, [size]; kept until another one is asked for."""
        if epoch not in self._orders:
            drawn = torch.randperm(self.size, generator=generator_of(self.seed, self.name, "order", epoch))
            self._orders = {epoch: drawn}
        return self._orders[epoch]

    def _read(self, k: int) -> Batch:
        if self.workers == 0 or self.in_memory or self.keeps:
            return self.gather(self.indices(k), k)
        if self._reader is None or self._reader[0] != k:
            loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
                cast(Any, _Batches(self)),
                batch_size=None,
                sampler=count(k),
                num_workers=self.workers,
                prefetch_factor=4,
            )
            self._reader = (k, iter(loader))
        position, reader = self._reader
        batch = next(reader)
        if isinstance(batch, UntrainError):
            raise batch
        self._reader = (position + 1, reader)
        return batch

    def fingerprint(self) -> str:
        """A hash of the set: of all its content where that is in memory, else of up to 16 of its samples; made once."""
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        if isinstance(self.data, Source):
            return self.data.fingerprint()
        if self.ready:
            return hash_tensors({f"{k}.{name}": t for k, batch in enumerate(self.data) for name, t in batch.items()})
        if self.in_memory:
            return hash_chunks(self.chunks, self.size)
        positions = torch.linspace(0, self.size - 1, min(16, self.size)).round().long().unique()
        return hash_tensors(self.gather(positions, "fingerprint"))

    def chunks(self) -> Iterator[Batch]:
        """All samples in order, a few at a time, as the set has them, to look at alone."""
        return iter(self.data) if self._samples is None else self._samples.chunks()

    def numbers(self) -> Batch | None:
        """What is one number a sample, such as its label, [N] by name; None where samples are not tensors in memory."""
        if self._samples is not None:
            return self._samples.numbers()
        names = [name for name, value in self.data[0].items() if all(batch[name].ndim == 1 for batch in self.data)]
        return {name: torch.cat([batch[name] for batch in self.data]) for name in names}

    def gather(self, indices: Tensor, k: object) -> Batch:
        """Gathers the samples at these positions of the set; `k` seeds what a data set may draw when it is read."""
        if self._samples is None:
            raise SettingError(f"ready batches of the {self.name} set are taken as they are.")
        return self._samples.gather(indices, seed_of(self.seed, self.name, "read", k))


@dataclass
class _Batches:
    """A stream's batches as a data set, for worker processes."""

    stream: Stream

    def __getitem__(self, k: int) -> Batch | UntrainError:
        try:
            return self.stream.gather(self.stream.indices(k), k)
        except UntrainError as error:  # raised where it is read: torch would put a traceback into its message
            return error

    def __getstate__(self) -> dict[str, Any]:
        reader, self.stream._reader = self.stream._reader, None
        state = {"stream": self.stream}
        self.stream._reader = reader
        return state


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Says first which set it is that a task cannot use."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{name} set: {error}") from error
