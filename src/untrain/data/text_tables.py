"""Tables in text files, CSV and JSON lines: their rows, each with the line that it begins in, and what columns mean."""

import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from untrain.errors import DataError
from untrain.reading import parse_json, read_text


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads the rows of a .jsonl or .csv file in UTF-8 as column → value; blank lines are left out.

    Values of a CSV file are texts; where a row ends early there are fewer.

    Raises:
        DataError: names the file, the line and what is wrong there.
    """
    text = read_text(path)
    return _json_records(path, text) if path.suffix == ".jsonl" else _csv_records(path, text)


def csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Splits a CSV file's text into rows, each with the line that it begins in; blank ones are left out.

    Where the first row ends in a backslash, as in tables that were copied from a program's text, it is taken off the
    end of every row, and that is said.

    Raises:
        DataError: names the line where quotes are wrong.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line, continued = 1, None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: {error}. Write quotes inside a quoted text twice.") from error
        if row is None:
            return
        if any(cell.strip() for cell in row):
            if continued is None:
                continued = row[-1].rstrip().endswith("\\")
                if continued:
                    warnings.warn(f"{path}: the lines end in backslashes, which are left out.", stacklevel=2)
            if continued:
                row[-1] = row[-1].rstrip().rstrip("\\")
            yield line, row
        line = reader.line_num + 1


MOST_UNREAD = 200
"""Columns that are compared with the known names: nobody's table of prompts or captions has more."""


def plain_name(name: str) -> str:
    """Returns a column's name as it is compared: small letters, words joined by _, no quotes and backslashes."""
    shown = name.strip("\ufeff\u200b \t\r\n\xa0\\\"'")
    return re.sub(r"[\s-]+", "_", shown).casefold()


def match_columns(
    place: object,
    present: Sequence[str],
    known: Mapping[str, Sequence[str]],
    others: Mapping[str, Sequence[str]] | None = None,
    *,
    words: Collection[str] = (),
) -> dict[str, str]:
    """Finds the columns that a table is read by; warns of each that is taken for one, or could have been meant as one.

    Args:
        place: the table, in messages.
        present: its columns.
        known: field → what its column may be called, likeliest first.
        others: field → names that other programs use; they are taken, and that is said.
        words: last words of names that look like one of the fields: a column so called is not left out in silence.

    Returns:
        Field → column, as the table spells it, for the fields that have one.

    Raises:
        DataError: if two columns are called the same, or are both close to a name that no column has.
    """
    names = {field: (*usual, *(others or {}).get(field, ())) for field, usual in known.items()}
    close: dict[str, list[str]] = {}
    for column in present:
        close.setdefault(plain_name(column), []).append(column)
    looked_for = {field: _column(place, close, called) for field, called in names.items()}
    found = {field: column for field, column in looked_for.items() if column is not None}
    for field, column in found.items():
        if column not in known[field]:
            warnings.warn(f"{place}: the column {column!r} is read as {known[field][0]}.", stacklevel=2)
    unread = [column for column in present if column not in found.values()]
    for column in unread[:MOST_UNREAD]:
        _warn_of_unread(place, column, names, found, words)
    return found


def _column(place: object, close: Mapping[str, Sequence[str]], names: Sequence[str]) -> str | None:
    """The column with the first of these names that is there as it is; else the one that comes close to one."""
    for exact in (True, False):
        for name in names:
            columns = close.get(plain_name(name), ())
            called = [column for column in columns if column == name or not exact]
            if len(called) > 1:
                raise DataError(f"{place}: {len(called)} columns are called {name[:80]}. Keep one.")
            if called:
                return called[0]
    return None


def _warn_of_unread(
    place: object,
    column: str,
    names: Mapping[str, Sequence[str]],
    found: Mapping[str, str],
    words: Collection[str],
) -> None:
    """Warns of a column that is not read, if it looks like one that would be."""
    plain = plain_name(column)[:80]
    fields = {plain_name(name): field for field, called in names.items() for name in called}
    close = get_close_matches(plain, fields, 1, 0.85)
    if close:
        instead = found.get(fields[close[0]])
        said = f"did you mean {close[0]}?" if instead is None else f"{instead!r} is."
    elif plain.rpartition("_")[2] in words:
        said = f"read are {', '.join(fields)}."
    else:
        return
    warnings.warn(f"{place}: the column {column[:80]!r} is not read: {said}", stacklevel=3)


def check_cells(place: str, row: list[str], columns: int) -> None:
    """Checks that no text stands beyond the last column.

    Raises:
        DataError: quotes what does.
    """
    beyond = [cell for cell in row[columns:] if cell.strip()]
    if beyond:
        raise DataError(
            f"{place}: there are {len(row)} cells for {columns} columns, the last is {beyond[-1][:80]!r}. Put a text "
            "with commas into double quotes."
        )


def _csv_records(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv_rows(path, text)
    line, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    for name, count in Counter(filter(None, names)).items():
        if count > 1:
            raise DataError(f"{path}, line {line}: {count} columns are called {name[:80]}. Keep one.")
    for line, row in rows:
        check_cells(f"{path}, line {line}", row, len(names))
        yield line, {name: cell for name, cell in zip(names, row) if name}


def _json_records(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in enumerate(io.StringIO(text), 1):  # not splitlines, which also cuts at what JSON allows in a text
        if not row.strip():
            continue
        try:
            record = parse_json(row)
        except ValueError as error:
            raise DataError(f"{path}, line {line}: this is not JSON ({error}). Write one object a line.") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {line}: this is no JSON object, such as {{...}}. Write one a line.")
        yield line, record
