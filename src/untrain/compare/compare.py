"""`untrain compare`: every method on the same forget sets, originals and seeds, and what that shows."""

import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from untrain.compare.audits import GroupAudits, audited_group, check_audit_seed
from untrain.compare.cells import find_cell, finished_cells, folder_of, open_group, run_cell
from untrain.compare.plan import Cell, comparison_recipe, groups, plan, trains_original, tuned
from untrain.compare.pool import Cache, Cluster, Command, Commands, Outcome, Pool, Workers, run_cells, threads_of
from untrain.compare.search import check_optuna
from untrain.compare.summary import compare_results
from untrain.engine import Bar, Engine
from untrain.errors import FolderError, SettingError, UnlearningWarning, UntrainError
from untrain.folders import ensure_dir
from untrain.io import write_json, write_text
from untrain.report import comparison_tables, terminal, write_report
from untrain.report.latex import LatexForm
from untrain.runs import stages
from untrain.runs.folder import describe_environment, list_files, read_manifest, remove_temporary
from untrain.runs.names import CONFIG, MANIFEST, ORIGINAL, SPLIT
from untrain.runs.recipe import ComparisonAudit, Recipe, write_config
from untrain.runs.stages import holds_run
from untrain.runs.work import CELLS, cells_of, check_count
from untrain.sealed import write_sealed
from untrain.settings import settings_of

_OTHER = (
    *("name", "out", "workers", "checkpoint_every", "methods", "references", "seed", "forget", "svc_attacks"),
    *("compare.seeds", "compare.forget_sets", "compare.spaces", "compare.audit", "store"),
    *(f"compare.audit.{name}" for name in settings_of(ComparisonAudit)),
)
"""Fields that may change when a comparison is gone on with; what they change of finished cells is found by cell."""


def compare_recipe(
    recipe: Recipe, *, jobs: int = 1, cluster: str | None = None, processes: int = 1, resume: bool = False,
    latex: LatexForm = "wide", audits: GroupAudits | None = None,
) -> Path:  # fmt: skip
    """Runs all cells of a comparison that are not finished yet, and reports.

    Args:
        recipe: the experiment, with its section `compare`.
        jobs: so many cells side by side on this machine.
        cluster: address of a Dask scheduler that takes the cells instead.
        processes: as how many processes each cell runs.
        resume: go on with the comparison that the folder holds.
        latex: form of comparison.tex.
        audits: makes the audits of `compare.audit`.

    Returns:
        The report's path.

    Raises:
        UntrainError: what is wrong with the recipe, data, model or folder, before anything is trained; or, after all
            else is done and reported, which cells failed.
    """
    engine = Engine.start(recipe.device, recipe.precision)
    with stages.locked(recipe):
        recipe = _checked(recipe, jobs, cluster, processes, resume, audits)
        cells, done = _prepared(recipe, processes)
        if audits is not None:
            cells, done = [*cells, *audits.cells(recipe)], [*done, *audits.finished(recipe, done)]
        pool = _pool(recipe, jobs, cluster, processes, audits)
        outcomes = _run_cells(recipe, engine, cells, done, pool, audits)
        write_sealed(recipe.folder / MANIFEST, _manifest(recipe, engine, outcomes, jobs, cluster, processes))
        path = report_comparison(recipe, outcomes, latex)
        _finish(recipe, cells, outcomes)
        return path


def _run_cells(
    recipe: Recipe, engine: Engine, cells: list[Cell], done: list[str], pool: Pool, audits: GroupAudits | None
) -> Mapping[str, Outcome]:
    """Runs the cells that are not done; returns how each ended, by key."""
    for cell in cells:
        if cell.key in done:
            _failure_file(recipe, cell).unlink(missing_ok=True)
    with engine.progress("cells", len(cells), len(done)) as bar:

        def tell(cell: Cell, outcome: Outcome) -> None:
            _told(recipe, cell, outcome, bar)
            if audits is not None:
                audits.on_over(recipe, cell, outcome)

        return run_cells(cells, pool, done, tell)


