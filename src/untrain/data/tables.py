"""Tables of images as the Hugging Face hub lays them out: local parquet files, and sets of the hub itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from untrain.data.columns import label_numbers, names_in, numbered_classes
from untrain.data.encoded import HubRows, ParquetRows, open_parquet
from untrain.data.parts import PARTS, Part, Request, existing_folder, names_of, part_of
from untrain.data.samples import Images, Source
from untrain.data.text_tables import match_columns
from untrain.errors import DataError, SettingError, spell
from untrain.lazy import np
from untrain.reading import check_all_inside, check_unpacked, is_hidden, parse_json

IMAGES = ("image", "img")
"""What the column of images is usually called."""
_LABELS = ("label", "labels", "fine_label")


def parquet(request: Request) -> Source:
    """Parquet files in the layout of the hub: {part}-*.parquet in `path` or one folder below."""
    root = existing_folder(request, "of train-*.parquet and test-*.parquet")
    files = {part: parquet_files(root, names_of(request, part), links=request.links) for part in PARTS}
    if not files["train"]:
        raise DataError(f"{root} holds no train-*.parquet, nor do data/ or another folder in it. Check the path.")
    image, label, names = _columns(files["train"][0], request)
    labels = {part: _label_values(found, label) for part, found in files.items() if found}
    classes = _label_names(labels, names)

    def build(part: Part) -> Source:
        rows = ParquetRows(tuple(files[part]), image, request.links)
        numbers = label_numbers(labels[part], classes, f"column {label!r}")
        return Images(rows, numbers, classes, rows.ids(part), **request.decoding)

    return part_of(request, lambda part: bool(files[part]), build)


def parquet_files(root: Path, names: Sequence[str], *, links: bool = False) -> list[Path]:
    """Finds the files of a part by what it may be called, in the folder or one below; [] where there are none.

    Args:
        root: the folder.
        names: of the part, likeliest first.
        links: whether links may lead out of the folder.

    Raises:
        DataError: if they lie in several folders, or a link leads out.
    """
    for name in names:
        for pattern in (f"{name}-*.parquet", f"{name}.parquet", f"data/{name}-*.parquet", f"*/{name}-*.parquet"):
            found = sorted(path for path in root.glob(pattern) if not _is_hidden_in(path, root))
            folders = sorted({str(path.parent) for path in found})
            if len(folders) > 1:
                raise DataError(f"{root} holds several sets: point path at one of {', '.join(folders)}.")
            if found:
                check_all_inside(found, root, links)
                return found
    return []


def _is_hidden_in(path: Path, root: Path) -> bool:
    return any(map(is_hidden, path.relative_to(root).parts))


def _columns(file: Path, request: Request) -> tuple[str, str, list[str] | None]:
    """The names of the image and the label column, and the class names that the file tells."""
    schema = read_schema(file)
    image = find_column(request.image_column, IMAGES, schema.names, file, "image_column")
    label = find_column(request.label_column, _LABELS, schema.names, file, "label_column")
    try:
        features = parse_json((schema.metadata or {}).get(b"huggingface", b"{}").decode())["info"]["features"]
        names = features[label].get("names")
    except (LookupError, ValueError, AttributeError, TypeError):  # not written by the datasets library
        names = None
    plain = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return image, label, names if plain else None  # without names, labels name themselves


def read_schema(file: Path) -> Any:
    """Reads the columns of a parquet file, without its rows.

    Raises:
        DataError: if it cannot be read.
    """
    with open_parquet(file) as opened:
        schema = opened.schema_arrow
        for name in schema.names:
            name.encode()
        return schema


def find_column(given: str | None, usual: Sequence[str], present: Sequence[str], table: object, setting: str) -> str:
    """Finds a column by its given name, else by its usual ones; see `match_columns` for what comes close.

    Args:
        given: by the user; None: not.
        usual: names, likeliest first.
        present: the table's columns.
        table: what the table is called in messages.
        setting: what the user can give.

    Raises:
        DataError: lists the table's columns.
    """
    wanted = usual if given is None else (given,)
    found = match_columns(table, present, {setting: wanted}).get(setting)
    if found is not None:
        return found
    raise DataError(
        f"{table} has no column {' or '.join(map(repr, wanted))}: give {setting}, one of {', '.join(present)}."
    )


def _label_values(files: Sequence[Path], column: str) -> np.ndarray:
    """The label column of parquet files, of integers or strings, [N]."""
    parts = []
    for file, values in zip(files, read_columns(files, column), strict=True):
        if None in values:
            raise DataError(f"{file} has {values.count(None)} rows without a {column!r}. Remove them.")
        strange = next((value for value in values if not isinstance(value, int | str)), None)
        if strange is not None or len({isinstance(value, str) for value in values}) > 1:
            raise DataError(f"labels must be integers or strings; column {column!r} of {file} holds others.")
        try:
            parts.append(np.asarray(values) if values else np.empty(0, np.int64))
        except OverflowError:
            raise DataError(f"a label in column {column!r} of {file} is larger than 64 bits. Number classes.") from None
    return np.concatenate(parts)


def read_columns(files: Sequence[Path], column: str) -> Iterator[list[Any]]:
    """Reads a column of each of these parquet files, a list of values a file.

    Raises:
        DataError: names the file that cannot be read, or lacks the column.
    """
    for file in files:
        with open_parquet(file, [column]) as opened:
            if column not in opened.schema_arrow.names:
                raise DataError(f"{file} has no column {column!r}, and other files of the set do. Get the file again.")
            values, size = [], 0
            for batch in opened.iter_batches(4096, columns=[column]):
                size += batch.nbytes  # more than the file tells of, where it stores equal values once
                check_unpacked(file, size, os.stat(file).st_size)
                values += _listed(batch.column(0))
            if len(values) != opened.metadata.num_rows:
                raise ValueError(f"it holds {len(values)} rows instead of {opened.metadata.num_rows}")
        yield values


def _listed(values: Any) -> list[Any]:
    """An array of pyarrow as a list, in which equal texts are one object."""
    import pyarrow

    if not isinstance(values, pyarrow.DictionaryArray):
        return list(values.to_pylist())
    known = values.dictionary.to_pylist()
    return [None if i is None else known[i] for i in values.indices.to_pylist()]


def _label_names(labels: Mapping[Part, np.ndarray], names: Sequence[str] | None) -> tuple[str, ...]:
    """Class names: those that the table tells; else the strings of the training part; else numbers."""
    if names is not None:
        return tuple(names)
    if "train" not in labels:
        raise DataError(
            "the table does not name its classes: load it as hub:OWNER/NAME, or give "
            f"{spell('--data.path, a folder', 'path=, a folder')} of the set's files."
        )
    if labels["train"].dtype.kind in "US":
        return names_in(labels["train"])
    if not all(values.dtype.kind in "iub" for values in labels.values()):
        raise DataError("labels must be integers or strings, in training and test part the same.")
    return numbered_classes(max(int(values.max(initial=0)) + 1 for values in labels.values()))


@dataclass(frozen=True)
class HubSet:
    """Where a well-known set lies on the hub; its columns have usual names.

    Attributes:
        id: owner and name.
        config: which of its configurations.
        test: what its labelled test part is called.
    """

    id: str
    config: str | None = None
    test: str = "test"


HUB_SETS = {
    "cifar10": HubSet("uoft-cs/cifar10"),
    "cifar100": HubSet("uoft-cs/cifar100"),
    "svhn": HubSet("ufldl-stanford/svhn", "cropped_digits"),
    "stl10": HubSet("tanganke/stl10"),
    "tiny-imagenet": HubSet("zh-plus/tiny-imagenet", test="valid"),
    "imagenet-1k": HubSet("ILSVRC/imagenet-1k", test="validation"),
}


def known_hub_set(request: Request) -> Source:
    """A well-known set, from the hub or from parquet files in the same layout."""
    known = HUB_SETS[request.name]
    request = replace(request, config=request.config or known.config, test_name=known.test)
    if request.path is not None:
        folder = request.path / (request.config or "")
        return parquet(replace(request, path=folder if os.path.isdir(folder) else request.path))
    return hub(replace(request, name=known.id), {"train": "train", "test": known.test})


def hub(request: Request, parts: Mapping[Part, str] | None = None) -> Source:
    """An image classification set of the Hugging Face hub, read by the `datasets` library."""
    if not request.name:
        raise SettingError("hub needs the set's name: write hub:OWNER/NAME.")
    tables = _hub_tables(request, parts)
    some = next(iter(tables.values()))
    place = f"hub:{request.name}"
    image = find_column(request.image_column, IMAGES, some.column_names, place, "image_column")
    label = find_column(request.label_column, _LABELS, some.column_names, place, "label_column")
    labels = {part: np.asarray(table.with_format(None)[label][:]) for part, table in tables.items()}
    classes = _label_names(labels, getattr(some.features[label], "names", None))

    def build(part: Part) -> Source:
        rows = HubRows(tables[part], image, f"{place} ({part})")
        numbers = label_numbers(labels[part], classes, f"column {label!r}")
        return Images(rows, numbers, classes, **request.decoding)

    if parts is not None:
        return build(request.part)
    return part_of(request, lambda part: part in tables, build)


def _hub_tables(request: Request, parts: Mapping[Part, str] | None) -> dict[Part, Any]:
    """The library's tables by part: the one asked for where their names are known, else all that there are."""
    if parts is not None:
        return {request.part: _from_hub(request, parts[request.part])}
    whole = _from_hub(request, None)
    found = {part: [name for name in names_of(request, part) if name in whole] for part in PARTS}
    if not found["train"]:
        raise DataError(f"hub:{request.name} has no part called train; it has {', '.join(map(str, whole))}.")
    return {part: whole[names[0]] for part, names in found.items() if names}


def _from_hub(request: Request, split: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SettingError("sets of the hub need the datasets library: pip install 'untrain[vision]'.") from error
    try:
        return datasets.load_dataset(request.name, request.config, split=split, trust_remote_code=False)
    except Exception as error:  # the library raises what its HTTP client of the day raises; the cause is passed on
        raise DataError(
            f"hub:{request.name} could not be loaded: {type(error).__name__}: {error} If there is no network or no "
            f"access, give {spell('--data.path', 'path=')}, a folder that holds the set's parquet files."
        ) from error
