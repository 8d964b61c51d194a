"""What to forget, what to keep, what never to train on: choosing it, storing it, and proving that the parts are apart.

The held-out part is chosen first, by the seed alone, so that all requests made of one data set with one seed share
it. A *training set* is then everything else, and the forget set is taken from it.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data import Subset as TorchSubset

from untrain.data.sameness import names_of
from untrain.data.source import Source
from untrain.engine import generator_of
from untrain.errors import DataError, EmptySet, Overlap, SettingError, StaleFile, UnknownName, unknown
from untrain.io import hash_file, hash_json
from untrain.reading import DAMAGED, expand, printable, read_npy, read_text
from untrain.sealed import read_sealed, write_sealed
from untrain.types import Batch

Records = str | Path | Sequence[Any] | Tensor | np.ndarray
"""A file (csv, txt, npy) that lists records, or the records themselves."""


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into the source of training data; disjoint, ascending, int64.

    Attributes:
        forget: what is to be forgotten, [F].
        retain: what is to be kept, [R]; forget and retain together are what the original model was trained on.
        holdout: never trained on, [H]; may be empty.
        kind: "classes", "fraction", "indices" or "ids".
        spec: how the split was asked for; it holds no id of a record, only a hash of the file that listed them.
        data_hash: the source's fingerprint.
        earlier: what requests before this one forgot, [E]; in none of the other parts. See `further_split`.
    """

    forget: Tensor
    retain: Tensor
    holdout: Tensor
    kind: str
    spec: dict[str, Any] = field(default_factory=dict)
    data_hash: str = ""
    earlier: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def asked(self) -> Tensor:
        """All that was asked to be forgotten so far, this request's part included, [E + F], ascending."""
        return torch.cat([self.earlier, self.forget]).sort().values

    @property
    def hash(self) -> str:
        """A hash of the indices and the data they point into."""
        earlier = [self.earlier.tolist()] if len(self.earlier) else []
        return hash_json([self.data_hash, *(getattr(self, part).tolist() for part in _PARTS), *earlier])

    def to_json(self) -> dict[str, Any]:
        """Returns the split as JSON, with its hash."""
        return {
            "kind": self.kind,
            "spec": self.spec,
            "data_hash": self.data_hash,
            "hash": self.hash,
            **{part: getattr(self, part).tolist() for part in _PARTS},
            **({"earlier": self.earlier.tolist()} if len(self.earlier) else {}),
        }

    def save(self, path: str | Path) -> None:
        """Writes the split as JSON, whole or not at all."""
        write_sealed(Path(path), self.to_json(), compact=True)

    @classmethod
    def load(cls, path: str | Path, source: Source) -> "Split":
        """Reads a split that was made of this source.

        Raises:
            DataError: if the file is missing or is not a split.
            StaleFile: if it was changed since, or made of other data.
        """
        content = read_sealed(Path(path), "Make the split again.", "a split", DataError)
        if content is None:
            raise DataError(f"{printable(path)} cannot be read as a split: there is no such file. Check the path.")
        try:
            if content.get("kind") == SETS:
                return cls._of_sets(content, path, source)
            parts = {part: torch.tensor(content[part], dtype=torch.int64) for part in _PARTS}
            parts["earlier"] = torch.tensor(content.get("earlier", []), dtype=torch.int64)
            split = cls(**parts, kind=content["kind"], spec=content["spec"], data_hash=content["data_hash"])
            stored = content["hash"]
        except DAMAGED as error:
            raise DataError(f"{printable(path)} cannot be read as a split: {error!r}. Make the split again.") from error
        if stored != split.hash:
            raise StaleFile(f"{path} was changed after it was written. Make the split again.")
        if split.data_hash != source.fingerprint():
            raise StaleFile(f"{path} was made of other data than what is loaded. Make the split again for this data.")
        split._check_content(path, len(source))
        return split

    def _check_content(self, path: str | Path, count: int) -> None:
        """Checks what a hash does not tell, which anyone can compute: positions within the source, a spec of fields."""
        parts = [*(getattr(self, part) for part in _PARTS), self.earlier]
        flat = all(part.ndim == 1 for part in parts)
        places = torch.cat(parts) if flat else torch.empty(0, dtype=torch.int64)
        inside = not len(places) or 0 <= int(places.min()) <= int(places.max()) < count
        if not (flat and inside and len(places.unique()) == len(places) and isinstance(self.spec, dict)):
            raise DataError(
                f"{path} is no split of {count} samples: its parts must be lists of different positions from 0 to "
                f"{count - 1}. Make the split again."
            )

    @classmethod
    def _of_sets(cls, content: Mapping[str, Any], path: str | Path, source: Source) -> "Split":
        """The split of sets that were given in Python, found again by the hashes of their ids."""
        keys = content.get("keys")
        if keys is None:
            raise DataError(
                f"{path} is of a run made in Python whose samples had no ids, so they cannot be found in other data. "
                "Give the data set an attribute ids, one entry a sample."
            )
        if source.ids is None:
            raise DataError(f"{path} names samples by their ids, and this data source has none.")
        places = {_key(name): place for place, name in enumerate(source.ids)}
        strange = sum(key not in places for part in _PARTS for key in keys[part])
        if strange:
            raise StaleFile(f"{path} was made of other data: {strange} of its samples are not in what is loaded.")
        parts = {part: torch.tensor(sorted(places[key] for key in keys[part]), dtype=torch.int64) for part in _PARTS}
        return cls(**parts, kind="ids", spec=dict(content["spec"]), data_hash=source.fingerprint())


