"""`untrain audit`: the models of a run's audit, what they tell, and what that shows of every method."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from untrain.audit.cells import run_audit_cell
from untrain.audit.design import Design
from untrain.audit.designs import open_design
from untrain.audit.finding import Audit
from untrain.audit.options import FLAG, SWITCHES
from untrain.audit.per_sample import PER_SAMPLE_FILE, write_samples
from untrain.audit.plan import AuditPlan
from untrain.compare.plan import Cell
from untrain.compare.pool import Cluster, Command, Commands, Outcome, Pool, Workers, run_cells, threads_of
from untrain.domain import Told
from untrain.engine import Engine
from untrain.errors import FolderError, SettingError, UntrainError
from untrain.io import hash_json
from untrain.report import write_report
from untrain.report.audit_file import AUDIT_FILE
from untrain.report.results import as_mapping, as_sequence
from untrain.runs import stages
from untrain.runs.flags import flag_of
from untrain.runs.folder import read_manifest
from untrain.runs.names import ORIGINAL
from untrain.sealed import read_sealed, write_sealed


def audit_run(
    plan: AuditPlan, *, jobs: int = 1, cluster: str | None = None, processes: int = 1, resume: bool = False
) -> Audit:
    """Audits a run: trains its twins, asks them, and judges every method.

    Args:
        plan: of a run that is there.
        jobs: cells side by side on this machine.
        cluster: address of a Dask scheduler that takes the cells instead.
        processes: as how many processes each cell runs.
        resume: go on with the audit that the run folder holds.

    Raises:
        UntrainError: what keeps the run from being audited; or, after all else is done, which cells failed.
    """
    recipe = plan.recipe
    engine = Engine.start(recipe.device, recipe.precision)
    if not stages.holds_run(recipe, resume=True):
        raise FolderError(f"{recipe.folder} holds no run. Make it first: untrain run RECIPE --out {recipe.folder}.")
    with stages.locked(recipe):
        design = open_design(plan)
        cells, done = design.cells(), _begun(design, resume)
        for need in design.needs():
            Console(stderr=True).print(need, highlight=False, markup=False, soft_wrap=True)
        if len(done) < len(cells):
            design.prepare()
        clock = AuditClock(plan.folder)
        with engine.progress("cells", len(cells), len(done)) as bar:
            outcomes = run_cells(cells, _workplace(plan, jobs, cluster, processes), done, partial(_told, bar, clock))
        failed = [key for key, outcome in outcomes.items() if outcome.state == "failed"]
        if failed:
            raise UntrainError(
                f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}. {failed[0]}: "
                f"{outcomes[failed[0]].error} Start it again with --resume to try them again."
            )
        return finish_audit(design)


def finish_audit(design: Design) -> Audit:
    """Judges every method, and writes audit.json and the pages."""
    plan = design.plan
    audit = score_audit(design)
    audit = replace(audit, facts={**audit.facts, "seconds": AuditClock(plan.folder).seconds})
    write_sealed(plan.folder / AUDIT_FILE, audit.to_json())
    if audit.samples:
        write_samples(plan.folder / PER_SAMPLE_FILE, audit.samples)
    write_report(plan.recipe.folder, plan.recipe.domain.presentation)
    return audit


def _begun(design: Design, resume: bool) -> list[str]:
    """Begins an audit; returns the keys of the cells that are done."""
    there = begin_audit(design, resume=resume)
    return [cell.key for cell in design.cells() if design.is_done(cell)] if there else []


def begin_audit(design: Design, *, resume: bool) -> bool:
    """Writes what is audited, before anything is trained; returns whether it was written before.

    Raises:
        FolderError: if the folder holds another audit, or holds one and `resume` is not said.
    """
    plan, facts = design.plan, design.facts()
    path = plan.folder / AUDIT_FILE
    kept = _read_kept(path)
    if kept is None:
        path.parent.mkdir(exist_ok=True)
        write_sealed(path, dict(facts))
        return False
    if not resume:
        raise FolderError(f"{plan.folder} holds an audit already. Go on with it with --resume, or remove it.")
    if any(kept.get(name) != facts[name] for name in design.fixed):
        raise FolderError(
            f"{plan.folder} holds an audit with other twins, seed or samples. Ask for the same, or remove it."
        )
    return True


def _read_kept(path: Path) -> dict[str, Any] | None:
    return read_sealed(path, f"Remove {path.parent} and audit it anew.", "an audit", FolderError)


def is_finished(plan: AuditPlan) -> bool:
    """Returns whether audit.json holds just what is asked for, made from what the run is now.

    Raises:
        StaleFile: if it is damaged, or what a model told is.
    """
    kept = _read_kept(plan.folder / AUDIT_FILE)
    if kept is None or [*as_mapping(kept.get("methods"))] != [*plan.methods]:
        return False
    design = open_design(plan)
    now = {**design.facts(), **_made_from(design)}
    same = all(kept.get(name) == now[name] for name in (*design.fixed, "fingerprint", "models"))
    return same and not any(design.unasked(group, design.models(group)) for group in design.groups)


def _workplace(plan: AuditPlan, jobs: int, cluster: str | None, processes: int) -> Pool:
    command = Command(str(plan.recipe.folder.absolute()), str(Path.cwd()), processes, flags=_flags(plan), verb="audit")
    if cluster is not None:
        return Cluster(command, cluster)
    if processes > 1:
        return Commands(replace(command, threads=threads_of(jobs * processes)), jobs)
    return Workers(partial(run_audit_cell, plan), jobs)


def _flags(plan: AuditPlan) -> tuple[str, ...]:
    """What makes the same plan of the run folder."""
    planted = ["--planted", str(plan.planted)] if plan.planted else []
    numbers = ("--twins", str(plan.twins), "--references", str(plan.references), "--seed", str(plan.seed))
    said = [flag_of(name) for name in SWITCHES if getattr(plan, name)]
    options = [f"{FLAG}{name}={json.dumps(value)}" for name, value in plan.plain_options().items()]
    chosen = ("--methods", ",".join(plan.methods), "--design", plan.design)
    return (*chosen, *numbers, *planted, *said, *options, *plan.recipe.granted)


class AuditClock:
    """Counts the seconds of an audit's cells in audit.json, over all calls that worked on it.

    Args:
        folder: of the audit, whose audit.json is there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / AUDIT_FILE
        self.kept = _read_kept(self.path) or {}

    @property
    def seconds(self) -> float:
        """Of all cells so far."""
        return float(self.kept.get("seconds", 0.0))

    def add(self, seconds: float) -> None:
        """Adds a cell's."""
        self.kept["seconds"] = round(self.seconds + seconds, 1)
        write_sealed(self.path, self.kept)


