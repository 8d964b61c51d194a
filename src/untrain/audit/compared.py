"""Audits of a comparison's runs, as cells of the comparison."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from untrain.audit.cells import run_audit_cell
from untrain.audit.design import Design
from untrain.audit.designs import open_design, plan_of
from untrain.audit.plan import AuditPlan
from untrain.audit.run import AuditClock, begin_audit, finish_audit, is_finished
from untrain.compare.audits import BEGIN, VERDICT, GroupAudits, audited_group, audited_groups, needs_of
from untrain.compare.plan import Cell, folder_of, group_recipe
from untrain.compare.pool import Cache, Outcome
from untrain.errors import SettingError
from untrain.report.audit_file import AUDIT
from untrain.runs.recipe import Recipe, read


class RunAudits(GroupAudits):
    """The audits of ordinary run folders: the first seed's of each forget set, of all methods of the recipe."""

    def cells(self, recipe: Recipe) -> list[Cell]:
        """Returns every cell, audit by audit: what is decided beforehand, the design's own, and the verdict."""
        return [cell for group in audited_groups(recipe) for cell in self._cells_of(recipe, group)]

    def _cells_of(self, recipe: Recipe, group: str) -> Iterator[Cell]:
        place = f"{group}/{AUDIT}"
        begin = Cell(place, BEGIN, needs_of(group))
        yield begin
        own = [
            _moved(place, cell, begin.key) for cell in open_design(_plan(recipe, group_recipe(recipe, group))).cells()
        ]
        yield from own
        yield Cell(place, VERDICT, tuple(cell.key for cell in own))

    def finished(self, recipe: Recipe, done: Sequence[str]) -> list[str]:
        """Returns the keys of the cells that are finished, of audits whose group is measured."""
        found: list[str] = []
        for group in audited_groups(recipe):
            if not set(needs_of(group)) <= {*done}:
                continue
            place, design = f"{group}/{AUDIT}", self._design(recipe, group)
            if not (design.plan.folder.exists() and begin_audit(design, resume=True)):
                continue
            found.append(f"{place}/{BEGIN}")
            found += [f"{place}/{cell.key}" for cell in design.cells() if design.is_done(cell)]
            found += [f"{place}/{VERDICT}"] if is_finished(design.plan) else []
        return found

    def run(self, recipe: Recipe, cell: Cell, cache: Cache | None = None) -> None:
        """Runs a cell of an audit, on the settings that the group was measured with.

        Raises:
            SettingError: if the group was not measured yet.
        """
        group = audited_group(recipe, cell)
        if group is None:
            raise SettingError(f"the cell {cell.key} audits nothing.")
        design = self._design(recipe, group, cache)
        if cell.name == BEGIN and cell.group == f"{group}/{AUDIT}":
            begin_audit(design, resume=True)
            design.prepare()
        elif cell.name == VERDICT and cell.group == f"{group}/{AUDIT}":
            finish_audit(design)
        else:
            run_audit_cell(design.plan, cell.key.removeprefix(f"{group}/{AUDIT}/"), cache)

    def on_over(self, recipe: Recipe, cell: Cell, outcome: Outcome) -> None:
        """Counts the seconds of a cell in its audit."""
        group = audited_group(recipe, cell)
        if group is not None and outcome.state == "done" and cell.name not in (BEGIN, VERDICT):
            AuditClock(folder_of(recipe, group) / AUDIT).add(outcome.seconds)

    def _design(self, recipe: Recipe, group: str, cache: Cache | None = None) -> Design:
        """The design of a group's audit, by the recipe in its folder, which has the settings that were chosen."""
        own = replace(read(folder_of(recipe, group), permissions=recipe.permissions), workers=recipe.workers)
        return open_design(_plan(recipe, own), cache)


def _plan(recipe: Recipe, own: Recipe) -> AuditPlan:
    """Plans the audit of a group.

    Raises:
        SettingError: if the comparison asks for none, or the group cannot be audited.
    """
    given = recipe.compare.audit
    if given is None:
        raise SettingError("compare.audit is null: there is nothing to audit.")
    sizes = {"twins": given.twins, "references": given.references}
    how: dict[str, Any] = {"design": given.design, **sizes, "seed": given.seed, "options": given.options}
    return plan_of(own, [*recipe.methods], **how)


def _moved(place: str, cell: Cell, begin: str) -> Cell:
    """A cell of an audit as one of the comparison."""
    needs, after = (tuple(f"{place}/{key}" for key in keys) for keys in (cell.needs, cell.after))
    return Cell(f"{place}/{cell.group}", cell.name, (begin, *needs), after)
