"""`untrain audit`: the models of a run's audit, what they tell, and what that shows of every method."""

import json
import sys
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
from untrain.audit.options import FLAG
from untrain.audit.plan import AuditPlan
from untrain.compare.plan import Cell
from untrain.compare.pool import Cluster, Command, Commands, Outcome, Pool, Workers, run_cells, threads_of
from untrain.domain import Told
from untrain.engine import Engine
from untrain.errors import FolderError, SettingError, UntrainError
from untrain.io import hash_json
from untrain.runs import stages
from untrain.sealed import read_sealed, write_sealed

AUDIT_FILE = "audit.json"


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
        for sentence in design.work():
            Console(stderr=True).print(sentence, highlight=False, markup=False, soft_wrap=True)
        with engine.progress("cells", len(cells), len(done)) as bar:
            outcomes = run_cells(cells, _workplace(plan, jobs, cluster, processes), done, partial(_told, bar))
        failed = [key for key, outcome in outcomes.items() if outcome.state == "failed"]
        if failed:
            raise UntrainError(
                f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}. {failed[0]}: "
                f"{outcomes[failed[0]].error} Start it again with --resume to try them again."
            )
        audit = score_audit(design)
        write_sealed(plan.folder / AUDIT_FILE, audit.to_json())
        return audit


def _begun(design: Design, resume: bool) -> list[str]:
    """Writes what is audited, before anything is trained; returns the keys of the cells that are done."""
    plan, facts = design.plan, design.facts()
    path = plan.folder / AUDIT_FILE
    kept = read_sealed(path, f"Remove {plan.folder} and audit it anew.", "an audit", FolderError)
    if kept is None:
        path.parent.mkdir(exist_ok=True)
        write_sealed(path, dict(facts))
        return []
    if not resume:
        raise FolderError(f"{plan.folder} holds an audit already. Go on with it with --resume, or remove it.")
    if any(kept.get(name) != facts[name] for name in design.fixed):
        raise FolderError(
            f"{plan.folder} holds an audit with other twins, seed or samples. Ask for the same, or remove it."
        )
    return [cell.key for cell in design.cells() if design.is_done(cell)]


def _workplace(plan: AuditPlan, jobs: int, cluster: str | None, processes: int) -> Pool:
    command = Command(str(plan.recipe.folder.absolute()), str(Path.cwd()), processes, flags=_flags(plan), verb="audit")
    if cluster is not None:
        return Cluster(command, cluster)
    if processes > 1:
        return Commands(replace(command, threads=threads_of(jobs * processes)), jobs)
    return Workers(partial(run_audit_cell, plan), jobs)


def _flags(plan: AuditPlan) -> tuple[str, ...]:
    """What makes the same plan of the run folder."""
    twins = ["--twins", str(plan.twins)] if plan.twins else []  # a design without twins refuses any number of them
    numbers = (*twins, "--references", str(plan.references), "--seed", str(plan.seed))
    keep = ["--keep"] if plan.keep else []
    options = [f"{FLAG}{name}={json.dumps(value)}" for name, value in plan.plain_options().items()]
    chosen = ("--methods", ",".join(plan.methods), "--design", plan.design)
    return (*chosen, *numbers, *keep, *options, *plan.recipe.granted)


def _told(bar: Any, cell: Cell, outcome: Outcome) -> None:
    bar.advance(cell.key)
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
    marks = {group: [design.mark_of(group, name) for name in design.models(group)] for group in design.groups}
    mine = {
        "fingerprint": hash_json([version("untrain"), marks]),
        "untrain": version("untrain"),
        "command": sys.argv[1:],
    }
    return replace(audit, facts={**audit.facts, **mine})
