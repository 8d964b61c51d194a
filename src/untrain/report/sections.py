"""Sections of a page that any task can have: verdict, table, measures, curves, losses, mask, times, settings.

A section is a function from results and presentation to a `Section`, or to None where it does not apply. What it needs
and the results lack is said in it. Where there are several forget sets, each section shows one after the other.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from untrain.report import figures, trade_offs
from untrain.report.audit_verdict import add_audit
from untrain.report.drawing import SETS, Figure, Floats
from untrain.report.figures import Clock, Histogram
from untrain.report.html import render
from untrain.report.introduction import list_limits
from untrain.report.measures import Measure
from untrain.report.results import (
    SPEEDUP,
    TARGET,
    Curves,
    Entry,
    ForgetSet,
    Results,
    as_mapping,
    as_number,
    as_numbers,
    as_sequence,
)
from untrain.report.tables import columns_of, describe_failures, describe_fewness, further_table, main_table, run_table
from untrain.report.trade_offs import Cloud, Distances, Look, Search
from untrain.report.verdict import judge, remark_on_seeds
from untrain.report.words import capitalize, flatten, list_values, show, show_duration, uncapitalize

if TYPE_CHECKING:
    from untrain.report.presentation import Presentation

T = TypeVar("T")

DRAWN = 6
"""So many methods are drawn by class and by layer at most, the best first."""
PANELS = 12
"""So many runs are drawn as curves at most."""


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its heading, and its HTML."""

    key: str
    title: str
    html: Markup


@dataclass(frozen=True)
class Folded:
    """Something that a reader opens when wanted; on paper it is open."""

    summary: str
    figure: Figure | None = None
    rows: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Part:
    """What stands under one heading of a section: what could not be drawn, figures, notes, and what is folded away."""

    missing: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    folded: Sequence[Folded] = ()
    notes: Sequence[str] = ()
    heading: str = ""
    """Empty where the section has only this part."""

    @classmethod
    def of_each(cls, drawn: Sequence[tuple[str, Figure]], missing: str, notes: Sequence[str]) -> "Part":
        """Makes a part that shows the first figure, and folds the others away under their names."""
        folded = [Folded(f"The same for {name}", figure) for name, figure in drawn[1:]]
        return cls([] if drawn else [missing], [figure for _, figure in drawn[:1]], folded, notes)


def make_section(key: str, title: str, lede: str, *parts: Part) -> Section:
    """Makes a section of figures; the lede is left out where there is none to introduce."""
    drawn = any(part.figures or part.folded for part in parts)
    return Section(key, title, render("figures.html.j2", lede=lede if drawn else "", parts=parts))


def heading_of(results: Results, one: ForgetSet) -> str:
    """Returns what stands above a forget set's part of a section; nothing where it is the only one."""
    return f"Forget set {one.name}" if len(results.sets) > 1 else ""


def name_left_out(entries: Sequence[str]) -> list[str]:
    """Names the methods that are not drawn because there are too many, as a note."""
    return [f"Not drawn, being further from the retrained model: {', '.join(entries)}."] if entries else []


# What the numbers say.


def show_verdict(results: Results, presentation: "Presentation") -> Section:
    """What the numbers say about each forget set in one sentence, with the values it rests on."""
    parts = []
    for one in results.sets:
        said = add_audit(judge(one, results, presentation), one, results, presentation)
        method = next((entry for entry in one.methods if entry.name == said.method), None)
        tiles = presentation.tiles(one, method, results) if method else []
        remarks = [*said.remarks, *remark_on_seeds(one, results)]
        parts.append({"heading": heading_of(results, one), "verdict": said, "remarks": remarks, "tiles": tiles})
    return Section("verdict", "Verdict", render("verdicts.html.j2", parts=parts))


def show_limits(results: Results, presentation: "Presentation") -> Section:
    """What the page does not show: no proof, no single record, no other seed, and what this task's measures miss."""
    html = render("limits.html.j2", limits=list_limits(results, presentation))
    return Section("limits", "What this does not show", html)


