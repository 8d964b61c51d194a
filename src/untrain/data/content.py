"""What samples hold, as one number a sample: which of two sets' are equal, and which come twice in one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

from untrain.data.columns import Columns
from untrain.data.in_memory import take
from untrain.data.keys import LABELS, input_key, names_samples
from untrain.data.source import Source
from untrain.lazy import np, torch
from untrain.rows import count_rows
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from untrain.data.streams import Stream

MOST_READ = 2_000
"""Samples of a set that are read to compare their content, where they are read or computed on access."""


@dataclass(frozen=True, eq=False)
class Content:
    """Hashes of what samples hold.

    Attributes:
        hashes: of every sample that was read, uint64 [n].
        positions: which ones these are, int64 [n], ascending.
        whole: whether these are all.
        of_files: whether they are of encoded files, which tell nothing of samples that are known by their values.
    """

    hashes: np.ndarray
    positions: np.ndarray
    whole: bool
    of_files: bool = False

    def equal_to(self, other: Content) -> list[tuple[int, int]]:
        """Pairs of positions whose inputs are equal: (here, the first such one there), ascending."""
        known, first = other._distinct
        if not len(known) or self.of_files != other.of_files:
            return []
        places = np.searchsorted(known, self.hashes).clip(max=len(known) - 1)
        equal = known[places] == self.hashes
        there = other.positions[first[places[equal]]]
        return [*zip(self.positions[equal].tolist(), there.tolist(), strict=True)]

    @property
    def duplicates(self) -> int:
        """Samples that are equal to an earlier one of the set."""
        return len(self.hashes) - len(self._distinct[0])

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes, each once, ascending, and where each comes first."""
        return np.unique(self.hashes, return_index=True)


def content_of(stream: Stream) -> Content:
    """Hashes the inputs of a set's samples, whatever their labels: what is called the input, else all but the label.

    All samples in memory are looked at, and at most `MOST_READ` of those that are read on access, evenly spread over
    the set. Of images in files that were looked at the files are compared, and no others of ours that are encoded: they
    have ids.
    """
    if stream.ready:
        hashes = _hashes(iter(stream.data))
        return Content(hashes, np.arange(len(hashes)), True)
    root, places = stream.data.root() if isinstance(stream.data, Source) else (None, torch.arange(0))
    if root is not None and not isinstance(root, Columns):
        digests = root.digests(places)
        if digests is not None:
            hashes = np.array([int(digest[:16], 16) for digest in digests], np.uint64)
            return Content(hashes, np.arange(len(hashes)), True, of_files=True)
        return Content(np.empty(0, np.uint64), np.empty(0, np.int64), False)
    if stream.in_memory:
        return Content(_hashes(stream.chunks()), np.arange(len(stream)), True)
    count = min(len(stream), MOST_READ)
    positions = torch.linspace(0, len(stream) - 1, count, dtype=torch.float64).round().long().unique()
    batches = (stream.gather(part, "content") for part in positions.split(1024))
    return Content(_hashes(batches), positions.numpy(), len(positions) == len(stream))


def contents_of(streams: Mapping[str, Stream]) -> dict[str, Content]:
    """Hashes the inputs of several sets' samples, to be compared with each other alone; see `content_of`.

    Where all sets lie in memory, a sample that differs from all others in a few of its bytes is hashed by these, and
    the others are hashed whole: which are equal is the same, and most samples are not read.
    """
    if not all(_lies_in_memory(stream) for stream in streams.values()):
        return {name: content_of(stream) for name, stream in streams.items()}
    sketches = {name: _hashes(stream.chunks(), sketched=True) for name, stream in streams.items()}
    every = np.concatenate([np.empty(0, np.uint64), *sketches.values()])
    order = every.argsort()
    same = every[order[1:]] == every[order[:-1]]
    unsure = np.zeros(len(every), bool)
    unsure[order[1:][same]] = unsure[order[:-1][same]] = True
    found, first = {}, 0
    for name, hashes in sketches.items():
        _hash_whole_(hashes, unsure[first : first + len(hashes)], streams[name])
        found[name] = Content(hashes, np.arange(len(hashes)), True)
        first += len(hashes)
    return found


