"""Which cells a comparison has, what each needs, and where it is kept.

A *group* is one ordinary run folder: a forget set with a seed, `random-10/seed-0`, or the run that settings are
searched on, `tuning/random-10`. A *cell* is one product of a group: a model, a search, or the evaluation. Its key is
`GROUP/NAME`. Cells are independent but for what they need, so they can run side by side.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from untrain.errors import SettingError, UnknownName, unknown
from untrain.runs.recipe import REQUESTS, Comparison, Forget, Recipe, space_of
from untrain.runs.stages import ORIGINAL, retrained_names

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
    """The recipe as a comparison takes it: at least two references, named forget sets, a seed for the search.

    Raises:
        SettingError: if there is no method, or nothing to search by.
    """
    if not recipe.methods:
        raise SettingError("a comparison needs methods: list them under methods.")
    given, chosen = recipe.compare, recipe.forget
    if recipe.task == "text-to-image" and given.forget_sets:
        raise SettingError("compare.forget_sets names samples and classes; text-to-image forgets what concepts says.")
    concepts: dict[str, Any] | None = {"concepts": {}} if recipe.task == "text-to-image" else None
    own = {name: value for name, value in asdict(chosen).items() if name in REQUESTS and value}
    sets = concepts or given.forget_sets or {_named(chosen): own}
    tuning = max(given.seeds) + 1 if given.tuning_seed is None and given.trials else given.tuning_seed
    references = recipe.references or 0
    full = replace(recipe, references=references if concepts else max(2, references))
    full = replace(full, compare=replace(given, forget_sets=sets, tuning_seed=tuning))
    unseen = all(forget.holdout_from == "train" and forget.holdout > 0 for forget in forget_sets(full).values())
    if given.trials and recipe.model.checkpoint and recipe.task == "classification" and not unseen:
        raise SettingError(
            "compare.trials: a search judges by data that nothing was trained on and nothing is tested on. With "
            "model.checkpoint, hold some of the training data out that the checkpoint has not seen "
            "(forget.holdout_from: train, and forget.seed if it is always the same), or set trials to 0."
        )
    return full


def _named(forget: Forget) -> str:
    """What the recipe's own forget set is called."""
    if forget.fraction is not None:
        return f"random-{100 * forget.fraction:g}"
    if forget.count is not None:
        return f"random-{forget.count}-samples"
    if forget.classes:
        return re.sub(r"[^\w.-]+", "-", "-".join(map(str, forget.classes))).strip("-.") or "classes"
    listed = forget.indices or forget.ids
    if listed is None:
        raise SettingError("say what to forget under compare.forget_sets, or under forget.")
    return re.sub(r"[^\w.-]+", "-", Path(listed).stem).strip("-.") or "listed"


def forget_sets(recipe: Recipe) -> dict[str, Forget]:
    """The forget sets by name; what one does not say is the recipe's own."""
    common = {name: value for name, value in asdict(recipe.forget).items() if name not in REQUESTS}
    return {name: Forget(**common | given) for name, given in recipe.compare.forget_sets.items()}


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
    if first == TUNING:
        if recipe.trains:
            share = min(forget.holdout + HELD_OUT, 0.5)
            forget = replace(forget, seed=seed, holdout=share)
    else:
        seed = int(last.removeprefix("seed-"))
        changes = {}
    model = recipe.model
    if model.checkpoint is not None:
        model = replace(model, checkpoint=model.checkpoint.replace("{seed}", str(seed)))
    return replace(
        recipe,
        **changes,
        name=f"{recipe.name}: {group}",
        forget=forget,
        model=model,
        seed=seed,
        compare=Comparison(),
        out=str(folder_of(recipe, group)),
    )


def plan(recipe: Recipe, originals: Mapping[str, str] | None = None) -> list[Cell]:
    """Every cell of a comparison, in the order in which they should be begun: what others wait for comes first.

    Args:
        recipe: as `comparison_recipe` gives it.
        originals: group → the fingerprint of its original. Groups whose originals are the same share one: the first
            of them trains it, the others wait for it. None: each trains its own.
    """
    searches = [group for group in groups(recipe) if group.startswith(f"{TUNING}/")]
    runs = [group for group in groups(recipe) if group not in searches]
    trains = recipe.trains
    firsts: dict[str, str] = {}
    cells = []
    for group in [*searches, *runs] if trains else ():
        first = firsts.setdefault((originals or {}).get(group, group), group)
        cells.append(Cell(group, ORIGINAL, () if first == group else (f"{first}/{ORIGINAL}",)))
    cells.sort(key=lambda cell: bool(cell.needs))
    cells += [Cell(group, name) for group in runs for name in retrained_names(recipe)]
    start = {group: (f"{group}/{ORIGINAL}",) if trains else () for group in [*searches, *runs]}
    cells += [Cell(group, entry, start[group]) for group in searches for entry in tuned(recipe)]
    for group in runs:
        for entry in recipe.methods:
            search = (f"{TUNING}/{group.rpartition('/')[0]}/{entry}",) if entry in tuned(recipe) else ()
            cells.append(Cell(group, entry, (*start[group], *search)))
    for group in runs:
        others = tuple(f"{group}/{name}" for name in (*retrained_names(recipe), *recipe.methods))
        cells.append(Cell(group, EVALUATION, start[group], others))
    return cells