def show_table(results: Results, presentation: "Presentation") -> Section:
    """All models side by side; of a comparison, further measures in a second table."""
    parts = []
    for one in results.sets:
        notes = [floor.note for floor in presentation.floors(one, results)]
        if few := describe_fewness(one, columns_of(one, results, presentation)):
            notes.append(f"{capitalize(few)}.")
        of = (one, results, presentation)
        main = main_table(*of) if results.compared else run_table(results, presentation)
        further = further_table(*of) if results.compared else None
        parts.append({"heading": heading_of(results, one), "table": main, "further": further, "notes": notes})
    lede = presentation.lede(results)
    lede = f"{lede} {_explain_values(results)}" if results.compared else lede
    title = f"All {'methods' if results.compared else 'models'} side by side"
    return Section("comparison", title, render("tables.html.j2", parts=parts, lede=lede.strip()))


def _explain_values(results: Results) -> str:
    """Says what the lines of a comparison's cells are."""
    target, several = results.sets[0].target, any(one.seeds > 1 for one in results.sets)
    told = ""
    if several:
        under = "the small lines under them are the difference to the target and, in brackets,"
        under = under if target else "under them stands, in brackets,"
        told = f"Values are means over the seeds, ± one standard deviation; {under} the 95\u00a0% confidence interval "
        told += "of the mean."
    elif target:
        told = "The small lines are the differences to it."
    return f"{told} Under each time stands how many times faster than retraining it is." if target else told


def show_measures(results: Results, presentation: "Presentation") -> Section:
    """What each measure means, and the value it should have."""
    known: dict[str, Measure] = {}
    for one in results.sets:
        known |= {m.key: m for m in columns_of(one, results, presentation) if m.meaning}
    rows = [(measure, _targets(results, measure)) for measure in known.values()]
    return Section("measures", "What the measures mean", render("measures.html.j2", rows=rows))


def _targets(results: Results, measure: Measure) -> str:
    """Says which value a measure should have here, by forget set."""
    told = []
    for one in results.sets if measure.compared else ():
        value = one.aim(measure.key)
        if value is not None:
            told.append(measure.amount(value) + (f" ({one.name})" if len(results.sets) > 1 else ""))
    return f"Here: {', '.join(told)}." if told else ""


def show_failures(results: Results, presentation: "Presentation") -> Section | None:
    """What has no result, and why; nothing where all is well."""
    parts = [(one.name, [describe_failures(e) for e in one.entries if e.failed]) for one in results.sets]
    parts = [(name, lines) for name, lines in parts if lines]
    return Section("failures", "What failed", render("failures.html.j2", parts=parts)) if parts else None


# What one run recorded.


def show_curves(results: Results, presentation: "Presentation") -> Section:
    """The losses, and where measured other values, over the steps of each method."""
    (one,), history = results.sets, results.history
    names = [entry.name for entry in presentation.order(one)]
    runs = [replace(history[name], aim=_aim(results, name)) for name in names if name in history]
    trained = [run for name, run in history.items() if name not in names]  # the original, references, …
    runs, trained = (runs, trained) if runs else (trained, [])
    losses = losses_of(runs)
    lossy = _with_series(runs, losses)
    drawn = []
    if lossy:
        sets = {key: key.removesuffix("_loss") for key in losses}
        drawn.append(figures.draw_curves("loss-curves", lossy[:PANELS], sets, "loss", presentation.loss_unit))
    if watched := _with_series(runs, list(presentation.watched)):
        aims = {key: aim for key in presentation.watched if (aim := one.aim(key)) is not None}
        of = (presentation.watched, *presentation.watched_as)
        drawn.append(figures.draw_curves("accuracy-curves", watched[:PANELS], *of, aims))
    missing = [] if lossy else ["There are no curves: history.jsonl is missing or holds no loss."]
    notes = name_left_out([run.label for run in lossy[PANELS:]])
    if results.unreadable:
        notes.append(f"{results.unreadable} unreadable lines of history.jsonl were left out.")
    folded = []
    if others := _with_series(trained, losses_of(trained)):
        sets = {key: key.removesuffix("_loss") for run in others for key in run.series}
        figure = figures.draw_curves("training-curves", others[:PANELS], sets, "loss", presentation.loss_unit)
        folded.append(Folded("How the models were trained that they are made of or compared with", figure))
    part = Part(missing, drawn, folded, notes)
    return make_section("curves", "Losses while unlearning", presentation.curves_lede(), part)


def losses_of(runs: Sequence[Curves]) -> list[str]:
    """Returns the names of the losses among the curves, those of forget and retain set first."""
    named = {key: None for run in runs for key in run.series if key == "loss" or key.endswith("_loss")}
    first = dict.fromkeys(("forget_loss", "retain_loss"))
    return [key for key in first | named if key in named]


