"""Requests that came one after another: what a run keeps of its own, and the model before the first of them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untrain.data.kept import KeptRecords
from untrain.data.splits import SETS, Split, describe_change, read_split
from untrain.errors import StaleFile, UntrainError
from untrain.models import checkpoints as weights
from untrain.runs.folder import read_manifest
from untrain.runs.names import ORIGINAL, SPLIT

if TYPE_CHECKING:
    from torch import nn

    from untrain.data.source import Source
    from untrain.domain import Domain

SHOWN = 100
"""So many names stand in the manifest and on the page; split.json has all of them."""


def check_data(folder: Path, source: Source, data: Any) -> None:
    """Refuses to go on with a run some of whose samples are gone, or others: nothing of it can be made again.

    Args:
        folder: of the run.
        source: its training samples, as they are now.
        data: the recipe's section on them, if it has one.

    Raises:
        StaleFile: says which.
    """
    if not (folder / SPLIT).exists():
        return
    content, records = read_split(folder / SPLIT)
    if records is None or content.get("kind") == SETS or content.get("data_hash") == source.fingerprint():
        return
    choosing = [name for name in ("limit", "test_fraction") if getattr(data, name, None) is not None]
    others = f" (data.{choosing[0]} chooses others where some are gone)" if choosing else ""
    raise StaleFile(
        f"{folder / SPLIT} was made of other data: {describe_change(records, source)}{others}. What the run "
        f"found stands, and "
        f"`untrain report {folder}` makes its page; on data that have changed its models can be neither made nor "
        "measured again. A further request goes on from its model, by forget.after."
    )


def request_facts(split: Split, records: KeptRecords | None) -> dict[str, Any]:
    """Returns what the manifest says of a request: counts, and the first ids, or their hashes."""
    facts: dict[str, Any] = {"count": len(split.forget), "earlier": len(split.earlier)}
    if "after" in split.spec:
        facts["after"] = split.spec["after"]["folder"]
    if records is None:
        return facts
    named = split.kind in ("ids", "indices") or "after" in split.spec
    facts |= {"hashed": records.hashed, "ids": [*records.parts["forget"][:SHOWN]] if named else []}
    facts["earlier_gone"] = len(records.parts["earlier"]) - len(split.earlier)
    lost = records.parts["gone"]
    facts["lost"] = {"count": len(lost), "ids": [*lost[:SHOWN]]}
    facts["skipped"] = {why: {"count": len(names), "ids": [*names[:SHOWN]]} for why, names in records.skipped.items()}
    return facts


def first_facts(after: str) -> dict[str, Any]:
    """Returns where the model before the first request is, as the run of the request before tells: "path", "hash"."""
    manifest = read_manifest(Path(after))
    known = manifest.get("request", {}).get("first")
    if known is not None:
        return dict(known)
    facts = manifest.get("models", {}).get(ORIGINAL, {})
    path = facts.get("source", Path(after) / f"{ORIGINAL}.safetensors")
    return {"path": str(path), "hash": facts.get("hash"), "seconds": facts.get("seconds")}


def open_first(domain: Domain, facts: dict[str, Any]) -> nn.Module | None:
    """Opens the model before the first request; None where it is gone or another one, which is said and noted.

    Args:
        domain: of the run.
        facts: of `first_facts`; "missing" is put in where it cannot be had.
    """
    sections = domain.sections
    try:
        own = replace(sections, model=replace(sections.model, checkpoint=facts["path"]))
        module = type(domain)(own, domain.context).original()[0].eval()
        if weights.state_hash(module) != facts["hash"]:
            raise StaleFile(f"{facts['path']} holds other weights than the first request began from.")
    except UntrainError as error:
        facts["missing"] = str(error)
        warnings.warn(f"the model before the first request cannot be shown beside the others: {error}", stacklevel=2)
        return None
    return module


def note_first(facts: dict[str, Any]) -> dict[str, Any]:
    """Returns what the manifest says of that model."""
    notes = [f"the model before the first request, {Path(facts['path']).name}"]
    about = {"hash": facts["hash"], "source": facts["path"], "notes": notes, "settings": {}}
    return about | ({} if facts.get("seconds") is None else {"seconds": facts["seconds"]})
