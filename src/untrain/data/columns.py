"""Samples of any kind as rows of named tensors in memory, and what is checked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from untrain.data.batches import SampleReader
from untrain.data.in_memory import take
from untrain.data.source import Source
from untrain.errors import DataError, EmptySet, UnknownName, unknown
from untrain.io import hash_json, hash_tensors
from untrain.lazy import np, torch
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

Self = TypeVar("Self", bound="Columns")

MOST_CLASSES = 1_000_000
"""Classes that labels may count up to: ImageNet-21k has 21,841, and labels that are hashes or times make billions."""


class Columns(Source):
    """A source whose samples are rows of named tensors in memory: tokens and a mask, a table's features and targets.

    Args:
        columns: name → [N, …], numbers of any type; what a task's `draw` gets, under these names.
        labels: class number of every sample, [N], by which recipes choose classes to forget; no column by itself.
            None: samples have no classes.
        classes: names of the classes; None names them "0", "1", … up to the largest label.
        ids: a unique name for every sample, or None.

    Raises:
        DataError: if columns differ in length, a value is NaN or infinite, or labels do not fit; EmptySet if there is
            no sample.
    """

    in_memory = True

    def __init__(
        self,
        columns: Mapping[str, Tensor | np.ndarray],
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        self.columns = {name: check_column(name, values) for name, values in columns.items()}
        lengths = {name: len(values) for name, values in self.columns.items()}
        if len({*lengths.values()}) != 1 or "index" in lengths:
            raise DataError(f"columns must be of one length, at least one, and none called index; they are {lengths}.")
        count = next(iter(lengths.values()))
        if labels is None:
            labels, classes = torch.zeros(count, dtype=torch.int64), classes or ("all",)
        self.labels = check_labels(labels, count, classes)
        self.classes = class_names(self.labels, classes)
        self.ids = check_ids(ids, count)
        self.shape = tuple(next(iter(self.columns.values())).shape[1:])
        self._fingerprint: str | None = None
        self._moved: dict[torch.device, Columns] = {}

    @classmethod
    def read(
        cls,
        data: Any,
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
    ) -> Columns:
        """Reads a map-style data set of `(x, y)` or dicts whole, such as one of torch or Hugging Face.

        Args:
            data: its samples have tensors, arrays or numbers of one shape; `(x, y)` becomes "input" and "label".
            labels: see the class, and so for classes and ids.

        Raises:
            DataError: if it is of another kind, or a sample cannot be read.
        """
        samples = SampleReader(data, "training")
        if len(samples) == 0:
            raise EmptySet("the data holds no sample.")
        rows = samples.gather(torch.arange(len(samples)))
        if samples.left_out:
            raise DataError(f"{', '.join(map(repr, samples.left_out))} of the data holds texts: tokenise or remove it.")
        del rows["index"]
        return Columns(rows, labels, classes, ids)

    @property
    def device(self) -> torch.device:
        """Where batches live."""
        return next(iter(self.columns.values())).device

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.labels)

    def __getitem__(self, i: int) -> Batch:
        """Sample i; see `Source`."""
        i = range(len(self))[i]  # a negative i counts from the end, one beyond it is an IndexError
        index = torch.tensor(i, device=self.device)
        return {**{name: values[i] for name, values in self.columns.items()}, "index": index}

    def batch(self, indices: Tensor) -> Batch:
        """Samples at these positions, on the device; see `Source`."""
        indices = indices.to(self.device)
        return {**{name: take(values, indices) for name, values in self.columns.items()}, "index": indices}

    def tensors(self) -> Batch:
        """The columns; see `Source`."""
        return dict(self.columns)

    def select(self: Self, indices: Tensor) -> Self:
        """A copy of these samples, numbered from 0."""
        chosen = indices.cpu()
        return self._with(
            columns={name: values[indices.to(self.device)] for name, values in self.columns.items()},
            labels=self.labels[chosen],
            ids=None if self.ids is None else tuple(self.ids[i] for i in chosen.tolist()),
            _fingerprint=None,
            _moved={},
        )

    def to(self: Self, device: torch.device | str) -> Self:
        """The same samples on another device; asked twice, the same copy is given, so views of it share memory."""
        device = torch.empty(0, device=device).device  # "cuda" → "cuda:0"
        if device == self.device:
            return self
        if device not in self._moved:
            columns = {name: values.to(device) for name, values in self.columns.items()}
            self._moved[device] = self._with(columns=columns, _moved={self.device: self})
        return self._moved[device]  # type: ignore[return-value]

    def _with(self: Self, **changes: Any) -> Self:
        """The same kind of source with other content."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, **changes)
        return made

    def fingerprint(self) -> str:
        """A hash of columns, labels and class names."""
        if self._fingerprint is None:
            tensors = hash_tensors(self.columns), hash_tensors({"labels": self.labels})
            self._fingerprint = hash_json([*tensors, self.classes])
        return self._fingerprint