def _finish(recipe: Recipe, cells: list[Cell], outcomes: Mapping[str, Outcome]) -> None:
    """Removes what was computed for the cells alone, and says what they warned of and which failed."""
    for group in groups(recipe):  # a search's, too, which other searches work on
        remove_temporary(folder_of(recipe, group))
    own = {
        cell.key: outcomes[cell.key] for cell in cells if cell.key in outcomes and audited_group(recipe, cell) is None
    }  # audits note theirs
    _warn_once(own, _doubts(recipe))
    failed = [key for key, outcome in outcomes.items() if outcome.state == "failed"]
    if failed:
        missing = sum(outcome.state == "missing" for outcome in outcomes.values())
        raise UntrainError(
            f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}"
            + (f"; {missing} more need them" if missing else "")
            + f". {failed[0]}: {outcomes[failed[0]].error} The tracebacks are in *.failed.json beside each; "
            "start it again with --resume to try them again."
        )


def compare_cell(recipe: Recipe, key: str, audits: GroupAudits | None = None) -> None:
    """Runs one cell of a comparison in this process, or in this one and those that were started with it.

    Args:
        recipe: the experiment; its folder may hold the comparison already.
        key: the cell's, such as "random-10/seed-0/sfron".
        audits: makes the audits of `compare.audit`.

    Raises:
        UntrainError: as `compare_recipe`, and if a cell that it needs has not run.
    """
    full = comparison_recipe(recipe)
    find_cell(full, key, audits)
    engine = Engine.start(recipe.device, recipe.precision)
    if engine.is_main and not holds_run(full, resume=True, other=_OTHER):
        with stages.locked(full, name=CONFIG, wait=True):
            if not holds_run(full, resume=True, other=_OTHER):  # of another cell that began at the same moment
                write_config(full)
    engine.wait()
    run_cell(full, key, audits=audits)


def _checked(
    recipe: Recipe, jobs: int, cluster: str | None, processes: int, resume: bool, audits: GroupAudits | None
) -> Recipe:
    """The recipe as it will be run; its folder is opened."""
    if jobs < 1 or processes < 1:
        raise SettingError(f"--jobs and --processes must be at least 1, not {min(jobs, processes)}.")
    if cluster is not None and jobs > 1:
        raise SettingError("--jobs is for this machine, --cluster for another's workers: give one of them.")
    full = comparison_recipe(recipe)
    sets, searched = len(full.compare.forget_sets), len(tuned(full))
    check_audit_seed(full)
    if full.compare.audit is not None and audits is None:
        raise SettingError("compare.audit: this comparison was begun without audits; untrain compare makes them.")
    cells = cells_of(full, sets, searched) + (0 if audits is None else len(audits.cells(full)))
    check_count(cells, "cells", CELLS, full)
    if full.compare.trials:
        check_optuna()
    if holds_run(full, resume=resume, other=_OTHER) and (full.folder / f"{ORIGINAL}.safetensors").exists():
        raise FolderError(f"{full.folder} holds a run that is no comparison. Choose another folder with --out.")
    say = partial(Console(stderr=True).print, highlight=False, soft_wrap=True)
    say(f"work: {cells:,} cells, of {len(full.compare.seeds)} seeds and {sets} forget sets")
    if (full.references or 0) > (recipe.references or 0):
        say(f"references: {full.references}, the least from which a noise floor can be told")
    for entry in full.methods if full.compare.trials else ():
        if entry not in tuned(full):
            say(f"{entry} has no space to search: it runs with its own settings.")
    return full


def _prepared(recipe: Recipe, processes: int) -> tuple[list[Cell], list[str]]:
    """Opens every group's folder, so that whatever is wrong is found before anything is trained.

    Returns:
        The cells, and the keys of those that are finished.
    """
    cache: Cache = {}
    opened = {group: open_group(recipe, group, cache, write=False) for group in groups(recipe)}
    originals, done = {}, []
    for group, experiment in opened.items():
        experiment.folder.processes = processes
        if trains_original(recipe) and not recipe.evaluate_every:
            originals[group] = stages.original_fingerprint(experiment)
        done += [f"{group}/{name}" for name in finished_cells(recipe, group, experiment)]
    write_config(recipe)
    for experiment in opened.values():
        if not (experiment.folder.path / SPLIT).exists():
            stages.write_inputs(experiment, going_on=False)
    return plan(recipe, originals), done


