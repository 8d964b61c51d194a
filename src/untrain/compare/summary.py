"""What a comparison found, from the results of its groups, each of which is an ordinary run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from untrain.compare.audits import audit_of, audit_stats
from untrain.compare.plan import EVALUATION, TUNING, folder_of, tuned
from untrain.compare.pool import Outcome
from untrain.compare.search import read_search
from untrain.compare.statistics import mean, noise_floor, ranks, speedups, summary
from untrain.data.sections import REQUESTS
from untrain.report.audit_file import AuditReport
from untrain.report.presentation import Presentation
from untrain.report.results import SPEEDUP, Entry, ForgetSet, Rank, Results, Role, SeedCell, Stat, read_config_text
from untrain.runs.folder import read_evaluation, read_manifest
from untrain.runs.names import ORIGINAL, RETRAINED
from untrain.runs.recipe import Recipe
from untrain.runs.stages import reference_names


def compare_results(recipe: Recipe, outcomes: Mapping[str, Outcome], presentation: Presentation) -> Results:
    """Compares all models over the seeds; the results' `to_json` is what comparison.json holds.

    Args:
        recipe: as `comparison_recipe` gives it.
        outcomes: how each cell ended, by key.
        presentation: of the task; says which measures rank methods.
    """
    runs = {name: _read_runs(recipe, name, outcomes) for name in recipe.compare.forget_sets}
    return Results(
        recipe.name, recipe.task,
        tuple(_forget_set(recipe, name, each, outcomes, presentation) for name, each in runs.items()),
        tuple(recipe.compare.seeds),
        next((run.classes for each in runs.values() for run in each if run), ()),
        recipe.plain(), read_manifest(recipe.folder), config=read_config_text(recipe.folder), folder=recipe.folder,
        compared=True,
    )  # fmt: skip


def _groups(recipe: Recipe, name: str) -> list[str]:
    return [f"{name}/seed-{seed}" for seed in recipe.compare.seeds]


def _read_runs(recipe: Recipe, name: str, outcomes: Mapping[str, Outcome]) -> list[Results | None]:
    """Reads the run of each seed on a forget set; None where nothing was measured."""
    runs = []
    for group in _groups(recipe, name):
        done, folder = outcomes[f"{group}/{EVALUATION}"].state == "done", folder_of(recipe, group)
        evaluation = read_evaluation(folder) if done else None
        runs.append(Results.of_run(evaluation, manifest=read_manifest(folder)) if evaluation else None)
    return runs


def _forget_set(
    recipe: Recipe,
    name: str,
    runs: Sequence[Results | None],
    outcomes: Mapping[str, Outcome],
    presentation: Presentation,
) -> ForgetSet:
    """Compares all models on one forget set."""
    higher = presentation.higher
    roles: dict[str, Role] = {ORIGINAL: "original", **dict.fromkeys(reference_names(recipe), "reference")}
    roles |= {RETRAINED: "target"} if RETRAINED in roles else {}
    roles |= dict.fromkeys(recipe.methods, "method")
    seen = {model: [run.sets[0].entry(model) if run else None for run in runs] for model in roles}
    aims = _values(seen.get(RETRAINED, []))
    entries = []
    for model, role in roles.items():
        entry = Entry(
            model, role, recipe.methods[model].name if role == "method" else "", _settings(recipe, name, model),
            _cells(recipe, name, model, outcomes), _summaries(_values(seen[model]), aims, len(runs), presentation),
            losses=_histograms(seen[model]), by_class=_by_class(seen[model]),
            warnings=_warnings(recipe.compare.seeds, seen[model]),
        )  # fmt: skip
        entries.append(entry)
    others = [entry for entry in entries if entry.role == "reference"]
    floors = {key: noise_floor([e.stat(key).values for e in others if key in e.stats]) for key in higher}
    known = {key: floor for key, floor in floors.items() if floor is not None}
    first = next((run.sets[0] for run in runs if run), None)
    given = recipe.compare.forget_sets[name]
    audit = audit_of(recipe, name, outcomes)
    if audit is not None:
        entries = [replace(entry, stats={**entry.stats, **audit_stats(audit, entry)}) for entry in entries]
    searches = {entry: read_search(folder_of(recipe, f"{TUNING}/{name}"), entry) for entry in tuned(recipe)}
    return ForgetSet(
        name, tuple(_rank(entries, known, higher)), {k: given[k] for k in REQUESTS if given.get(k) not in (None, [])},
        first.sizes if first else {}, known, {entry: found for entry, found in searches.items() if found is not None},
        {} if audit is None else {method.name: method for method in audit.methods},
        {} if audit is None else _audited(recipe, audit),
    )  # fmt: skip


def _audited(recipe: Recipe, audit: AuditReport) -> dict[str, Any]:
    """Says which run was audited, and how."""
    folder = audit.folder.relative_to(recipe.folder).as_posix()
    facts = {key: audit.facts.get(key) for key in ("design", "seed", "twins", "references", "coins_sha256")}
    return {"folder": folder, **facts}


def _values(entries: Sequence[Entry | None]) -> dict[str, list[float | None]]:
    """Returns measure → its value in each seed."""
    keys = dict.fromkeys(key for entry in entries if entry for key in entry.stats)
    return {key: [entry.mean(key) if entry else None for entry in entries] for key in keys}


def _summaries(
    values: Mapping[str, list[float | None]], aims: Mapping[str, list[float | None]], seeds: int,
    presentation: Presentation,
) -> dict[str, Stat]:  # fmt: skip
    """Summarises each measure, and the speed-up over retraining."""
    nothing: list[float | None] = [None] * seeds
    found = {}
    for key, each in values.items():
        stat = summary(each, aims.get(key, nothing))
        inside = None if stat.interval is None else presentation.measure(key).within(stat.interval)
        found[key] = replace(stat, interval=inside)
    if "seconds" in values:
        faster = speedups(values["seconds"], aims.get("seconds", nothing))
        found |= {SPEEDUP: summary(faster)} if any(value is not None for value in faster) else {}
    return found


def _rank(entries: Sequence[Entry], floors: Mapping[str, Stat], higher: Mapping[str, bool]) -> list[Entry]:
    """Ranks the methods; one with a cell that is not done has none."""
    places: dict[str, dict[str, Rank | None]] = {}
    for key, more in higher.items():
        means = {}
        for entry in entries:
            if entry.role == "method":
                whole = not entry.failed and entry.stat(key).n == len(entry.cells)
                means[entry.name] = entry.mean(key) if whole else None
        if any(value is not None for value in means.values()):
            floor = floors[key].mean if key in floors else None
            chance = 0.0 if floor is None else (1 - floor if more else floor)
            for name, place in ranks(means, chance, higher=more).items():
                places.setdefault(name, {})[key] = place
    return [replace(entry, ranks=places.get(entry.name, {})) for entry in entries]


def _cells(recipe: Recipe, name: str, model: str, outcomes: Mapping[str, Outcome]) -> tuple[SeedCell, ...]:
    """Says of each seed whether the model was made and measured, and where."""
    cells = []
    for seed, group in zip(recipe.compare.seeds, _groups(recipe, name), strict=True):
        own, judged = outcomes.get(f"{group}/{model}", Outcome()), outcomes[f"{group}/{EVALUATION}"]
        told = f"{EVALUATION}: {judged.error}" if own.state == "done" and judged.state != "done" else own.error
        state = own.state if own.state != "done" else judged.state
        cells.append(SeedCell(seed, state, told or "", folder_of(recipe, group).relative_to(recipe.folder).as_posix()))
    return tuple(cells)


def _settings(recipe: Recipe, name: str, model: str) -> dict[str, Any]:
    """Returns a model's settings as they were used, of the first seed that has it; else as the recipe has them."""
    for group in _groups(recipe, name):
        if made := read_manifest(folder_of(recipe, group)).get("models", {}).get(model):
            return dict(made["settings"])
    return asdict(recipe.methods.get(model, recipe.train))