def _aim(results: Results, name: str) -> float | None:
    return as_number(results.manifest_of(name).get("aim"))


def _with_series(runs: Sequence[Curves], keys: Sequence[str]) -> list[Curves]:
    """Returns the runs that have such curves with at least one finite value, and of each only those, in this order."""
    found = []
    for run in runs:
        series = {k: run.series[k] for k in keys if k in run.series and np.isfinite(run.series[k].values).any()}
        found += [replace(run, series=series)] if series else []
    return found


def show_histograms(results: Results, presentation: "Presentation") -> Section:
    """How the losses of single samples are spread, for each model."""
    one, methods = results.sets[0], presentation.order(results.sets[0])
    entries = [*one.of_role("original"), *methods[:PANELS], *one.of_role("target")]
    read = [(entry.label, histogram_of(entry)) for entry in entries]
    models = [histogram for _, histogram in read if histogram is not None]
    drawn = [figures.draw_histograms("loss-histograms", models, presentation.loss_unit)] if models else []
    missing = [] if drawn else ["The losses of single samples are not in evaluation.json."]
    absent = [name for name, histogram in read if histogram is None]
    notes = [f"Without histogram: {', '.join(absent)}."] if absent and models else []
    notes += name_left_out([entry.label for entry in methods[PANELS:]])
    lede = (
        "One accuracy can hide much; here is every sample's loss. A small loss, to the left, is a sure, right answer."
    )
    return make_section("losses", "Losses of single samples", lede, Part(missing, drawn, notes=notes))


def histogram_of(entry: Entry) -> Histogram | None:
    """Returns a model's histogram as drawn; None where there is none or it does not fit together."""
    given = list(as_sequence(entry.losses.get("edges")))
    if len(given) > 2 and given[-1] == math.inf and None not in map(as_number, given[-3:-1]):
        given[-1] = given[-2] + (given[-2] - given[-3])  # an open last bin is drawn as wide as the one before it
    known = [e for edge in given if (e := as_number(edge)) is not None]
    edges = np.array(known, dtype=float)
    if len(known) < len(given) or len(edges) < 3 or not (np.diff(edges) > 0).all():
        return None
    counts = {}
    for part in SETS:
        values = [as_number(v) for v in as_sequence(entry.losses.get(part))]
        if len(values) == len(edges) - 1 and all(v is not None and v >= 0 for v in values) and any(values):
            counts[part] = np.array(values, dtype=float)
    return Histogram(entry.label, edges, counts) if counts else None


def show_mask(results: Results, presentation: "Presentation") -> Section:
    """Which weights the mask let forget steps move, by layer."""
    drawn: list[Folded] = []
    notes = []
    for entry in presentation.order(results.sets[0]):
        mask = as_mapping(results.manifest_of(entry.name).get("mask"))
        found, overall = as_numbers(mask.get("layers")), as_number(mask.get("density"))
        if found:
            place = f"mask-density-{len(drawn)}"
            figure = figures.draw_mask(place, entry.label, found, overall) if len(drawn) < DRAWN else None
            listed = [(layer, f"{show(100 * value, 2)} %") for layer, value in found.items()]
            rows = listed if figure is None or len(found) > figures.BARS else []
            drawn.append(Folded(f"The same for {entry.label}", figure, rows))
        elif overall is not None:
            notes.append(f"{entry.label}: the mask keeps {show(100 * overall)} % of all weights (not known by layer).")
    missing = [] if drawn or notes else ["No method of this run used a mask."]
    if not results.manifest:
        missing = ["The masks are not known: manifest.json is missing."]
    lede = "The mask holds the weights that matter more to the forget set than to the rest; forget steps move no other."
    first = [Folded(f"The {len(one.rows)} layers as a list", rows=one.rows) for one in drawn[:1] if one.rows]
    shown = [one.figure for one in drawn[:1] if one.figure is not None]
    part = Part(missing, shown, [*first, *drawn[1:]], notes)
    return make_section("mask", "Where the mask lets forgetting act", lede, part)


