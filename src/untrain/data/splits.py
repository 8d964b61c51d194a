"""What to forget, what to keep, what never to train on: choosing it, storing it, and proving that the parts are apart.

The held-out part is chosen first, by the seed alone, so that all requests made of one data set with one seed share
it. A *training set* is then everything else, and the forget set is taken from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data import Subset as TorchSubset

from untrain.data.kept import TRAINED, KeptRecords
from untrain.data.records import Found, Missing, Request, few, find_records, hash_id, skip_words
from untrain.data.sameness import names_of
from untrain.data.source import Source
from untrain.engine import generator_of
from untrain.errors import DataError, EmptySet, Overlap, SettingError, StaleFile, UnknownName, spell, unknown
from untrain.io import hash_json, hash_tensors
from untrain.reading import DAMAGED, printable
from untrain.sealed import read_sealed, write_sealed
from untrain.types import Batch

Records = str | Path | Sequence[Any] | Tensor | np.ndarray
"""A file (csv, txt, npy, json) that lists records, or the records themselves."""


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
        skipped: why → records of the request that were left out, as its list names them.
        unseen: kept for an audit: never trained on, given to no method and no measure, [U]; in none of the other parts.
    """

    forget: Tensor
    retain: Tensor
    holdout: Tensor
    kind: str
    spec: dict[str, Any] = field(default_factory=dict)
    data_hash: str = ""
    earlier: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unseen: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def is_random(self) -> bool:
        """Whether chance alone decided which of forgotten and unseen samples (of the forgotten classes) are which."""
        return bool(len(self.unseen)) and self.kind in ("fraction", "classes") and not len(self.earlier)

    @property
    def asked(self) -> Tensor:
        """All that was asked to be forgotten so far, this request's part included, [E + F], ascending."""
        return torch.cat([self.earlier, self.forget]).sort().values

    @property
    def hash(self) -> str:
        """A hash of the indices and the data they point into."""
        rare = [own if part == "earlier" else [part, own] for part, own in self._rare.items()]
        return hash_json([self.data_hash, *(getattr(self, part).tolist() for part in _PARTS), *rare])

    @property
    def _rare(self) -> dict[str, list[int]]:
        """The parts that most splits do not have."""
        return {part: own.tolist() for part in _RARE if len(own := getattr(self, part))}

    def to_json(self) -> dict[str, Any]:
        """Returns the split as JSON, with its hash."""
        return {
            "kind": self.kind,
            "spec": self.spec,
            "data_hash": self.data_hash,
            "hash": self.hash,
            **{part: getattr(self, part).tolist() for part in _PARTS},
            **self._rare,
        }

    def save(self, path: str | Path, records: KeptRecords | None = None) -> None:
        """Writes the split as JSON, whole or not at all.

        Args:
            path: the file.
            records: the same samples by name; where these are hashed, positions are left out, which would tell names.
        """
        content = self.to_json() | ({} if records is None else {"records": records.to_json()})
        if records is not None and records.hashed:
            content = {name: value for name, value in content.items() if name not in (*_PARTS, *_RARE)}
        write_sealed(Path(path), content, compact=True)

    @classmethod
    def load(cls, path: str | Path, source: Source) -> "Split":
        """Reads a split that was made of this source.

        Raises:
            DataError: if the file is missing or is not a split.
            StaleFile: if it was changed since, or made of other data; says what of these is gone.
        """
        content, records = read_split(path)
        if content.get("kind") == SETS:
            return cls._of_sets(content, path, source)
        try:
            if content["data_hash"] != source.fingerprint():
                told = "other data than what is loaded" if records is None else describe_change(records, source)
                raise StaleFile(f"{path} was made of other data: {told}. Make the split again for this data.")
            parts: dict[str, Any] = {
                part: torch.tensor(content[part], dtype=torch.int64) for part in _PARTS if part in content
            }
            parts |= {part: torch.tensor(content.get(part, []), dtype=torch.int64) for part in _RARE}
            if records is not None and records.hashed:
                parts = positions_of(records, source)
            split = cls(**parts, kind=content["kind"], spec=content["spec"], data_hash=content["data_hash"])
            stored = content["hash"]
        except DAMAGED as error:
            raise DataError(f"{printable(path)} cannot be read as a split: {error!r}. Make the split again.") from error
        if stored != split.hash:
            raise StaleFile(f"{path} was changed after it was written. Make the split again.")
        split._check_content(path, len(source))
        return split

    def _check_content(self, path: str | Path, count: int) -> None:
        """Checks what a hash does not tell, which anyone can compute: positions within the source, a spec of fields."""
        parts = [getattr(self, part) for part in (*_PARTS, *_RARE)]
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
        places = {hash_id(name): place for place, name in enumerate(source.ids)}
        strange = sum(key not in places for part in ("retain", "holdout") for key in keys[part])
        if strange:
            raise StaleFile(f"{path} was made of other data: {strange} of its samples are not in what is loaded.")
        found = {part: sorted(places[key] for key in keys[part] if key in places) for part in _PARTS}
        parts: dict[str, Any] = {part: torch.tensor(own, dtype=torch.int64) for part, own in found.items()}
        return cls(**parts, kind="ids", spec=dict(content["spec"]), data_hash=source.fingerprint())