def _pool(recipe: Recipe, jobs: int, cluster: str | None, processes: int, audits: GroupAudits | None) -> Pool:
    """Where the cells run."""
    flags = tuple(recipe.granted)
    command = Command(str(recipe.folder.absolute()), str(Path.cwd()), processes, flags=flags)
    if cluster is not None:
        return Cluster(command, cluster)
    if processes > 1:
        return Commands(replace(command, threads=threads_of(jobs * processes)), jobs)
    return Workers(partial(run_cell, recipe, audits=audits), jobs)


def _failure_file(recipe: Recipe, cell: Cell) -> Path:
    return folder_of(recipe, cell.group) / f"{cell.name}.failed.json"


def _told(recipe: Recipe, cell: Cell, outcome: Outcome, bar: Bar) -> None:
    """Says that a cell is over, and keeps why where it failed."""
    path = _failure_file(recipe, cell)
    if outcome.state == "failed":
        ensure_dir(path.parent)
        write_json(path, {"cell": cell.key, "error": outcome.error, "traceback": outcome.traceback})
    else:
        path.unlink(missing_ok=True)
    bar.advance(cell.key)
    said = f"{outcome.seconds:.1f} s" if outcome.state == "done" else f"{outcome.state}: {outcome.error}"
    Console(stderr=True).print(f"{cell.key}: {said}", highlight=False, markup=False, soft_wrap=True)


def _doubts(recipe: Recipe) -> set[str]:
    """What casts doubt on the results of single runs, as their manifests have it."""
    manifests = [read_manifest(folder_of(recipe, group)) for group in groups(recipe)]
    made = [facts for manifest in manifests for facts in (manifest, *manifest.get("models", {}).values())]
    return {text for facts in made for text in facts.get("warnings", ())}


def _warn_once(outcomes: Mapping[str, Outcome], doubts: set[str]) -> None:
    """Warns of what cells warned of, each once; texts are all that is left of them, so `doubts` tells their kind."""
    for text in dict.fromkeys(text for outcome in outcomes.values() for text in outcome.warnings):
        warnings.warn(text, UnlearningWarning if text in doubts else UserWarning, stacklevel=3)


def _manifest(
    recipe: Recipe,
    engine: Engine,
    outcomes: Mapping[str, Outcome],
    jobs: int,
    cluster: str | None,
    processes: int,
) -> dict[str, Any]:
    cells = {key: {"state": outcome.state, "error": outcome.error} for key, outcome in outcomes.items()}
    return {
        **describe_environment(engine),
        "command": sys.argv[1:],
        "jobs": jobs,
        "cluster": cluster,
        "processes": processes,
        "threads": threads_of(jobs * processes),
        "tuning_seed": recipe.compare.tuning_seed if tuned(recipe) else None,
        "cells": cells,
    }


def report_comparison(recipe: Recipe, outcomes: Mapping[str, Outcome], latex: LatexForm = "wide") -> Path:
    """Prints the table, and writes it and the page into a comparison's folder; returns the page's path."""
    presentation = recipe.domain.presentation
    results = compare_results(recipe, outcomes, presentation)
    folder = recipe.folder
    write_sealed(folder / "comparison.json", results.to_json())
    for suffix, text in comparison_tables(results, presentation, latex).items():
        write_text(folder / f"comparison.{suffix}", text)
    write_sealed(folder / MANIFEST, {**results.manifest, "files": list_files(folder, (CONFIG, "comparison.*"))})
    path = write_report(results, presentation)
    console = Console()
    console.print(terminal(results, presentation))
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
    return path