def _lies_in_memory(stream: Stream) -> bool:
    root = stream.data.root()[0] if isinstance(stream.data, Source) else None
    return stream.in_memory and (root is None or isinstance(root, Columns))


def _hash_whole_(hashes: np.ndarray, chosen: np.ndarray, stream: Stream) -> None:
    """Puts hashes of the chosen samples, bool [N], in place of what is there."""
    first = 0
    for batch in stream.chunks() if chosen.any() else ():
        end = first + count_rows(batch)
        rows = torch.from_numpy(chosen[first:end].nonzero()[0])
        if len(rows):
            hashes[first + rows.numpy()] = _batch_hashes({name: take(values, rows) for name, values in batch.items()})
        first = end


def _hashes(batches: Iterator[Batch], sketched: bool = False) -> np.ndarray:
    return np.concatenate([_batch_hashes(batch, sketched) for batch in batches])


def _batch_hashes(batch: Batch, sketched: bool = False) -> np.ndarray:
    chosen = input_key(batch)
    own = (
        [chosen]
        if chosen
        else [key for key, value in batch.items() if key not in LABELS and not names_samples(key, value)]
    )
    total = np.zeros(count_rows(batch), np.uint64)
    for place, key in enumerate(sorted(own or batch)):
        total += row_hashes(batch[key], place, sketched)
    return total


def row_hashes(values: Tensor, salt: int = 0, sketched: bool = False) -> np.ndarray:
    """Hashes each row of a tensor by its bytes, type and shape.

    h = Σ_i w_i · (x_i ⊕ (x_i ≫ 29)) mod 2⁶⁴, of a row's words x_i of 64 bits and fixed random odd w_i: rows that differ
    have the same hash with a probability of about 2⁻⁶⁴. The shift brings what high bits hold into low ones, as a
    product with w_i says little of high bits: of numbers that differ in their sign alone it leaves 2⁻³⁰.

    Args:
        values: [N, …].
        salt: another one gives other weights.
        sketched: of longer rows hash a few bytes alone, the same ones of each.

    Returns:
        uint64 [N].

    Source: multilinear hashing, Lemire, Kaser: *Strongly universal string hashing is fast*, 2014.
    """
    rows = len(values)
    bytes_each = values[:1].numel() * values.element_size() if rows else 0
    spans = _sketch(bytes_each) if sketched else [slice(0, bytes_each)]
    bytes_each = sum(span.stop - span.start for span in spans)
    words = -(-bytes_each // 8)
    head = hashlib.blake2b(f"{values.dtype}{list(values.shape[1:])}{salt}".encode(), digest_size=8).digest()
    seed = int.from_bytes(head, "big")
    weights = np.random.Generator(np.random.PCG64(seed)).integers(
        0, 1 << 64, words, np.uint64, endpoint=False
    ) | np.uint64(1)
    found = np.full(rows, seed, np.uint64)
    step = max(1, _BLOCK // max(1, bytes_each))
    block = np.zeros((min(step, rows), words), np.uint64)
    shifted = np.empty_like(block)
    for first in range(0, rows if words else 0, step):
        part = values[first : first + step].detach().cpu().contiguous()
        own, high = block[: len(part)], shifted[: len(part)]
        flat, at = part.reshape(len(part), -1).view(torch.uint8).numpy(), 0
        for span in spans:
            own.view(np.uint8)[:, at : at + span.stop - span.start] = flat[:, span]
            at += span.stop - span.start
        np.right_shift(own, np.uint64(29), out=high)
        high ^= own
        found[first : first + step] += cast("np.ndarray", np.einsum("nw,w->n", high, weights))
    return found


def _sketch(bytes_each: int) -> list[slice]:
    """Four spans of 32 bytes, evenly spread over a row; all of a row that has not twice as many."""
    if bytes_each < 256:
        return [slice(0, bytes_each)]
    starts = [(2 * i + 1) * bytes_each // 8 for i in range(4)]
    return [slice(start, start + 32) for start in starts]


_BLOCK = 1 << 18
"""Bytes of rows that are hashed together: they should stay in the processor's cache."""
