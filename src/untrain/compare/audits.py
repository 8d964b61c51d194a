"""Audits of a comparison's runs: what a comparison asks of the floor above, where audits are."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from untrain.compare.plan import EVALUATION, Cell, folder_of, groups
from untrain.compare.pool import Cache, Outcome
from untrain.errors import SettingError
from untrain.report.audit_file import AUDIT, AuditReport, read_audit
from untrain.report.measures import AUDIT_AUC, TRACE_LEFT
from untrain.report.results import Entry, Stat, as_mapping, as_number, as_sequence
from untrain.runs.folder import read_manifest
from untrain.runs.names import ORIGINAL
from untrain.runs.recipe import Recipe

BEGIN, VERDICT = "begin", "verdict"
"""Cells of an audit beside its own: it writes what is decided before anything is trained, and it scores."""


class GroupAudits(ABC):
    """Audits of a comparison's groups, as cells of the comparison: group "random-10/seed-0/audit" and below.

    One group of each forget set is audited, that of the first seed: an audit speaks of a method by models that are
    trained for it with seeds of their own, so a second one of the same forget set would tell little more.
    """

    @abstractmethod
    def cells(self, recipe: Recipe) -> list[Cell]:
        """Returns every cell of all audits, in the order in which they should be begun.

        Raises:
            SettingError: if a group cannot be audited.
        """

    @abstractmethod
    def finished(self, recipe: Recipe, done: Sequence[str]) -> list[str]:
        """Returns the keys of the cells that are finished.

        Args:
            recipe: the comparison's.
            done: keys of the other cells that are.
        """

    @abstractmethod
    def run(self, recipe: Recipe, cell: Cell, cache: Cache | None = None) -> None:
        """Runs one cell; one that is finished is only read."""

    @abstractmethod
    def on_over(self, recipe: Recipe, cell: Cell, outcome: Outcome) -> None:
        """Hears that a cell is over."""


def audited_groups(recipe: Recipe) -> list[str]:
    """Returns the groups that are audited: of each forget set that of the first seed; none where none is asked for."""
    if recipe.compare.audit is None:
        return []
    return [group for group in groups(recipe) if group.endswith(f"/seed-{recipe.compare.seeds[0]}")]


def audited_group(recipe: Recipe, cell: Cell) -> str | None:
    """Returns the group that a cell audits; None: it audits none."""
    inside = (g for g in audited_groups(recipe) if f"{cell.group}/".startswith(f"{g}/{AUDIT}/"))
    return next(inside, None)


def audit_of(recipe: Recipe, name: str, outcomes: Mapping[str, Outcome]) -> AuditReport | None:
    """Reads the audit of a forget set; None where there is none, or it did not end well."""
    group = f"{name}/seed-{recipe.compare.seeds[0]}"
    outcome = outcomes.get(f"{group}/{AUDIT}/{VERDICT}")
    if outcome is None or outcome.state != "done":
        return None
    folder = folder_of(recipe, group)
    return read_audit(folder, as_mapping(read_manifest(folder).get("models")))


def audit_stats(audit: AuditReport, entry: Entry) -> dict[str, Stat]:
    """Returns a model's AUC by outputs, and what is left of the originals' in percent, as far as the audit has them."""
    method = audit.method(entry.name)
    numbers = audit.original if entry.name == ORIGINAL else {} if method is None else method.numbers
    outputs = as_mapping(numbers.get("outputs"))
    if entry.name == ORIGINAL and any(as_mapping(m.numbers.get("outputs")).get("left") for m in audit.methods):
        outputs = {**outputs, "left": 1.0}  # what the methods' shares are of
    given = {
        AUDIT_AUC.key: (outputs.get("auc"), outputs.get("auc_ci"), 1.0),
        TRACE_LEFT.key: (outputs.get("left"), outputs.get("left_ci"), 100.0),
    }
    return {key: stat for key, (value, ci, unit) in given.items() if (stat := _stat(value, ci, unit)) is not None}


def _stat(value: object, ci: object, unit: float) -> Stat | None:
    known = as_number(value)
    if known is None:
        return None
    ends = [as_number(end) for end in as_sequence(ci)]
    low, high = ends if len(ends) == 2 else (None, None)
    interval = None if low is None or high is None else (unit * low, unit * high)
    return Stat((unit * known,), 1, unit * known, interval=interval)


def check_audit_seed(recipe: Recipe) -> None:
    """Refuses an audit with the seed that settings are searched on: they would be fitted to what judges them.

    Args:
        recipe: as `comparison_recipe` gives it.

    Raises:
        SettingError: names the seed.
    """
    audit, given = recipe.compare.audit, recipe.compare
    if audit is not None and given.trials and audit.seed == given.tuning_seed:
        raise SettingError(
            f"compare.audit.seed is {audit.seed}, on which settings are searched too (compare.tuning_seed): an audit "
            "must not judge by what a search has seen. Give compare.audit another seed."
        )


def needs_of(group: str) -> tuple[str, ...]:
    """Returns what an audit needs: the group is measured, and holds the settings that were chosen."""
    return (f"{group}/{EVALUATION}",)
