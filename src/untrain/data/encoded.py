"""Encoded images: their bytes in files, parquet tables and tables of the hub."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Protocol

from untrain.errors import DataError
from untrain.io import hash_file, hash_json
from untrain.reading import (
    DAMAGED,
    IMAGE_LIMIT,
    check_inside,
    check_regular,
    check_unpacked,
    printable,
    read_bytes,
    reason_of,
)

IN_MEMORY_BYTES = 2 << 30
"""Sets whose decoded images take at most this much are decoded once and kept in memory."""

DECODED_FIRST = 10_000
"""Files of such a set that are all decoded before anything else, a second's work where they are small; of more, each
is decoded when it is needed first."""

KEPT_BYTES = 128 << 20
"""Row groups of parquet that were read last are kept up to this size, encoded."""


class Rows(Protocol):
    """Encoded images, by number."""

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The files' bytes; a DataError names one that cannot be read."""
        ...

    def name(self, i: int) -> str:
        """What image i is called in messages."""
        ...

    def fingerprint(self) -> str:
        """A hash of the content."""
        ...


@dataclass(frozen=True)
class FileRows:
    """Images in files of their own.

    Attributes:
        paths: the files.
        digests: number of a file → SHA-256 of its bytes, of those that `look` has read.
    """

    paths: tuple[Path, ...]
    digests: dict[int, str] = field(default_factory=dict, repr=False, compare=False)

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The files' bytes."""
        return [read_bytes(self.paths[i], IMAGE_LIMIT) for i in indices]

    def size(self, indices: Sequence[int]) -> int:
        """Counts the bytes of some of the files."""
        return sum(check_regular(self.paths[i]) for i in indices)

    def look(self, i: int) -> bytes:
        """The file's bytes, whose hash is kept."""
        data = read_bytes(self.paths[i], IMAGE_LIMIT)
        self.digests[i] = hashlib.sha256(data).hexdigest()
        return data

    def digest(self, i: int) -> str:
        """SHA-256 of the file's bytes, in hexadecimal; read now unless it was before."""
        return self.digests.get(i) or hash_file(self.paths[i])

    def name(self, i: int) -> str:
        """The file's path."""
        return printable(self.paths[i])

    def fingerprint(self) -> str:
        """A hash of the files' content; of names and sizes where they take more than `IN_MEMORY_BYTES`."""
        return hash_files(self.paths, named=True, digest=self.digest)


