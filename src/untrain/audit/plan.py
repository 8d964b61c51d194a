"""What an audit is asked for: of which run, of which methods, by which design, with how many models."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from untrain.domain import NoOptions
from untrain.errors import SettingError, UnknownName, unknown
from untrain.report.audit_file import AUDIT
from untrain.runs.recipe import Recipe


@dataclass(frozen=True)
class AuditPlan:
    """What an audit of a run makes.

    Attributes:
        recipe: the run's.
        methods: entries of the recipe that are audited.
        design: by which it finds traces, a name of `untrain.audit.designs.DESIGNS`.
        twins: K.
        references: R, models retrained without what is forgotten.
        seed: of pool, coins, and whatever is random in twins.
        keep: keep the weights of twins once their signals are known.
        options: the domain's `AuditOptions`, how much its attacks may do.
        exchangeable: it was said that forgotten and unseen samples were drawn from one source at random.
        planted: images with noise that are planted in each twin.
        per_sample: write what is known of each sample, too.
        no_relearning: relearn nothing, so that what lies dormant is not looked for.
    """

    recipe: Recipe
    methods: tuple[str, ...]
    design: str = "coins"
    twins: int = 16
    references: int = 4
    seed: int = 0
    keep: bool = False
    options: Any = NoOptions()
    exchangeable: bool = False
    planted: int = 0
    per_sample: bool = False
    no_relearning: bool = False

    @property
    def folder(self) -> Path:
        """Where the audit is kept."""
        return self.recipe.folder / AUDIT

    def plain_options(self) -> dict[str, Any]:
        """Returns the options as JSON has them."""
        return asdict(self.options)


def chosen_methods(recipe: Recipe, methods: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the entries of a recipe that are audited; None: all.

    Raises:
        SettingError: if there is none. UnknownName: if one is none of the recipe's.
    """
    chosen = tuple(recipe.methods if methods is None else methods)
    strange = [name for name in chosen if name not in recipe.methods]
    if strange:
        raise UnknownName(unknown("method of the run", strange[0], recipe.methods))
    if not chosen:
        raise SettingError(f"{recipe.folder} has no method to audit.")
    return chosen
