"""Samples as batches: gathered from whatever holds them, named, and checked to be plain finite numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from untrain.data.datasets import Rows, flatten, how_to_wrap, is_plain, is_table, size_of, unwrap
from untrain.data.in_memory import InMemory, in_order, numbers_of, rows_at_a_time, take
from untrain.data.keys import LABELS
from untrain.data.source import Source
from untrain.engine import seed_generators
from untrain.errors import DataError, convert_errors, message_of
from untrain.lazy import np, torch
from untrain.rows import count_rows
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor


class SampleReader:
    """Reads samples of a set into batches.

    Args:
        data: a map-style data set of `(x, y)` or dicts, or a DataLoader of one.
        name: what the set is called in messages.
        device: where a source of ours is brought, if it lies in memory.

    Attributes:
        data: the data set, without the DataLoader, as tensors where it is a table.
        batch_size: of a DataLoader; None of any other set.
        left_out: the keys that held no numbers, so far.

    Raises:
        DataError: if it is of another kind, or a Subset's indices do not fit.
    """

    def __init__(self, data: Any, name: str, device: torch.device | str | None = None) -> None:
        given = unwrap(data, name)
        _check_indices(given.data, name)
        moves = device is not None and isinstance(given.data, Source)
        self.data = given.data.to(device) if moves else given.data
        self.name, self.batch_size, self.notes = name, given.batch_size, given.notes
        self.left_out: dict[str, None] = {}
        self._collate, self._names = given.collate, given.names
        self._size = size_of(self.data, name)
        self._rows = flatten(self.data, name)

    def __len__(self) -> int:
        """How many samples there are."""
        return self._size

    @property
    def in_memory(self) -> bool:
        """Whether the samples are tensors in memory, so that looking at all of them costs next to nothing."""
        return self._collate is None and all(map(_lies_in_memory, self._rows.bases))

    def gather(self, indices: Tensor, seed: int = 0) -> Batch:
        """Gathers samples into one batch, with their positions in the data set as "index".

        Args:
            indices: positions in the set, int64 [B].
            seed: of what the data set may draw when it is read.

        Raises:
            DataError: if a sample cannot be read, or one holds NaN or infinity.
        """
        rows = self._rows.at(indices)
        batch = self._tensors(rows) if self._collate is None else None
        if batch is None:
            with _seeded(seed):
                samples = self._samples(rows)
                batch = _named(_collated(samples, self.name, self._collate), self.name, self.left_out)
            batch = {self._names.get(key, key): value for key, value in batch.items()}
        batch.setdefault("index", rows.numbers)
        return _finite(batch, self.name)

    def check_finite(self) -> None:
        """Looks at all numbers of tensors in memory that could be NaN; of ours it was done when they were made.

        Raises:
            DataError: names the first sample that has one.
        """
        tensors = [base.tensors for base in self._rows.bases if is_plain(base, torch.utils.data.TensorDataset)]
        if not self.in_memory or len(tensors) < len(self._rows.bases):
            return
        broken = any(isinstance(t, torch.Tensor) and t.is_floating_point() for each in tensors for t in each)
        for batch in self.chunks() if broken else ():
            _finite(batch, self.name)

    def chunks(self) -> Iterator[Batch]:
        """All samples in order, some at a time, to look at alone: rows that follow each other in memory are no copy."""
        bases = self._in_memory()
        size = 1024 if bases is None else rows_at_a_time(bases)
        indices = torch.arange(len(self)).split(size) if len(self) else ()
        found = [None] * len(indices) if bases is None else in_order(bases, self._rows, size)
        for part, samples in zip(indices, found, strict=True):
            yield self.gather(part) if samples is None else samples

    def numbers(self) -> Batch | None:
        """What is one number a sample, such as its label, [N] by name; None where samples are not tensors in memory."""
        bases = self._in_memory()
        return None if bases is None else numbers_of(bases, self._rows)

    def _in_memory(self) -> list[InMemory] | None:
        """The data sets under the views as tensors; None where one of them is not."""
        if not self.in_memory:
            return None
        found = []
        for base in self._rows.bases:
            if isinstance(base, Source):
                root, below = base.root()
                tensors = root.tensors()
                if tensors is None:
                    return None
                found.append(InMemory(tensors, below, numbered=True))
            else:
                found.append(InMemory(_named(base.tensors, self.name)))
        return found

    def _tensors(self, rows: Rows) -> Batch | None:
        """The batch of sets that lie in memory or gather by themselves; None of any other."""
        if len(rows.bases) == 1:
            return self._of_one(rows.bases[0], rows.positions)
        places, batches = [], []
        for owner in rows.owners.unique().tolist():
            place = (rows.owners == owner).nonzero().flatten()
            part = self._of_one(rows.bases[owner], rows.positions[place])
            if part is None:
                return None
            places.append(place)
            batches.append({key: value for key, value in part.items() if key != "index"})
        kinds = {tuple((key, value.dtype, value.shape[1:]) for key, value in batch.items()) for batch in batches}
        if len(kinds) > 1:
            return None
        back = torch.cat(places).argsort()
        whole = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
        return {key: take(value, back) for key, value in whole.items()}

    def _of_one(self, base: Any, positions: Tensor) -> Batch | None:
        if isinstance(base, Source):
            return base.batch(positions)
        if is_plain(base, torch.utils.data.TensorDataset):
            return _named(tuple(take(tensor, positions) for tensor in base.tensors), self.name)
        return None

    def _samples(self, rows: Rows) -> list[Any]:
        """Samples as their data sets give them, in order; those of one table are read together."""
        found: list[Any] = [None] * len(rows.owners)
        for owner in rows.owners.unique().tolist():
            base, places = rows.bases[owner], (rows.owners == owner).nonzero().flatten().tolist()
            positions = rows.positions[places].tolist()
            if is_table(base):
                read = _read_table(base, positions, self.name)
            else:
                read = [_sample(base, i, self.name) for i in positions]
            for place, sample in zip(places, read, strict=True):
                found[place] = sample
        return found


def _lies_in_memory(base: Any) -> bool:
    """Whether a data set's samples are tensors in memory."""
    return base.in_memory if isinstance(base, Source) else is_plain(base, torch.utils.data.TensorDataset)


