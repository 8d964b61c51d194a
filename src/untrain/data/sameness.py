"""Which samples of two sets are one: by where they lie in memory or in a data set, and by their ids."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from untrain.data.datasets import Rows, flatten, is_plain, is_table, unwrap
from untrain.data.keys import input_key
from untrain.data.source import Source
from untrain.errors import Overlap
from untrain.lazy import np, torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Places:
    """Where the samples of a set lie, under any nesting of views.

    Attributes:
        roots: what holds them: a data set, a tensor's memory, the buffers of a table.
        owners: of every sample the number of its root, int64 [N].
        positions: its position there, int64 [N].
    """

    roots: Sequence[Hashable]
    owners: Tensor
    positions: Tensor

    def at(self, indices: Tensor) -> Places:
        """The places of some of the samples."""
        return Places(self.roots, self.owners[indices], self.positions[indices])

    def numbers(self, known: dict[Hashable, int]) -> Tensor:
        """A number for every sample, the same wherever it is met; `known` takes the roots."""
        roots = torch.tensor([known.setdefault(root, len(known)) for root in self.roots], dtype=torch.int64)
        return roots[self.owners] * _STRIDE + self.positions


_STRIDE = 1 << 40


def places_of(data: Any) -> Places:
    """Finds where the samples of a set lie.

    Views are torch's Subset and ConcatDataset, ours, those that `select`, `filter` and the like make of a table of
    Hugging Face, and DataLoaders. Tensors that share memory lie in one place, so that slices of one are told apart by
    row. Whatever else a user has is a place of its own, at which `i` is a sample.
    """
    if isinstance(data, list):
        return _join([_place_of_batch(batch) for batch in data])
    rows = _flat(data)
    parts = [_places_of_base(base) for base in rows.bases]
    starts = torch.tensor([0, *(len(part.owners) for part in parts)]).cumsum(0)
    return _join(parts).at(starts[rows.owners] + rows.positions)


@dataclass(frozen=True, eq=False)
class Known:
    """How the samples of a set are known: by where they lie, and by their ids.

    Ids are an attribute `ids` or `id` with one entry a sample, all different, or a key of that name in every ready
    batch.

    Attributes:
        data: the set.
        places: of its samples.
    """

    data: Any
    places: Places

    @classmethod
    def of(cls, data: Any) -> Known:
        """Looks at a set; nothing of it is read."""
        return cls(data, places_of(data))

    @cached_property
    def names(self) -> list[Any]:
        """An id of every sample; none where there are no such names."""
        return names_of(self.data)

    def check_apart(self, other: Known) -> None:
        """Refuses two sets that share a sample: one that lies in one place, or has one id.

        Raises:
            Overlap: says how many samples are in both, and the first.
        """
        known: dict[Hashable, int] = {}
        both = torch.isin(self.places.numbers(known), other.places.numbers(known))
        if bool(both.any()):
            shared = self.places.positions[both]
            raise _overlap(len(shared.unique()), f"index {int(shared.min())}")
        if self.shares_root(other):
            return  # ids, which come once each there, can tell nothing more
        ids = set(self.names) & set(other.names)
        if ids:
            raise _overlap(len(ids), f"id {min(ids, key=lambda name: (isinstance(name, str), name))}")

    def shares_root(self, other: Known) -> bool:
        """Whether all samples of two sets lie in one root, so that their places tell all."""
        return len({*self.places.roots, *other.places.roots}) == 1


def _overlap(count: int, first: str) -> Overlap:
    return Overlap(
        f"{count} samples are in both sets that must be disjoint (first: {first}). Remove them from one of the two."
    )


def repeated(places: Places) -> int | None:
    """The position of the first sample that comes twice in a set; None where none does."""
    ordered = places.numbers({}).sort().values
    twice = ordered[1:][ordered.diff() == 0]
    return int(twice[0] % _STRIDE) if len(twice) else None


# ── places ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _flat(data: Any) -> Rows:
    """A set's samples by the data sets under views and a DataLoader."""
    return flatten(unwrap(data, "given").data if isinstance(data, torch.utils.data.DataLoader) else data, "given")


