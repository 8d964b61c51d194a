"""Seeded, resumable batches: batch k of a set is a pure function of the set, the seed and k.

There is no iterator state to save: a run that stopped after k batches goes on by asking for batch k. Batches are
cut from an endless chain of permutations of the set, so every batch is full and every sample comes equally often.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from untrain.data.datasets import bases_of, is_plain, is_table, size_of, unwrap
from untrain.data.keys import LABELS
from untrain.data.source import Source
from untrain.engine import Engine, generator_of, seed_of
from untrain.errors import DataError, EmptySet, SettingError, UntrainError, convert_errors, message_of
from untrain.lazy import np, torch
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

    def __post_init__(self) -> None:
        """Checks the set and brings array data to the device."""
        if self.batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, not {self.batch_size}.")
        if self.workers < 0:
            raise SettingError(f"workers must be at least 0, not {self.workers}.")
        self.ready = isinstance(self.data, list)
        self._left_out: dict[str, None] = {}
        self._said: tuple[str, ...] = ()
        self._collate: Callable[[list[Any]], Any] | None = None
        self._names: Mapping[str, str] = {}
        if self.ready:
            self.data = _ready_batches(self.data, self.name, self._left_out)
            self.size = sum(_rows(batch) for batch in self.data)
        else:
            given = unwrap(self.data, self.name)
            self._collate, self._names, self._said = given.collate, given.names, given.notes
            if given.batch_size is not None:
                other = "as in" if given.batch_size == self.batch_size else f"not of {given.batch_size} as in"
                self._said = (*self._said, f"{self.name}: batches of {self.batch_size}, {other} the DataLoader")
            _check_indices(given.data, self.name)
            _check_finite(given.data, self.name)
            moves = isinstance(given.data, Source)
            self.data = given.data.to(self.engine.device) if moves else given.data
            self.size = size_of(self.data, self.name)
        if self.size == 0:
            raise EmptySet(f"the {self.name} set is empty: give it at least one sample.")

    def __len__(self) -> int:
        """Samples in the set."""
        return self.size

    @property
    def in_memory(self) -> bool:
        """Whether the samples are tensors in memory, so that looking at all of them costs next to nothing."""
        return self.ready or (self._collate is None and all(map(_lies_in_memory, bases_of(self.data))))

    @property
    def notes(self) -> list[str]:
        """What of the set is not used, as far as it has been read."""
        left = ", ".join(map(repr, self._left_out))
        return [*self._said, *([f"{self.name}: {left} of each sample is no number and was left out"] if left else [])]

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
                taken += _rows(batch)
                yield batch
            return
        order = torch.arange(self.size)
        if limit is not None and limit < self.size:
            choice = torch.randperm(self.size, generator=generator_of(self.seed, self.name, "limit"))
            order = choice[:limit].sort().values
        for k, indices in enumerate(order.split(min(batch_size, self.size))):
            yield self.gather(indices, f"once-{k}")

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
            order = torch.randperm(self.size, generator=generator_of(self.seed, self.name, "order", epoch))
            part = order[offset : offset + rows]
            parts.append(part)
            first, rows = first + len(part), rows - len(part)
        return torch.cat(parts)

    def _read(self, k: int) -> Batch:
        if self.workers == 0 or (isinstance(self.data, Source) and self.data.in_memory):
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

    def gather(self, indices: Tensor, k: object) -> Batch:
        """Gathers the samples at these positions of the set; `k` seeds what a data set may draw when it is read."""
        seed = seed_of(self.seed, self.name, "read", k)
        return _gather(self.data, indices, self.name, seed, self._collate, self._names, self._left_out)


def gather(data: Any, indices: Tensor, name: str, seed: int = 0) -> Batch:
    """Gathers samples of a data set into one batch, with their positions as "index".

    Args:
        data: gives `(x, y)` or dicts; or a DataLoader of that.
        indices: positions, int64 [B].
        name: what the set is called in messages.
        seed: of what the data set may draw when it is read.

    Raises:
        DataError: if it is of another kind, a sample cannot be read, or one holds NaN or infinity.
    """
    given = unwrap(data, name)
    return _gather(given.data, indices, name, seed, given.collate, given.names, {})


def _gather(
    data: Any,
    indices: Tensor,
    name: str,
    seed: int,
    collate: Callable[[list[Any]], Any] | None,
    names: Mapping[str, str],
    left_out: dict[str, None],
) -> Batch:
    """As `gather`, of a set that is unwrapped; `left_out` takes the keys that hold no numbers."""
    base, positions = _base(data, indices)
    batch = _gather_tensors(base, positions, name) if collate is None else None
    if batch is None:
        with _seeded(seed):
            samples = _samples(base, positions, name)
            batch = _named(_collated(samples, name, collate), name, left_out)
        batch = {names.get(key, key): value for key, value in batch.items()}
    batch.setdefault("index", positions)
    return _finite(batch, name)


def _gather_tensors(base: Any, positions: Tensor, name: str) -> Batch | None:
    """The batch of a set that lies in memory or gathers by itself; None of any other."""
    if isinstance(base, Source):
        return base.batch(positions)
    if is_plain(base, torch.utils.data.TensorDataset):
        return _named(tuple(tensor[positions] for tensor in base.tensors), name)
    if is_plain(base, torch.utils.data.ConcatDataset):
        return _gather_parts(base, positions, name)
    return None


def _gather_parts(base: Any, positions: Tensor, name: str) -> Batch | None:
    """The same of sets one after another, of one kind; "index" is the position in the whole."""
    ends = torch.tensor(base.cumulative_sizes)
    owners = torch.searchsorted(ends, positions, right=True)
    places, batches = [], []
    for owner in owners.unique().tolist():
        place = (owners == owner).nonzero().flatten()
        start = base.cumulative_sizes[owner - 1] if owner else 0
        part = _gather_tensors(*_base(base.datasets[owner], positions[place] - start), name)
        if part is None:
            return None
        places.append(place)
        batches.append({key: value for key, value in part.items() if key != "index"})
    kinds = {tuple((key, value.dtype, value.shape[1:]) for key, value in batch.items()) for batch in batches}
    if len(kinds) > 1:
        return None
    back = torch.cat(places).argsort()
    whole = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    return {**{key: value[back.to(value.device)] for key, value in whole.items()}, "index": positions}


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


def _base(data: Any, indices: Tensor) -> tuple[Any, Tensor]:
    """The data set under nested torch Subsets, and the positions there."""
    while is_plain(data, torch.utils.data.Subset):
        indices = torch.as_tensor(data.indices, dtype=torch.int64)[indices]
        data = data.dataset
    return data, indices


def _lies_in_memory(base: Any) -> bool:
    """Whether a data set's samples are tensors in memory."""
    return base.in_memory if isinstance(base, Source) else is_plain(base, torch.utils.data.TensorDataset)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Says first which set it is that a task cannot use."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{name} set: {error}") from error


