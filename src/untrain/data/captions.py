"""Captioned images: a folder of images with a table of their captions, as `datasets` reads an image folder.

Every caption is a class, so that splits, streams and labels work on captions as on classes.
"""

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from untrain.data.decoding import IMAGE_SUFFIXES
from untrain.data.encoded import FileRows, ParquetRows, Rows
from untrain.data.parts import PARTS, Part, Request, existing_folder, names_of, part_of
from untrain.data.samples import Images, Source
from untrain.data.sections import Data
from untrain.data.tables import IMAGES, find_column, parquet_files, read_columns, read_schema
from untrain.data.text_tables import match_columns, read_records
from untrain.errors import DataError, EmptySet, SettingError
from untrain.reading import HIDDEN, LeftOut, check_all_inside, check_inside, expand, is_hidden, printable

TABLES = ("metadata.jsonl", "metadata.csv")
"""What the table in a folder of images may be called."""
CAPTIONS = ("text", "caption", "prompt")
"""What the column of captions is usually called, likeliest first."""
NAME = "file_name"
"""The column that names an image, relative to the table's folder."""


def captions(request: Request) -> Source:
    """Loads captioned images; classes are the training captions in order of first appearance, ids the files' paths.

    `path` is a folder with metadata.jsonl or metadata.csv and the images that it names, or with a folder train/ and a
    folder test/ of that kind; or one of parquet files as the hub lays them out. Images that no row names are left out,
    and that is said.

    Raises:
        DataError: names file, line and remedy. EmptySet: if a table has no row.
    """
    tables, columns = _tables(request)
    texts = {part: _texts(table, columns[part]) for part, table in tables.items()}
    classes = list(dict.fromkeys(texts["train"]))
    numbers = {text: number for number, text in enumerate(classes)}
    for i, text in enumerate(texts.get("test", ())):
        if text not in numbers:
            raise DataError(
                f"{tables['test'].place(i)}: no training image has the caption {text!r}. Add one, or remove this row."
            )

    def build(part: Part) -> Source:
        table, labels = tables[part], [numbers[text] for text in texts[part]]
        return Images(table.rows(), labels, classes, table.ids(), **request.decoding)

    return part_of(request, lambda part: part in tables, build)


def read_attributes(
    section: Data, captions: Sequence[str], names: Sequence[str], *, links: bool = False
) -> dict[str, Mapping[str, str]]:
    """Reads what the table says of every caption: caption → column → value; {} where no column is asked for.

    Args:
        section: where the captioned images are.
        captions: those that are asked about.
        names: columns of the table.
        links: whether links in the folder may lead out of it.

    Raises:
        SettingError: if the data is no captioned images.
        DataError: if a column is missing, or a caption has two values of one.
    """
    if not names:
        return {}
    if section.name != "captions" or section.path is None:
        raise SettingError(
            f"attributes are columns beside captions, and the data source {section.name!r} has none: set data.name to "
            "captions, or name no attributes."
        )
    path, given = expand(section.path), {"image_column": section.image_column}
    given["caption_column"] = section.caption_column
    asked = Request("captions", "train", path, links=links, **given)  # type: ignore[arg-type]
    tables, columns = _tables(asked)
    found: dict[str, dict[str, str]] = {}
    for part, table in tables.items():
        texts = _texts(table, columns[part])
        for name in names:
            for i, (text, value) in enumerate(zip(texts, _values(table, name), strict=True)):
                known = found.setdefault(text, {}).setdefault(name, value)
                if known != value:
                    raise DataError(
                        f"{table.place(i)}: {name} is {value!r}, and another row with the caption {text!r} has "
                        f"{known!r}. Give all images of a caption the same."
                    )
    missing = next((text for text in captions if text not in found), None)
    if missing is not None:
        raise DataError(f"{path} holds no image with the caption {missing!r}, so its {names[0]} is not known.")
    return {text: found[text] for text in captions}


def _texts(table: "CaptionTable", column: str) -> list[str]:
    """The captions of a table's rows."""
    values = table.values(column)
    for i, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            said = "is missing" if value in (None, "") else f"is {value!r}, which says nothing"
            raise DataError(f"{table.place(i)}: {column} {said}. Write the image's caption, or remove the row.")
    return values