_PARTS = ("forget", "retain", "holdout")
_RARE = ("earlier", "unseen")
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
        none = torch.empty(0, dtype=torch.int64)
        parts: dict[str, Any] = {part: roots[part][1].sort().values if part in roots else none for part in _PARTS}
        return Split(**parts, kind="indices", spec=spec, data_hash=bases[0].fingerprint()).to_json()
    names = {name: [] if isinstance(data, list) else names_of(data) for name, data in sets.items()}
    whole = all(len(names[name]) == len(data) for name, data in sets.items())
    keys = {part: sorted(map(hash_id, names.get(part, []))) for part in _PARTS} if whole else None
    return {"kind": SETS, "spec": spec, "keys": keys}


def read_split(path: str | Path) -> tuple[dict[str, Any], KeptRecords | None]:
    """Reads split.json: what it says, and its samples by name, where it has these.

    Raises:
        DataError: if the file is missing or is not a split. StaleFile: if it was changed since.
    """
    content = read_sealed(Path(path), "Make the split again.", "a split", DataError)
    if content is None:
        raise DataError(f"{printable(path)} cannot be read as a split: there is no such file. Check the path.")
    try:
        records = KeptRecords.of_json(content.get("records"))
        if content.get("kind") == SETS and content.get("keys") is not None:
            parts = {part: [str(key) for key in content["keys"][part]] for part in _PARTS}
            records = KeptRecords(parts, hashed=True)
    except DAMAGED as error:
        raise DataError(f"{printable(path)} cannot be read as a split: {error!r}. Make the split again.") from error
    return content, records


def positions_of(records: KeptRecords, source: Source) -> dict[str, Any]:
    """Finds the samples of each part by name: forget, retain, holdout, earlier, unseen → positions, int64, ascending.

    Samples that are gone are in none; one that had vanished from the retain set, and is there again, is retained.
    """
    places = records.in_place(source)
    found = {part: [i for i, own in enumerate(places) if own == part] for part in (*_PARTS, *_RARE, "gone")}
    found["retain"] = sorted([*found["retain"], *found.pop("gone")])
    return {part: torch.tensor(positions, dtype=torch.int64) for part, positions in found.items()}


