"""What one cell does: it opens its run folder and makes one product there, with the stages of an ordinary run."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from untrain.compare import search
from untrain.compare.audits import GroupAudits, audited_group
from untrain.compare.plan import (
    EVALUATION,
    TUNING,
    Cell,
    folder_of,
    forget_sets,
    group_recipe,
    groups,
    plan,
    trains_original,
    tuned,
)
from untrain.compare.pool import Cache
from untrain.errors import SettingError, lookup
from untrain.folders import temporary_name, watched
from untrain.models.checkpoints import load_state
from untrain.runs import stages
from untrain.runs.folder import read_evaluation
from untrain.runs.names import HISTORY, ORIGINAL, RETRAINED, SPLIT
from untrain.runs.recipe import Recipe, write_config
from untrain.runs.spaces import with_settings
from untrain.runs.stages import Experiment, reference_names


def run_cell(recipe: Recipe, key: str, cache: Cache | None = None, *, audits: GroupAudits | None = None) -> None:
    """Runs one cell; one that is finished already is only read.

    Args:
        recipe: as `comparison_recipe` gives it.
        key: the cell's.
        cache: what cells of this process share.
        audits: of its groups.

    Raises:
        UnknownName: if the comparison has no such cell.
        SettingError: if a cell that it needs has not run; names it.
    """
    cell = find_cell(recipe, key, audits)
    if audits is not None and audited_group(recipe, cell) is not None:
        audits.run(recipe, cell, cache)
        return
    with watched(recipe.folder), stages.locked(recipe, folder_of(recipe, cell.group), name=cell.name):
        _check_needs(recipe, cell.needs)
        _run(recipe, cell, cache)


def _run(recipe: Recipe, cell: Cell, cache: Cache | None) -> None:
    """Makes what a cell is for, in its group's folder."""
    experiment = open_group(recipe, cell.group, cache)
    if cell.name == ORIGINAL:
        reuse_original(experiment, siblings(recipe, cell.group))
        stages.prepare_original(experiment)
    elif cell.name in reference_names(recipe):
        stages.train_references(experiment, [cell.name])
    elif cell.group.startswith(f"{TUNING}/"):
        start, own = stages.prepare_original(experiment), own_holdout(recipe, cell.group)
        search.search_settings(experiment, recipe, start, cell.name, own)
    elif cell.name == EVALUATION:
        _evaluate(recipe, cell.group, experiment)
    else:
        start = stages.prepare_original(experiment)
        tuned_experiment = with_tuned_settings(recipe, cell.group, experiment, start, [cell.name])
        stages.unlearn_methods(tuned_experiment, start, [cell.name])


def find_cell(recipe: Recipe, key: str, audits: GroupAudits | None = None) -> Cell:
    """Finds the cell with this key.

    Raises:
        UnknownName: if the comparison has no such cell.
    """
    cells = [*plan(recipe), *(audits.cells(recipe) if audits is not None else ())]
    return lookup("cell", {cell.key: cell for cell in cells}, key)


def open_group(recipe: Recipe, group: str, cache: Cache | None = None, *, write: bool = True) -> Experiment:
    """Opens a group's experiment; recipe and split are written only where its folder has none, and `write` is true."""
    own = group_recipe(recipe, group)
    there = (own.folder / SPLIT).exists()
    experiment = stages.open_experiment(own, fresh=False, write=write and not there, cache=cache)
    if there:
        stages.check_split(experiment)
    return experiment


def own_holdout(recipe: Recipe, group: str) -> float:
    """Returns which part of a search's held-out data its methods are given: as in the comparison, at most half.

    With a checkpoint, what is held out is fixed, and each side has half of it.
    """
    forget = forget_sets(recipe)[group.removeprefix(f"{TUNING}/")]
    if forget is None or not trains_original(recipe):
        return 0.5
    return min(0.5, forget.holdout / group_recipe(recipe, group).sections.forget.holdout)


def siblings(recipe: Recipe, group: str) -> list[Path]:
    """Returns the folders of the groups with the same seed, where the same original may be found."""
    kind = group.rpartition("/")[2] if not group.startswith(f"{TUNING}/") else TUNING
    return [folder_of(recipe, other) for other in groups(recipe) if other != group and kind in other.split("/")]