def _samples(base: Any, positions: Tensor, name: str) -> list[Any]:
    """Reads samples one by one; of a table, together."""
    if not is_table(base):
        return [_sample(base, int(i), name) for i in positions]
    try:
        return base.__getitems__(positions.tolist())
    except Exception as error:
        raise DataError(
            f"samples of the {name} set could not be read (first: {int(positions[0])}): {type(error).__name__}: "
            f"{message_of(error)}"
        ) from error


def _collated(samples: list[Any], name: str, collate: Callable[[list[Any]], Any] | None) -> Any:
    """One batch of samples: by the user's function, or stacked."""
    if collate is not None:
        with convert_errors(DataError, f"the collate function of the {name} set fails"):
            return collate(samples)
    samples = [_with_blanks(sample) for sample in samples]
    picture = next((key for key, value in _items(samples[0]) if type(value).__module__.startswith("PIL.")), None)
    if picture is not None:
        raise DataError(
            f"{picture!r} of the {name} set is an image of PIL: make it the tensor that the model takes, by the data "
            "set's transform (of Hugging Face: data.with_transform(function))."
        )
    try:
        return torch.utils.data.default_collate(samples)
    except Exception as error:  # samples can be of any type
        raise DataError(
            f"samples of the {name} set cannot be put into one batch: {message_of(error)}. Each must have "
            "tensors (or numbers) of the same shape: convert them in the data set, pad texts to one length, or pass a "
            "DataLoader whose collate_fn does."
        ) from error


