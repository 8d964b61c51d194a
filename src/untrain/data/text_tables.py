"""Tables in text files, CSV and JSON lines: their rows, each with the line that it begins in."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
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

    Raises:
        DataError: names the line where quotes are wrong.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: {error}. Write quotes inside a quoted text twice.") from error
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield line, row
        line = reader.line_num + 1


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
