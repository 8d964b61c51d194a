"""The request before: what its run kept of the samples, and where these are now that some of them are gone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from untrain.data.kept import TESTED, KeptRecords
from untrain.data.records import few
from untrain.data.source import Source
from untrain.data.splits import SETS, Split, positions_of, read_split
from untrain.errors import DataError, StaleFile
from untrain.reading import DAMAGED

SPLIT = "split.json"


@dataclass(frozen=True, eq=False)
class Before:
    """The run of the request before.

    Attributes:
        path: its split.json.
        content: what that says.
        records: the samples by name; None: it has none, and positions alone tell which sample is which.
    """

    path: Path
    content: Mapping[str, Any]
    records: KeptRecords | None

    @classmethod
    def read(cls, folder: str | Path) -> Before:
        """Reads it from its run folder.

        Raises:
            DataError: if there is none. StaleFile: if it was changed since.
        """
        path = Path(folder) / SPLIT
        try:
            return cls(path, *read_split(path))
        except (DataError, StaleFile) as error:
            raise type(error)(f"forget.after must be the run folder of the request before: {error}") from error

    @property
    def named(self) -> KeptRecords | None:
        """The samples by name, where all of them are: a run made in Python tells of its sets alone."""
        return None if self.content.get("kind") == SETS else self.records

    def find(self, source: Source) -> Found:
        """Finds the samples of its split in the source as it is now.

        Raises:
            StaleFile: if samples changed under their names, or have none and other data are loaded.
        """
        records = self.named
        try:
            if records is None or source.ids is None or self.content.get("data_hash") == source.fingerprint():
                found = Found(Split.load(self.path, source))
            else:
                found = self._find_by_name(records, source)
            if not {"holdout", "seed"} <= found.split.spec.keys():
                raise DataError(f"{self.path} does not say what was held out. Make the split again.")
        except (DataError, StaleFile) as error:
            lacks = "" if records is not None else (
                " Its samples have no ids, so they are found by their positions alone, and these must not shift."
            )  # fmt: skip
            raise type(error)(f"forget.after must be the run folder of the request before: {error}{lacks}") from error
        return found

    def _find_by_name(self, records: KeptRecords, source: Source) -> Found:
        parts = positions_of(records, source)
        records.check_content(source, parts, str(self.path))
        vanished = records.vanished(source, "forget", "earlier", "retain", "holdout")
        try:
            kind, spec = str(self.content["kind"]), dict(self.content["spec"])
        except DAMAGED as error:
            raise DataError(f"{self.path} cannot be read as a split: {error!r}. Make the split again.") from error
        found = Found(
            Split(**parts, kind=kind, spec=spec, data_hash=source.fingerprint()),
            forgotten=len(vanished.get("forget", ())) + len(vanished.get("earlier", ())),
            lost=vanished.get("retain", []),
            lost_holdout=vanished.get("holdout", []),
        )
        for words, names in (("retained", found.lost), ("held out", found.lost_holdout)):
            if names:
                first = "" if records.hashed else f" (first: {few(names)})"
                warnings.warn(
                    f"{len(names)} samples that {self.path.parent} {words} are gone, and no request asked for them"
                    f"{first}. {_GONE[words]}",
                    stacklevel=2,
                )
        return found

    def elsewhere(self, test: Source) -> dict[str, Callable[[str], bool]]:
        """Returns why names that are not among the samples cannot be forgotten → whether a name is one of these."""
        records = self.records
        if records is None:
            return {}
        return {
            "asked for before, and gone": records.holder("forget", "earlier"),
            "gone before they were forgotten": records.holder("retain", "gone"),
            "held out, and gone": records.holder("holdout", "unseen", "unused"),
            IN_TEST: records.holder(*TESTED),
        }


IN_TEST = "in the test part, which the model was never trained on"
_GONE = {
    "retained": "The model was trained on them and has not forgotten them: restore them and ask for them, if they must "
    "be forgotten. The run goes on without them.",
    "held out": "The model has never seen them. The run goes on without them.",
}


@dataclass(frozen=True, eq=False)
class Found:
    """The split of the request before, in the data as they are now.

    Attributes:
        split: its parts, without what is gone.
        forgotten: how many samples that were asked for are gone, as they should be.
        lost: names of retained samples that are gone without a request, as they are kept.
        lost_holdout: likewise, of held-out ones.
    """

    split: Split
    forgotten: int = 0
    lost: list[str] = field(default_factory=list)
    lost_holdout: list[str] = field(default_factory=list)

    @property
    def shifted(self) -> int:
        """How many samples are gone, so that positions are others."""
        return self.forgotten + len(self.lost) + len(self.lost_holdout)

    def facts(self, folder: str) -> dict[str, Any]:
        """Returns what the next split says of it."""
        gone = {"forgotten": self.forgotten, "retained": len(self.lost), "held out": len(self.lost_holdout)}
        return {"folder": folder, "gone": {part: count for part, count in gone.items() if count}}


class KnownSamples:
    """Tells which ids are those of samples that a run had, and notes those that it did not have.

    Attributes:
        new: ids that were asked about, and that no part of the run has.
    """

    def __init__(self, records: KeptRecords) -> None:
        self.records = records
        self.new: list[str] = []

    def among(self, *parts: str) -> Callable[[str], bool]:
        """Returns whether an id is one of these parts'."""

        def known(name: str) -> bool:
            part = self.records.part_of.get(self.records.key(name))
            if part is None:
                self.new.append(name)
            return part in parts

        return known
