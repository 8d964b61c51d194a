"""One self-contained HTML page about a comparison, made from the files of its folder alone.

As on a run's page, a section is a function from what was read to a `Section`, or to None where it does not apply.
Where there are several forget sets, each section shows one after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np

from untrain.errors import FolderError, UntrainError
from untrain.io import write_bytes
from untrain.report import comparison_figures as figures
from untrain.report.comparison import (
    SPEEDUP,
    Comparison,
    Entry,
    ForgetSet,
    comparison_of,
    failures,
    few_note,
    further_table,
    main_table,
    measures_of,
)
from untrain.report.comparison_figures import ORIGINAL, RETRAINED, Cloud, Distances, Look, Search, look_of
from untrain.report.drawing import Figure, Floats
from untrain.report.figures import ROWS, Histogram
from untrain.report.generator_verdict import generator_comparison_verdict
from untrain.report.measures import CLASSIFICATION, GENERATION, GENERATORS, TEXT, Measure
from untrain.report.sections import (
    Part,
    Section,
    choice_of,
    date_of,
    figure_section,
    flat,
    generator_tiles,
    histogram_of,
    listed,
    read_json,
    read_text,
    tiles_of,
)
from untrain.report.tables import duration, mapping, number, render, sequence, show
from untrain.report.verdict import Verdict, comparison_verdict

CONTENT = "comparison.json"


@dataclass(frozen=True)
class Compared:
    """What a comparison's folder holds, read and checked as far as the page needs; what is missing is empty."""

    folder: Path
    comparison: Comparison
    manifest: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None

    @property
    def sets(self) -> tuple[ForgetSet, ...]:
        """The forget sets."""
        return self.comparison.sets

    def heading(self, one: ForgetSet) -> str:
        """What stands above a forget set's part of a section; nothing where it is the only one."""
        return f"Forget set {one.name}" if len(self.sets) > 1 else ""

    def look(self, entry: Entry) -> Look:
        """How a model is drawn: by its place among all methods, so the same on every forget set."""
        if entry.role != "method":
            return ORIGINAL if entry.role == "original" else RETRAINED
        return look_of(self._places[entry.name])

    @property
    def _places(self) -> dict[str, int]:
        names = dict.fromkeys(entry.name for one in self.sets for entry in one.methods)
        return {name: place for place, name in enumerate(names)}


def is_comparison(folder: Path) -> bool:
    """Whether a folder was made by `untrain compare`."""
    return (folder / CONTENT).exists()


def write_comparison_report(folder: Path) -> Path:
    """Writes `report.html` into a comparison's folder from the files in it, whole or not at all.

    Args:
        folder: `comparison.json` must be in it, `manifest.json` and `config.yaml` may; the cells' own reports are
            linked where they are there.

    Returns:
        The page's path.

    Raises:
        UntrainError: if `comparison.json` is missing or holds no model, or a file cannot be read.
        FolderError: if the folder does not exist or cannot be written.
    """
    folder = Path(folder)
    page = page_of(read_comparison(folder))
    write_bytes(folder / "report.html", page.encode("utf-8", "replace"))
    return folder / "report.html"


def page_of(compared: Compared) -> str:
    """The whole page as HTML."""
    sections = [section for make in SECTIONS[compared.comparison.task] if (section := make(compared)) is not None]
    return render(
        "page.html.j2", kind="Unlearning comparison", subject=compared.comparison.name, facts=_facts(compared),
        sections=sections, version=compared.manifest.get("untrain"),
    )  # fmt: skip


