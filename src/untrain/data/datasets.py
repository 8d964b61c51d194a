"""Data sets as people hold them in Python: of torch, of Hugging Face, in a DataLoader; and what is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from untrain.data.keys import INPUTS, LABELS, RECORDS
from untrain.data.source import Source
from untrain.errors import DataError, convert_errors
from untrain.lazy import np, torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Given:
    """A set as it is read.

    Attributes:
        data: a map-style data set.
        collate: makes a batch of a list of samples; None: tensors and numbers are stacked.
        batch_size: samples a batch, of a DataLoader.
        names: the data's name → "label", where a column's type tells what its name does not.
        notes: what of the set is not used, and what was decided.
    """

    data: Any
    collate: Callable[[list[Any]], Any] | None = None
    batch_size: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def unwrap(data: Any, name: str) -> Given:
    """Finds out how a set is read.

    Args:
        data: a map-style data set of torch, of Hugging Face or of one's own, or a DataLoader of one.
        name: what the set is called in messages.

    Raises:
        DataError: says what it is, and what to give instead.
    """
    given = _of_loader(data, name) if isinstance(data, torch.utils.data.DataLoader) else Given(data)
    check_map_style(given.data, name)
    tables: dict[int, Given] = {}

    def readable(base: Any) -> Any:
        if not is_table(base):
            return base
        if id(base) not in tables:
            tables[id(base)] = _of_table(base, name)
        return tables[id(base)].data

    whole = _replace_bases(given.data, readable)
    names = {theirs: ours for table in tables.values() for theirs, ours in table.names.items()}
    notes = dict.fromkeys(note for table in tables.values() for note in table.notes)
    return replace(given, data=whole, names=names, notes=(*given.notes, *notes))


def loader_batch_size(data: Any) -> int | None:
    """Samples a batch of a DataLoader; None of any other set."""
    return data.batch_size if isinstance(data, torch.utils.data.DataLoader) else None


def is_data_set(data: Any) -> bool:
    """Whether an object is a set of samples as far as its kind tells: numbered ones, a DataLoader, or ready batches."""
    if isinstance(data, list):
        return all(isinstance(batch, (tuple, list, Mapping)) for batch in data)
    if isinstance(data, (Source, torch.utils.data.Dataset, torch.utils.data.DataLoader)):
        return True
    numbered = hasattr(type(data), "__len__") and hasattr(type(data), "__getitem__")
    return numbered and not isinstance(data, (str, bytes, Mapping))


def is_plain(data: Any, kind: type) -> bool:
    """Whether a data set is of a class of torch's, and gives samples as that does."""
    return isinstance(data, kind) and getattr(type(data), "__getitem__", None) is kind.__dict__["__getitem__"]


def is_table(data: Any) -> bool:
    """Whether a data set is one of Hugging Face's `datasets`, which is not imported for that."""
    return _is_of(data, "datasets", "Dataset")


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples of nested views of torch's, Subset and ConcatDataset, by the data sets under them.

    Attributes:
        bases: these data sets.
        owners: of every sample the number of its data set, int64 [N].
        positions: its position there, int64 [N].
        numbers: what "index" says of it, int64 [N]: its position in the data set under all Subsets, which may be a
            ConcatDataset.
    """

    bases: Sequence[Any]
    owners: Tensor
    positions: Tensor
    numbers: Tensor

    def at(self, indices: Tensor | slice) -> Rows:
        """Some of the samples."""
        return Rows(self.bases, self.owners[indices], self.positions[indices], self.numbers[indices])


def flatten(data: Any, name: str) -> Rows:
    """Looks through nested views at the data sets under them.

    Raises:
        DataError: if one does not say how many samples it has.
    """
    if is_plain(data, torch.utils.data.Subset):
        return flatten(data.dataset, name).at(torch.as_tensor(data.indices, dtype=torch.int64))
    if is_plain(data, torch.utils.data.ConcatDataset):
        bases: list[Any] = []
        owners, positions = [], []
        for part in (flatten(part, name) for part in data.datasets):
            owners.append(part.owners + len(bases))
            positions.append(part.positions)
            bases += part.bases
        joined = torch.cat(owners), torch.cat(positions)
        return Rows(bases, *joined, torch.arange(len(joined[0])))
    size = size_of(data, name)
    numbers = torch.arange(size)
    return Rows([data], torch.zeros(1, dtype=torch.int64).expand(size), numbers, numbers)


def size_of(data: Any, name: str) -> int:
    """How many samples a data set says that it has.

    Raises:
        DataError: if it says no number, or fails.
    """
    with convert_errors(DataError, f"the {name} set does not say how many samples it has"):
        return len(data)


def _is_of(data: Any, library: str, *names: str) -> bool:
    """Whether an object is of a class of a library that somebody has imported."""
    module = sys.modules.get(library)
    kinds = tuple(kind for each in names if isinstance(kind := getattr(module, each, None), type))
    return isinstance(data, kinds)


def _replace_bases(data: Any, replaced: Callable[[Any], Any]) -> Any:
    """The same views of torch's over other data sets; itself where they stay the same."""
    if is_plain(data, torch.utils.data.Subset):
        below = _replace_bases(data.dataset, replaced)
        return data if below is data.dataset else torch.utils.data.Subset(below, data.indices)
    if is_plain(data, torch.utils.data.ConcatDataset):
        parts = [_replace_bases(part, replaced) for part in data.datasets]
        same = all(a is b for a, b in zip(parts, data.datasets, strict=True))
        return data if same else torch.utils.data.ConcatDataset(parts)
    return replaced(data)