def show_times(results: Results, presentation: "Presentation") -> Section:
    """How long each model took to make."""
    one = results.sets[0]
    order = [*one.of_role("target"), *presentation.order(one)]
    clocks = [(entry.label, _clock(entry)) for entry in order]
    known = [clock for _, clock in clocks if clock is not None]
    absent = [name for name, clock in clocks if clock is None]
    evaluated = [
        f"{entry.label} {show_duration(seconds)}"
        for entry in one.entries
        if (seconds := as_number(as_mapping(entry.facts.get("clocks")).get("evaluation"))) is not None
    ]
    notes = [f"Evaluation, which is not counted: {', '.join(evaluated)}."] if evaluated else []
    notes += [f"Not recorded: {', '.join(absent)}."] if absent and known else []
    missing = [] if known else ["No times are recorded in evaluation.json."]
    units = (("device", ""), ("threads", " threads"))
    machine = [f"{results.manifest[key]}{unit}" for key, unit in units if results.manifest.get(key)]
    lede = f"Measured on {', '.join(machine)}." if machine else ""
    drawn = [figures.draw_times("time-bars", known)] if known else []
    return make_section("times", "Time", lede, Part(missing, drawn, notes=notes))


def _clock(entry: Entry) -> Clock | None:
    clocks, whole = as_mapping(entry.facts.get("clocks")), entry.mean("seconds")
    fisher, steps = as_number(clocks.get("fisher")) or 0.0, as_number(clocks.get("steps"))
    if steps is None and whole is None:
        return None
    steps = max((whole or 0.0) - fisher, 0.0) if steps is None else steps
    rest = max((whole or 0.0) - fisher - steps, 0.0)
    rest = rest if rest > 1e-6 * (fisher + steps) else 0.0
    return Clock(entry.label, fisher, steps, rest, entry.name == TARGET)


# What is drawn of each forget set of a comparison.


@dataclass(frozen=True)
class Plot:
    """A section with one part for each forget set; `draw` makes it, its figure with this id."""

    key: str
    title: str
    lede: str
    draw: Callable[[ForgetSet, Results, "Presentation", str], Part]

    def __call__(self, results: Results, presentation: "Presentation") -> Section:
        """Makes the section."""
        parts = [
            replace(self.draw(one, results, presentation, f"{self.key}-{place}"), heading=heading_of(results, one))
            for place, one in enumerate(results.sets)
        ]
        return make_section(self.key, self.title, self.lede, *parts)


def collect(entries: Iterable[Entry], make: Callable[[Entry], T | None]) -> tuple[list[T], list[str]]:
    """Makes something of each model; returns it, and as a note the models of which there is nothing to make."""
    made = [(entry.label, make(entry)) for entry in entries]
    absent = [label for label, found in made if found is None]
    notes = [f"Not drawn, as the values are missing: {list_values(absent)}."] if absent else []
    return [found for _, found in made if found is not None], notes


def differences_of(one: ForgetSet, entry: Entry, measures: Sequence[str]) -> Floats:
    """Returns value − the target's of the same seed, [seeds, measures]; seeds that lack one are left out."""
    target, columns = one.target or Entry("", "target"), []
    for measure in measures:
        pairs = zip(entry.stat(measure).values, target.stat(measure).values)
        columns.append([np.nan if v is None or a is None else v - a for v, a in pairs])
    if len({len(column) for column in columns}) != 1 or not columns[0]:
        return np.empty((0, len(measures)))
    found = np.array(columns, dtype=float).T
    return found[np.isfinite(found).all(1)]


def look_of(entry: Entry, results: Results, presentation: "Presentation") -> Look:
    """Returns how a model is drawn: by its place among all methods, so the same on every forget set."""
    if entry.role != "method":
        return trade_offs.ORIGINAL
    names = list(dict.fromkeys(each.name for one in results.sets for each in presentation.order(one)))
    return trade_offs.look_at(names.index(entry.name))


def _cloud(entry: Entry, points: Floats, results: Results, presentation: "Presentation") -> Cloud | None:
    look = look_of(entry, results, presentation)
    return Cloud(entry.label, look, points[:, 0], points[:, 1]) if len(points) else None


def _draw_trade_off(one: ForgetSet, results: Results, presentation: "Presentation", name: str) -> Part:
    forgetting, cost = (presentation.measure(key) for key in presentation.axes)

    def points_of(entry: Entry) -> Floats:
        return differences_of(one, entry, presentation.axes)

    shown = [*one.of_role("original"), *presentation.order(one)]
    clouds, notes = collect(shown, lambda entry: _cloud(entry, points_of(entry), results, presentation))
    if not clouds:
        words = f"{capitalize(forgetting.words)} and {cost.words}"
        return Part([f"{words} are not known beside those of a retrained model."])
    others = np.concatenate([np.empty((0, 2)), *(points_of(entry) for entry in one.of_role("reference"))])
    return Part(
        figures=[trade_offs.draw_trade_off(name, clouds, others, (forgetting, cost), presentation.ends)], notes=notes
    )