def read_comparison(folder: Path) -> Compared:
    """The files of a comparison's folder.

    Raises:
        FolderError: if there is no such folder.
        UntrainError: if `comparison.json` is missing or holds no model, or a file that is there cannot be read.
    """
    if not folder.is_dir():
        raise FolderError(f"there is no folder {folder}. Give the folder that `untrain compare` wrote.")
    if not is_comparison(folder):
        raise UntrainError(f"{folder / CONTENT} is missing. Make it with `untrain compare`.")
    comparison = comparison_of(read_json(folder / CONTENT, "untrain compare"))
    manifest = folder / "manifest.json"
    config = folder / "config.yaml"
    return Compared(
        folder, comparison, read_json(manifest, "untrain compare") if manifest.exists() else {},
        read_text(config) if config.exists() else None,
    )  # fmt: skip


# The sections.


def verdict_section(compared: Compared) -> Section:
    """What the numbers say about each forget set, in one sentence."""
    parts = []
    for one in compared.sets:
        said, tiles = _verdict_of(one)
        parts.append({"heading": compared.heading(one), "verdict": said, "remarks": said.remarks, "tiles": tiles})
    return Section("verdict", "Verdict", render("verdicts.html.j2", parts=parts))


def table_section(compared: Compared) -> Section:
    """All models side by side, and the further measures."""
    parts = [
        {
            "heading": compared.heading(one), "table": main_table(one), "further": further_table(one),
            "has_target": one.target is not None, "has_floor": bool(one.floor), "few": few_note(one),
        }
        for one in compared.sets
    ]  # fmt: skip
    several = any(one.seeds > 1 for one in compared.sets)
    html = render("compared.html.j2", parts=parts, several=several, relative=compared.comparison.task == CLASSIFICATION)
    return Section("comparison", "All methods side by side", html)


def measures_section(compared: Compared) -> Section:
    """What each measure means, and the value it should have."""
    known: dict[str, Measure] = {}
    for one in compared.sets:
        known |= {measure.key: measure for measure in measures_of(one) if measure.meaning}
    rows = [(measure, _targets(compared, measure)) for measure in known.values()]
    return Section("measures", "What the measures mean", render("measures.html.j2", rows=rows))


def tuning_section(compared: Compared) -> Section | None:
    """How the settings were searched; nothing where they were not."""
    return TUNING(compared) if any(one.tuning for one in compared.sets) else None


def left_out_section(_: Compared) -> Section:
    """Which figures a comparison of models that make images does not have."""
    words = (
        "Forgetting against utility, the parts of the distance, time against quality, loss histograms and accuracies "
        "by class are measures of classifiers, so they are not drawn here. Pictures, and what is recognised in them, "
        "are in the reports of the single runs, which untrain report FOLDER makes."
    )
    return figure_section("figures", "Figures", "", Part([words]))


def failures_section(compared: Compared) -> Section | None:
    """What has no result, and why; nothing where all is well."""
    parts = [(one.name, [failures(entry) for entry in one.entries if entry.failed]) for one in compared.sets]
    parts = [(name, lines) for name, lines in parts if lines]
    return Section("failures", "What failed", render("failures.html.j2", parts=parts)) if parts else None


def settings_section(compared: Compared) -> Section:
    """The chosen settings of each method, the runs behind the numbers, and what is needed to make it all again."""
    manifest = compared.manifest
    head = {k: manifest[k] for k in ("untrain", "created", "device", "threads") if k in manifest}
    groups = [("Comparison", flat(head)), ("Versions", flat(mapping(manifest.get("versions"))))]
    parts = [
        {"name": one.name, "methods": [_chosen(entry) for entry in one.methods], "cells": _cells(compared, one)}
        for one in compared.sets
    ]
    html = render(
        "compared_settings.html.j2", parts=parts, groups=[g for g in groups if g[1]], config=compared.config,
        rows=[] if compared.config is not None else flat(compared.comparison.settings),
    )  # fmt: skip
    return Section("settings", "Settings and single runs", html)


# What is drawn of one forget set: the figure, or why there is none; and notes.

Drawn = tuple[Figure | None, str, list[str]]


