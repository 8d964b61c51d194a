"""Which cells a comparison has, what each needs, and where it is kept.

A *group* is one ordinary run folder: a forget set with a seed, `random-10/seed-0`, or the run that settings are
searched on, `tuning/random-10`. A *cell* is one product of a group: a model, a search, or the evaluation. Its key is
`GROUP/NAME`. Cells are independent but for what they need, so they can run side by side.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from untrain.data.sections import REQUESTS, Forget
from untrain.errors import SettingError, UnknownName, unknown
from untrain.runs.names import ORIGINAL
from untrain.runs.recipe import Comparison, Recipe
from untrain.runs.spaces import space_of
from untrain.runs.stages import reference_names

EVALUATION, TUNING = "evaluation", "tuning"
HELD_OUT = 0.2
"""Share of the training data that a search judges by, beside what its methods are given."""


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        group: the run folder that it belongs to, "random-10/seed-0" or "tuning/random-10".
        name: "original", a reference, a method's entry, or "evaluation".
        needs: keys of the cells without which it cannot run.
        after: keys of the cells that must be over before it runs, well or not.
    """

    group: str
    name: str
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What it is called on the command line and in messages."""
        return f"{self.group}/{self.name}"


def comparison_recipe(recipe: Recipe) -> Recipe:
    """Returns the recipe as a comparison takes it: at least two references, named forget sets, a seed for the search.

    Raises:
        SettingError: if there is no method, or nothing to search by.
    """
    if not recipe.methods:
        raise SettingError("a comparison needs methods: list them under methods.")
    given, sections, domain = recipe.compare, recipe.sections, recipe.domain
    chosen = getattr(sections, "forget", None)
    if not isinstance(chosen, Forget):  # what is forgotten is said otherwise, once for all seeds
        sets: dict[str, Any] = {domain.request_name(sections): {}}
    else:
        own = {name: value for name, value in asdict(chosen).items() if name in REQUESTS and value}
        sets = dict(given.forget_sets) or {domain.request_name(sections): own}
    tuning = max(given.seeds) + 1 if given.tuning_seed is None and given.trials else given.tuning_seed
    least = 2 if domain.references else 0
    full = replace(recipe, references=max(least, recipe.references))
    full = replace(full, compare=replace(given, forget_sets=sets, tuning_seed=tuning))
    for forget in forget_sets(full).values() if given.trials else ():
        domain.check_search(sections if forget is None else replace(sections, forget=forget))
    return full


def forget_sets(recipe: Recipe) -> dict[str, Forget | None]:
    """Returns the forget sets by name; what one does not say is the recipe's own. None: the recipe's only one."""
    chosen = getattr(recipe.sections, "forget", None)
    if not isinstance(chosen, Forget):
        return dict.fromkeys(recipe.compare.forget_sets)
    common = {name: value for name, value in asdict(chosen).items() if name not in REQUESTS}
    return {name: Forget(**common | given) for name, given in recipe.compare.forget_sets.items()}


def trains_original(recipe: Recipe) -> bool:
    """Returns whether the original is trained by the comparison's stages, and does not come from a checkpoint."""
    return recipe.domain.checkpoint_of(recipe.sections) is None


def tuned(recipe: Recipe) -> list[str]:
    """The entries whose settings are searched: all that have a space, where trials are asked for."""
    return [entry for entry in recipe.methods if recipe.compare.trials and space_of(recipe, entry)]


def groups(recipe: Recipe) -> Iterator[str]:
    """Every group: those of the search first, then seed by seed."""
    if tuned(recipe):
        yield from (f"{TUNING}/{name}" for name in recipe.compare.forget_sets)
    for seed in recipe.compare.seeds:
        yield from (f"{name}/seed-{seed}" for name in recipe.compare.forget_sets)


def folder_of(recipe: Recipe, group: str) -> Path:
    """A group's run folder."""
    return recipe.folder / group if group.startswith(f"{TUNING}/") else recipe.folder / "cells" / group


def group_recipe(recipe: Recipe, group: str) -> Recipe:
    """The ordinary recipe of a group.

    Raises:
        UnknownName: if the comparison has no such group.
    """
    if group not in (known := [*groups(recipe)]):
        raise UnknownName(unknown("group of cells", group, known))
    first, _, last = group.rpartition("/")
    name = last if first == TUNING else first
    forget, seed = forget_sets(recipe)[name], int(recipe.compare.tuning_seed or 0)
    changes: dict[str, Any] = {"references": 0, "evaluate_every": 0}
    if first != TUNING:
        seed, changes = int(last.removeprefix("seed-")), {}
    elif forget is not None and trains_original(recipe):
        forget = replace(forget, seed=seed, holdout=min(forget.holdout + HELD_OUT, 0.5))
    return replace(
        recipe,
        **changes,
        sections=_sections_of(recipe, forget, seed),
        seed=seed,
        compare=Comparison(),
        store=recipe.store or "delta",
        out=str(folder_of(recipe, group)),
    )


def _sections_of(recipe: Recipe, forget: Forget | None, seed: int) -> Any:
    """The task's sections for one forget set and seed, which {seed} in the name of a checkpoint stands for."""
    sections = recipe.sections if forget is None else replace(recipe.sections, forget=forget)
    checkpoint = recipe.domain.checkpoint_of(sections)
    if checkpoint is None or "{seed}" not in checkpoint:
        return sections
    return replace(sections, model=replace(sections.model, checkpoint=checkpoint.replace("{seed}", str(seed))))


def plan(recipe: Recipe, originals: Mapping[str, str] | None = None) -> list[Cell]:
    """Every cell of a comparison, in the order in which they should be begun: what others wait for comes first.

    Args:
        recipe: as `comparison_recipe` gives it.
        originals: group → the fingerprint of its original. Groups whose originals are the same share one: the first
            of them trains it, the others wait for it. None: each trains its own.
    """
    searches = [group for group in groups(recipe) if group.startswith(f"{TUNING}/")]
    runs = [group for group in groups(recipe) if group not in searches]
    trains = trains_original(recipe)
    firsts: dict[str, str] = {}
    cells = []
    for group in [*searches, *runs] if trains else ():
        first = firsts.setdefault((originals or {}).get(group, group), group)
        cells.append(Cell(group, ORIGINAL, () if first == group else (f"{first}/{ORIGINAL}",)))
    cells.sort(key=lambda cell: bool(cell.needs))
    cells += [Cell(group, name) for group in runs for name in reference_names(recipe)]
    start = {group: (f"{group}/{ORIGINAL}",) if trains else () for group in [*searches, *runs]}
    cells += [Cell(group, entry, start[group]) for group in searches for entry in tuned(recipe)]
    for group in runs:
        for entry in recipe.methods:
            search = (f"{TUNING}/{group.rpartition('/')[0]}/{entry}",) if entry in tuned(recipe) else ()
            cells.append(Cell(group, entry, (*start[group], *search)))
    for group in runs:
        others = tuple(f"{group}/{name}" for name in (*reference_names(recipe), *recipe.methods))
        cells.append(Cell(group, EVALUATION, start[group], others))
    return cells
