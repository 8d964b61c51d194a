"""Records that a request names: lists that people hand over, and which samples they mean.

A list is a csv, txt, npy or json file, or the records themselves. A sample is named by its id or, where samples are
files, by a path: within the data's folder, absolute, or the end of one (a bare file name), as long as it is clear.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from untrain.data.source import Source
from untrain.errors import DataError, EmptySet, SettingError, UnknownName, spell, unknown
from untrain.io import hash_file
from untrain.lazy import np, torch
from untrain.reading import expand, parse_json, printable, read_npy, read_text

Missing = Literal["refuse", "skip"]
"""What happens to a request that names records which are not there."""

FEW = 3
"""So many names are told in messages."""


def skip_words() -> str:
    """Returns how records that are not there are skipped."""
    return spell("--forget.missing skip", 'missing="skip"')


def _column_words() -> str:
    return spell("--forget.id-column", "id_column=")


def few(names: Sequence[Any]) -> str:
    """Shows the first names of several, as messages do."""
    return ", ".join(repr(printable(str(name)[:200])) for name in names[:FEW])


def hash_id(name: object, salt: str = "") -> str:
    """Returns a hash in place of an id: SHA-256 of salt and id, 32 digits in hexadecimal.

    Whoever knows the salt can try whether an id that they can think of is the one; nobody else can.
    """
    return hashlib.sha256(f"{salt}{name}".encode(errors="surrogateescape")).hexdigest()[:32]


# ── lists ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class RecordList:
    """What a list says.

    Attributes:
        records: as they stand there.
        place: what the list is called in messages.
        spec: what a split says of it.
        columns: of a csv file with a header, its columns.
        headless: whether the first record of a csv file may be the name of a column that is not known as one.
    """

    records: list[Any]
    place: str
    spec: dict[str, Any]
    columns: tuple[str, ...] = ()
    headless: bool = False


def read_records(given: Any, kind: str, column: str | None = None) -> RecordList:
    """Reads a list of records.

    Args:
        given: a file, or the records.
        kind: "indices" or "ids".
        column: of a csv or json file that names them; None: the one that is called as records are, else the first.

    Raises:
        DataError: names the file that cannot be read; EmptySet if it lists nothing; UnknownName if there is no such
            column.
    """
    if not isinstance(given, (str, Path)):
        records = given.reshape(-1).tolist() if isinstance(given, (torch.Tensor, np.ndarray)) else list(given)
        found = RecordList(records, kind, {kind: {"given": len(records)}})
    else:
        found = _read_file(expand(given), kind, column)
    if not found.records:
        raise EmptySet(f"{found.place} lists no record: there is nothing to forget.")
    return found


def _read_file(path: Path, kind: str, column: str | None) -> RecordList:
    records, columns, headless = _parse_file(path, kind, column)
    spec = {"file": path.name, "sha256": hash_file(path), **({} if column is None else {"column": column})}
    return RecordList(records, str(path), {kind: spec}, columns, headless)


def _parse_file(path: Path, kind: str, column: str | None) -> tuple[list[Any], tuple[str, ...], bool]:
    """The records, columns where there is a header, and whether the first record may be one."""
    has_columns = path.suffix in (".csv", ".tsv", ".json")
    try:
        if path.suffix == ".npy":
            records = read_npy(path).reshape(-1).tolist()
        else:
            text = read_text(path)
            records = [] if has_columns else [line.strip() for line in text.splitlines() if line.strip()]
    except DataError as error:
        raise DataError(f"{printable(path)} cannot be read as a list of {kind}: {error}") from error
    if column is not None and not has_columns:
        raise SettingError(
            f"{_column_words()} {column!r} means nothing for {printable(path)}: only csv and json have columns."
        )
    if not has_columns:
        return records, (), False
    if path.suffix == ".json":
        return _json_records(text, path, kind, column), (), False
    return _csv_records(text, path, kind, column)


def _json_records(text: str, path: Path, kind: str, column: str | None) -> list[Any]:
    """A list of names or numbers, or of objects that have a field."""
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{printable(path)} cannot be read as a list of {kind}: {error}. Check the file.") from error
    entries = content if isinstance(content, list) else []
    if column is not None or any(isinstance(entry, dict) for entry in entries):
        known = {str(name) for entry in entries if isinstance(entry, dict) for name in entry}
        name = _find_column(sorted(known), kind, column, path)
        if name is None or not all(isinstance(entry, dict) and name in entry for entry in entries):
            raise DataError(f"{printable(path)}: not every entry has a field {column or kind!r}. Complete the list.")
        entries = [entry[name] for entry in entries]
    if not isinstance(content, list) or not all(isinstance(entry, str | int) for entry in entries):
        raise DataError(f"{printable(path)} must hold a list of names or numbers, or of objects with such a field.")
    return entries


def _csv_records(text: str, path: Path, kind: str, column: str | None) -> tuple[list[str], tuple[str, ...], bool]:
    """The cells of one column, all columns where there is a header, and whether the first cell may be one."""
    first = text.partition("\n")[0]
    sign = "," if "," in first else next((each for each in (";", "\t") if each in first), ",")
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=sign) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{printable(path)} cannot be read as a list of {kind}: {error}. Check the file.") from error
    if not rows:
        return [], (), False
    head = [cell.strip() for cell in rows[0]]
    name = _find_column(head, kind, column, path)
    place = 0 if name is None else head.index(name)
    has_header = name is not None or (kind == "indices" and not is_number(rows[0][0]))
    rows = rows[1:] if has_header else rows
    short = [row for row in rows if len(row) <= place]
    if short:
        raise DataError(
            f"{path}: the row {','.join(short[0])[:80]!r} has no column {place + 1}. Complete or remove it."
        )
    return [row[place].strip() for row in rows], tuple(head), not has_header


_COLUMNS = {"indices": ("index", "indices", "id"), "ids": ("id", "ids", "index", "file_name", "filename", "file")}
"""What the column of records is usually called, likeliest first."""


def _find_column(head: Sequence[str], kind: str, column: str | None, path: Path) -> str | None:
    """The column of records as the header spells it; None where none is called so."""
    plain = {name.strip().casefold(): name for name in reversed(head)}
    if column is None:
        return next((plain[name] for name in _COLUMNS[kind] if name in plain), None)
    if column in head:
        return column
    if column.strip().casefold() in plain:
        return plain[column.strip().casefold()]
    raise UnknownName(f"{printable(path)}: {unknown('column', column, head)} Name another by {_column_words()}.")


# ── positions ───────────────────────────────────────────────────────────────────────────────────────────────────


def is_number(text: str) -> bool:
    """Returns whether a text is a whole number."""
    return re.fullmatch(r"[+-]?\d{1,18}", text.strip()) is not None


def read_index(record: Any, place: str, count: int) -> int:
    """Returns a record as the number of one of so many samples.

    Raises:
        DataError: if it is none.
    """
    whole = isinstance(record, (int, np.integer)) and not isinstance(record, bool)
    if not whole and not (isinstance(record, str) and is_number(record)):
        said = record[:80] if isinstance(record, str) else record
        raise DataError(f"{place}: {said!r} is not an index, a whole number from 0. Correct it.")
    if not 0 <= int(record) < count:
        raise DataError(f"{place}: index {record} is out of range, which is 0 to {count - 1}.")
    return int(record)


class Names:
    """Names of samples, found by whatever of the ways to spell them a list uses.

    Args:
        names: ids, each once.
        root: the folder that ids which are paths lie in; None: they are none.
    """

    def __init__(self, names: Iterable[str], root: str | Path | None = None) -> None:
        self.places = {name: place for place, name in enumerate(names)}
        self.root = None if root is None else expand(root)

    def find(self, record: object) -> int | None:
        """Returns the place of the sample that a record names; None where there is none.

        Raises:
            DataError: if it could be one of several.
        """
        text = str(record)
        if text in self.places:
            return self.places[text]
        spelled = _plain(text)
        if spelled in self._plain:
            return self._plain[spelled]
        inside = self._inside(text)
        if inside is not None and inside in self._plain:
            return self._plain[inside]
        if os.path.isabs(text) or not spelled:
            return None
        ends = [p for p in self._by_last.get(spelled.rpartition("/")[2], ()) if self._ends(p, spelled)]
        if len(ends) > 1:
            told = few([self._names[place] for place in ends])
            raise DataError(f"{printable(text)!r} could be any of {len(ends)} samples ({told}): give more of its path.")
        return ends[0] if ends else None

    def _ends(self, place: int, spelled: str) -> bool:
        return f"/{_plain(self._names[place])}".endswith(f"/{spelled}")

    def _inside(self, text: str) -> str | None:
        """A path as it is within the root; None where it is outside, or there is no root."""
        if self.root is None or "\0" in text:
            return None
        path = expand(text)
        real = path.parent.resolve() / path.name
        for root, full in (
            (Path(os.path.abspath(self.root)), Path(os.path.abspath(path))),
            (self.root.resolve(), real),
        ):
            if full.is_relative_to(root):
                return _plain(full.relative_to(root).as_posix())
        return None

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.places)

    @cached_property
    def _plain(self) -> dict[str, int]:
        return {_plain(name): place for name, place in self.places.items()}

    @cached_property
    def _by_last(self) -> dict[str, list[int]]:
        found = defaultdict(list)
        for name, place in self.places.items():
            found[_plain(name).rpartition("/")[2]].append(place)
        return found


def _plain(name: str) -> str:
    """A path without ./ and backslashes, its letters composed (file systems of macOS take them apart)."""
    return str(PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))) if name else ""


@dataclass(frozen=True)
class Found:
    """Which samples a list means.

    Attributes:
        positions: in the order of the list.
        place: what the list is called in messages.
        spec: what a split says of the list.
        skipped: why → records that were left out for it.
    """

    positions: list[int]
    place: str
    spec: dict[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """How records are named, and what happens to those that are not there.

    Attributes:
        column: of the list that names them; None: found.
        missing: "refuse", or "skip" them.
        root: folder that samples which are files lie in.
        elsewhere: what else is known of names: why they cannot be forgotten → whether a name is one of these.
        empty: whether nothing may be left of a list whose missing records are skipped, if each of them is known.
    """

    column: str | None = None
    missing: Missing = "refuse"
    root: str | Path | None = None
    elsewhere: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    empty: bool = False


UNKNOWN = "unknown"


def find_records(source: Source, kind: str, given: Any, request: Request) -> Found:
    """Finds the samples that a list of indices or ids names.

    Raises:
        DataError: if a record is unreadable or unclear; EmptySet if none of them is there any more.
        SettingError: if samples have no ids. UnknownName: if ids are not known.
    """
    if kind == "ids" and source.ids is None:
        raise SettingError("this data source has no ids: say what to forget by indices instead.")
    listed = read_records(given, kind, request.column)
    if kind == "indices" or source.ids is None:
        return Found(
            [read_index(record, listed.place, len(source)) for record in listed.records], listed.place, listed.spec
        )
    names, records = Names(source.ids, request.root), listed.records
    try:
        places = [names.find(record) for record in records]
    except DataError as error:
        raise DataError(f"{listed.place}: {error}") from error
    if listed.headless and places[0] is None and any(place is not None for place in places):
        warnings.warn(f"{listed.place}: {few(records[:1])} is taken for the header of its column.", stacklevel=2)
        places, records = places[1:], records[1:]
    strange = [str(record) for record, place in zip(records, places, strict=True) if place is None]
    if not strange:
        return Found([place for place in places if place is not None], listed.place, listed.spec)
    reasons = _sort_by_reason(strange, request.elsewhere)
    none, skips = len(strange) == len(records), request.missing == "skip"
    if none and UNKNOWN not in reasons and not (skips and request.empty):
        raise EmptySet(nothing_left(listed.place, reasons, request.empty))
    if not skips or (none and UNKNOWN in reasons):
        raise UnknownName(_refusal(listed, strange, reasons, source.ids[0]))
    warnings.warn(f"{listed.place}: {len(strange)} records are skipped: {_told(reasons)}.", stacklevel=2)
    return Found([place for place in places if place is not None], listed.place, listed.spec, reasons)


def nothing_left(place: str, reasons: Mapping[str, Sequence[str]], can_go_on: bool) -> str:
    """Says that no record of a list is there to be forgotten, and what can still be done."""
    remains = (
        " The model can still be trained on what remains, by a method that looks at the retain set alone: "
        f"{skip_words()}."
    )
    return (
        f"{place}: nothing of this request is in the training data any more: {_told(reasons)}. Restore files to have "
        f"them forgotten.{remains if can_go_on else ''}"
    )


def _sort_by_reason(names: Sequence[str], elsewhere: Mapping[str, Callable[[str], bool]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[next((reason for reason, holds in elsewhere.items() if holds(name)), UNKNOWN)].append(name)
    return dict(found)


def _told(reasons: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{len(names)} {reason} (first: {few(names)})" for reason, names in reasons.items())


def _refusal(listed: RecordList, strange: Sequence[str], reasons: Mapping[str, Sequence[str]], example: str) -> str:
    columns = f" Its columns: {', '.join(listed.columns)}; choose one by {_column_words()}." * (
        len(listed.columns) > 1 and len(strange) == len(listed.records)
    )
    told = "" if [*reasons] == [UNKNOWN] else f": {_told(reasons)}"
    return (
        f"{listed.place}: {len(strange)} unknown ids (first: {few(strange)}){told}. The data's ids look like "
        f"{example!r}.{columns} Correct the list, or leave out what is not there: {skip_words()}."
    )