@dataclass(frozen=True)
class Plot:
    """A section with one figure for each forget set; `draw` makes it."""

    key: str
    title: str
    lede: str
    draw: Callable[[Compared, ForgetSet, str], Drawn]

    def __call__(self, compared: Compared) -> Section:
        """The section."""
        parts = []
        for place, one in enumerate(compared.sets):
            figure, missing, notes = self.draw(compared, one, f"{self.key}-{place}")
            made, absent = ([figure], []) if figure else ([], [missing])
            parts.append(Part(absent, made, notes=notes, heading=compared.heading(one)))
        return figure_section(self.key, self.title, self.lede, *parts)


def _trade_off(compared: Compared, one: ForgetSet, name: str) -> Drawn:
    clouds, absent = [], []
    for entry in one.of_role("original", "method"):
        cloud = _cloud(compared, one, entry)
        if cloud is None:
            absent.append(entry.label)
        else:
            clouds.append(cloud)
    references = [c for entry in one.of_role("reference") if (c := _cloud(compared, one, entry)) is not None]
    joined = None
    if references:
        x, y = (np.concatenate([getattr(c, axis) for c in references]) for axis in "xy")
        joined = Cloud("retrained again", RETRAINED, x, y)
    if not clouds:
        return None, "Forget and test accuracy are not known beside those of a retrained model.", []
    return figures.trade_off(name, clouds, joined), "", _absent(absent)


def _cloud(compared: Compared, one: ForgetSet, entry: Entry) -> Cloud | None:
    """A model's seeds as differences to the target in forget and test accuracy."""
    points = _differences(one, entry, ("FA", "TA"))
    return Cloud(entry.label, compared.look(entry), points[:, 0], points[:, 1]) if len(points) else None


def _distances(compared: Compared, one: ForgetSet, name: str) -> Drawn:
    bars, absent = [], []
    for entry in one.of_role("original", "method"):
        found = np.abs(_differences(one, entry, tuple(figures.COMPONENTS)))
        if not len(found):
            absent.append(entry.label)
            continue
        parts = dict(zip(figures.COMPONENTS, (found.mean(0) / len(figures.COMPONENTS)).tolist()))
        note = f"{len(found)} of {len(entry.cells)} seeds" if len(found) < len(entry.cells) else ""
        bars.append(Distances(entry.label, parts, note))
    if not bars:
        return None, "The four measures that Avg.D is made of are not known beside those of a retrained model.", []
    return figures.distance_bars(name, bars, one.noise), "", _absent(absent)


def _times(compared: Compared, one: ForgetSet, name: str) -> Drawn:
    clouds, absent = [], []
    for entry in one.methods:
        pairs = zip(entry.stat("seconds").values, entry.stat("AvgD").values)
        points = np.array([(s, d) for s, d in pairs if s is not None and s > 0 and d is not None], dtype=float)
        if len(points):
            clouds.append(Cloud(entry.label, compared.look(entry), points[:, 0], points[:, 1]))
        else:
            absent.append(entry.label)
    if not clouds:
        return None, "Time and average distance are not both known of any method.", []
    whole = one.target.mean("seconds") if one.target else None
    return figures.time_quality(name, clouds, one.noise, whole if whole and whole > 0 else None), "", _absent(absent)


def _histograms(compared: Compared, one: ForgetSet, name: str) -> Drawn:
    target = _forgotten(one.target) if one.target else None
    if target is None:
        return None, "The losses of the retrained model's single samples are not known.", []
    made, absent = [], []
    for entry in one.of_role("original", "method"):
        histogram = _forgotten(entry)
        if histogram is None or not np.array_equal(histogram.edges, target.edges):
            absent.append(entry.label)
        else:
            made.append(histogram)
    if not made:
        return None, "The losses of single samples are not known of any method.", []
    return figures.histograms_against(name, made, target), "", _absent(absent)


def _forgotten(entry: Entry) -> Histogram | None:
    found = histogram_of(entry.label, entry.losses)
    return found if found is not None and "forget" in found.counts else None