def _items(sample: Any) -> list[tuple[Any, Any]]:
    """The values of a sample with what they are called."""
    return [*sample.items()] if isinstance(sample, Mapping) else [*zip(("input", "label"), _pair(sample))]


def _pair(sample: Any) -> Sequence[Any]:
    return sample if isinstance(sample, (tuple, list)) else ()


def _with_blanks(sample: Any) -> Any:
    """A sample with empty texts in place of what is missing (None), so that it is left out as texts are."""
    if isinstance(sample, Mapping) and any(value is None for value in sample.values()):
        return {key: "" if value is None else value for key, value in sample.items()}
    return sample


def _sample(data: Any, i: int, name: str) -> Any:
    try:
        return data[i]
    except Exception as error:
        raise DataError(
            f"sample {i} of the {name} set could not be read: {type(error).__name__}: {message_of(error)}"
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds what a user's data set may draw from (torch, numpy, random) and puts their states back."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def check_given(data: Any, name: str) -> None:
    """Refuses a data set that no batches can be cut from; nothing of it is read.

    Raises:
        DataError: if it is of another kind, or a Subset's indices do not fit.
    """
    if not isinstance(data, list):
        _check_indices(unwrap(data, name).data, name)


def _check_indices(data: Any, name: str) -> None:
    """Refuses indices of a torch Subset that are out of range or come twice."""
    if is_plain(data, torch.utils.data.Subset):
        indices, size = _indices(data, name), size_of(data.dataset, name)
        outside = indices[(indices < 0) | (indices >= size)]
        if len(outside):
            raise DataError(f"index {int(outside[0])} of the {name} set is out of range, which is 0 to {size - 1}.")
        found, counts = indices.unique(return_counts=True)
        if len(found) < len(indices):
            raise DataError(f"index {int(found[counts > 1][0])} comes twice in the {name} set. Leave it in once.")
        _check_indices(data.dataset, name)
    elif is_plain(data, torch.utils.data.ConcatDataset):
        for part in data.datasets:
            _check_indices(part, name)


def _check_finite(data: Any, name: str) -> None:
    """Refuses tensors in memory that are not finite; only samples of the set are looked at."""
    if len(data) and all(is_plain(base, torch.utils.data.TensorDataset) for base in bases_of(data)):
        for positions in torch.arange(len(data)).split(4096):
            gather(data, positions, name)


def _indices(view: torch.utils.data.Subset[Any], name: str) -> Tensor:
    """Positions of a torch Subset, int64 [N]."""
    with convert_errors(DataError, f"the indices of the {name} set, a Subset, are no whole numbers"):
        indices = torch.as_tensor(view.indices)
    if indices.dtype == torch.bool:
        raise DataError(
            f"the indices of the {name} set, a Subset, are a mask of true and false, which would stand for positions 1 "
            "and 0: give the positions, torch.as_tensor(mask).nonzero().flatten()."
        )
    if indices.ndim != 1 or (len(indices) and indices.is_floating_point()):
        raise DataError(f"the indices of the {name} set, a Subset, must be whole numbers [N], one a sample.")
    return indices.long()


def _ready_batches(batches: list[Any], name: str, left_out: dict[str, None]) -> list[Batch]:
    """Ready batches as dicts whose samples are numbered through; a list of single samples is refused."""
    named: list[Batch] = []
    first = 0
    for k, batch in enumerate(batches):
        entry = _named(batch, name, left_out)
        lengths = {key: value.shape[0] if value.ndim else None for key, value in entry.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values():
            raise DataError(
                f"entry {k} of the {name} list is not a batch: its tensors' first dimensions are {lengths}. A list "
                "holds ready batches, (x, y) with x [B, …] and y [B]; wrap single samples in a torch Dataset."
            )
        rows = _rows(entry)
        entry.setdefault("index", torch.arange(first, first + rows))
        if named and entry.keys() != named[0].keys():
            raise DataError(
                f"entry {k} of the {name} list has {', '.join(entry)}, entry 0 has {', '.join(named[0])}: every batch "
                "must have the same."
            )
        named.append(_finite(entry, name))
        first += rows
    return [batch for batch in named if _rows(batch)]


def _named(batch: Any, name: str, left_out: dict[str, None] | None = None) -> Batch:
    """`(x, y)` → {"input": x, "label": y}; a dict stays as it is, but for texts, whose keys `left_out` takes."""
    if isinstance(batch, Mapping):
        named = dict(batch)
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        named = {"input": batch[0], "label": batch[1]}
    else:
        raise DataError(f"the {name} set gives {_described(batch)}: it must give (x, y) or a dict of tensors.")
    if not named or not all(isinstance(key, str) for key in named):
        raise DataError(f"the {name} set gives a dict without names: it must give (x, y) or a dict of tensors by name.")
    texts = [key for key, value in named.items() if key not in (*LABELS, "input") and _is_text(value)]
    if left_out is not None:
        left_out.update(dict.fromkeys(texts))
    return {key: _tensor(value, f"{key!r} of the {name} set") for key, value in named.items() if key not in texts}


def _is_text(value: Any) -> bool:
    """Whether values are texts, bytes or missing, one a sample, and so nothing that a model computes with."""
    if isinstance(value, (tuple, list)) and value:
        return all(each is None or isinstance(each, (str, bytes)) for each in value)
    return value is None or isinstance(value, (str, bytes))


def _tensor(value: Any, what: str) -> Tensor:
    """A tensor of plain numbers, without a history of its own."""
    if isinstance(value, (int, float, np.ndarray, np.generic)):
        with convert_errors(DataError, f"{what} cannot become a tensor"):
            value = torch.as_tensor(np.array(value) if isinstance(value, np.ndarray) else value)
    if _is_text(value):
        raise DataError(f"{what} is text, not a tensor: number the classes from 0, tokenise texts, in the data set.")
    if not isinstance(value, torch.Tensor):
        raise DataError(f"{what} is a {type(value).__name__}, not a tensor: convert it in the data set.")
    odd = next((word for word, holds in _ODD.items() if holds(value)), None)
    if odd is not None:
        raise DataError(f"{what} is a tensor that is {odd}: give plain ones of real numbers.")
    return value.detach() if value.requires_grad else value


_ODD: dict[str, Callable[[Tensor], bool]] = {
    "nested": lambda tensor: tensor.is_nested,
    "sparse": lambda tensor: tensor.layout != torch.strided,
    "on the meta device, without values": lambda tensor: tensor.is_meta,
    "complex": lambda tensor: tensor.is_complex(),
    "quantized": lambda tensor: tensor.is_quantized,
}


def _described(batch: Any) -> str:
    return f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, Sequence) else "")


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _finite(batch: Batch, name: str) -> Batch:
    """The batch, or an error that names the first sample with a NaN or an infinity (looked at on the CPU only)."""
    for key, value in batch.items():
        if value.is_floating_point() and value.device.type == "cpu" and not bool(torch.isfinite(value.sum())):
            bad = ~torch.isfinite(value.reshape(len(value), -1)).all(dim=1)
            if bad.any():
                first = int(batch["index"][bad.nonzero()[0, 0]]) if "index" in batch else int(bad.nonzero()[0, 0])
                raise DataError(
                    f"{int(bad.sum())} samples of a batch of the {name} set hold NaN or infinity in {key!r} "
                    f"(first: index {first}). Remove or repair them."
                )
    return batch