def _values(table: "CaptionTable", column: str) -> list[str]:
    """What a column says of a table's rows; numbers are taken as they are written."""
    values = table.values(find_column(column, (), table.columns, table.name, "attributes"))
    for i, value in enumerate(values):
        if not isinstance(value, str | int | float) or not str(value).strip():
            raise DataError(f"{table.place(i)}: {column} is {value!r}. Write a text or a number there.")
    return [str(value) for value in values]


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────


class CaptionTable(Protocol):
    """The rows of one part of the data: an image each, and what is said of it."""

    @property
    def name(self) -> str:
        """What the table is called in messages."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        ...

    def values(self, column: str) -> list[Any]:
        """What every row has in a column; None: nothing."""
        ...

    def place(self, i: int) -> str:
        """Where row i stands, in messages."""
        ...

    def rows(self) -> Rows:
        """The encoded images; a DataError names one that is missing."""
        ...

    def ids(self) -> tuple[str, ...] | None:
        """A unique name of every image."""
        ...


def _tables(request: Request) -> tuple[dict[Part, CaptionTable], dict[Part, str]]:
    """The tables of the training part and, where there is one, of the test part; and their columns of captions."""
    root = existing_folder(request, f"of images with {' or '.join(TABLES)}")
    tables = _folder_tables(request, root) or _parquet_tables(request, root)
    if not tables:
        raise DataError(
            f"{root} holds no {' or '.join(TABLES)}, nor does train/ in it. Write one, with a {NAME} and a text for "
            "each image."
        )
    columns: dict[Part, str] = {}
    for part, table in tables.items():
        wanted = request.caption_column or columns.get("train")
        columns[part] = find_column(wanted, CAPTIONS, table.columns, table.name, "caption_column")
    return tables, columns


def _folder_tables(request: Request, root: Path) -> dict[Part, CaptionTable]:
    """Tables beside images: of train/ and test/, each in that folder or one for both above them; else of the folder."""
    whole = _table_in(root, root, request.links)
    found: dict[Part, tuple[Path, Path]] = {}
    for part in PARTS:
        folder = next((root / name for name in names_of(request, part) if os.path.isdir(root / name)), None)
        path = None if folder is None else _table_in(folder, root, request.links) or whole
        if folder is not None and path is not None:
            found[part] = path, folder
    if not found:
        return {} if whole is None else {"train": FileTable.read(whole, root, root, request.links)}
    if "train" not in found:
        other = found["test"][1].name
        raise DataError(f"{root} holds {other}/ and no train/: move the training images and their table there.")
    return {part: FileTable.read(path, root, folder, request.links) for part, (path, folder) in found.items()}


def _table_in(folder: Path, root: Path, links: bool) -> Path | None:
    found = [folder / name for name in TABLES if os.path.lexists(folder / name)]
    if len(found) > 1:
        raise DataError(f"{folder} holds {' and '.join(TABLES)}. Keep one.")
    if not found:
        return None
    check_inside(found[0], root, links)
    return found[0]


@dataclass(frozen=True)
class FileTable:
    """Rows of metadata.jsonl or metadata.csv.

    Attributes:
        path: the file.
        root: the folder that ids are relative to.
        lines: where each row stands.
        records: what each row says.
        files: each row's image.
        left_out: hidden images, and those that no row names.
        links: whether links may lead out of the root.
    """

    path: Path
    root: Path
    lines: tuple[int, ...]
    records: tuple[Mapping[str, Any], ...]
    files: tuple[Path, ...]
    left_out: LeftOut
    links: bool = False

    @classmethod
    def read(cls, path: Path, root: Path, folder: Path, links: bool = False) -> "FileTable":
        """Reads the rows whose images lie in a folder.

        Raises:
            DataError: names the line of a row that names no image, one outside its folder, or one twice.
            EmptySet: if there is no row.
        """
        lines: dict[Path, int] = {}
        kept, left_out = [], LeftOut(root)
        rows = list(read_records(path))
        columns = [*dict.fromkeys(name for _, record in rows for name in record)]
        column = match_columns(path, columns, {NAME: (NAME,)}, {NAME: ("filename",)}).get(NAME, NAME)
        for line, record in rows:
            name = _relative(f"{path}, line {line}", record, column)
            file = path.parent / name
            if any(map(is_hidden, name.split("/"))):
                left_out.add(HIDDEN, file)
                continue
            if file in lines:
                raise DataError(f"{path}, line {line}: line {lines[file]} names {record[column]!r} too. Remove one.")
            lines[file] = line
            if folder in file.parents:
                kept.append((line, record, file))
        if not kept:
            raise EmptySet(f"{path} names no image in {folder}: write a line for each, with a {NAME} and a text.")
        for file in _images_in(folder):
            if file not in lines:
                left_out.add("named by no row of the table", file)
        found, records, files = zip(*kept, strict=True)
        return cls(path, root, found, records, files, left_out, links)

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every column that a row has."""
        return tuple(dict.fromkeys(name for record in self.records for name in record))

    def values(self, column: str) -> list[Any]:
        """What every row has in a column."""
        return [record.get(column) for record in self.records]

    def place(self, i: int) -> str:
        """File and line."""
        return f"{self.path}, line {self.lines[i]}"

    def rows(self) -> FileRows:
        """The files, each of which must be there; what is left out is said."""
        for i, file in enumerate(self.files):
            if not os.path.isfile(file):
                why = "is not a file" if os.path.exists(file) else "does not exist"
                raise DataError(f"{self.place(i)}: {printable(file)} {why}. Restore the image, or remove the row.")
        check_all_inside(self.files, self.root, self.links)
        self.left_out.warn()
        return FileRows(self.files)

    def ids(self) -> tuple[str, ...]:
        """The images' paths in the data's folder."""
        return tuple(file.relative_to(self.root).as_posix() for file in self.files)


