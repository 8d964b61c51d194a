"""The designs of an audit by name, and which of them a run gets."""

from collections.abc import Mapping, Sequence
from typing import Any

from untrain.audit.attacks_design import AttacksDesign
from untrain.audit.coins_design import CoinsDesign
from untrain.audit.design import Design
from untrain.audit.plan import AuditPlan, chosen_methods
from untrain.compare.pool import Cache
from untrain.errors import SettingError, UnknownName, unknown
from untrain.runs.recipe import Recipe
from untrain.settings import make

DESIGNS: dict[str, type[Design]] = {design.name: design for design in (CoinsDesign, AttacksDesign)}


def plan_of(
    recipe: Recipe,
    methods: Sequence[str] | None = None,
    *,
    design: str | None = None,
    twins: int | None = None,
    references: int | None = None,
    seed: int = 0,
    keep: bool = False,
    options: Mapping[str, Any] | None = None,
) -> AuditPlan:
    """Plans the audit of a run.

    Args:
        recipe: the run's.
        methods: entries of its recipe; None: all.
        design: a name of `DESIGNS`; None: the first that fits what the run forgets.
        twins: K; None: the design's own number.
        references: R; None: the design's own number.
        seed: of everything random.
        keep: keep the weights of twins.
        options: fields of the domain's `AuditOptions`.

    Raises:
        SettingError: if a design does not fit the run, its originals cannot be trained anew, twins are too few, or an
            option has no such value.
        UnknownName: if a method is none of the recipe's, or a design or an option is not known.
    """
    chosen = chosen_methods(recipe, methods)
    fitting = recipe.domain.audit_designs(recipe.sections)
    if design is not None and design not in DESIGNS:
        raise UnknownName(unknown("design", design, list(DESIGNS)))
    if not fitting:
        raise SettingError(f"models of the task {recipe.domain.name} cannot be audited yet: it names no design.")
    if design is not None and design not in fitting:
        raise SettingError(
            f"the design {design} does not fit what {recipe.folder} forgets; {' or '.join(fitting)} does."
        )
    kind = DESIGNS[design or fitting[0]]
    plan = AuditPlan(
        recipe,
        chosen,
        kind.name,
        kind.default_twins if twins is None else twins,
        kind.default_references if references is None else references,
        seed,
        keep,
        make(recipe.domain.AuditOptions, options or {}),
    )
    kind.check_plan(plan)
    return plan


def open_design(plan: AuditPlan, cache: Cache | None = None) -> Design:
    """Returns a plan's design, once a process where there is a cache."""
    kept = {} if cache is None else cache
    key = f"audit {plan.folder} {plan.design} {plan.seed} {plan.twins} {plan.references} {plan.methods} {plan.options}"
    if key not in kept:
        kept[key] = DESIGNS[plan.design](plan, cache)
    return kept[key]
