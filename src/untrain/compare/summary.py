"""What a comparison found, from the evaluations of its groups: the content of comparison.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from untrain.compare.cells import read_evaluation
from untrain.compare.plan import EVALUATION, TUNING, folder_of, tuned
from untrain.compare.scheduler import Outcome
from untrain.compare.statistics import Values, mean, noise_floor, ranks, speedups, summary
from untrain.compare.tuning import trials_of
from untrain.errors import StaleFile
from untrain.runs.recipe import REQUESTS, Recipe
from untrain.runs.stages import ORIGINAL, RETRAINED, retrained_names

DISTANCES = {"AvgD": False, "KL": False, "JS": False, "ToW": True}
"""Measures beside the target, which have a noise floor and ranks; whether more is better."""
_NOT_MEASURES = ("missing", "by_class", "losses", "clocks", "samples", "by_part")


def comparison_content(recipe: Recipe, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """What comparison.json holds.

    Args:
        recipe: as `comparison_recipe` gives it.
        outcomes: how each cell ended, by key.
    """
    sets = {name: _forget_set(recipe, name, outcomes) for name in recipe.compare.forget_sets}
    classes: list[str] = next((names for one in sets.values() if (names := one.pop("classes"))), [])
    return {
        "name": recipe.name,
        "task": recipe.task,
        "seeds": list(recipe.compare.seeds),
        "classes": classes,
        "settings": recipe.plain(),
        "forget_sets": sets,
    }


def _forget_set(recipe: Recipe, name: str, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Everything about one forget set."""
    groups = [f"{name}/seed-{seed}" for seed in recipe.compare.seeds]
    over = [outcomes[f"{group}/{EVALUATION}"].state == "done" for group in groups]
    found = [
        (read_evaluation(folder_of(recipe, group)) if done else None) or {}
        for group, done in zip(groups, over, strict=True)
    ]
    roles = {ORIGINAL: "original", **dict.fromkeys(retrained_names(recipe), "reference")}
    roles |= {RETRAINED: "target"} if RETRAINED in roles else {}
    roles |= dict.fromkeys(recipe.methods, "method")
    entries = {model: [e.get("models", {}).get(model) for e in found] for model in roles}
    measures = {model: _measures(cells) for model, cells in entries.items()}
    target = measures.get(RETRAINED, {})
    models = {
        model: {
            "role": role,
            "method": recipe.methods[model].name if role == "method" else None,
            "settings": _settings(recipe, model, groups),
            "cells": _cells(recipe, model, groups, outcomes),
            "measures": _summaries(measures[model], target),
            "rank": {},
            "losses": _histograms(entries[model]),
            "by_class": _by_class(entries[model]),
        }
        for model, role in roles.items()
    }
    others = [measures[model] for model, role in roles.items() if role == "reference"]
    floors = {
        key: floor
        for key in DISTANCES
        if (floor := noise_floor([values[key] for values in others if key in values])) is not None
    }
    _rank(models, floors)
    given = recipe.compare.forget_sets[name]
    return {
        "spec": {key: given[key] for key in REQUESTS if given.get(key) not in (None, [])},
        "sizes": next((e["sizes"] for e in found if e), {}),
        "noise_floor": floors,
        "models": models,
        "tuning": _tuning(recipe, name),
        "classes": next((e["classes"] for e in found if e), []),
    }


def _measures(cells: Sequence[Mapping[str, Any] | None]) -> dict[str, list[float | None]]:
    """Measure → its value in each seed."""
    keys = dict.fromkeys(key for cell in cells for key in cell or () if key not in _NOT_MEASURES)
    return {key: [(cell or {}).get(key) for cell in cells] for key in keys}


def _summaries(measures: Mapping[str, Values], target: Mapping[str, Values]) -> dict[str, Any]:
    """Each measure that any seed has a value of, and the speed-up over retraining."""
    nothing = [None] * max(map(len, measures.values()), default=0)
    known: dict[str, Values] = dict(measures)
    if "seconds" in known:
        known["speedup"] = speedups(known["seconds"], target.get("seconds", nothing))
    return {
        key: summary(values, None if key == "speedup" else target.get(key, nothing))
        for key, values in known.items()
        if any(value is not None for value in values)
    }


def _rank(models: Mapping[str, dict[str, Any]], floors: Mapping[str, Mapping[str, Any]]) -> None:
    """Ranks the methods; one with a cell that is not done has none."""
    methods = {name: model for name, model in models.items() if model["role"] == "method"}
    for key, higher in DISTANCES.items():
        means = {}
        for name, model in methods.items():
            whole = all(cell["state"] == "done" for cell in model["cells"])
            found = model["measures"].get(key)
            means[name] = found["mean"] if whole and found and found["n"] == len(model["cells"]) else None
        if any(value is not None for value in means.values()):
            floor = floors[key]["mean"] if key in floors else None
            chance = 0.0 if floor is None else (1 - floor if higher else floor)
            for name, place in ranks(means, chance, higher=higher).items():
                methods[name]["rank"][key] = place


def _cells(recipe: Recipe, model: str, groups: Sequence[str], outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Of each seed, whether the model was made and measured, and where."""
    cells = []
    for seed, group in zip(recipe.compare.seeds, groups, strict=True):
        own, judged = outcomes.get(f"{group}/{model}", Outcome()), outcomes[f"{group}/{EVALUATION}"]
        told = f"{EVALUATION}: {judged.error}" if own.state == "done" and judged.state != "done" else own.error
        state = own.state if own.state != "done" else judged.state
        folder = folder_of(recipe, group).relative_to(recipe.folder).as_posix()
        cells.append({"seed": seed, "state": state, "error": told, "folder": folder})
    return cells


def _settings(recipe: Recipe, model: str, groups: Sequence[str]) -> dict[str, Any]:
    """A model's settings as they were used, of the first seed that has it; else as the recipe has them."""
    for group in groups:
        made = read_manifest(folder_of(recipe, group)).get("models", {}).get(model)
        if made:
            return dict(made["settings"])
    return asdict(recipe.methods[model]) if model in recipe.methods else asdict(recipe.train)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What manifest.json of a run folder says; {} where there is none.

    Raises:
        StaleFile: if it is damaged.
    """
    path = folder / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise StaleFile(f"{path} cannot be read: {error}. Remove it, and it is made again.") from error


def _histograms(cells: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Loss histograms, counts summed over the seeds."""
    found = [cell["losses"] for cell in cells if cell and cell.get("losses")]
    if not found:
        return {}
    parts = [part for part in found[0] if part != "edges"]
    sums = {part: [sum(column) for column in zip(*(one[part] for one in found), strict=True)] for part in parts}
    return {"edges": found[0]["edges"], **sums}


def _by_class(cells: Sequence[Mapping[str, Any] | None]) -> dict[str, dict[str, float]]:
    """Measure → class → mean over the seeds that have samples of it."""
    found = [cell["by_class"] for cell in cells if cell and cell.get("by_class")]
    means: dict[str, dict[str, float]] = {}
    for key in dict.fromkeys(key for one in found for key in one):
        classes = dict.fromkeys(name for one in found for name in one.get(key, ()))
        values = {name: mean([one[key][name] for one in found if name in one.get(key, ())]) for name in classes}
        means[key] = {name: value for name, value in values.items() if value is not None}
    return means


def _tuning(recipe: Recipe, name: str) -> dict[str, Any]:
    """Every search on a forget set: its trials, and which was the best."""
    folder = folder_of(recipe, f"{TUNING}/{name}")
    found = {entry: trials_of(folder, entry) for entry in tuned(recipe)}
    return {entry: trials for entry, trials in found.items() if trials is not None}