def check_column(name: str, values: Any) -> Tensor:
    """Returns one row a sample as a tensor.

    Raises:
        DataError: if it is no tensor of numbers, or one is NaN or infinite; EmptySet if there is no row.
    """
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        values = values.copy()  # PyTorch has no tensors that cannot be written
    try:
        column = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name!r} cannot become a tensor: {error}. Give numbers, one row of the same shape a sample: tokenise and "
            "pad texts, and put what is missing into a mask."
        ) from error
    if column.ndim < 1:
        raise DataError(f"{name!r} must be [N, …], one row a sample; it is one number.")
    if len(column) == 0:
        raise EmptySet("the data holds no sample.")
    if column.is_floating_point():
        for start in range(0, len(column), 4096):
            bad = ~torch.isfinite(column[start : start + 4096].reshape(len(column[start : start + 4096]), -1)).all(1)
            if bad.any():
                first = start + int(bad.nonzero()[0])
                raise DataError(f"{name!r} holds NaN or infinity (first: sample {first}). Remove or repair it.")
    return column


def check_labels(labels: Tensor | np.ndarray | Sequence[int], count: int, classes: Sequence[str] | None) -> Tensor:
    """Returns labels as int64 [N] on the CPU.

    Raises:
        DataError: if they are no integers from 0 to the number of classes − 1, one a sample.
    """
    given = labels if isinstance(labels, torch.Tensor) else np.array(labels)
    if isinstance(given, np.ndarray) and given.dtype.kind not in "biufc":
        raise DataError(f"labels must be integers, one class number per sample; they are {given.dtype}.")
    values = torch.as_tensor(given).cpu()
    if values.ndim != 1 or len(values) != count:
        raise DataError(f"labels must be one class number per sample, [{count}]; they are {list(values.shape)}.")
    if count == 0:
        raise EmptySet("the data holds no sample.")
    if values.is_floating_point() or values.is_complex():
        raise DataError(
            f"labels must be integers, not {values.dtype}: convert them, e.g. by .astype('int64'). Targets that are "
            "no classes are a column like any other."
        )
    values = values.long()
    limit = None if classes is None else len(classes)
    bad = (values < 0) | (torch.zeros_like(values, dtype=torch.bool) if limit is None else values >= limit)
    if classes is None and not bad.any():
        numbered_classes(int(values.max()) + 1)
    if bad.any():
        first = int(bad.nonzero()[0])
        known = "0 or more" if limit is None else f"0 to {limit - 1}, as there are {limit} classes"
        raise DataError(f"sample {first} has the label {int(values[first])}: labels must be {known}.")
    return values


def numbered_classes(count: int) -> tuple[str, ...]:
    """Returns names for classes that have none, "0", "1", ….

    Raises:
        DataError: if there are more than `MOST_CLASSES`.
    """
    if count > MOST_CLASSES:
        raise DataError(
            f"the largest label is {count - 1}, so there would be more than {MOST_CLASSES:,} classes: number the "
            "classes from 0, without gaps."
        )
    return tuple(str(label) for label in range(count))


def class_names(labels: Tensor, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the classes' names, which are their numbers where none are given."""
    if classes is None:
        return numbered_classes(int(labels.max()) + 1)
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in classes)


def names_in(labels: np.ndarray) -> tuple[str, ...]:
    """Returns the names that labels hold, each once, in alphabetical order; whole numbers by their value."""
    names = np.unique(labels).tolist()
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


def label_numbers(labels: np.ndarray, classes: Sequence[str], place: str) -> np.ndarray:
    """Returns labels as class numbers; strings are looked up among the class names.

    Args:
        labels: integers or strings.
        classes: the names.
        place: where the labels are, in messages.

    Raises:
        DataError: if they are neither. UnknownName: if a name is not among the classes.
    """
    if labels.dtype.kind in "iub":
        return labels
    if labels.dtype.kind not in "US":
        raise DataError(f"labels must be integers or strings; {place} holds {labels.dtype}.")
    names, places = np.unique(labels, return_inverse=True)
    numbers = {name: number for number, name in enumerate(classes)}
    for name in names.tolist():
        if name not in numbers:
            raise UnknownName(f"{place}: {unknown('class', name, classes)}")
    return np.array([numbers[name] for name in names.tolist()], np.int64)[places.reshape(labels.shape)]


def decoded_texts(texts: np.ndarray, place: str) -> np.ndarray:
    """Returns an array of bytes as one of strings; strings stay as they are.

    Raises:
        DataError: if bytes are no text in UTF-8.
    """
    try:
        return np.char.decode(texts, "utf-8") if texts.dtype.kind == "S" else texts
    except UnicodeDecodeError as error:
        raise DataError(f"{place} holds bytes that are no text in UTF-8 ({error}). Write strings.") from error


def check_ids(ids: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """Returns the samples' names.

    Raises:
        DataError: if they are not one for each sample, all different.
    """
    if ids is None:
        return None
    if len(ids) != count or len(set(ids)) != count:
        raise DataError(f"ids must be one unique name for each of the {count} samples.")
    return tuple(str(name) for name in ids)