def reuse_original(experiment: Experiment, folders: Sequence[Path]) -> None:
    """Takes the original over from another folder, if there is one that was made from the same inputs.

    Not where it is evaluated as it is trained: its history holds accuracies on the other forget set.
    """
    target = experiment.folder.weights(ORIGINAL)
    if experiment.engine.is_main and not target.exists() and not experiment.recipe.evaluate_every:
        mark = stages.original_fingerprint(experiment)
        for folder in folders:
            path = folder / target.name
            if path.exists() and load_state(path)[1].get("fingerprint") == mark:
                history = f"{ORIGINAL}.{HISTORY}"
                _link(folder / history, experiment.folder.path / history)
                _link(path, target)  # last: where it is, all else is there
                break
    experiment.engine.wait()


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy of it where the file system has no links; whole or not at all."""
    temporary = target.with_name(temporary_name(target.name))
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _check_needs(recipe: Recipe, needs: Sequence[str]) -> None:
    for key in needs:
        group, _, name = key.rpartition("/")
        is_search = group.startswith(f"{TUNING}/") and name != ORIGINAL
        folder = folder_of(recipe, group)
        weights = folder / f"{name}.safetensors"
        there = search.chosen_settings(folder, recipe, name) is not None if is_search else weights.exists()
        if not there:
            raise SettingError(f"the cell {key} must run first: untrain compare {recipe.folder} --cell {key}")


def with_tuned_settings(
    recipe: Recipe, group: str, experiment: Experiment, start: nn.Module, entries: Sequence[str]
) -> Experiment:
    """Returns the experiment with the settings that the search chose for these entries, where it is over."""
    methods = dict(experiment.recipe.methods)
    folder = folder_of(recipe, f"{TUNING}/{group.rpartition('/')[0]}")
    for entry in entries:
        settings = search.chosen_settings(folder, recipe, entry) if entry in tuned(recipe) else None
        if settings:
            optimizer = search.fitting_optimizer(start, experiment.domain.task)
            methods[entry] = with_settings(methods[entry], settings, optimizer)
    return replace(experiment, recipe=replace(experiment.recipe, methods=methods))


def finished_cells(recipe: Recipe, group: str, experiment: Experiment) -> list[str]:
    """Names a group's cells that are done already, each checked to be made from these very inputs.

    Raises:
        StaleFile: if one was made from others, or is damaged.
    """
    trains, folder = trains_original(recipe), experiment.folder
    done = [name for name in reference_names(experiment.recipe) if folder.holds(name)]
    stages.train_references(experiment, done)
    if trains and not folder.holds(ORIGINAL):
        return done
    start = stages.prepare_original(experiment)
    if group.startswith(f"{TUNING}/"):
        own = own_holdout(recipe, group)
        over = [entry for entry in tuned(recipe) if search.is_finished(experiment, recipe, start, entry, own)]
        return [ORIGINAL, *over] if trains else over
    place = folder_of(recipe, f"{TUNING}/{group.rpartition('/')[0]}")
    ready = [
        e for e in recipe.methods if e not in tuned(recipe) or search.chosen_settings(place, recipe, e) is not None
    ]
    made = [entry for entry in ready if folder.holds(entry)]
    stages.unlearn_methods(with_tuned_settings(recipe, group, experiment, start, made), start, made)
    done += [ORIGINAL, *made] if trains else made
    names = [ORIGINAL, *reference_names(recipe), *recipe.methods]
    if set(names) <= {ORIGINAL, *done}:
        mark = stages.evaluation_fingerprint(experiment, names)
        done += [EVALUATION] if (read_evaluation(folder.path) or {}).get("mark") == mark else []
    return done


def _evaluate(recipe: Recipe, group: str, experiment: Experiment) -> None:
    """Measures every model of a group that is there; without the target, nothing is measured beside it.

    Whatever was computed for the group's methods alone is removed, as at the end of an ordinary run.
    """
    folder = experiment.folder
    models = {ORIGINAL: stages.prepare_original(experiment)}
    experiment = with_tuned_settings(recipe, group, experiment, models[ORIGINAL], [*recipe.methods])
    if folder.holds(RETRAINED):
        models |= stages.train_references(experiment, [*filter(folder.holds, reference_names(recipe))])
    models |= stages.unlearn_methods(experiment, models[ORIGINAL], [*filter(folder.holds, recipe.methods)])
    mark = stages.evaluation_fingerprint(experiment, models)
    if (read_evaluation(folder.path) or {}).get("mark") == mark:
        return
    content = stages.evaluate_models(experiment, models)
    searched = {"seed": recipe.compare.tuning_seed, "methods": tuned(recipe)} if tuned(recipe) else None
    stages.write_manifest(experiment, content.get("warnings", ()), searched=searched)
    experiment.domain.on_evaluated(content, folder.facts)
    experiment.domain.close()
    if experiment.engine.is_main:
        write_config(experiment.recipe)  # with the settings that were chosen
