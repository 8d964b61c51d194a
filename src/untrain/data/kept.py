"""What a run keeps of its samples by name, so that they are found again when files are gone and positions have shifted.

It stands in split.json beside the positions. Of samples that are forgotten the name alone is kept, or a hash of it; of
those that stay also a hash of their content, so that a file which was replaced under its old name is seen.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untrain.data.columns import Columns
from untrain.data.encoded import IN_MEMORY_BYTES, FileRows, ParquetRows
from untrain.data.records import Names, few, hash_id
from untrain.data.samples import Images, Relabelled
from untrain.data.source import Source
from untrain.errors import StaleFile
from untrain.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

TRAINED = ("forget", "retain", "holdout", "earlier", "unseen", "unused")
"""Parts of the training samples; "unseen" ones are kept for an audit, "unused" are held-out samples of a class that is
forgotten, for instance."""
TESTED = ("test", "test_holdout")
"""Parts of the test samples: tested on, and held out."""
COMPARED = ("retain", "holdout")
"""Parts whose content is compared: nothing is kept of the content of what is forgotten."""
MOST_BYTES = 100 << 20
"""So large may names or hashes become; what would be larger is left out."""


@dataclass(frozen=True, eq=False)
class KeptRecords:
    """Samples by name.

    Attributes:
        parts: of `TRAINED` and `TESTED`, and "gone": retained ones that vanished without a request → names, or hashes
            of names; in the order of the data, or, being hashes, in their own.
        content: part of `COMPARED` → a hash of each sample's content, in the same order; none where that is not known.
        salt: what names are hashed with.
        hashed: whether `parts` holds hashes.
        classes: names of the classes, by number.
        statistics: "mean" and "std" that inputs are normalised by, where they are.
        skipped: why → records of the request that were left out.
        request: what else is known of the request: "after", "vanished", and so on.
    """

    parts: Mapping[str, Sequence[str]]
    content: Mapping[str, Sequence[str]] = field(default_factory=dict)
    salt: str = ""
    hashed: bool = False
    classes: Sequence[str] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """Returns what stands in `parts` for a name."""
        return hash_id(name, self.salt) if self.hashed else name

    def to_json(self) -> dict[str, Any]:
        """Returns what split.json holds of it."""
        return {name: value for name, value in vars(self).items() if name in _FIELDS}

    @classmethod
    def of_json(cls, given: Any) -> KeptRecords | None:
        """Reads what split.json holds; None where it holds nothing.

        Raises:
            ValueError: if it is not what a run writes.
        """
        if given is None:
            return None
        if not (isinstance(given, dict) and all(isinstance(given.get(name), dict) for name in _MAPPINGS)):
            raise ValueError("its records are of another form")
        lists = [*given["parts"].values(), *given["content"].values(), *given["skipped"].values(), given["classes"]]
        if not all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in lists):
            raise ValueError("its records must be lists of names")
        if not (
            isinstance(given["salt"], str) and isinstance(given["hashed"], bool) and given["parts"].keys() <= _PARTS
        ):
            raise ValueError("its records are of another form")
        if any(len(given["content"][part]) != len(given["parts"].get(part, ())) for part in given["content"]):
            raise ValueError("its records have hashes of other samples")
        numbers = [each for values in given["statistics"].values() if values is not None for each in values]
        if not all(isinstance(each, int | float) for each in numbers) or not given["statistics"].keys() <= {
            "mean",
            "std",
        }:
            raise ValueError("its statistics must be means and deviations")
        return cls(**{name: given[name] for name in _FIELDS})

    @cached_property
    def part_of(self) -> dict[str, str]:
        """Name, or its hash, → the part that has it."""
        return {key: part for part in (*TESTED, "gone", *TRAINED) for key in self.parts.get(part, ())}

    def holder(self, *parts: str) -> Callable[[str], bool]:
        """Returns whether a name, however it is spelled, is one of these parts'."""
        keys = [key for part in parts for key in self.parts.get(part, ())]
        if self.hashed:
            known = set(keys)
            return lambda name: self.key(name) in known
        names = Names(keys)
        return lambda name: names.find(name) is not None

    def in_place(self, source: Source) -> list[str]:
        """Returns the part of each sample of a source; "" of one that is not known."""
        return [self.part_of.get(self.key(name), "") for name in source.ids or ()]

    def vanished(self, source: Source, *parts: str) -> dict[str, list[str]]:
        """Returns which samples of each part the source does not hold; names as they are kept."""
        there = {self.key(name) for name in source.ids or ()}
        found = {part: [key for key in self.parts.get(part, ()) if key not in there] for part in parts}
        return {part: names for part, names in found.items() if names}

    def check_content(self, source: Source, positions: Mapping[str, Tensor], place: str) -> None:
        """Compares the content of samples that are still there with what it was.

        Raises:
            StaleFile: if it was changed; names the first samples.
        """
        changed: list[str] = []
        for part in self.content:
            known = dict(zip(self.parts[part], self.content[part], strict=True))
            found = sample_digests(source, positions[part]) or []
            names = [(source.ids or ())[i] for i in positions[part].tolist()]
            changed += [n for n, digest in zip(names, found, strict=False) if known.get(self.key(n), digest) != digest]
        if changed:
            raise StaleFile(
                f"{place} was made of other data: {len(changed)} samples have another content under the same name "
                f"(first: {few(changed)}). Put them back as they were, and images at the size and colours that they "
                "had (data.image_size, data.grayscale); a new image needs a new name."
            )


