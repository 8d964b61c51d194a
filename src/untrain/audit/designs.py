"""The designs of an audit by name, and which of them a run gets."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from untrain.audit.attacks_design import AttacksDesign
from untrain.audit.coins_design import CoinsDesign
from untrain.audit.design import Design
from untrain.audit.plan import AuditPlan, chosen_methods
from untrain.audit.refs_design import RefsDesign
from untrain.audit.single_design import SingleDesign
from untrain.compare.pool import Cache
from untrain.errors import SettingError, UnknownName, spell, unknown
from untrain.runs.flags import flag_of
from untrain.runs.folder import read_manifest
from untrain.runs.recipe import Recipe
from untrain.settings import make

DESIGNS: dict[str, type[Design]] = {
    design.name: design for design in (CoinsDesign, RefsDesign, SingleDesign, AttacksDesign)
}

COMMON = ("keep",)
"""Further fields of a plan that every design takes."""


def plan_of(
    recipe: Recipe,
    methods: Sequence[str] | None = None,
    *,
    design: str | None = None,
    twins: int | None = None,
    references: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> AuditPlan:
    """Plans the audit of a run.

    Args:
        recipe: the run's.
        methods: entries of its recipe; None: all.
        design: a name of `DESIGNS`; None: the first that fits what the run forgets.
        twins: K; None: the design's own number; 0: the design without any.
        references: R; None: the design's own number.
        seed: of everything random.
        options: fields of the domain's `AuditOptions`.
        more: further fields of the plan.

    Raises:
        SettingError: if a design does not fit the run, its originals cannot be trained anew, twins are too few, or an
            option has no such value.
        UnknownName: if a method is none of the recipe's, or a design or an option is not known.
    """
    chosen = chosen_methods(recipe, methods)
    if twins == 0 and design is None:
        design = SingleDesign.name
    fitting = recipe.domain.audit_designs(recipe.sections)
    if design is not None and design not in DESIGNS:
        raise UnknownName(unknown("design", design, list(DESIGNS)))
    if not fitting:
        raise SettingError(f"models of the task {recipe.domain.name} cannot be audited yet: it names no design.")
    if design is not None and design not in fitting:
        raise SettingError(
            f"the design {design} does not fit what {recipe.folder} forgets; {' or '.join(fitting)} does."
        )
    _check_search(recipe, chosen, seed)
    kind = DESIGNS[design or fitting[0]]
    strange = [name for name, value in more.items() if value and name not in (*COMMON, *kind.takes)]
    if strange:
        flag = spell(flag_of(strange[0]), f"{strange[0]}=")
        raise SettingError(f"{flag} has no meaning for the design {kind.name}: leave it out.")
    made = make(recipe.domain.AuditOptions, options or {})
    sizes = kind.sizes(recipe, twins, references)
    plan = AuditPlan(recipe, chosen, kind.name, *sizes, seed, options=made, **more)
    kind.check_plan(plan)
    return plan


def _check_search(recipe: Recipe, methods: Sequence[str], seed: int) -> None:
    """Refuses the seed on which a comparison searched the methods' settings.

    Raises:
        SettingError: names them.
    """
    searched = read_manifest(recipe.folder).get("searched") or {}
    names = [name for name in methods if name in searched.get("methods", ())]
    if names and searched.get("seed") == seed:
        raise SettingError(
            f"the settings of {', '.join(names)} were searched with seed {seed}: an audit must not judge by what a "
            "search has seen. Audit with another --seed."
        )


def open_design(plan: AuditPlan, cache: Cache | None = None) -> Design:
    """Returns a plan's design, once a process where there is a cache."""
    kept = {} if cache is None else cache
    told = {each.name: getattr(plan, each.name) for each in fields(plan) if each.name != "recipe"}
    key = f"audit {plan.folder} {told}"
    if key not in kept:
        kept[key] = DESIGNS[plan.design](plan, cache)
    return kept[key]