def _told(bar: Any, clock: AuditClock, cell: Cell, outcome: Outcome) -> None:
    bar.advance(cell.key)
    if outcome.state == "done":
        clock.add(outcome.seconds)
    said = f"{outcome.seconds:.1f} s" if outcome.state == "done" else f"{outcome.state}: {outcome.error}"
    Console(stderr=True).print(f"{cell.key}: {said}", highlight=False, markup=False, soft_wrap=True)


def score_audit(design: Design) -> Audit:
    """Judges every method by what the audit's models told."""

    def read(group: str, name: str) -> Told:
        told = design.read_told(group, name)
        if told is None:
            again = f"untrain audit {design.plan.recipe.folder} --resume"
            raise SettingError(f"what {group}/{name} told is not there: {again}.")
        return told

    audit = design.score(read)
    notes = sorted({*audit.facts.get("notes", ()), *_warned(design)})
    mine = {**_made_from(design), "untrain": version("untrain"), "command": sys.argv[1:], "notes": notes}
    return replace(audit, facts={**audit.facts, **mine})


def _warned(design: Design) -> Iterator[str]:
    """Says of which methods models of the audit warned when they were made, and for example what."""
    folders = [design.plan.folder / group for group in design.groups]
    made = [as_mapping(read_manifest(folder).get("models")) for folder in folders]
    for name in design.plan.methods:
        said = [texts for models in made if (texts := as_sequence(as_mapping(models.get(name)).get("warnings")))]
        if said:
            yield f"{name}: {len(said)} of the audit's models were made with a warning, such as: {said[0][0]}."


def _made_from(design: Design) -> dict[str, Any]:
    """Fingerprints the answers of an audit's models, and names the run's models as its manifest has them."""
    plan = design.plan
    marks = {group: [design.mark_of(group, name) for name in design.models(group)] for group in design.groups}
    made = as_mapping(read_manifest(plan.recipe.folder).get("models"))
    models = {name: as_mapping(made.get(name)).get("fingerprint") for name in (ORIGINAL, *plan.methods)}
    return {"fingerprint": hash_json([version("untrain"), marks]), "models": models}
