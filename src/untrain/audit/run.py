"""`untrain audit`: twins of a run, what they tell, and what that shows of every method."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from untrain.audit.cells import is_done, mark_of, read_signals, run_audit_cell
from untrain.audit.score import REDRAWS, Audited
from untrain.audit.statistics import detectable_auc, welch
from untrain.audit.traces import Kept, Mean, Traces
from untrain.audit.twins import BASE, AuditPlan, MemberPool, facts_of, make_pool, open_run
from untrain.audit.verdict import TOLERATED_LEFT, TOLERATED_POINTS, AuditVerdict, judge_traces
from untrain.compare.plan import Cell
from untrain.compare.pool import Cluster, Command, Commands, Outcome, Pool, Workers, run_cells, threads_of
from untrain.domain import Told
from untrain.engine import Engine
from untrain.errors import FolderError, SettingError, UntrainError
from untrain.io import hash_json
from untrain.runs import stages
from untrain.runs.names import ORIGINAL
from untrain.sealed import read_sealed, write_sealed

AUDIT_FILE = "audit.json"
NOT_TRIED = (
    "attacks that know what a sample looks like to a model trained with and without it alone",
    "attacks on weights that no input reaches",
    "more than a hundred steps of relearning",
)


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        facts: what was audited: twins, pool, coins and their hash, as audit.json holds them.
        original: what was found of the originals.
        methods: what was found of each method.
        verdicts: of each method.
    """

    facts: Mapping[str, Any]
    original: Traces
    methods: Mapping[str, Traces]
    verdicts: Mapping[str, AuditVerdict]

    @property
    def verdict(self) -> AuditVerdict:
        """The verdict on the only method.

        Raises:
            SettingError: if there are several.
        """
        if len(self.verdicts) != 1:
            raise SettingError(f"there are {len(self.verdicts)} verdicts: {', '.join(self.verdicts)}. See .verdicts.")
        return next(iter(self.verdicts.values()))

    def to_json(self) -> dict[str, Any]:
        """Returns it as audit.json holds it."""
        methods = {
            name: {**_plain(found), "verdict": asdict(self.verdicts[name])} for name, found in self.methods.items()
        }
        return {**self.facts, "methods": methods, "controls": {ORIGINAL: _plain(self.original)}}


def _plain(found: Traces) -> dict[str, Any]:
    values = asdict(found)
    return {**values.pop("groups"), **values}


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
        run = open_run(plan)
        pool = make_pool(run.domain, run.division, plan)
        cells, done = plan.cells(), _begun(plan, pool, resume)
        with engine.progress("cells", len(cells), len(done)) as bar:
            outcomes = run_cells(cells, _workplace(plan, jobs, cluster, processes), done, partial(_told, bar))
        failed = [key for key, outcome in outcomes.items() if outcome.state == "failed"]
        if failed:
            raise UntrainError(
                f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}. {failed[0]}: "
                f"{outcomes[failed[0]].error} Start it again with --resume to try them again."
            )
        audit = score_audit(plan, pool)
        write_sealed(plan.folder / AUDIT_FILE, audit.to_json())
        return audit


def _begun(plan: AuditPlan, pool: MemberPool, resume: bool) -> list[str]:
    """Writes what is audited, before anything is trained; returns the keys of the cells that are done."""
    path, facts = plan.folder / AUDIT_FILE, facts_of(plan, pool)
    kept = read_sealed(path, f"Remove {plan.folder} and audit it anew.", "an audit", FolderError)
    if kept is None:
        path.parent.mkdir(exist_ok=True)
        write_sealed(path, dict(facts))
        return []
    if not resume:
        raise FolderError(f"{plan.folder} holds an audit already. Go on with it with --resume, or remove it.")
    fixed = ("seed", "coins_sha256", "pool", "twins")
    if any(kept.get(name) != facts[name] for name in fixed):
        raise FolderError(
            f"{plan.folder} holds an audit with other twins, seed or samples. Ask for the same, or remove it."
        )
    return [cell.key for cell in plan.cells() if is_done(plan, pool, cell)]