class ParquetRows:
    """Images in a column of parquet files: bytes, or a struct of bytes and path.

    Rows are read by row group, of those that are asked for together each once; the last groups are kept, as neighbours
    are often read one after another.
    """

    def __init__(self, files: tuple[Path, ...], column: str, links: bool = False) -> None:
        self.files = files
        self.column = column
        self.links = links
        self.groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for file in files:
            with open_parquet(file) as table:
                groups = range(table.metadata.num_row_groups)
                sizes += [table.metadata.row_group(group).num_rows for group in groups]
            self.groups += [(file, group) for group in groups]
        self.starts = [0, *accumulate(sizes)]
        self._firsts = {file: start for start, (file, group) in zip(self.starts, self.groups) if group == 0}
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._kept_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process needs: not the rows that this one has read."""
        return {**self.__dict__, "_kept": OrderedDict(), "_kept_bytes": 0}

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The images' bytes."""
        found: dict[int, bytes] = {}
        for file, rows in groupby(sorted({*indices}), lambda i: self.groups[self._group_of(i)][0]):
            for i, value in self._cells(file, list(rows)):
                found[i] = row_bytes(value, self.name(i), file.parent, self.links)
        return [found[i] for i in indices]

    def _cells(self, file: Path, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Rows of one file, in order, and what they hold."""
        groups = {number: list(own) for number, own in groupby(rows, self._group_of)}
        known = all(number in self._kept for number in groups)
        with nullcontext() if known else open_parquet(file) as table:
            for number, own in groups.items():
                values = self._group(number, table)
                for i in own:
                    yield i, values[i - self.starts[number]].as_py()

    def _group_of(self, i: int) -> int:
        return bisect_right(self.starts, i) - 1

    def _group(self, number: int, table: Any) -> Any:
        """The column of a row group, kept or read from its file."""
        import pyarrow

        if number not in self._kept:
            file, group = self.groups[number]
            rows, size, parts = self.starts[number + 1] - self.starts[number], 0, []
            for batch in table.iter_batches(256, row_groups=[group], columns=[self.column]):
                size += batch.nbytes  # more than the file tells of, where it stores equal images once
                check_unpacked(file, size, check_regular(file))
                parts.append(batch.column(0))
            if sum(map(len, parts)) != rows:
                raise ValueError(f"row group {group} holds {sum(map(len, parts))} rows instead of {rows}")
            self._kept[number] = pyarrow.chunked_array(parts)
            self._kept_bytes += self._kept[number].nbytes
            while len(self._kept) > 1 and self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept.move_to_end(number)
        return self._kept[number]

    def ids(self, part: str) -> tuple[str, ...] | None:
        """A column called `id`, or PART/PATH of the images, where every row has one and none comes twice."""
        for column, prefix in (("id", ""), (f"{self.column}.path", f"{part}/")):
            values = [value for file in self.files for value in _ids_in(file, column)]
            if all(isinstance(value, str | int) for value in values) and len({*values}) == len(values):
                return tuple(f"{prefix}{value}" for value in values)
        return None

    def name(self, i: int) -> str:
        """The file and the row in it."""
        file, _ = self.groups[self._group_of(i)]
        return f"row {i - self._firsts[file]} of {printable(file)}"

    def fingerprint(self) -> str:
        """A hash of the files' content; of names and sizes where they take more than `IN_MEMORY_BYTES`."""
        return hash_json([hash_files(self.files, named=False), self.column])


class HubRows:
    """Images in a column of a Hugging Face data set."""

    def __init__(self, table: Any, column: str, place: str) -> None:
        import datasets

        self.table = table.cast_column(column, datasets.Image(decode=False)).select_columns([column])
        self.column = column
        self.place = place

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The images' bytes."""
        values = self.table[list(indices)][self.column]
        return [row_bytes(value, self.name(i), None) for i, value in zip(indices, values, strict=True)]

    def name(self, i: int) -> str:
        """The set and the row in it."""
        return f"row {i} of {self.place}"

    def fingerprint(self) -> str:
        """The library's own fingerprint of the table."""
        return hash_json([self.table._fingerprint, self.column])


def _ids_in(file: Path, column: str) -> list[Any]:
    """What the rows have in a column, or in a field of one; [None] where there is no such thing."""
    with open_parquet(file) as opened:
        table = opened.read(columns=[column])
        plain = table.flatten() if table.num_columns == 1 else table
        return list(plain.column(0).to_pylist()) if plain.num_columns == 1 else [None]


@contextmanager
def open_parquet(file: Path, shared: Sequence[str] = ()) -> Iterator[Any]:
    """Opens a parquet file of a believable size, as pyarrow's ParquetFile; what goes wrong within is told of the file.

    Args:
        file: its path.
        shared: columns of texts that may come often, each of which is read once.

    Raises:
        DataError: if it is no regular file, damaged, or tells of far more than it can hold.
    """
    import pyarrow
    import pyarrow.parquet

    size = check_regular(file)
    try:
        with pyarrow.parquet.ParquetFile(file, read_dictionary=list(shared)) as opened:
            told = opened.metadata
            groups = [told.row_group(i) for i in range(told.num_row_groups)]
            if told.num_rows > max(MANY_ROWS, size) or sum(group.num_rows for group in groups) != told.num_rows:
                raise ValueError(f"it tells of {told.num_rows} rows in {size} bytes")
            check_unpacked(file, sum(group.total_byte_size for group in groups), size)
            yield opened
    except (pyarrow.ArrowException, *DAMAGED) as error:
        raise DataError(
            f"{printable(file)} cannot be read as parquet: {reason_of(error)}. Get the file again."
        ) from error


MANY_ROWS = 1 << 20
"""Rows that a parquet file may tell of; beyond them it needs a byte for each, and any image takes far more."""


def row_bytes(value: Any, name: str, folder: Path | None, links: bool = False) -> bytes:
    """Returns the encoded image in a cell of a table: its bytes, or a mapping with "bytes" or "path".

    Args:
        value: the cell.
        name: of the image, in messages.
        folder: that paths lie in; None: they are whole.
        links: whether links may lead out of it.

    Raises:
        DataError: if there is none, or its file cannot be read.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return value["bytes"]
    if isinstance(value, dict) and isinstance(value.get("path"), str) and value["path"]:
        if folder is None:  # the library has resolved it
            return read_bytes(Path(value["path"]), IMAGE_LIMIT)
        check_inside(folder / value["path"], folder, links)
        return read_bytes(folder / value["path"], IMAGE_LIMIT)
    raise DataError(f"{name} holds no image: expected bytes, or a struct of bytes and path. Remove the row.")


def hash_files(paths: Sequence[Path], *, named: bool, digest: Callable[[int], str] | None = None) -> str:
    """A hash of files' names and content; of names and sizes where they take more than `IN_MEMORY_BYTES`.

    Args:
        paths: the files.
        named: whether the folder that a file lies in belongs to its name.
        digest: SHA-256 of a file's content by its number; None reads the file.
    """
    sizes = [check_regular(path) for path in paths]
    names = [f"{path.parent.name}/{path.name}" if named else path.name for path in paths]
    if sum(sizes) > IN_MEMORY_BYTES:
        return hash_json([names, sizes])
    digest = digest or (lambda i: hash_file(paths[i]))
    return hash_json([names, [digest(i) for i in range(len(paths))]])