def _classes(compared: Compared, one: ForgetSet, name: str) -> Drawn:
    aim = one.target.by_class.get("TA", {}) if one.target else {}
    shown = [entry for entry in one.of_role("original", "reference", "method") if entry.by_class.get("TA")]
    known = {c for entry in shown for c in entry.by_class["TA"] if c in aim}
    classes = [c for c in dict.fromkeys([*compared.comparison.classes, *aim]) if c in known]
    if not classes:
        return None, "The accuracies by class are not known beside those of a retrained model.", []
    values = np.array([[entry.by_class["TA"].get(c, np.nan) - aim[c] for c in classes] for entry in shown])
    notes = []
    if len(classes) > ROWS:
        notes.append(f"Shown are the {ROWS} of {len(classes):,} classes in which methods are furthest from the target.")
        largest = np.nan_to_num(np.abs(values)).max(0)
        kept = np.sort(np.argsort(-largest, kind="stable")[:ROWS])
        classes, values = [classes[i] for i in kept], values[:, kept]
    drawn = figures.class_map(name, [entry.label for entry in shown], classes, values)
    return drawn, "", notes + _absent([entry.label for entry in one.methods if entry not in shown])


def _trials(compared: Compared, one: ForgetSet, name: str) -> Drawn:
    searches = []
    for entry in one.methods:
        search = mapping(one.tuning.get(entry.name))
        given = [number(mapping(trial).get("criterion")) for trial in sequence(search.get("trials"))]
        criteria = np.array([np.nan if value is None else value for value in given], dtype=float)
        best = number(search.get("best"))
        if len(criteria):
            searches.append(Search(entry.label, compared.look(entry), criteria, None if best is None else int(best)))
    if not searches:
        return None, "No settings were searched on this forget set.", []
    return figures.trials(name, searches), "", []


# All sections, in order.

PLOTS = (
    Plot(
        "forgetting", "Forgetting against utility",
        "Good forgetting makes the model treat the forget set as the retrained model does, and leaves new images "
        "alone. So the best place is the cross in the middle: not as far left as possible.",
        _trade_off,
    ),
    Plot(
        "distance", "How far from the retrained model",
        "Where each method is still away from the retrained model, and whether that is more than chance.",
        _distances,
    ),
    Plot(
        "times", "Time against quality",
        "A method is worth its name only if it is much faster than training again.",
        _times,
    ),
    Plot(
        "losses", "Losses of the forgotten samples",
        "Two models can have the same accuracy and still treat single samples differently; here is every forgotten "
        "sample's loss. A small loss, to the left, is a sure, right answer.",
        _histograms,
    ),
    Plot(
        "classes", "Which classes pay",
        "Whether a method took something from classes that nobody asked it to touch.",
        _classes,
    ),
)  # fmt: skip
TUNING = Plot(
    "tuning", "Search for settings",
    "How good each tried setting was by the search's criterion, which needs no retrained model. The best of each "
    "method is what the tables show.",
    _trials,
)  # fmt: skip
_FIRST = (verdict_section, table_section, failures_section, measures_section)
_LAST = (tuning_section, settings_section)
SECTIONS: dict[str, tuple[Callable[[Compared], Section | None], ...]] = {
    CLASSIFICATION: (*_FIRST, *PLOTS, *_LAST),
    GENERATION: (*_FIRST, left_out_section, *_LAST),
    TEXT: (*_FIRST, left_out_section, *_LAST),
}
"""Task → the sections of its page."""


# What the sections are made of.