def _workplace(plan: AuditPlan, jobs: int, cluster: str | None, processes: int) -> Pool:
    command = Command(str(plan.recipe.folder.absolute()), str(Path.cwd()), processes, flags=_flags(plan), verb="audit")
    if cluster is not None:
        return Cluster(command, cluster)
    if processes > 1:
        return Commands(replace(command, threads=threads_of(jobs * processes)), jobs)
    return Workers(partial(run_audit_cell, plan), jobs)


def _flags(plan: AuditPlan) -> tuple[str, ...]:
    """What makes the same plan of the run folder."""
    return (
        *("--methods", ",".join(plan.methods), "--twins", str(plan.twins), "--references", str(plan.references)),
        *("--seed", str(plan.seed), *(["--keep"] if plan.keep else []), *plan.recipe.granted),
    )


def _told(bar: Any, cell: Cell, outcome: Outcome) -> None:
    bar.advance(cell.key)
    said = f"{outcome.seconds:.1f} s" if outcome.state == "done" else f"{outcome.state}: {outcome.error}"
    Console(stderr=True).print(f"{cell.key}: {said}", highlight=False, markup=False, soft_wrap=True)


# ── from what was told to findings ──────────────────────────────────────────────────────────────────────────────


def score_audit(plan: AuditPlan, pool: MemberPool) -> Audit:
    """Judges every method by what its twins told."""
    before = _told_of(plan, pool, ORIGINAL)
    retrained = [_read(plan, pool, BASE, name) for name in plan.models(BASE)]
    originals = Audited(_stacked(before), pool.coins, seed=plan.seed)
    first = replace(originals.find(_stacked(retrained) if retrained else None), kept=_kept(before, retrained, pool))
    methods, verdicts = {}, {}
    for name in plan.methods:
        told = _told_of(plan, pool, name)
        found = Audited(_stacked(told), pool.coins, originals, seed=plan.seed).find(
            _stacked(retrained) if retrained else None
        )
        methods[name] = replace(found, kept=_kept(told, retrained, pool))
        verdicts[name] = judge_traces(name, methods[name], first, plan.twins)
    marks = {g: [mark_of(plan, pool, g, name) for name in plan.models(g)] for g in plan.groups}
    facts = {
        **facts_of(plan, pool),
        "detectable_auc": detectable_auc(*pool.coins.shape),
        "tolerance": {"left": TOLERATED_LEFT, "points": TOLERATED_POINTS},
        "redraws": REDRAWS,
        "not_tried": list(NOT_TRIED),
        "notes": sorted({note for told in (*before, *retrained) for note in told.notes}),
        "fingerprint": hash_json([version("untrain"), marks]),
        "untrain": version("untrain"),
        "command": sys.argv[1:],
    }
    return Audit(facts, first, methods, verdicts)


def _told_of(plan: AuditPlan, pool: MemberPool, name: str) -> list[Told]:
    return [_read(plan, pool, plan.twin(k), name) for k in range(plan.twins)]


def _read(plan: AuditPlan, pool: MemberPool, group: str, name: str) -> Told:
    told = read_signals(plan, pool, group, name)
    if told is None:
        raise SettingError(f"the signals of {group}/{name} are not there: untrain audit {plan.recipe.folder} --resume.")
    return told


def _stacked(told: Sequence[Told]) -> dict[str, np.ndarray]:
    """Signals that all models told, [models, N]."""
    names = [name for name in told[0].signals if all(name in each.signals for each in told)]
    return {name: np.stack([each.signals[name] for each in told]) for name in names}


def _kept(told: Sequence[Told], retrained: Sequence[Told], pool: MemberPool) -> Kept | None:
    """How accurate models are beside retrained ones."""
    if not retrained or any(each.correct is None for each in (*told, *retrained)):
        return None
    unseen = [100 * float(each.correct[~coins].mean()) for each, coins in zip(told, pool.coins, strict=False)]  # type: ignore[index]
    whole = [100 * float(each.correct.mean()) for each in retrained]  # type: ignore[union-attr]

    def apart(name: str) -> Mean:
        one, other = ([each.scores.get(name, np.nan) for each in side] for side in (told, retrained))
        return Mean(*welch(np.array(one), np.array(other)))

    return Kept(apart("base"), apart("test"), Mean(*welch(np.array(unseen), np.array(whole))))