def _places_of_base(data: Any) -> Places:
    found: Places | None = None
    if isinstance(data, Source):
        source, positions = data.root()
        found = _one(("set", id(source)), positions)
    elif is_plain(data, torch.utils.data.TensorDataset):
        found = _place_of_tensor(data.tensors[0])
    elif is_table(data):
        found = _places_of_table(data)
    return found or _one(("set", id(data)), torch.arange(len(data)))


def _one(root: Hashable, positions: Tensor) -> Places:
    return Places([root], torch.zeros(len(positions), dtype=torch.int64), positions)


def _join(parts: Iterable[Places]) -> Places:
    """Places one after another."""
    roots: list[Hashable] = []
    owners, positions = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    for part in parts:
        owners.append(part.owners + len(roots))
        positions.append(part.positions)
        roots += part.roots
    return Places(roots, torch.cat(owners), torch.cat(positions))


def _place_of_tensor(values: Tensor) -> Places | None:
    """Rows of a tensor by the memory that they lie in; None where rows are not apart there."""
    if values.layout != torch.strided or values.is_meta or not values.ndim or not values.numel():
        return None
    step = values.stride(0)
    if step == 0:
        return None
    first, offset = divmod(int(values.storage_offset()), step)
    memory = values.untyped_storage().data_ptr()
    layout = (str(values.dtype), tuple(values.shape[1:]), tuple(values.stride()), offset)
    return _one(("memory", str(values.device), memory, *layout), first + torch.arange(len(values)))


def _place_of_batch(batch: Any) -> Places:
    """Samples of a ready batch by its input's memory, or by the batch itself."""
    values: Any = None
    if isinstance(batch, Mapping):
        values = batch.get(input_key([key for key in batch if isinstance(key, str)]) or next(iter(batch), None))
    elif isinstance(batch, (tuple, list)) and batch:
        values = batch[0]
    place = _place_of_tensor(values) if isinstance(values, torch.Tensor) else None
    rows = len(values) if isinstance(values, (torch.Tensor, np.ndarray)) and values.ndim else 1
    return place or _one(("set", id(batch)), torch.arange(rows))


def _places_of_table(table: Any) -> Places | None:
    """Rows of a table of Hugging Face by the buffers that they lie in, which its views share; None without columns."""
    columns = table.column_names
    if not columns or not len(table):
        return None
    parts = []
    for chunk in table.data.column(table.data.column_names.index(input_key(columns) or columns[0])).chunks:
        buffers = tuple(buffer.address for buffer in chunk.buffers() if buffer is not None)
        if len(chunk) and not buffers:
            return None
        parts.append(_one(("table", buffers), chunk.offset + torch.arange(len(chunk))))
    whole, chosen = _join(parts), table._indices  # no public name tells which rows a view shows
    if chosen is None:
        return whole
    return whole.at(torch.from_numpy(chosen.column(0).to_numpy().astype("int64")))


# ── ids ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def names_of(data: Any) -> list[Any]:
    """Returns a name for every sample: its id, see `Known`; none where there are no such names."""
    names = _named_by(data)
    return names if all(isinstance(name, (str, int)) for name in names) else []


def _named_by(data: Any) -> list[Any]:
    if isinstance(data, list):
        found = [batch[key] for batch in data if isinstance(batch, Mapping) for key in ("id", "ids") if key in batch]
        return [] if len(found) < len(data) else [name for values in found for name in _plain(values)]
    rows = _flat(data)
    names = [_named_base(base) for base in rows.bases]
    places = zip(rows.owners.tolist(), rows.positions.tolist(), strict=True)
    return [names[owner][position] for owner, position in places] if all(names) else []


def _named_base(data: Any) -> list[Any]:
    given = next((v for v in (getattr(data, key, None) for key in ("ids", "id")) if _is_list(v)), ())
    names = _plain(given)
    return names if len(names) == len(data) == len({*map(str, names)}) else []


def _is_list(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray, list, tuple))


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, (torch.Tensor, np.ndarray)) else list(values)