def _images_in(folder: Path) -> Iterator[Path]:
    """The images below a folder, but for hidden ones and those behind links to folders."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        shown = (Path(place, name) for name in sorted(names) if not is_hidden(name))
        yield from (path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES)


def _relative(place: str, record: Mapping[str, Any], column: str) -> str:
    """The path of a row's image in the table's folder."""
    name = record.get(column)
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{place}: there is no {NAME}. Name the image by its path in the table's folder.")
    path = posixpath.normpath(name)
    if PurePosixPath(path).is_absolute() or path.split("/")[0] == "..":
        raise DataError(f"{place}: {name!r} is outside the table's folder. Put the image into that folder.")
    return path


def _parquet_tables(request: Request, root: Path) -> dict[Part, CaptionTable]:
    files = {part: parquet_files(root, names_of(request, part), links=request.links) for part in PARTS}
    if not files["train"]:
        return {}
    columns = tuple(read_schema(files["train"][0]).names)
    image = find_column(request.image_column, IMAGES, columns, files["train"][0], "image_column")
    return {part: ParquetTable(part, tuple(found), image, request.links) for part, found in files.items() if found}


@dataclass(frozen=True)
class ParquetTable:
    """Rows of the parquet files of a part.

    Attributes:
        part: "train" or "test".
        files: in order.
        image: the column of images.
        links: whether links may lead out of the folder.
    """

    part: Part
    files: tuple[Path, ...]
    image: str
    links: bool = False

    @property
    def name(self) -> str:
        """The first file's path."""
        return str(self.files[0])

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The first file's columns."""
        return tuple(read_schema(self.files[0]).names)

    def values(self, column: str) -> list[Any]:
        """What every row has in a column."""
        return [value for values in read_columns(self.files, column) for value in values]

    def place(self, i: int) -> str:
        """Row and file."""
        return self.rows().name(i)

    def rows(self) -> ParquetRows:
        """The rows' images."""
        return ParquetRows(self.files, self.image, self.links)

    def ids(self) -> tuple[str, ...] | None:
        """What the files tell."""
        return self.rows().ids(self.part)