def _draw_distances(one: ForgetSet, results: Results, presentation: "Presentation", name: str) -> Part:
    keys, whole = presentation.parts, presentation.gap

    def bar_of(entry: Entry) -> Distances | None:
        found = np.abs(differences_of(one, entry, keys))
        note = f"{len(found)} of {len(entry.cells)} seeds" if len(found) < len(entry.cells) else ""
        parts = (found.mean(0) / len(keys)).tolist() if len(found) else []
        return Distances(entry.label, dict(zip(keys, parts)), note) if parts else None

    bars, notes = collect([*one.of_role("original"), *presentation.order(one)], bar_of)
    if not bars:
        return Part([f"The measures that {whole.name} is made of are not known beside those of a retrained model."])
    titles = {key: uncapitalize(presentation.measure(key).title) for key in keys}
    return Part(figures=[trade_offs.draw_distances(name, bars, titles, whole, one.noise(whole.key))], notes=notes)


def _draw_time_quality(one: ForgetSet, results: Results, presentation: "Presentation", name: str) -> Part:
    measure = presentation.gap

    def cloud_of(entry: Entry) -> Cloud | None:
        pairs = zip(entry.stat("seconds").values, entry.stat(measure.key).values)
        points = [(s, d) for s, d in pairs if s is not None and s > 0 and d is not None]
        return _cloud(entry, np.array(points, dtype=float), results, presentation)

    clouds, notes = collect(presentation.order(one), cloud_of)
    if not clouds:
        return Part([f"Time and {measure.words} are not both known of any method."])
    whole = one.aim("seconds")
    figure = trade_offs.draw_time_quality(name, clouds, measure, one.noise(measure.key), max(whole or 0.0, 0.0))
    return Part(figures=[figure], notes=notes)


def _draw_histograms(one: ForgetSet, results: Results, presentation: "Presentation", name: str) -> Part:
    target = histogram_of(one.target) if one.target else None
    if target is None or "forget" not in target.counts:
        return Part(["The losses of the retrained model's single samples are not known."])
    edges = target.edges

    def comparable(entry: Entry) -> Histogram | None:
        found = histogram_of(entry)
        fits = found is not None and "forget" in found.counts and np.array_equal(found.edges, edges)
        return found if fits else None

    models, notes = collect([*one.of_role("original"), *presentation.order(one)], comparable)
    if not models:
        return Part(["The losses of single samples are not known of any method."])
    return Part(figures=[figures.draw_histograms(name, models, presentation.loss_unit, target)], notes=notes)


def _draw_trials(one: ForgetSet, results: Results, presentation: "Presentation", name: str) -> Part:
    searches = []
    for entry in presentation.order(one):
        search = as_mapping(one.tuning.get(entry.name))
        given = [as_number(as_mapping(trial).get("criterion")) for trial in as_sequence(search.get("trials"))]
        criteria = np.array([np.nan if value is None else value for value in given], dtype=float)
        best = as_number(search.get("best"))
        if len(criteria):
            searches.append(Search(entry.label, criteria, None if best is None else int(best)))
    if not searches:
        return Part(["No settings were searched on this forget set."])
    return Part(figures=[trade_offs.draw_trials(name, searches)])


TRADE_OFF = Plot(
    "forgetting", "Forgetting against utility",
    "Good forgetting makes the model treat the forget set as the retrained model does, and leaves all else alone. So "
    "the best place is the cross in the middle: to forget more than that is not better.",
    _draw_trade_off,
)  # fmt: skip
DISTANCE = Plot(
    "distance", "How far from the retrained model",
    "Where each method is still away from the retrained model, and whether that is more than chance.",
    _draw_distances,
)  # fmt: skip
TIME_QUALITY = Plot(
    "times", "Time against quality", "A method is worth its name only if it is much faster than training again.",
    _draw_time_quality,
)  # fmt: skip
HISTOGRAMS = Plot(
    "losses", "Losses of the forgotten samples",
    "Two models can have the same accuracy and still treat single samples differently; here is every forgotten "
    "sample's loss. A small loss, to the left, is a sure, right answer.",
    _draw_histograms,
)  # fmt: skip
_TRIALS = Plot(
    "tuning", "Search for settings",
    "How good each tried setting was by the search's criterion, which needs no retrained model. The best of each "
    "method is what the tables show.",
    _draw_trials,
)  # fmt: skip