def _read_table(table: Any, positions: list[int], name: str) -> list[Any]:
    try:
        return table.__getitems__(positions)
    except Exception as error:
        raise DataError(
            f"samples of the {name} set could not be read (first: {positions[0]}): {type(error).__name__}: "
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
    seed_generators(seed, accelerators=torch.accelerator.is_available())
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
        DataError: if it is of another kind, does not say its size, or a Subset's indices do not fit.
    """
    if not isinstance(data, list):
        given = unwrap(data, name)
        _check_indices(given.data, name)
        flatten(given.data, name)


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


def ready_batches(batches: list[Any], name: str, left_out: dict[str, None]) -> list[Batch]:
    """Ready batches as dicts whose samples are numbered through; a list of single samples is refused."""
    if batches and all(isinstance(entry, (torch.Tensor, np.ndarray)) for entry in batches):
        raise DataError(f"the {name} set is a list of {len(batches)} tensors: {how_to_wrap(tuple(batches))}")
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
        rows = count_rows(entry)
        entry.setdefault("index", torch.arange(first, first + rows))
        if named and entry.keys() != named[0].keys():
            raise DataError(
                f"entry {k} of the {name} list has {', '.join(entry)}, entry 0 has {', '.join(named[0])}: every batch "
                "must have the same."
            )
        named.append(_finite(entry, name))
        first += rows
    return [batch for batch in named if count_rows(batch)]


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
    if len(texts) == len(named):
        raise DataError(f"the {name} set gives texts alone, {', '.join(texts)}: tokenise them in the data set.")
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