def _warnings(seeds: Sequence[int], entries: Sequence[Entry | None]) -> tuple[str, ...]:
    """Returns what casts doubt on a model, by seed."""
    pairs = zip(seeds, entries, strict=True)
    return tuple(f"seed {seed}: {text}" for seed, entry in pairs if entry for text in entry.warnings)


def _histograms(entries: Sequence[Entry | None]) -> dict[str, Any]:
    """Sums the counts of loss histograms over the seeds."""
    found = [entry.losses for entry in entries if entry and entry.losses]
    if not found:
        return {}
    parts = [part for part in found[0] if part != "edges"]
    sums = {part: [sum(column) for column in zip(*(one[part] for one in found), strict=True)] for part in parts}
    return {"edges": found[0]["edges"], **sums}


def _by_class(entries: Sequence[Entry | None]) -> dict[str, dict[str, float]]:
    """Returns measure → class → mean over the seeds that have samples of it."""
    found = [entry.by_class for entry in entries if entry and entry.by_class]
    means: dict[str, dict[str, float]] = {}
    for key in dict.fromkeys(key for one in found for key in one):
        classes = dict.fromkeys(name for one in found for name in one.get(key, ()))
        values = {name: mean([one[key][name] for one in found if name in one.get(key, ())]) for name in classes}
        means[key] = {name: value for name, value in values.items() if value is not None}
    return means