_FIELDS = ("parts", "content", "salt", "hashed", "classes", "statistics", "skipped")
_MAPPINGS = ("parts", "content", "statistics", "skipped")
_PARTS = {*TRAINED, *TESTED, "gone"}


def keep_records(
    source: Source,
    parts: Mapping[str, Tensor],
    *,
    tested: Mapping[str, Source],
    gone: Sequence[str] = (),
    skipped: Mapping[str, Sequence[str]] | None = None,
    hashed: bool = False,
    before: KeptRecords | None = None,
) -> KeptRecords | None:
    """Makes what a run keeps of its samples by name; None where they have none, or far too many.

    Args:
        source: the training samples.
        parts: of `TRAINED` but "unused", as positions.
        tested: of `TESTED`: samples that are of another source.
        gone: what vanished, as `before` keeps it.
        skipped: why → records that the request names and that were left out.
        hashed: keep hashes instead of names.
        before: what the request before kept: its salt goes on, and what it forgot that is gone now is kept on.
    """
    if source.ids is None or sum(map(len, source.ids)) > MOST_BYTES:
        return None
    rest = torch.ones(len(source), dtype=torch.bool)
    for positions in parts.values():
        rest[positions] = False
    whole = {**parts, "unused": rest.nonzero()[:, 0]}
    names = {part: [source.ids[i] for i in positions.tolist()] for part, positions in whole.items()}
    names |= {part: list(each.ids or ()) for part, each in tested.items()} | {"gone": []}
    content = {part: sample_digests(source, whole[part]) for part in COMPARED}
    known = {part: digests for part, digests in content.items() if digests is not None}
    salt, skipped = secrets.token_hex(16) if before is None else before.salt, dict(skipped or {})
    if hashed:
        for part, own in names.items():
            keys = [hash_id(name, salt) for name in own]
            order = sorted(range(len(keys)), key=keys.__getitem__)  # the data's order would tell who is who
            names[part] = [keys[i] for i in order]
            known |= {part: [known[part][i] for i in order]} if part in known else {}
        skipped = {why: sorted(hash_id(name, salt) for name in each) for why, each in skipped.items()}
    return _with_vanished(KeptRecords(names, known, salt, hashed, source.classes, {}, skipped), before, gone)


def _with_vanished(records: KeptRecords, before: KeptRecords | None, gone: Sequence[str]) -> KeptRecords:
    """With what was known by name before and is gone: forgotten samples still count as that."""
    if before is None:
        return records
    own = records.part_of
    change = (lambda name: hash_id(name, records.salt)) if records.hashed and not before.hashed else str
    parts = {part: list(names) for part, names in records.parts.items()}
    held = [(part, "unused") for part in ("holdout", "unseen", "unused")]
    for part, to in (("forget", "earlier"), ("earlier", "earlier"), *held):
        parts[to] += [key for name in before.parts.get(part, ()) if (key := change(name)) not in own]
    parts["gone"] = [key for name in gone if (key := change(name)) not in own]
    if records.hashed:
        parts = {part: sorted(names) if part not in records.content else names for part, names in parts.items()}
    return replace(records, parts=parts)


def sample_digests(source: Source, positions: Tensor) -> list[str] | None:
    """Hashes the content and the class of samples; None where reading all of them would take too long.

    Of images in files that take more than `IN_MEMORY_BYTES` together, the size stands for the content.
    """
    if isinstance(source, Relabelled):
        return sample_digests(source.source, positions)
    if isinstance(source, Columns):
        return _column_digests(source, positions)
    if isinstance(source, Images):
        return _encoded_digests(source, source.order[positions].tolist())
    return None


def _column_digests(source: Columns, positions: Tensor) -> list[str]:
    digests = [hashlib.blake2b(digest_size=16) for _ in range(len(positions))]
    for name, values in sorted(source.columns.items()):
        if name != "label":  # class numbers shift where a class is gone; names stand below
            for start in range(0, len(positions), 4096):
                rows = values[positions[start : start + 4096].to(values.device)].detach().cpu().contiguous()
                flat = rows.reshape(len(rows), -1).view(torch.uint8).numpy()
                for digest, row in zip(digests[start : start + 4096], flat, strict=True):
                    digest.update(f"{name}{rows.dtype}{list(rows.shape[1:])}".encode() + row.tobytes())
    for digest, label in zip(digests, source.labels[positions].tolist(), strict=True):
        digest.update(source.classes[label].encode(errors="surrogateescape"))
    return [digest.hexdigest() for digest in digests]


def _encoded_digests(images: Images, rows: Sequence[int]) -> list[str] | None:
    kind = images.rows
    if isinstance(kind, FileRows):
        sizes = [_size(path) for path in kind.paths]
        if sum(sizes) > IN_MEMORY_BYTES:
            return [f"{sizes[i]} bytes" for i in rows]
        return [kind.digest(i)[:32] for i in rows]
    if isinstance(kind, ParquetRows) and sum(map(_size, kind.files)) <= IN_MEMORY_BYTES:
        return [hashlib.blake2b(kind.read([i])[0], digest_size=16).hexdigest() for i in rows]
    return None


def _size(path: Path) -> int:
    return path.stat().st_size
