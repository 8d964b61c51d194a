"""What one cell of an audit does: it opens its run folder and makes a model there, or asks its models for answers."""

from untrain.audit.design import Design, save_told
from untrain.audit.designs import open_design
from untrain.audit.plan import AuditPlan
from untrain.compare.plan import Cell
from untrain.compare.pool import Cache
from untrain.engine import on_device
from untrain.errors import SettingError, lookup
from untrain.folders import watched
from untrain.runs import stages
from untrain.runs.names import ORIGINAL


def run_audit_cell(plan: AuditPlan, key: str, cache: Cache | None = None) -> None:
    """Runs one cell; one that is finished already is only read.

    Args:
        plan: the audit's.
        key: the cell's, such as "twins/twin-03/sfron".
        cache: what cells of this process share.

    Raises:
        UnknownName: if the audit has no such cell. SettingError: if a cell that it needs has not run; names it.
    """
    design = open_design(plan, cache)
    cell = lookup("cell", {cell.key: cell for cell in design.cells()}, key)
    with watched(plan.recipe.folder), stages.locked(plan.recipe, plan.folder / cell.group, name=cell.name):
        if not design.is_done(cell):
            _run(design, cell)


def _run(design: Design, cell: Cell) -> None:
    experiment = design.open(cell.group)
    asked = design.asked_by(cell)
    if asked:
        _ask_models(design, cell.group, asked)
        return
    original = f"{cell.group}/{ORIGINAL}"
    if original in cell.needs and not experiment.folder.holds(ORIGINAL):
        raise SettingError(f"the cell {original} must run first.")
    design.load(experiment, cell.group, [cell.name])


def _ask_models(design: Design, group: str, names: list[str]) -> None:
    """Asks those models of a group that were not asked yet."""
    experiment = design.open(group)
    for name, module in design.load(experiment, group, design.unasked(group, names)).items():
        with on_device(experiment.engine.device, module):
            told = design.ask(experiment, group, name, module)
        if experiment.engine.is_main:
            save_told(design.file_of(group, name), told, design.mark_of(group, name))
    experiment.engine.wait()
    if experiment.engine.is_main:
        design.finish(experiment)