def show_trials(results: Results, presentation: "Presentation") -> Section | None:
    """How the settings were searched; nothing where they were not."""
    return _TRIALS(results, presentation) if any(one.tuning for one in results.sets) else None


# What is needed to make it all again.


def show_settings(results: Results, presentation: "Presentation") -> Section:
    """Settings, versions, hashes, notes and the recipe; of a comparison, its runs and what methods were given."""
    manifest, compared = results.manifest, results.compared
    head = {k: manifest[k] for k in ("untrain", "created", "device", "threads", "seed") if k in manifest}
    data, split = as_mapping(manifest.get("data")), as_mapping(manifest.get("split"))
    head |= {f"data {k}": v for k, v in data.items() if k != "classes"} | {f"split {k}": v for k, v in split.items()}
    groups = [
        ("Comparison" if compared else "Run", flatten(head)),
        ("Versions", flatten(as_mapping(manifest.get("versions")))),
        ("Measured with", flatten(presentation.measured_with(results))),
        ("Recipe" if compared else "Evaluation", flatten(results.settings) if results.config is None else []),
    ]  # fmt: skip
    made = as_mapping(manifest.get("models"))
    models = _chosen_settings(results, presentation) if compared else _models_settings(made)
    html = render(
        "settings.html.j2", groups=[group for group in groups if group[1]], models=models, config=results.config,
        cells=[(one.name, _cells(results, one)) for one in results.sets if compared],
        lacks_manifest=not manifest and not compared, lacks_config=results.config is None and not compared,
    )  # fmt: skip
    return Section("settings", "Settings and single runs" if compared else "Settings, versions, hashes", html)


def _models_settings(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists what is known of how each model was made; settings that an earlier one has too stand with that."""
    found: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    for name, made in models.items():
        known = as_mapping(made)
        same = first.setdefault(json.dumps([known.get("method"), known.get("settings")], default=str), str(name))
        found.append(_model_settings(str(name), known, "" if same == name else same))
    return found


def _model_settings(name: str, made: Mapping[str, Any], same: str = "") -> dict[str, Any]:
    head = {k: made[k] for k in ("method", "file", "hash") if made.get(k) is not None}
    density = as_number(as_mapping(made.get("mask")).get("density"))
    head |= {"mask density": f"{show(100 * density)} %"} if density is not None else {}
    notes = [str(note) for note in as_sequence(made.get("notes"))]
    settings = as_mapping(made.get("settings"))
    rows = [flatten(head), [("settings", f"those of {same}")] if same and settings else flatten(settings)]
    return {"name": f"Model {Entry(name, 'method').label}", "rows": rows, "notes": notes}


def _chosen_settings(results: Results, presentation: "Presentation") -> list[dict[str, Any]]:
    """Lists the settings of each method, and what its time was."""
    found = []
    for one in results.sets:
        for entry in presentation.order(one):
            head = {"method": entry.method} if entry.method and entry.method != entry.name else {}
            seconds, factor = entry.mean("seconds"), entry.mean(SPEEDUP)
            timed = [("time", show_duration(seconds))] if seconds is not None else []
            timed += [("speed-up over retraining", f"{show(factor, 1)}×")] if factor is not None else []
            where = f" on {one.name}" if len(results.sets) > 1 else ""
            rows = [*flatten(head), *flatten(entry.settings), *timed]
            found += [{"name": f"{entry.label}{where}", "rows": [rows], "notes": []}] if rows else []
    return found


def _cells(results: Results, one: ForgetSet) -> list[dict[str, Any]]:
    """Lists the run folders behind the numbers: seed, folder, and the link where the folder has a report."""
    found: dict[str, Any] = {}
    for entry in one.entries:
        for cell in entry.cells:
            if cell.folder:
                found.setdefault(cell.folder, cell.seed)
    return [{"seed": seed, "folder": folder, "link": _link(results.folder, folder)} for folder, seed in found.items()]


def _link(root: Path | None, folder: str) -> str:
    """Returns the relative address of a cell's report; empty where it is not there, or outside of the folder."""
    path = PurePosixPath(folder)
    if root is None or path.is_absolute() or ".." in path.parts or "\0" in folder:
        return ""
    return "./" + quote(str(path / "report.html")) if (root / path / "report.html").is_file() else ""