# ── DataLoader ──────────────────────────────────────────────────────────────────────────────────────────────────


def _of_loader(loader: Any, name: str) -> Given:
    """A DataLoader's data set, collate function and batch size; its order is not used, nor how it ends."""
    own = type(loader)
    ready = "To have its batches used as they are, pass list(loader)."
    if own.__iter__ is not torch.utils.data.DataLoader.__iter__:
        raise DataError(f"the {name} set is a {own.__name__}, which makes batches in a way of its own. {ready}")
    if isinstance(loader.dataset, torch.utils.data.IterableDataset):
        raise DataError(f"the {name} set is a DataLoader of an IterableDataset. {_NO_NUMBERS} {ready}")
    if loader.batch_size is None:
        raise DataError(
            f"the {name} set is a DataLoader with a batch_sampler, or none at all: which samples make a batch cannot "
            f"be told. Pass its data set, and batch_size=. {ready}"
        )
    data, order = _sampled(loader, name, ready)
    plain = (torch.utils.data.default_collate, torch.utils.data.default_convert)
    note = f"{name}: of the DataLoader, the data set and the collate function are used; {order}"
    collate = None if loader.collate_fn in plain else loader.collate_fn
    return Given(data, collate, loader.batch_size, notes=(note,))


def _sampled(loader: Any, name: str, ready: str) -> tuple[Any, str]:
    """The samples that a DataLoader's sampler chooses, and what is not used of its order."""
    sampler, ours = loader.sampler, "the order is by seed, and every sample comes equally often"
    samplers = torch.utils.data
    if type(sampler) is samplers.SubsetRandomSampler:
        chosen = samplers.Subset(loader.dataset, sampler.indices)
        return chosen, f"so are the {len(chosen)} samples of its SubsetRandomSampler; {ours}"
    if type(sampler) is samplers.WeightedRandomSampler:
        return loader.dataset, f"its sampler's weights are not: {ours}"
    if type(sampler) in (samplers.SequentialSampler, samplers.RandomSampler, samplers.DistributedSampler):
        return loader.dataset, f"its sampler, shuffle and drop_last are not: {ours}"
    raise DataError(
        f"the {name} set is a DataLoader with a {type(sampler).__name__}, which may choose some of the samples. Pass "
        f"a torch Subset of its data set, with the positions that belong to the set. {ready}"
    )


# ── tables of Hugging Face ──────────────────────────────────────────────────────────────────────────────────────


def _of_table(table: Any, name: str) -> Given:
    """A table whose samples are dicts of numbers: in its own format or by its own transform, else as tensors."""
    style = table.format["type"]
    if style not in (None, "torch", "numpy", "custom"):
        raise DataError(
            f"the {name} set is a datasets.Dataset in the format {style!r}: give it as tensors, "
            "data.with_format('torch')."
        )
    columns, notes = list(table.format["columns"]), []
    if style is None:
        numbers = [column for column in columns if _holds_numbers(table.features[column])]
        images = [column for column in columns if type(table.features[column]).__name__ == "Image"]
        if images and not set(numbers) & set(INPUTS):
            raise DataError(
                f"the column {images[0]!r} of the {name} set holds images as PIL reads them: say how they become the "
                "model's input, data.with_transform(function), which also gives tensors of one size."
            )
        named = [column for column in columns if column in LABELS and column not in numbers]
        if named and not set(numbers) & set(LABELS):
            raise DataError(
                f"the column {named[0]!r} of the {name} set holds no numbers: number its classes by "
                f"data.class_encode_column({named[0]!r})."
            )
        if not set(numbers) - {*LABELS, *RECORDS}:
            raise DataError(
                f"the {name} set has no column that could be the input: {', '.join(columns)} hold labels, texts or "
                "other things than numbers. Tokenise texts by data.map(…), or say what the input is by "
                "data.with_transform(…)."
            )
        if len(numbers) < len(columns):
            left = ", ".join(repr(column) for column in columns if column not in numbers)
            notes.append(f"{name}: without the columns {left}, which hold no numbers")
        table = table.with_format("torch", columns=numbers)
        columns = numbers
    return Given(table, names=_label_by_type(table, columns), notes=tuple(notes))