def _facts(compared: Compared) -> list[str]:
    """The line under the title: how much was compared, and when."""
    comparison, sets = compared.comparison, compared.sets
    methods = len({entry.name for one in sets for entry in one.methods})
    seeds = len(comparison.seeds) or max(one.seeds for one in sets)
    facts = [f"{n} {word if n == 1 else f'{word}s'}" for n, word in ((methods, "method"), (seeds, "seed"))]
    if len(sets) > 1:
        facts.append(f"{len(sets)} forget sets")
    for one in sets:
        sizes = one.sizes
        if "forget" in sizes and "retain" in sizes:
            whole = sizes["forget"] + sizes["retain"]
            chosen = f" ({choice_of(one.spec)})"
            facts.append(f"{one.name}{chosen if one.spec else ''}: {sizes['forget']:,} of {whole:,} samples to forget")
    if compared.manifest.get("created"):
        facts.append(date_of(str(compared.manifest["created"])))
    return facts


def _verdict_of(one: ForgetSet) -> tuple[Verdict, list[dict[str, str]]]:
    """What the numbers say about a forget set, and those that it rests on."""
    means = {entry.name: _means(entry) for entry in one.entries}
    original = next((means[entry.name] for entry in one.of_role("original")), {})
    target = means[one.target.name] if one.target else {}
    if one.task in GENERATORS:
        said = generator_comparison_verdict(one)
        return said, generator_tiles(one.task, original, means[said.method], target) if said.method is not None else []
    said = comparison_verdict(one)
    floor = {key: stat.mean for key, stat in one.floor.items()}
    return said, tiles_of(original, means[said.method], target, floor) if said.method is not None else []


def _means(entry: Entry) -> dict[str, float]:
    return {key: stat.mean for key, stat in entry.stats.items() if stat.mean is not None}


def _targets(compared: Compared, measure: Measure) -> str:
    """The value that a measure should have here, by forget set."""
    if not measure.compared:
        return ""
    told = []
    for one in compared.sets:
        value = one.target.mean(measure.key) if one.target else None
        if value is not None:
            where = f" ({one.name})" if len(compared.sets) > 1 else ""
            told.append(f"{show(value, measure.digits)} {measure.unit}".rstrip() + where)
    return f"Here: {', '.join(told)}." if told else ""


def _differences(one: ForgetSet, entry: Entry, measures: Sequence[str]) -> Floats:
    """Value − the target's of the same seed, [seeds, measures]; seeds that lack one are left out."""
    if one.target is None:
        return np.empty((0, len(measures)))
    columns = []
    for measure in measures:
        values, aims = entry.stat(measure).values, one.target.stat(measure).values
        columns.append([np.nan if v is None or a is None else v - a for v, a in zip(values, aims)])
    if len({len(column) for column in columns}) != 1 or not columns[0]:
        return np.empty((0, len(measures)))
    found = np.array(columns, dtype=float).T
    return found[np.isfinite(found).all(1)]


def _absent(names: Sequence[str]) -> list[str]:
    return [f"Not drawn, as the values are missing: {listed(names)}."] if names else []


def _chosen(entry: Entry) -> dict[str, Any]:
    """The settings of a method, and what its time was."""
    head = {"method": entry.method} if entry.method and entry.method != entry.name else {}
    seconds, factor = entry.mean("seconds"), entry.mean(SPEEDUP)
    timed = [("time", duration(seconds))] if seconds is not None else []
    timed += [("speed-up over retraining", f"{show(factor, 1)}×")] if factor is not None else []
    return {"name": entry.label, "rows": [*flat(head), *flat(entry.settings), *timed]}


def _cells(compared: Compared, one: ForgetSet) -> list[dict[str, str]]:
    """The run folders behind the numbers: seed, folder, and the link where the folder has a report."""
    found: dict[str, str] = {}
    for entry in one.entries:
        for cell in entry.cells:
            if cell.folder:
                found.setdefault(cell.folder, cell.seed)
    return [{"seed": seed, "folder": folder, "link": _link(compared.folder, folder)} for folder, seed in found.items()]


def _link(root: Path, folder: str) -> str:
    """The relative address of a cell's report; empty where it is not there, or outside of the comparison's folder."""
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts or "\0" in folder or not (root / path / "report.html").is_file():
        return ""
    return "./" + quote(str(path / "report.html"))
