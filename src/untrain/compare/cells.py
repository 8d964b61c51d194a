"""What one cell does: it opens its run folder and makes one product there, with the stages of an ordinary run."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from untrain.compare import tuning
from untrain.compare.plan import EVALUATION, TUNING, Cell, folder_of, forget_sets, group_recipe, groups, plan, tuned
from untrain.compare.tuning import fitting_optimizer
from untrain.data.samples import Source
from untrain.data.splits import Split
from untrain.errors import SettingError, StaleFile, lookup
from untrain.io import write_text
from untrain.models.checkpoints import load_state
from untrain.runs import stages as pipeline
from untrain.runs.recipe import Recipe, with_settings, write
from untrain.runs.stages import ORIGINAL, RETRAINED, Sources, Workshop, retrained_names


class LastLoaded(dict[str, tuple[Source, Source]]):
    """The data that were loaded last, and no others: the cells of one process mostly work on the same."""

    def __setitem__(self, key: str, value: tuple[Source, Source]) -> None:
        """Takes the place of what was there."""
        self.clear()
        super().__setitem__(key, value)


def perform(recipe: Recipe, key: str, sources: Sources | None = None) -> None:
    """Runs one cell; one that is finished already is only read.

    Args:
        recipe: as `comparison_recipe` gives it.
        key: the cell's.
        sources: data that were loaded before.

    Raises:
        UnknownName: if the comparison has no such cell.
        SettingError: if a cell that it needs has not run; names it.
    """
    cell = cell_of(recipe, key)
    _check_needs(recipe, cell.needs)
    shop = opened(recipe, cell.group, sources)
    if cell.name == ORIGINAL:
        adopt(shop, siblings(recipe, cell.group))
        pipeline.original(shop)
    elif cell.name in retrained_names(recipe):
        pipeline.retrained(shop, [cell.name])
    elif cell.group.startswith(f"{TUNING}/"):
        tuning.search(shop, recipe, pipeline.original(shop), cell.name, own_holdout(recipe, cell.group))
    elif cell.name == EVALUATION:
        _evaluate(recipe, cell.group, shop)
    else:
        start = pipeline.original(shop)
        pipeline.unlearned(equipped(recipe, cell.group, shop, start, [cell.name]), start, [cell.name])


def cell_of(recipe: Recipe, key: str) -> Cell:
    """The cell with this key.

    Raises:
        UnknownName: if the comparison has no such cell.
    """
    return lookup("cell", {cell.key: cell for cell in plan(recipe)}, key)


def opened(recipe: Recipe, group: str, sources: Sources | None = None, *, write: bool = True) -> Workshop:
    """A group's workshop; recipe and split are written only where its folder has none yet, and `write` is true."""
    own = group_recipe(recipe, group)
    path = own.folder / "split.json"
    shop = pipeline.open_workshop(own, fresh=False, write=write and not path.exists(), sources=sources)
    if path.exists() and Split.load(path, shop.source).hash != shop.split.hash:
        raise StaleFile(f"{path} is another split than the recipe asks for. Choose another folder with --out.")
    return shop


def own_holdout(recipe: Recipe, group: str) -> float:
    """Which part of a search's held-out data its methods are given: as much as in the comparison, at most half.

    With a checkpoint, what is held out is fixed, and each side has half of it.
    """
    if not recipe.trains:
        return 0.5
    own = forget_sets(recipe)[group.removeprefix(f"{TUNING}/")].holdout
    return min(0.5, own / group_recipe(recipe, group).forget.holdout)


def siblings(recipe: Recipe, group: str) -> list[Path]:
    """The folders of the groups with the same seed, where the same original may be found."""
    kind = group.rpartition("/")[2] if not group.startswith(f"{TUNING}/") else TUNING
    return [folder_of(recipe, other) for other in groups(recipe) if other != group and kind in other.split("/")]