_PARTS = ("forget", "retain", "holdout")
SETS = "sets"
"""The kind of a split that is not of one source, but of sets that a user gave."""


def split_of_sets(sets: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Says which samples a user's sets hold, as split.json: by position in one source, else by hashes of their ids.

    Args:
        sets: "forget", "retain" and perhaps "holdout".
        seed: of the run.
    """
    spec = {"given": {name: len(data) for name, data in sets.items()}, "holdout": 0.0, "seed": seed}
    roots = {name: _root(data) for name, data in sets.items()}
    bases = [base for base, _ in roots.values()]
    if all(base is bases[0] for base in bases) and isinstance(bases[0], Source):
        parts = {
            part: torch.tensor(sorted(roots[part][1]) if part in roots else [], dtype=torch.int64) for part in _PARTS
        }
        return Split(**parts, kind="indices", spec=spec, data_hash=bases[0].fingerprint()).to_json()
    names = {name: [] if isinstance(data, list) else names_of(data) for name, data in sets.items()}
    whole = all(len(names[name]) == len(data) for name, data in sets.items())
    keys = {part: sorted(map(_key, names.get(part, []))) for part in _PARTS} if whole else None
    return {"kind": SETS, "spec": spec, "keys": keys}


def _key(name: Any) -> str:
    """A hash in place of a sample's id, which a run folder must not tell."""
    return hashlib.sha256(str(name).encode()).hexdigest()[:32]


class Subset(Source, Dataset[Batch]):
    """A view of a source: some of its samples, which keep the source's numbers in "index".

    Args:
        source: the source, or another view.
        indices: positions in it, int64 [N]; none negative.
    """

    def __init__(self, source: Source, indices: Tensor | Sequence[int]) -> None:
        self.indices = torch.as_tensor(indices, dtype=torch.int64).cpu()
        if self.indices.numel() and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < len(source):
            raise DataError(f"indices of a subset must lie from 0 to {len(source) - 1}.")
        self.source = source
        self.labels = source.labels[self.indices]
        self.classes = source.classes
        self.ids = None if source.ids is None else tuple(source.ids[i] for i in self.indices.tolist())
        self.shape = source.shape
        self.in_memory = source.in_memory

    def __len__(self) -> int:
        """How many samples are seen."""
        return len(self.indices)

    def __getitem__(self, i: int) -> Batch:
        """Sample i of the view."""
        return self.source[int(self.indices[i])]

    def batch(self, indices: Tensor) -> Batch:
        """Samples at these positions of the view, gathered."""
        return self.source.batch(self.indices[indices.cpu()])

    def select(self, indices: Tensor) -> Source:
        """A source of its own with these samples, numbered from 0."""
        return self.source.select(self.indices[indices.cpu()])

    def to(self, device: torch.device | str) -> "Subset":
        """The same view of the source on another device."""
        moved = self.source.to(device)
        return self if moved is self.source else Subset(moved, self.indices)

    def fingerprint(self) -> str:
        """A hash of the source and of what is seen of it."""
        return hash_json([self.source.fingerprint(), self.indices.tolist()])

    def root(self) -> tuple[Source, Tensor]:
        """The source under nested views, and the positions there."""
        below, positions = self.source.root()
        return below, positions[self.indices]


def make_split(
    source: Source,
    *,
    classes: Sequence[int | str] = (),
    fraction: float | None = None,
    count: int | None = None,
    indices: Records | None = None,
    ids: Records | None = None,
    holdout: float = 0.0,
    seed: int = 0,
    within: Tensor | None = None,
) -> Split:
    """Chooses what to forget: exactly one of classes, fraction or count, indices, ids.

    Args:
        source: the training data.
        classes: all samples of these classes, by number or name. Held-out samples of a forgotten class are in no
            part at all: nothing is trained on them, and a held-out set that still showed the class would tell how a
            model looks that knows it.
        fraction: this share of the training set (what is not held out), chosen by the seed, in (0, 1).
        count: so many samples of the training set, chosen by the seed.
        indices: positions in the source: a file or the numbers. They are forgotten whatever the seed says of the
            held-out part.
        ids: names of samples: a file or the names; the source must have `ids`.
        holdout: this share of the data is held out, in [0, 1).
        seed: of the held-out part and of the random choice, each with its own numbers.
        within: use these positions of the source alone, int64; None: all.

    A csv file has the records in the column called `index` or `id`, else in the first one, with or without a header;
    a txt file one a line; an npy file as an array.

    Raises:
        SettingError: if there is not exactly one kind of request, or a share is out of range.
        EmptySet: if the forget set, or the retain set, would be empty.
        UnknownName: a class or an id is not known. DataError: an index is out of range, twice there, or unreadable.
    """
    kind = _kind(classes=tuple(classes) or None, fraction=fraction, count=count, indices=indices, ids=ids)
    if not 0 <= holdout < 1:
        raise SettingError(f"holdout must lie in [0, 1), not at {holdout}.")
    pool = _pool(source, within)
    held = _chosen(pool, round(holdout * len(pool)), seed, "holdout")
    if kind == "classes":
        numbers = class_numbers(source, classes)
        wanted = pool[torch.isin(source.labels[pool], torch.tensor(numbers))]
        training = _without(pool, held)
        forget, held = _without(wanted, held), _without(held, wanted)
        retain = _without(training, wanted)
        spec: dict[str, Any] = {"classes": [source.classes[number] for number in numbers]}
    else:
        if kind == "fraction":
            forget = _random(_without(pool, held), fraction, count, seed)
            spec = {"fraction": fraction} if fraction is not None else {"count": count}
        else:
            forget, spec = _requested(source, kind, indices if kind == "indices" else ids)
            _check_within(forget, pool)
        held = _without(held, forget)
        retain = _without(_without(pool, held), forget)
    spec |= {"holdout": holdout, "seed": seed}
    if within is not None:
        spec["within"] = hash_json(pool.tolist())
    _check_parts(forget, retain, kind, spec)
    return Split(forget, retain, held, kind, spec, source.fingerprint())


def further_split(
    source: Source,
    before: Split,
    *,
    classes: Sequence[int | str] = (),
    fraction: float | None = None,
    count: int | None = None,
    indices: Records | None = None,
    ids: Records | None = None,
    seed: int = 0,
) -> Split:
    """The split of one more request, made after those of `before`, on a model that has forgotten these.

    What they forgot stays out of the retain set, and what they held out stays held out, but for samples of a class
    that is now forgotten. A share is one of what is retained so far.

    Args:
        source: the training data, as before.
        before: the split of the last request.
        classes: see `make_split`, and so for fraction, count, indices, ids and seed.

    Raises:
        Overlap: if a listed record, or every sample of the classes, was asked for before.
        DataError: if a listed record was held out, so that there is nothing to forget of it.
        UntrainError: as `make_split`.
    """
    request = {"fraction": fraction, "count": count, "indices": indices, "ids": ids}
    kind = _kind(classes=tuple(classes) or None, **request)
    if kind in ("indices", "ids"):
        _check_new(torch.tensor(_numbers(source, kind, request[kind])[0]), before)
    if kind == "classes":
        wanted = torch.isin(source.labels, torch.tensor(class_numbers(source, classes)))
        if not wanted[before.retain].any() and wanted[before.asked].any():
            raise Overlap(f"the classes {list(classes)} were asked for before: nothing of them is left. {_ASKED_TWICE}")
    split = make_split(source, classes=classes, **request, seed=seed, within=before.retain)  # type: ignore[arg-type]
    held = before.holdout
    if kind == "classes":
        held = held[~wanted[held]]
    spec = {name: value for name, value in split.spec.items() if name not in ("within", "holdout")}
    spec["requests before"] = 1 + before.spec.get("requests before", 0)
    return replace(split, spec=spec, holdout=held, earlier=before.asked)


_ASKED_TWICE = "Leave out what is forgotten already."


def _check_new(wanted: Tensor, before: Split) -> None:
    """Listed records must be neither forgotten already nor held out."""
    twice = wanted[torch.isin(wanted, before.asked)]
    if len(twice):
        raise Overlap(
            f"{len(twice)} records to forget were asked for before (first: index {int(twice[0])}). {_ASKED_TWICE}"
        )
    held = wanted[torch.isin(wanted, before.holdout)]
    if len(held):
        raise DataError(
            f"{len(held)} records to forget were held out by the request before (first: index {int(held[0])}): the "
            "model has never seen them. Leave them out."
        )


def class_numbers(source: Source, classes: Sequence[int | str]) -> list[int]:
    """Classes by number or name as numbers, ascending; a name that is made of digits counts as a name first."""
    numbers = set()
    named = {name: number for number, name in reversed([*enumerate(source.classes)])}  # of two, the first counts
    numbered = {str(number): number for number in range(len(source.classes))}
    for wanted in dict.fromkeys(classes):
        if isinstance(wanted, int) and named.get(str(wanted), wanted) != wanted:
            raise SettingError(
                f"forget.classes: is {wanted} the class called {str(wanted)!r}, or number {wanted}, called "
                f"{source.classes[wanted] if wanted < len(source.classes) else None!r}? Give the name, in quotes: "
                f"'{wanted}'."
            )
        if isinstance(wanted, str) and wanted in named:
            numbers.add(named[wanted])
        elif str(wanted) in numbered:
            numbers.add(numbered[str(wanted)])
        else:
            raise UnknownName(unknown("class", str(wanted), (f"{i} {name}" for i, name in enumerate(source.classes))))
    return sorted(numbers)


def chosen_classes(source: Source, asked: Sequence[int | str], found: Sequence[int | str]) -> list[str]:
    """Says which classes were chosen by a number, or by another name than their own.

    Args:
        source: knows their names.
        asked: as the recipe has them.
        found: the same as the domain understands them.
    """
    notes = []
    for word, meant in zip(asked, found, strict=True):
        number = class_numbers(source, [meant])[0]
        if source.classes[number] != str(word):
            notes.append(f"forget.classes: {word} is class {number}, {source.classes[number]!r}")
    return notes


def _kind(**given: Any) -> str:
    """The one kind of request that was made."""
    if given["fraction"] is not None and given["count"] is not None:
        raise SettingError("fraction and count say the same thing in two ways: give one of them.")
    if given["fraction"] is None:
        given["fraction"] = given["count"]
    del given["count"]
    kinds = [kind for kind, value in given.items() if value is not None]
    if len(kinds) != 1:
        said = " and ".join(kinds) if kinds else "nothing"
        raise SettingError(
            f"say what to forget by exactly one of classes, fraction (or count), indices, ids: got {said}."
        )
    return kinds[0]


def _pool(source: Source, within: Tensor | None) -> Tensor:
    if within is None:
        return torch.arange(len(source))
    pool = torch.as_tensor(within, dtype=torch.int64).cpu().unique()
    if len(pool) != len(within) or not len(pool) or int(pool[0]) < 0 or int(pool[-1]) >= len(source):
        raise DataError(f"within must hold different indices from 0 to {len(source) - 1}, at least one.")
    return pool


def _random(training: Tensor, fraction: float | None, count: int | None, seed: int) -> Tensor:
    if fraction is not None:
        if not 0 < fraction < 1:
            raise SettingError(f"fraction must lie between 0 and 1, not at {fraction}.")
        count = round(fraction * len(training))
    if count is None or not 0 <= count <= len(training):
        raise SettingError(f"count must lie from 1 to {len(training) - 1}, not at {count}.")
    return _chosen(training, count, seed, "forget")


def _chosen(pool: Tensor, count: int, seed: int, purpose: str) -> Tensor:
    """`count` random members of the pool, ascending."""
    order = torch.randperm(len(pool), generator=generator_of(seed, "split", purpose))
    return pool[order[:count].sort().values]


def _without(a: Tensor, b: Tensor) -> Tensor:
    return a[~torch.isin(a, b)]


def _requested(source: Source, kind: str, given: Any) -> tuple[Tensor, dict[str, Any]]:
    """Listed records as ascending positions, and what a split says of where the list came from."""
    numbers, spec = _numbers(source, kind, given)
    forget, counts = torch.tensor(numbers).unique(return_counts=True)
    if len(forget) < len(numbers):
        twice = int(forget[counts > 1][0])
        name = source.ids[twice] if kind == "ids" and source.ids else twice
        raise DataError(f"{_place(given, kind)}: {kind[:-1] if kind == 'ids' else 'index'} {name} comes twice.")
    return forget, spec


def _numbers(source: Source, kind: str, given: Any) -> tuple[list[int], dict[str, Any]]:
    """Listed records as positions in the order of the list, and what a split says of where it came from."""
    records, spec = _listed(given, kind)
    if not records:
        raise EmptySet(f"{_place(given, kind)} lists no record: there is nothing to forget.")
    numbers = (
        [_number(record, given) for record in records] if kind == "indices" else _positions(source, records, given)
    )
    for number, record in zip(numbers, records, strict=True):
        if not 0 <= number < len(source):
            raise DataError(f"{_place(given, kind)}: index {record} is out of range, which is 0 to {len(source) - 1}.")
    return numbers, spec


def _listed(given: Any, kind: str) -> tuple[list[Any], dict[str, Any]]:
    if isinstance(given, (str, Path)):
        path = expand(given)
        return _read_list(path, kind), {kind: {"file": path.name, "sha256": hash_file(path)}}
    if isinstance(given, (Tensor, np.ndarray)):
        given = given.reshape(-1).tolist()
    return list(given), {kind: {"given": len(given)}}


def _read_list(path: Path, kind: str) -> list[Any]:
    """The records that a csv, txt or npy file lists."""
    try:
        if path.suffix == ".npy":
            return read_npy(path).reshape(-1).tolist()
        text = read_text(path)
    except DataError as error:
        raise DataError(f"{printable(path)} cannot be read as a list of {kind}: {error}") from error
    if path.suffix != ".csv":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{printable(path)} cannot be read as a list of {kind}: {error}. Check the file.") from error
    return _csv_column(rows, path, kind)


def _csv_column(rows: list[list[str]], path: Path, kind: str) -> list[str]:
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    named = [header.index(name) for name in _HEADERS[kind] if name in header]
    column = named[0] if named else 0
    if named or (kind == "indices" and not _is_number(rows[0][0])):
        rows = rows[1:]
    short = [row for row in rows if len(row) <= column]
    if short:
        raise DataError(
            f"{path}: the row {','.join(short[0])[:80]!r} has no column {column + 1}. Complete or remove it."
        )
    return [row[column].strip() for row in rows]


_HEADERS = {"indices": ("index", "indices", "id"), "ids": ("id", "ids", "index")}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d{1,18}", text.strip()) is not None


def _number(record: Any, given: Any) -> int:
    if isinstance(record, (int, np.integer)) and not isinstance(record, bool):
        return int(record)
    if isinstance(record, str) and _is_number(record):
        return int(record)
    said = record[:80] if isinstance(record, str) else record
    raise DataError(f"{_place(given, 'indices')}: {said!r} is not an index, a whole number from 0. Correct it.")


def _positions(source: Source, records: Iterable[Any], given: Any) -> list[int]:
    if source.ids is None:
        raise SettingError("this data source has no ids: say what to forget by indices instead.")
    positions = {name: position for position, name in enumerate(source.ids)}
    strange = [record for record in records if str(record) not in positions]
    if strange:
        raise UnknownName(
            f"{_place(given, 'ids')}: {len(strange)} unknown ids (first: {str(strange[0])!r}). The data's ids look "
            f"like {source.ids[0]!r}; a header of a csv file must be called id."
        )
    return [positions[str(record)] for record in records]


def _place(given: Any, kind: str) -> str:
    return str(given) if isinstance(given, (str, Path)) else kind


def _check_within(forget: Tensor, pool: Tensor) -> None:
    outside = _without(forget, pool)
    if len(outside):
        raise DataError(
            f"{len(outside)} records to forget are not within the training data (first: {int(outside[0])})."
        )


def _check_parts(forget: Tensor, retain: Tensor, kind: str, spec: Mapping[str, Any]) -> None:
    if not len(forget):
        raise EmptySet(f"the forget set is empty: {kind} {spec.get(kind, spec)} chose no sample. Ask for more.")
    if not len(retain):
        raise EmptySet(
            "the forget set is everything: nothing is left to keep. Train a new model instead, or ask for less."
        )


def _root(data: Any) -> tuple[Any, Sequence[int]]:
    """The data set under nested views, and the positions there."""
    indices: Tensor | None = None
    while isinstance(data, (Subset, TorchSubset)):
        own = torch.as_tensor(data.indices, dtype=torch.int64)
        indices = own if indices is None else own[indices]
        data = data.source if isinstance(data, Subset) else data.dataset
    return data, range(len(data)) if indices is None else indices.tolist()