def _holds_numbers(feature: Any) -> bool:
    """Whether a column's feature is a number, or lists of them however deep."""
    kind = type(feature).__name__
    if kind == "Value":
        return str(feature.dtype).startswith(("int", "uint", "float", "bool"))
    if isinstance(feature, list):
        return len(feature) == 1 and _holds_numbers(feature[0])
    if kind in ("List", "LargeList", "Sequence"):
        return _holds_numbers(feature.feature)
    return kind in ("ClassLabel", "Array2D", "Array3D", "Array4D", "Array5D")


def _label_by_type(table: Any, columns: list[str]) -> dict[str, str]:
    """The one column that is a ClassLabel, where none is called as labels are."""
    if set(LABELS) & set(columns):
        return {}
    found = [column for column in columns if type(table.features.get(column)).__name__ == "ClassLabel"]
    return {found[0]: "label"} if len(found) == 1 else {}


# ── what is no data set ─────────────────────────────────────────────────────────────────────────────────────────


def check_map_style(data: Any, name: str) -> None:
    """Refuses what is no map-style data set.

    Raises:
        DataError: says what it is, and what to give instead.
    """
    if isinstance(data, Source):
        return
    flaw = _flaw_of(data)
    if flaw:
        raise DataError(f"the {name} set is {flaw}")
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(f"the {name} set is a {type(data).__name__}: {_INSTEAD}")


_INSTEAD = (
    "give a map-style data set of (x, y) or dicts (with __len__ and __getitem__), a DataLoader of one, or a list of "
    "ready batches."
)
_NO_NUMBERS = (
    "Its samples have no numbers: they cannot be shuffled by a seed, nor named as forgotten. Give a map-style data set "
    "(with __len__ and __getitem__), or a list of ready batches, list(DataLoader(data, batch_size))."
)


def _flaw_of(data: Any) -> str:
    """What an object is that has no numbered samples, and what to make of it; empty where it may have them."""
    kind = type(data).__name__
    if isinstance(data, torch.utils.data.IterableDataset) or _is_of(data, "datasets", "IterableDataset"):
        return f"an IterableDataset. {_NO_NUMBERS}"
    if _is_of(data, "datasets", "DatasetDict", "IterableDatasetDict"):
        return f"a {kind} of {', '.join(map(str, data))}: give one of them, such as data['train']."
    if _is_of(data, "pandas", "DataFrame", "Series") or _is_of(data, "polars", "DataFrame", "LazyFrame"):
        return (
            f"a {kind}: give its numbers as tensors, torch.utils.data.TensorDataset(torch.tensor(frame[features]"
            ".to_numpy('float32')), torch.tensor(frame[label].to_numpy())); map-style samples are needed."
        )
    if isinstance(data, tuple):
        return f"a tuple of {len(data)}: {how_to_wrap(data)}"
    if isinstance(data, (torch.Tensor, np.ndarray)):
        return f"a {kind} without labels: {how_to_wrap((data, None))}"
    if isinstance(data, Mapping):
        return f"a {kind}: as one ready batch it is [data]; a map-style data set gives such a dict for each sample."
    if isinstance(data, (str, bytes, Iterator)):
        made = "" if isinstance(data, (str, bytes)) else " If it yields batches, pass list(data)."
        return f"a {kind}: {_INSTEAD}{made}"
    return ""


def how_to_wrap(arrays: tuple[Any, ...]) -> str:
    """How arrays become a map-style data set."""
    wrapped = "torch.from_numpy({})" if any(isinstance(each, np.ndarray) for each in arrays) else "{}"
    return (
        f"inputs and labels become a map-style data set by torch.utils.data.TensorDataset({wrapped.format('x')}, "
        f"{wrapped.format('y')}); a single ready batch is [(x, y)]."
    )