def adopt(shop: Workshop, folders: Sequence[Path]) -> None:
    """Takes the original over from another folder, if there is one that was made from the same inputs.

    Not where it is evaluated as it is trained: its history holds accuracies on the other forget set.
    """
    target = shop.folder / f"{ORIGINAL}.safetensors"
    if shop.engine.is_main and not target.exists() and not shop.recipe.evaluate_every:
        mark = pipeline.original_mark(shop)
        for folder in folders:
            path = folder / target.name
            if path.exists() and load_state(path)[1].get("fingerprint") == mark:
                history = f"{ORIGINAL}.history.jsonl"
                _link(folder / history, shop.folder / history)
                _link(path, target)  # last: where it is, all else is there
                break
    shop.engine.wait()


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy of it where the file system has no links; whole or not at all."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _check_needs(recipe: Recipe, needs: Sequence[str]) -> None:
    for key in needs:
        group, _, name = key.rpartition("/")
        search = group.startswith(f"{TUNING}/") and name != ORIGINAL
        folder = folder_of(recipe, group)
        there = tuning.chosen(folder, recipe, name) is not None if search else (folder / f"{name}.safetensors").exists()
        if not there:
            raise SettingError(f"the cell {key} must run first: untrain compare {recipe.folder} --cell {key}")


def equipped(recipe: Recipe, group: str, shop: Workshop, start: nn.Module, entries: Sequence[str]) -> Workshop:
    """The workshop with the settings that the search chose for these entries, where it is over."""
    methods = dict(shop.recipe.methods)
    folder = folder_of(recipe, f"{TUNING}/{group.rpartition('/')[0]}")
    for entry in entries:
        settings = tuning.chosen(folder, recipe, entry) if entry in tuned(recipe) else None
        if settings:
            methods[entry] = with_settings(methods[entry], settings, fitting_optimizer(start, shop.task))
    return replace(shop, recipe=replace(shop.recipe, methods=methods))


def finished(recipe: Recipe, group: str, shop: Workshop) -> list[str]:
    """The names of a group's cells that are done already, each checked to be made from these very inputs.

    Raises:
        StaleFile: if one was made from others, or is damaged.
    """
    trains, folder = recipe.trains, shop.folder
    done = [name for name in retrained_names(shop.recipe) if (folder / f"{name}.safetensors").exists()]
    pipeline.retrained(shop, done)
    if trains and not (folder / f"{ORIGINAL}.safetensors").exists():
        return done
    start = pipeline.original(shop)
    if group.startswith(f"{TUNING}/"):
        own = own_holdout(recipe, group)
        searched = [entry for entry in tuned(recipe) if tuning.finished(shop, recipe, start, entry, own)]
        return [ORIGINAL, *searched] if trains else searched
    search = folder_of(recipe, f"{TUNING}/{group.rpartition('/')[0]}")
    ready = [e for e in recipe.methods if e not in tuned(recipe) or tuning.chosen(search, recipe, e) is not None]
    made = [entry for entry in ready if (folder / f"{entry}.safetensors").exists()]
    pipeline.unlearned(equipped(recipe, group, shop, start, made), start, made)
    done += [ORIGINAL, *made] if trains else made
    names = [ORIGINAL, *retrained_names(recipe), *recipe.methods]
    if set(names) <= {ORIGINAL, *done}:
        mark = pipeline.evaluation_mark(shop, names)
        done += [EVALUATION] if (read_evaluation(folder) or {}).get("mark") == mark else []
    return done


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """What evaluation.json of a run folder holds; None where there is none.

    Raises:
        StaleFile: if it is damaged.
    """
    path = folder / "evaluation.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, ValueError) as error:
        raise StaleFile(f"{path} cannot be read: {error}. Remove it, and it is made again.") from error


def _evaluate(recipe: Recipe, group: str, shop: Workshop) -> None:
    """Measures every model of a group that is there; without the target, nothing is measured beside it.

    Whatever was computed for the group's methods alone is removed, as at the end of an ordinary run.
    """

    def there(name: str) -> bool:
        return (shop.folder / f"{name}.safetensors").exists()

    models = {ORIGINAL: pipeline.original(shop)}
    shop = equipped(recipe, group, shop, models[ORIGINAL], [*recipe.methods])
    if there(RETRAINED):
        models |= pipeline.retrained(shop, [*filter(there, retrained_names(recipe))])
    models |= pipeline.unlearned(shop, models[ORIGINAL], [*filter(there, recipe.methods)])
    mark = pipeline.evaluation_mark(shop, models)
    if (read_evaluation(shop.folder) or {}).get("mark") == mark:
        return
    content = pipeline.evaluated(shop, models)
    pipeline.write_manifest(shop)
    shop.kind.told(content, shop.facts)
    shop.kind.close()
    if shop.engine.is_main:
        write_text(shop.folder / "config.yaml", write(shop.recipe))  # with the settings that were chosen