def describe_change(records: KeptRecords, source: Source) -> str:
    """Says how a source differs from the one that records were kept of."""
    if source.ids is None:
        return "what is loaded has no ids"
    vanished = records.vanished(source, *TRAINED)
    told = []
    for part, words in (("forget", "to be forgotten"), ("earlier", "forgotten earlier"), ("retain", "retained")):
        if part in vanished:
            first = "" if records.hashed else f" (first: {few(vanished[part])})"
            told.append(f"{len(vanished[part])} samples {words} are gone{first}")
    others = sum(len(names) for part, names in vanished.items() if part in ("holdout", "unseen", "unused"))
    told += [f"{others} samples held out are gone"] if others else []
    new = [name for name, part in zip(source.ids, records.in_place(source), strict=True) if not part]
    told += [f"{len(new)} samples are new (first: {few(new)})"] if new else []
    return "; ".join(told) or "the same names have another content"


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
        self.in_memory, self.keeps = source.in_memory, source.keeps

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
        return hash_json([self.source.fingerprint(), hash_tensors({"indices": self.indices})])

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
    id_column: str | None = None,
    missing: Missing = "refuse",
    root: str | Path | None = None,
    elsewhere: Mapping[str, Callable[[str], bool]] | None = None,
    holdout: float = 0.0,
    audit_holdout: float = 0.0,
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
        ids: names of samples: a file or the names; the source must have `ids`. Where these are paths, a list may have
            them absolute, with another folder before them or fewer, as long as one sample alone is meant.
        id_column: the column of a csv or json list that names them; None: see below.
        missing: "refuse" a list with names that are not there, or "skip" these; `skipped` then has them.
        root: the folder that ids which are paths lie in.
        elsewhere: what else is known of names: why they cannot be forgotten → whether a name is one of these.
        holdout: this share of the data is held out, in [0, 1).
        audit_holdout: this further share is kept for an audit, in [0, 1); held-out samples of a forgotten class too.
        seed: of the held-out part and of the random choice, each with its own numbers.
        within: use these positions of the source alone, int64; None: all.

    A csv file has the records in the column called `index` or `id` (of ids also `file_name` or `file`), else in the
    first one, with or without a header; a txt file one a line; an npy file as an array; a json file as a list.

    Raises:
        SettingError: if there is not exactly one kind of request, or a share is out of range.
        EmptySet: if the forget set, or the retain set, would be empty.
        UnknownName: a class or an id is not known. DataError: an index is out of range, twice there, or unreadable.
    """
    named = Request(id_column, missing, root, elsewhere or {})
    skipped: Mapping[str, Sequence[str]] = {}
    kind = _kind(classes=tuple(classes) or None, fraction=fraction, count=count, indices=indices, ids=ids)
    if id_column is not None and kind != "ids":
        raise SettingError(
            f"{spell('forget.id_column', 'id_column')} names a column of the list of ids, and there is none."
        )
    if min(holdout, audit_holdout) < 0 or holdout + audit_holdout >= 1:
        raise SettingError(
            f"holdout and audit_holdout must lie in [0, 1), together too, not at {holdout} and {audit_holdout}."
        )
    whole = _pool(source, within)
    held = _chosen(whole, round(holdout * len(whole)), seed, "holdout")
    unseen = _chosen(_without(whole, held), round(audit_holdout * len(whole)), seed, "audit holdout")
    pool = _without(whole, unseen)
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
            found = find_records(source, kind, indices if kind == "indices" else ids, named)
            forget, spec, skipped = _once_each(source, kind, found), found.spec, found.skipped
            _check_within(forget, whole)
        held, unseen = _without(held, forget), _without(unseen, forget)
        retain = _without(_without(pool, held), forget)
    spec |= {"holdout": holdout, "seed": seed}
    if audit_holdout:
        spec["audit_holdout"] = audit_holdout
    if within is not None:
        spec["within"] = hash_json(whole.tolist())
    if skipped:
        spec["skipped"] = {why: len(names) for why, names in skipped.items()}
    _check_parts(forget, retain, kind, spec)
    return Split(forget, retain, held, kind, spec, source.fingerprint(), skipped=skipped, unseen=unseen)


def further_split(
    source: Source,
    before: Split,
    *,
    classes: Sequence[int | str] = (),
    fraction: float | None = None,
    count: int | None = None,
    indices: Records | None = None,
    ids: Records | None = None,
    id_column: str | None = None,
    missing: Missing = "refuse",
    root: str | Path | None = None,
    elsewhere: Mapping[str, Callable[[str], bool]] | None = None,
    seed: int = 0,
) -> Split:
    """The split of one more request, made after those of `before`, on a model that has forgotten these.

    What they forgot stays out of the retain set, and what they held out stays held out, but for samples of a class
    that is now forgotten. A share is one of what is retained so far.

    Args:
        source: the training data, as before.
        before: the split of the last request.
        classes: see `make_split`, and so for fraction, count, indices, ids, id_column, missing, root, elsewhere, seed.

    Returns:
        The split. Its forget set is empty where missing records are skipped and none of the list is left: a method that
        looks at the retain set alone can go on with what remains.

    Raises:
        Overlap: if a listed record, or every sample of the classes, was asked for before.
        DataError: if a listed record was held out, so that there is nothing to forget of it.
        UntrainError: as `make_split`.
    """
    request: dict[str, Any] = {"fraction": fraction, "count": count, "indices": indices, "ids": ids}
    kind = _kind(classes=tuple(classes) or None, **request)
    skipped: dict[str, Sequence[str]] = {}
    if kind in ("indices", "ids"):
        named = Request(id_column, missing, root, elsewhere or {}, empty=True)
        found = find_records(source, kind, request[kind], named)
        request[kind], skipped = _check_new(source, kind, found, before, missing == "skip")
        if not request[kind]:
            spec = {**found.spec, "seed": seed, "skipped": {why: len(names) for why, names in skipped.items()}}
            spec["requests before"] = 1 + before.spec.get("requests before", 0)
            nothing = torch.empty(0, dtype=torch.int64)
            return replace(before, forget=nothing, kind=kind, spec=spec, earlier=before.asked, skipped=skipped)
    if kind == "classes":
        wanted = torch.isin(source.labels, torch.tensor(class_numbers(source, classes)))
        if not wanted[before.retain].any() and wanted[before.asked].any():
            raise Overlap(f"the classes {list(classes)} were asked for before: nothing of them is left. {_ASKED_TWICE}")
    split = make_split(source, classes=classes, **request, seed=seed, within=before.retain)
    held = before.holdout
    if kind == "classes":
        held = held[~wanted[held]]
    spec = {name: value for name, value in split.spec.items() if name not in ("within", "holdout")}
    if kind in ("indices", "ids"):
        spec |= found.spec | ({"skipped": {why: len(names) for why, names in skipped.items()}} if skipped else {})
    spec["requests before"] = 1 + before.spec.get("requests before", 0)
    return replace(split, spec=spec, holdout=held, earlier=before.asked, skipped=skipped, unseen=before.unseen)


_ASKED_TWICE = "Leave out what is forgotten already."
ASKED_BEFORE = "asked for before"


def _check_new(
    source: Source, kind: str, found: Found, before: Split, skip: bool
) -> tuple[list[Any], dict[str, Sequence[str]]]:
    """What of a list is neither forgotten already nor held out, as it would be listed, and what is skipped, with why.

    Raises:
        Overlap: if some is forgotten already. DataError: if some was held out.
    """
    wanted = torch.tensor(found.positions, dtype=torch.int64)
    twice, held = torch.isin(wanted, before.asked), torch.isin(wanted, torch.cat([before.holdout, before.unseen]))
    if bool(twice.any()) and not skip:
        raise Overlap(
            f"{int(twice.sum())} records to forget were asked for before (first: "
            f"{_named(source, kind, wanted[twice])}). {_ASKED_TWICE} Or let them be left out: {skip_words()}."
        )
    if bool(held.any()) and not skip:
        raise DataError(
            f"{int(held.sum())} records to forget were held out by the request before (first: "
            f"{_named(source, kind, wanted[held])}): the model has never seen them. Leave them out, or let "
            f"them be left out: {skip_words()}."
        )
    skipped = dict(found.skipped)
    for why, chosen in ((ASKED_BEFORE, twice), ("held out, and never seen by the model", held)):
        if bool(chosen.any()):
            skipped[why] = [_name(source, kind, i) for i in wanted[chosen].tolist()]
    new = wanted[~(twice | held)]
    return ([source.ids[i] for i in new.tolist()] if kind == "ids" and source.ids else new.tolist()), skipped


def _name(source: Source, kind: str, position: int) -> str:
    return source.ids[position] if kind == "ids" and source.ids is not None else str(position)


def _named(source: Source, kind: str, positions: Tensor) -> str:
    first = int(positions[0])
    return f"index {first}" if kind == "indices" or source.ids is None else f"{source.ids[first]!r}, index {first}"


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


def _once_each(source: Source, kind: str, found: Found) -> Tensor:
    """Listed positions, ascending.

    Raises:
        DataError: if one comes twice.
    """
    forget, counts = torch.tensor(found.positions).unique(return_counts=True)
    if len(forget) < len(found.positions):
        twice, place = int(forget[counts > 1][0]), found.place
        raise DataError(f"{place}: {'id' if kind == 'ids' else 'index'} {_name(source, kind, twice)} comes twice.")
    return forget


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


def _root(data: Any) -> tuple[Any, Tensor]:
    """The data set under nested views, and the positions there, int64 [N]."""
    indices: Tensor | None = None
    while isinstance(data, (Subset, TorchSubset)):
        own = torch.as_tensor(data.indices, dtype=torch.int64)
        indices = own if indices is None else own[indices]
        data = data.source if isinstance(data, Subset) else data.dataset
    return data, torch.arange(len(data)) if indices is None else indices
