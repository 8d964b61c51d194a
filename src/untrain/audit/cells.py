"""What one cell of an audit does: it opens its run folder and makes a model there, or asks its models for signals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from untrain.audit.twins import BASE, SIGNALS_OF, AuditPlan, MemberPool, make_pool, open_run, open_twin
from untrain.compare.plan import Cell
from untrain.compare.pool import Cache
from untrain.domain import Told
from untrain.engine import on_device
from untrain.errors import CheckpointError, SettingError, StaleFile, lookup
from untrain.folders import ensure_dir, watched
from untrain.io import hash_json
from untrain.models import checkpoints
from untrain.runs import stages
from untrain.runs.names import ORIGINAL
from untrain.runs.stages import Experiment, reference_names

RELEARNING = 0.1
"""Of the original's peak learning rate, for relearning."""
_SCALARS = ("base", "test")


def run_audit_cell(plan: AuditPlan, key: str, cache: Cache | None = None) -> None:
    """Runs one cell; one that is finished already is only read.

    Args:
        plan: the audit's.
        key: the cell's, such as "twins/twin-03/sfron".
        cache: what cells of this process share.

    Raises:
        UnknownName: if the audit has no such cell. SettingError: if a cell that it needs has not run; names it.
    """
    cell = lookup("cell", {cell.key: cell for cell in plan.cells()}, key)
    with watched(plan.recipe.folder), stages.locked(plan.recipe, plan.folder / cell.group, name=cell.name):
        pool = _pool(plan, cache)
        if is_done(plan, pool, cell):
            return
        experiment = open_twin(plan, pool, cell.group, cache)
        if cell.name == SIGNALS_OF:
            _ask_models(plan, pool, experiment, cell.group)
        elif cell.name in reference_names(experiment.recipe):
            stages.train_references(experiment, [cell.name])
        else:
            if cell.name != ORIGINAL and not experiment.folder.holds(ORIGINAL):
                raise SettingError(f"the cell {cell.group}/{ORIGINAL} must run first.")
            start = stages.prepare_original(experiment)
            if cell.name != ORIGINAL:
                stages.unlearn_methods(experiment, start, [cell.name])


def _pool(plan: AuditPlan, cache: Cache | None) -> MemberPool:
    """The audit's pool, once a process."""
    key = f"pool {plan.folder} {plan.seed} {plan.twins}"
    kept = {} if cache is None else cache
    if key not in kept:
        run = open_run(plan, cache)
        kept[key] = make_pool(run.domain, run.division, plan)
    return kept[key]


def signal_file(plan: AuditPlan, group: str, name: str) -> Path:
    """Returns the file of a model's signals."""
    return plan.folder / group / SIGNALS_OF / f"{name}.safetensors"


def mark_of(plan: AuditPlan, pool: MemberPool, group: str, name: str) -> str:
    """Fingerprints what a model's signals are made from: all that decides its training, and the samples asked."""
    recipe = plan.recipe
    method = recipe.methods.get(name)
    coins = [] if group == BASE else pool.coins[int(group.rpartition("-")[2])].tolist()
    plain = recipe.plain()
    inputs = {key: plain[key] for key in ("task", "train", "batch_size", "precision", "parts", "seed")}
    return hash_json([inputs, str(method), pool.facts(), pool.division.split.data_hash, plan.seed, group, name, coins])


def is_done(plan: AuditPlan, pool: MemberPool, cell: Cell) -> bool:
    """Returns whether the signals that a cell is for are there; an original is for those of every method.

    Raises:
        StaleFile: if signals are there that were made from other inputs, or are damaged.
    """
    whole = cell.name in (SIGNALS_OF, ORIGINAL)
    names = plan.models(cell.group) if whole else [cell.name]
    return not _unasked(plan, pool, cell.group, names)


def _unasked(plan: AuditPlan, pool: MemberPool, group: str, names: Sequence[str]) -> list[str]:
    """Names the models whose signals are not there."""
    return [name for name in names if read_signals(plan, pool, group, name) is None]


def read_signals(plan: AuditPlan, pool: MemberPool, group: str, name: str) -> Told | None:
    """Reads what a model told; None: it was not asked yet.

    Raises:
        StaleFile: names the file that is damaged or was made from other inputs.
    """
    path = signal_file(plan, group, name)
    if not path.exists():
        return None
    again = f"Remove it, and untrain audit {plan.recipe.folder} --resume makes it anew."
    try:
        found, facts = checkpoints.load_state(path)
    except CheckpointError as error:
        raise StaleFile(f"{str(error).removesuffix(' Get it again.')} {again}") from error
    if facts.get("fingerprint") != mark_of(plan, pool, group, name):
        raise StaleFile(f"{path} was made from other inputs than this audit's. {again}")
    arrays = {key: tensor.numpy() for key, tensor in found.items()}
    scores = {key: float(arrays.pop(key)[0]) for key in _SCALARS if key in arrays}
    correct = arrays.pop("correct", None)
    return Told(arrays, None if correct is None else correct.astype(bool), scores, tuple(facts.get("notes", ())))


def _ask_models(plan: AuditPlan, pool: MemberPool, experiment: Experiment, group: str) -> None:
    """Asks every model of a group that was not asked yet; then its weights go, unless they are to be kept."""
    rate = stages.peak_lr(experiment)
    for name, module in _models(experiment, group, _unasked(plan, pool, group, plan.models(group))).items():
        with on_device(experiment.engine.device, module):
            told = experiment.domain.ask(
                module, experiment.division, pool.samples, None if rate is None else RELEARNING * rate
            )
        if experiment.engine.is_main:
            _write(signal_file(plan, group, name), told, mark_of(plan, pool, group, name))
    experiment.engine.wait()
    if experiment.engine.is_main and not plan.keep:
        _remove_weights(experiment.folder.path)


def _models(experiment: Experiment, group: str, names: Sequence[str]) -> dict[str, nn.Module]:
    if group == BASE:
        return stages.train_references(experiment, names)
    start = stages.prepare_original(experiment)
    models = stages.unlearn_methods(experiment, start, [name for name in names if name != ORIGINAL])
    return {ORIGINAL: start, **models} if ORIGINAL in names else models


def _write(path: Path, told: Told, mark: str) -> None:
    ensure_dir(path.parent)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in told.signals.items()}
    if told.correct is not None:
        tensors["correct"] = torch.from_numpy(told.correct.astype(np.uint8))
    tensors |= {name: torch.tensor([value], dtype=torch.float64) for name, value in told.scores.items()}
    checkpoints.save(tensors, path, {"fingerprint": mark, "notes": list(told.notes)})


def _remove_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
