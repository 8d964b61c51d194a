"""The log of a model's requests: run folders in the order in which each goes on from the weights of the one before."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untrain.data.kept import KeptRecords
from untrain.data.records import hash_id
from untrain.data.splits import read_split
from untrain.errors import FolderError, StaleFile
from untrain.reading import printable
from untrain.report import Results
from untrain.report.audit_file import read_audit
from untrain.report.words import count_of, uncapitalize
from untrain.runs.folder import read_manifest
from untrain.runs.models import is_run
from untrain.runs.names import FIRST, ORIGINAL, RETRAINED, SPLIT
from untrain.runs.recipe import read_config
from untrain.sealed import check_listed

if TYPE_CHECKING:
    from untrain.report.presentation import Presentation

FEW = 3
"""So many ids are shown of each request, unless all are asked for."""
IN_FILES = ("folder", "captions")
"""Data sources whose ids are the paths of files within data.path."""


@dataclass(frozen=True)
class Model:
    """What a method made of the weights that a run began from."""

    name: str
    method: str
    hash: str


@dataclass(frozen=True)
class LoggedRequest:
    """One request, as its run folder tells of it.

    Attributes:
        number: its place in the chain, from 1, with requests that are not given.
        model: which of several models the chain is of, from 1.
        folder: of the run.
        created: when the run was finished, in ISO 8601.
        task: what the model does.
        asked: what was asked for, in words: classes, prompts, a file of ids, a share.
        count: how many samples were to be forgotten.
        named_by: "ids", "hashes", or "positions" in the data of that time.
        ids: the samples by these.
        starts: hash of the weights that it began from.
        models: what its methods made of them.
        kept: names of those that the next request of the chain goes on from.
        verdict: the report's by averages, in words.
        audit: what an audit found of each model sample by sample, in words; says so where there was none.
        on_disk: how many of the samples' files are still there; None where that is not known.
        notes: what is broken or amiss.
        after: folder of the request before, as the run was told.
        earlier: how many requests the run knows of before it.
    """

    folder: str
    created: str
    task: str
    asked: str
    count: int
    named_by: str
    ids: tuple[str, ...]
    starts: str
    models: tuple[Model, ...]
    verdict: str
    audit: str
    on_disk: int | None = None
    notes: tuple[str, ...] = ()
    number: int = 0
    model: int = 0
    kept: tuple[str, ...] = ()
    after: str | None = None
    earlier: int = 0


def read_log(
    folders: Sequence[Path], presentation_of: Callable[[Path], Presentation], *, hashed: bool = False
) -> list[LoggedRequest]:
    """Reads the requests of run folders in the order of their chains.

    Args:
        folders: run folders, or folders of these; in any order.
        presentation_of: how reports speak of the task of a folder.
        hashed: name samples by hashes.

    Raises:
        FolderError: if one is no run. StaleFile: if a file is damaged, or a chain forks.
    """
    runs = [read_request(folder, presentation_of(folder), hashed=hashed) for folder in find_runs(folders)]
    return order(runs)


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Returns the run folders among these, and directly in those that are none.

    Raises:
        FolderError: if there is none.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not os.path.isdir(folder):
            raise FolderError(f"there is no folder {printable(folder)}. Give run folders, or a folder of these.")
        runs = [folder] if is_run(folder) else sorted(path for path in folder.iterdir() if is_run(path))
        runs = [path for path in runs if not (path / "comparison.json").exists() or path == folder]
        if not runs:
            raise FolderError(f"{printable(folder)} is no run folder, and holds none. Give run folders.")
        if (folder / "comparison.json").exists():
            raise FolderError(f"{printable(folder)} holds a comparison, which meets no request. Give run folders.")
        found |= {path.resolve(): path for path in runs}
    return list(found.values())


# ── one request ─────────────────────────────────────────────────────────────────────────────────────────────────


def read_request(folder: Path, presentation: Presentation, *, hashed: bool = False) -> LoggedRequest:
    """Reads what a run folder tells of its request.

    Raises:
        FolderError: if its run is not finished. StaleFile: if a file of it is damaged.
    """
    manifest, config = read_manifest(folder), read_config(folder)
    results = Results.read(folder) if manifest else None
    if results is None or results.compared:
        raise FolderError(f"{folder} holds no finished run. Go on with it: untrain run {folder} --resume.")
    models = _models(manifest, config)
    original = manifest["models"].get(ORIGINAL, {})
    starts = original.get("hash") or next((m.get("started_from") for m in manifest["models"].values()), None)
    split, records, notes = _read_split(folder, manifest)
    named_by, ids = _ids(split, records, manifest, hashed=hashed)
    told = presentation.verdict(results.sets[0], results) if results.measured else None
    request = manifest.get("request", {})
    return LoggedRequest(
        folder=str(folder),
        created=str(manifest.get("created", "")),
        task=str(manifest.get("task", config.get("task", ""))),
        asked=_asked(manifest.get("split", split)),
        count=int(request.get("count", len(ids))),
        named_by=named_by,
        ids=ids,
        starts=str(starts or ""),
        models=models,
        verdict="not measured yet" if told is None else f"{told.headline}: {told.sentence}",
        audit=_audited(folder, manifest["models"]),
        on_disk=_count_files(config, records),
        notes=(*notes, *_remarks(request)),
        after=request.get("after"),
        earlier=int(manifest.get("split", {}).get("spec", {}).get("requests before", 0)),
    )


def _models(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Model, ...]:
    methods, facts = config.get("methods", {}), manifest.get("models", {})
    own = [n for n in facts if n in methods] or [n for n in facts if n not in (ORIGINAL, FIRST, RETRAINED)]
    return tuple(Model(name, str(facts[name].get("method", name)), str(facts[name].get("hash", ""))) for name in own)


def _read_split(
    folder: Path, manifest: Mapping[str, Any]
) -> tuple[Mapping[str, Any], KeptRecords | None, tuple[str, ...]]:
    """split.json, compared with the manifest; what is left to know where it was removed."""
    path = folder / SPLIT
    if not path.exists():
        return {}, None, (f"{SPLIT} is gone: only the first ids are known, from the manifest.",)
    remedy = f"Remove it, and `untrain run {folder} --resume` writes it again from the recipe."
    check_listed(path, manifest.get("files", {}), SPLIT, remedy)
    return *read_split(path), ()


def _ids(
    split: Mapping[str, Any], records: KeptRecords | None, manifest: Mapping[str, Any], *, hashed: bool
) -> tuple[str, tuple[str, ...]]:
    """What the forgotten samples are named by, and their names."""
    if records is not None:
        names = tuple(records.parts.get("forget", ()))
        if hashed and not records.hashed:
            return "hashes", tuple(hash_id(name, records.salt) for name in names)
        return ("hashes" if records.hashed else "ids"), names
    request = manifest.get("request", {})
    if "ids" in request and not (hashed and not request.get("hashed")):
        return ("hashes" if request.get("hashed") else "ids"), tuple(map(str, request["ids"]))
    return "positions", () if hashed else tuple(map(str, split.get("forget", ())))


def _asked(split: Mapping[str, Any]) -> str:
    """Says what was asked for."""
    spec = split.get("spec", {})
    if "classes" in spec:
        return f"all of {', '.join(map(str, spec['classes']))}"
    for kind in ("ids", "indices"):
        if kind in spec:
            return f"{kind} of {spec[kind].get('file', 'a list')}"
    if "fraction" in spec or "count" in spec:
        return f"a random {spec['fraction']:g} of them" if "fraction" in spec else f"{spec['count']} at random"
    return "sets given in Python"


def _audited(folder: Path, models: Mapping[str, Any]) -> str:
    """Says what the audit of a run found."""
    audit = read_audit(folder, models)
    if audit is None:
        return f"none was made: untrain audit {folder}"
    told = [f"{method.label}: {uncapitalize(method.headline)}" for method in audit.methods]
    return audit.stale or audit.unfinished or "; ".join(told)


def _remarks(request: Mapping[str, Any]) -> Iterator[str]:
    skipped = {why: int(each["count"]) for why, each in request.get("skipped", {}).items()}
    if skipped:
        told = "; ".join(f"{count} {why}" for why, count in skipped.items())
        yield f"{count_of(sum(skipped.values()), 'record')} of the list skipped: {told}."
    lost = request.get("lost", {}).get("count", 0)
    if lost:
        yield f"{count_of(lost, 'retained sample')} gone without a request."


def _count_files(config: Mapping[str, Any], records: KeptRecords | None) -> int | None:
    """How many of the files that were to be forgotten are still on disk; None where samples are no files."""
    data = config.get("data") or {}
    if records is None or data.get("name") not in IN_FILES or not data.get("path"):
        return None
    root, names = Path(data["path"]).expanduser(), set(records.parts.get("forget", ()))
    if not records.hashed:
        return sum((root / name).is_file() for name in names)
    paths = (Path(place, file).relative_to(root).as_posix() for place, _, each in os.walk(root) for file in each)
    return len(names & {records.key(path) for path in paths})


# ── chains ──────────────────────────────────────────────────────────────────────────────────────────────────────


def order(runs: Sequence[LoggedRequest]) -> list[LoggedRequest]:
    """Puts requests in the order of their chains: each begins from weights that the one before made.

    Raises:
        StaleFile: if two requests go on from the same weights, so that neither is the next.
    """
    makers: dict[str, list[LoggedRequest]] = {}
    for run in runs:
        for model in run.models:
            makers.setdefault(model.hash, []).append(run)
    parents = {run.folder: _parent(run, makers) for run in runs}
    _check_forks(runs, parents)
    following = {parent.folder: run for run in runs if (parent := parents[run.folder]) is not None}
    begun = sorted((run for run in runs if parents[run.folder] is None), key=lambda run: run.created)
    return [each for place, first in enumerate(begun, 1) for each in _chain(first, place, following, parents)]


def _chain(
    first: LoggedRequest,
    model: int,
    following: Mapping[str, LoggedRequest],
    parents: Mapping[str, LoggedRequest | None],
) -> Iterator[LoggedRequest]:
    """A request and those that follow it."""
    run: LoggedRequest | None = first
    for number in range(first.earlier + 1, first.earlier + len(parents) + 1):
        if run is None:
            return
        child = following.get(run.folder)
        kept = () if child is None else tuple(made.name for made in run.models if made.hash == child.starts)
        notes = (*_break_of(run, parents[run.folder]), *run.notes)
        yield replace(run, number=number, model=model, kept=kept, notes=notes)
        run = child


def _parent(run: LoggedRequest, makers: Mapping[str, Sequence[LoggedRequest]]) -> LoggedRequest | None:
    """The request whose weights a run began from; of several that made the same, the one that it names."""
    found = [maker for maker in makers.get(run.starts, ()) if maker.folder != run.folder]
    named = [m for m in found if run.after is not None and Path(m.folder).resolve() == Path(run.after).resolve()]
    return next(iter(named or found), None)


def _check_forks(runs: Sequence[LoggedRequest], parents: Mapping[str, LoggedRequest | None]) -> None:
    """One request at most begins from the same weights."""
    begun: dict[tuple[str, str], LoggedRequest] = {}
    for run in runs:
        parent = parents[run.folder]
        key = ("of", parent.folder) if parent is not None else ("from", run.starts)
        if key in begun and run.starts:
            source = f"the model that {parent.folder} made" if parent is not None else f"the weights {run.starts[:12]}"
            raise StaleFile(
                f"the chain forks: {begun[key].folder} and {run.folder} both go on from {source}, so neither follows "
                "the other. Give the folders of one chain."
            )
        begun[key] = run


def _break_of(run: LoggedRequest, parent: LoggedRequest | None) -> Iterator[str]:
    """What is wrong with where a request begins."""
    if parent is None and run.after is not None:
        yield (
            f"The chain is broken: it goes on from the weights {run.starts[:12]}, which none of these runs made "
            f"(its forget.after is {run.after})."
        )
    elif parent is not None and run.after is None:
        yield f"It began from a model of {parent.folder} without forget.after: what that forgot may have been retained."


# ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────


def as_text(requests: Sequence[LoggedRequest], *, whole: bool = False) -> str:
    """Writes the log for a reader."""
    several = len({request.model for request in requests}) > 1
    lines: list[str] = []
    model = 0
    for request in requests:
        if request.model != model:
            model = request.model
            lines += [f"model {request.model}, {request.task}" if several else request.task, ""]
        lines += _paragraph(request, whole)
    return "\n".join(lines).rstrip() + "\n"


def _paragraph(request: LoggedRequest, whole: bool) -> list[str]:
    made = [
        f"{m.hash[:12]} by {m.name if m.name == m.method else f'{m.name} ({m.method})'}"
        f"{', which the next goes on from' if m.name in request.kept and len(request.models) > 1 else ''}"
        for m in request.models
    ]
    lines = [f"{request.number}. {request.created}  {printable(request.folder)}"]
    lines += [f"   asked    {printable(request.asked)}: {count_of(request.count, 'sample')}{_shown(request, whole)}"]
    lines += [f"   weights  {request.starts[:12] or 'unknown'} → {'; '.join(made) or 'none'}"]
    lines += [f"   verdict  {request.verdict}"]
    lines += [f"   audit    {printable(request.audit)}"]
    if request.on_disk is not None:
        lines += [f"   on disk  {request.on_disk} of {request.count} files are still there"]
    return [*lines, *(f"   note     {printable(note)}" for note in request.notes), ""]


def _shown(request: LoggedRequest, whole: bool) -> str:
    if not request.ids:
        return ""
    names = request.ids if whole else request.ids[:FEW]
    more = request.count - len(names)
    word = "" if request.named_by == "ids" else f" {request.named_by}"
    return f",{word} {', '.join(map(printable, names))}{f' and {more} more' if more > 0 else ''}"


def as_json(requests: Sequence[LoggedRequest], *, whole: bool = False) -> str:
    """Writes the log as JSON."""
    entries = []
    for request in requests:
        entry = asdict(request)
        entry["ids"] = entry["ids"] if whole else entry["ids"][:FEW]
        entries.append(entry)
    return json.dumps({"requests": entries}, indent=2, ensure_ascii=False) + "\n"


COLUMNS = (
    *("model", "number", "created", "folder", "task", "asked", "count", "named_by", "ids", "starts", "method", "hash"),
    *("kept", "verdict", "audit", "on_disk", "notes"),
)


def as_csv(requests: Sequence[LoggedRequest], *, whole: bool = False) -> str:
    """Writes the log as csv: a row for each model that a request made; several ids are parted by semicolons."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for request in requests:
        common = {name: value for name, value in vars(request).items() if name in COLUMNS}
        common |= {"ids": ";".join(request.ids if whole else request.ids[:FEW]), "notes": " ".join(request.notes)}
        for made in request.models or (Model("", "", ""),):
            own = {"method": made.name, "hash": made.hash, "kept": "yes" if made.name in request.kept else ""}
            writer.writerow(common | own)
    return text.getvalue()


FORMS: dict[str, Callable[..., str]] = {"text": as_text, "json": as_json, "csv": as_csv}
"""How a log can be written."""
