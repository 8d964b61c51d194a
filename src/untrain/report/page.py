"""One self-contained HTML page about a run, made from the files of its folder alone, so it can be made again any time.

A section is a function from the run's data to a `Section`, or to None where it does not apply; the page is the list
`SECTIONS` in order. What a section needs and the folder lacks is said in the section.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from untrain.errors import FolderError, UntrainError
from untrain.io import write_bytes
from untrain.report import figures
from untrain.report.figures import Clock, Curve, Curves, Figure, Histogram
from untrain.report.tables import (
    TARGET,
    comparison_table,
    duration,
    label,
    mapping,
    methods_of,
    models_of,
    number,
    render,
    role_of,
    sequence,
    share,
    show,
    verdict,
)

SETS = {"FA": "forget", "RA": "retain", "TA": "test"}
DRAWN = 6
"""So many methods are drawn by class and by layer at most, the closest to the retrained model first."""
PANELS = 12
"""So many runs are drawn as curves at most."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds, read and checked as far as a report needs; what is missing is empty."""

    folder: Path
    evaluation: Mapping[str, Any]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Curves] = field(default_factory=dict)
    unreadable: int = 0
    """Lines of the history that could not be read, for instance the last one of a killed run."""
    config: str | None = None

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Model name → its measures."""
        return models_of(self.evaluation)

    @property
    def methods(self) -> list[str]:
        """The models that methods made, closest to the retrained model first."""
        return methods_of(self.models)

    def made(self, name: str) -> Mapping[str, Any]:
        """What the manifest says of how a model was made."""
        return mapping(mapping(self.manifest.get("models")).get(name))


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


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder from the files in it, whole or not at all.

    Args:
        folder: a run folder; `evaluation.json` must be there, `history.jsonl`, `manifest.json` and `config.yaml` may.

    Returns:
        The page's path.

    Raises:
        UntrainError: if `evaluation.json` is missing, or a file cannot be read.
        FolderError: if the folder does not exist or cannot be written.
    """
    folder = Path(folder)
    page = page_of(read_run(folder))
    write_bytes(folder / "report.html", page.encode("utf-8", "replace"))
    return folder / "report.html"


def page_of(run: Run) -> str:
    """The whole page as HTML."""
    sections = [section for make in SECTIONS if (section := make(run)) is not None]
    data = mapping(run.manifest.get("data"))
    subject = data.get("name") or run.folder.resolve().name
    version = run.manifest.get("untrain")
    return render("page.html.j2", subject=subject, facts=_facts(run), sections=sections, version=version)


# Reading a folder.


def read_run(folder: Path) -> Run:
    """The files of a run folder.

    Raises:
        FolderError: if there is no such folder.
        UntrainError: if `evaluation.json` is missing, or a file that is there cannot be read.
    """
    if not folder.is_dir():
        raise FolderError(f"there is no run folder {folder}. Give the folder that `untrain run` wrote.")
    if not (folder / "evaluation.json").exists():
        raise UntrainError(
            f"{folder / 'evaluation.json'} is missing, and a report is made from it. Make it with `untrain evaluate`."
        )
    evaluation = _read_json(folder / "evaluation.json", "untrain evaluate")
    if not mapping(evaluation.get("models")):
        raise UntrainError(
            f"{folder / 'evaluation.json'} holds no model: expected {{'models': {{name: {{measure: value}}}}}}. "
            "Make it again with `untrain evaluate`."
        )
    manifest = _read_json(folder / "manifest.json", "untrain run") if (folder / "manifest.json").exists() else {}
    config = _read_text(folder / "config.yaml") if (folder / "config.yaml").exists() else None
    history, unreadable = _read_history(folder / "history.jsonl")
    return Run(folder, evaluation, manifest, history, unreadable, config)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UntrainError(f"cannot read {path}: {error.strerror or error}. Give yourself the permission.") from None


def _read_json(path: Path, command: str) -> Mapping[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except ValueError as error:
        raise UntrainError(f"{path} is not JSON ({error}). Make it again with `{command}`.") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UntrainError(f"{path} must hold one JSON object, not a {kind}. Make it again with `{command}`.")
    return content


def _read_history(path: Path) -> tuple[dict[str, Curves], int]:
    """The curves of each run by name, line by line; a run that was resumed continues where its last part began."""
    runs: dict[str, Curves] = {}
    unreadable = 0
    if not path.exists():
        return runs, unreadable
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                    name, step = str(record["model"]), int(record["step"])
                except (ValueError, TypeError, KeyError, OverflowError):
                    unreadable += 1
                    continue
                _append(runs.setdefault(name, Curves(label(name))), step, record)
    except OSError as error:
        raise UntrainError(f"cannot read {path}: {error.strerror or error}. Give yourself the permission.") from None
    return runs, unreadable


def _append(run: Curves, step: int, record: Mapping[str, Any]) -> None:
    while run.skipped and run.skipped[-1] >= step:
        run.skipped.pop()
    if record.get("skipped") is True:
        run.skipped.append(step)
    for key, value in record.items():
        if key in ("model", "step") or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        curve = run.series.setdefault(key, Curve())
        while curve.steps and curve.steps[-1] >= step:  # a resumed run repeats the steps after its checkpoint
            curve.steps.pop()
            curve.values.pop()
        curve.steps.append(step)
        curve.values.append(float("nan") if (known := number(value)) is None else float(known))


# The sections.


def verdict_section(run: Run) -> Section:
    """What the numbers say, in one sentence, with the four values it rests on."""
    said = verdict(run.evaluation)
    remarks = [*said.remarks, *_seed_remark(run)]
    html = render("verdict.html.j2", verdict=said, remarks=remarks, tiles=_tiles(run, said.method))
    return Section("verdict", "Verdict", html)


def table_section(run: Run) -> Section:
    """All measures of all models."""
    table = comparison_table(run.evaluation)
    html = render("table.html.j2", table=table, has_target=TARGET in run.models, has_floor=_has_floor(run))
    return Section("comparison", "All models side by side", html)


def measures_section(run: Run) -> Section:
    """What each measure means, and the value it should have."""
    target = run.models.get(TARGET, {})
    rows = []
    for measure in comparison_table(run.evaluation).measures:
        value = number(target.get(measure.key)) if measure.compared else None
        here = f"Here: {show(value, measure.digits)} {measure.unit}." if value is not None else ""
        if measure.meaning:
            rows.append((measure, here))
    return Section("measures", "What the measures mean", render("measures.html.j2", rows=rows))


def curves_section(run: Run) -> Section:
    """The losses, and where measured the accuracies, over the steps of each run."""
    order = [*run.methods, *(name for name in run.history if name not in run.methods)]
    runs = {name: run.history[name] for name in order if name in run.history}
    losses = _with_series(runs, lambda key: key == "loss" or key.endswith("_loss"))
    accuracies = _with_series(runs, lambda key: key in SETS)
    made = []
    if losses:
        made.append(figures.loss_curves("loss-curves", losses[:PANELS]))
    if accuracies:
        target = run.models.get(TARGET, {})
        known = {key: value for key in SETS if (value := number(target.get(key))) is not None}
        made.append(figures.accuracy_curves("accuracy-curves", accuracies[:PANELS], known))
    missing = [] if losses else ["There are no curves: history.jsonl is missing or holds no loss."]
    lede = (
        "Forget steps should raise the loss on the forget set, and the retain steps after each of them keep the loss "
        "on the rest low."
    )
    notes = _left_out([c.label for c in losses[PANELS:]])
    if run.unreadable:
        notes.append(f"{run.unreadable} unreadable lines of history.jsonl were left out.")
    return _figure_section("curves", "Losses while unlearning", lede if losses else "", missing, made, notes=notes)


def classes_section(run: Run) -> Section:
    """Accuracy by class before and after, one figure a method."""
    drawn, made = [], []
    notes: list[str] = []
    for name in run.methods:
        accuracies = _by_class(run, name)
        if accuracies:
            drawn.append((name, accuracies))
    for place, (name, accuracies) in enumerate(drawn[:DRAWN]):
        rows, total = _rows(run, accuracies)
        if total > len(rows) and not notes:
            gauge = "the retrained model" if TARGET in run.models else "the original"
            notes.append(
                f"Shown are the {len(rows)} of {total:,} classes in which each method is furthest from {gauge}."
            )
        made.append((label(name), figures.class_accuracies(f"class-accuracies-{place}", label(name), rows, accuracies)))
    notes += _left_out([label(name) for name, _ in drawn[DRAWN:]])
    missing = [] if made else ["The accuracies by class are not in evaluation.json, or no method has been run."]
    lede = "Whether forgetting stayed where it was meant, or took something from other classes as well."
    return _figure_section(
        "classes", "Accuracy by class", lede if made else "", missing, [f for _, f in made[:1]],
        [Folded(f"The same for {name}", figure) for name, figure in made[1:]], notes,
    )  # fmt: skip


def histograms_section(run: Run) -> Section:
    """How the losses of single samples are spread, for each model."""
    originals = [name for name in run.models if role_of(name) == "original"]
    order = [*originals, *run.methods[:PANELS], *([TARGET] if TARGET in run.models else [])]
    read = [(name, _histogram(label(name), run.models[name].get("losses"))) for name in order]
    models = [histogram for _, histogram in read if histogram is not None]
    made = [figures.loss_histograms("loss-histograms", models)] if models else []
    missing = [] if made else ["The losses of single samples are not in evaluation.json."]
    absent = [label(name) for name, histogram in read if histogram is None]
    notes = [f"Without histogram: {', '.join(absent)}."] if absent and models else []
    notes += _left_out([label(name) for name in run.methods[PANELS:]])
    lede = (
        "One accuracy can hide much; here is every sample's loss. A small loss, to the left, is a sure, right answer."
    )
    return _figure_section("losses", "Losses of single samples", lede if made else "", missing, made, notes=notes)


def mask_section(run: Run) -> Section:
    """Which weights the mask let forget steps move, by layer."""
    made: list[Folded] = []
    notes = []
    for name in run.methods:
        mask = mapping(run.made(name).get("mask"))
        found = {str(k): v for k, value in mapping(mask.get("layers")).items() if (v := number(value)) is not None}
        overall = number(mask.get("density"))
        if found:
            drawing = (
                figures.mask_density(f"mask-density-{len(made)}", label(name), found, overall)
                if len(made) < DRAWN
                else None
            )
            listed = [(layer, f"{show(100 * value, 2)} %") for layer, value in found.items()]
            rows = listed if drawing is None or len(found) > figures.BARS else []
            made.append(Folded(f"The same for {label(name)}", drawing, rows))
        elif overall is not None:
            notes.append(f"{label(name)}: the mask keeps {show(100 * overall)} % of all weights (not known by layer).")
    missing = [] if made or notes else ["No method of this run used a mask."]
    if not run.manifest:
        missing = ["The masks are not known: manifest.json is missing."]
    lede = "The mask holds the weights that matter more to the forget set than to the rest; forget steps move no other."
    first = [Folded(f"The {len(made[0].rows)} layers as a list", rows=made[0].rows)] if made and made[0].rows else []
    drawn = [part.figure for part in made[:1] if part.figure is not None]
    return _figure_section(
        "mask", "Where the mask lets forgetting act", lede if made else "", missing, drawn, [*first, *made[1:]], notes
    )


def times_section(run: Run) -> Section:
    """How long each model took to make."""
    order = [TARGET, *run.methods]
    clocks = [clock for name in order if name in run.models and (clock := _clock(name, run.models[name])) is not None]
    made = [figures.times("time-bars", clocks)] if clocks else []
    absent = [label(n) for n in order if n in run.models and _clock(n, run.models[n]) is None]
    evaluated = [
        f"{label(n)} {duration(e)}"
        for n, values in run.models.items()
        if (e := number(mapping(values.get("clocks")).get("evaluation"))) is not None
    ]
    notes = [f"Evaluation, which is not counted: {', '.join(evaluated)}."] if evaluated else []
    notes += [f"Not recorded: {', '.join(absent)}."] if absent and made else []
    missing = [] if made else ["No times are recorded in evaluation.json."]
    machine = [
        f"{run.manifest[k]}{unit}" for k, unit in (("device", ""), ("threads", " threads")) if run.manifest.get(k)
    ]
    lede = f"Measured on {', '.join(machine)}." if machine and made else ""
    return _figure_section("times", "Time", lede, missing, made, notes=notes)


def settings_section(run: Run) -> Section:
    """What would be needed to make the run again: settings, versions, hashes, notes, the recipe."""
    data, split = mapping(run.manifest.get("data")), mapping(run.manifest.get("split"))
    head = {k: run.manifest[k] for k in ("untrain", "created", "device", "threads", "seed") if k in run.manifest}
    head |= {f"data {k}": v for k, v in data.items() if k != "classes"} | {f"split {k}": v for k, v in split.items()}
    groups = [("Run", _flat(head)), ("Versions", _flat(mapping(run.manifest.get("versions"))))]
    groups.append(("Evaluation", _flat(mapping(run.evaluation.get("settings")))))
    models = [_model_settings(str(name), mapping(made)) for name, made in mapping(run.manifest.get("models")).items()]
    html = render(
        "settings.html.j2", groups=[g for g in groups if g[1]], models=models, config=run.config,
        has_manifest=bool(run.manifest),
    )  # fmt: skip
    return Section("settings", "Settings, versions, hashes", html)


SECTIONS: tuple[Callable[[Run], Section | None], ...] = (
    verdict_section,
    table_section,
    measures_section,
    curves_section,
    classes_section,
    histograms_section,
    mask_section,
    times_section,
    settings_section,
)


# What the sections are made of.


def _figure_section(
    key: str, title: str, lede: str, missing: Sequence[str], made: Sequence[Figure], folded: Sequence[Folded] = (),
    notes: Sequence[str] = (),
) -> Section:  # fmt: skip
    html = render("figures.html.j2", lede=lede, missing=missing, figures=made, folded=folded, notes=notes)
    return Section(key, title, html)


def _facts(run: Run) -> list[str]:
    """The line under the title: what was forgotten, of what, when and where."""
    sizes, split = mapping(run.evaluation.get("sizes")), mapping(run.manifest.get("split"))
    known = {str(key): int(n) for key, value in sizes.items() if (n := number(value)) is not None}
    facts = []
    if "forget" in known and "retain" in known:
        facts.append(f"{known['forget']:,} of {known['forget'] + known['retain']:,} training samples to forget")
    if split.get("kind"):
        spec = split.get("spec")
        told = _listed(spec, 6) if isinstance(spec, list) else _value(spec)
        facts.append(f"chosen by {split['kind']}" + (f": {told}" if spec not in (None, "", []) else ""))
    facts += [f"{known[key]:,} {name}" for key, name in (("holdout", "held out"), ("test", "to test")) if key in known]
    if run.manifest.get("created"):
        facts.append(_date(str(run.manifest["created"])))
    return facts


def _date(text: str) -> str:
    try:
        created = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{created:%Y-%m-%d %H:%M} {created.tzname() or ''}".strip()


def _seed_remark(run: Run) -> list[str]:
    seed = run.manifest.get("seed")
    return [f"This is one run (seed {seed}); another seed can end differently."] if seed is not None else []


def _tiles(run: Run, method: str | None) -> list[dict[str, str]]:
    """The numbers that the verdict rests on: distance, forget accuracy, test accuracy, time."""
    if method is None:
        return []
    models, target = run.models, run.models.get(TARGET, {})
    tiles = []
    for key, title, unit in (
        ("AvgD", "Average distance", "points"),
        ("FA", "Accuracy on the forget set", "%"),
        ("TA", "Accuracy on new images", "%"),
    ):
        before, after = number(models.get("original", {}).get(key)), number(models[method].get(key))
        aim = number(mapping(run.evaluation.get("noise_floor")).get(key) if key == "AvgD" else target.get(key))
        words = ("noise floor" if key == "AvgD" else "retrained") + (f" {show(aim)}" if aim is not None else " unknown")
        tiles.append({
            "title": title, "unit": unit if after is not None else "", "under": words,
            "before": show(before) if before is not None else "", "value": show(after) if after is not None else "—",
        })  # fmt: skip
    spent, whole = number(models[method].get("seconds")), number(target.get("seconds"))
    under = f"{share(spent, whole)} of retraining, {duration(whole)}" if spent is not None and whole else ""
    tiles.append({
        "title": "Time", "unit": "", "before": "", "value": duration(spent) if spent is not None else "—",
        "under": under or "retraining time unknown",
    })  # fmt: skip
    return tiles


def _has_floor(run: Run) -> bool:
    return bool(mapping(run.evaluation.get("noise_floor")))


def _with_series(runs: Mapping[str, Curves], wanted: Callable[[str], bool]) -> list[Curves]:
    """The runs that have such curves with at least one finite value, and of each only those."""
    found = []
    for run in runs.values():
        series = {k: c for k, c in run.series.items() if wanted(k) and np.isfinite(c.values).any()}
        if series:
            order = {"forget_loss": 0, "retain_loss": 1, "FA": 0, "RA": 1, "TA": 2}
            ordered = dict(sorted(series.items(), key=lambda item: order.get(item[0], 9)))
            found.append(Curves(run.label, ordered, run.skipped))
    return found


def _left_out(names: Sequence[str]) -> list[str]:
    return [f"Not drawn, being further from the retrained model: {', '.join(names)}."] if names else []


def _by_class(run: Run, method: str) -> dict[str, dict[str, dict[str, float]]]:
    """Set → "original", "method", "retrained" → class → %; sets of which the method has no value are left out."""
    found = {}
    for measure, part in SETS.items():
        models = {}
        for role, name in (("original", "original"), ("method", method), ("retrained", TARGET)):
            values = mapping(mapping(run.models.get(name, {}).get("by_class")).get(measure))
            models[role] = {str(c): v for c, value in values.items() if (v := number(value)) is not None}
        if models["method"]:
            found[part] = models
    return found


def _rows(run: Run, accuracies: Mapping[str, Mapping[str, Mapping[str, float]]]) -> tuple[list[str], int]:
    """The classes to draw, in the data's order, or of many those furthest from the target; and how many there are."""
    present = {c: None for models in accuracies.values() for values in models.values() for c in values}
    known = [str(c) for c in sequence(run.evaluation.get("classes")) if str(c) in present]
    classes = list(dict.fromkeys([*known, *present]))
    if len(classes) <= figures.ROWS:
        return classes, len(classes)

    def distance(name: str) -> float:
        gaps = [0.0]
        for models in accuracies.values():
            aim = models["retrained"].get(name, models["original"].get(name))
            if aim is not None and name in models["method"]:
                gaps.append(abs(models["method"][name] - aim))
        return max(gaps)

    return sorted(classes, key=distance, reverse=True)[: figures.ROWS], len(classes)


def _histogram(name: str, losses: Any) -> Histogram | None:
    """The histogram as drawn; None where there is none or it does not fit together."""
    given = list(sequence(mapping(losses).get("edges")))
    if len(given) > 2 and given[-1] == math.inf and number(given[-2]) is not None and number(given[-3]) is not None:
        given[-1] = given[-2] + (given[-2] - given[-3])  # an open last bin is drawn as wide as the one before it
    known = [e for edge in given if (e := number(edge)) is not None]
    edges = np.array(known, dtype=float)
    if len(known) < len(given) or len(edges) < 3 or not (np.diff(edges) > 0).all():
        return None
    counts = {}
    for part in figures.SETS:
        values = [number(v) for v in sequence(mapping(losses).get(part))]
        if len(values) == len(edges) - 1 and all(v is not None and v >= 0 for v in values) and any(values):
            counts[part] = np.array(values, dtype=float)
    return Histogram(name, edges, counts) if counts else None


def _clock(name: str, values: Mapping[str, Any]) -> Clock | None:
    clocks = mapping(values.get("clocks"))
    fisher, steps, whole = number(clocks.get("fisher")), number(clocks.get("steps")), number(values.get("seconds"))
    if steps is None and whole is None:
        return None
    fisher = fisher or 0.0
    steps = max((whole or 0.0) - fisher, 0.0) if steps is None else steps
    rest = max((whole or 0.0) - fisher - steps, 0.0)
    return Clock(label(name), fisher, steps, rest if rest > 1e-6 * (fisher + steps) else 0.0, name == TARGET)


def _model_settings(name: str, made: Mapping[str, Any]) -> dict[str, Any]:
    head = {k: made[k] for k in ("method", "file", "hash") if made.get(k) is not None}
    density = number(mapping(made.get("mask")).get("density"))
    if density is not None:
        head["mask density"] = f"{show(100 * density)} %"
    notes = [str(note) for note in sequence(made.get("notes"))]
    return {"name": label(name), "head": _flat(head), "settings": _flat(mapping(made.get("settings"))), "notes": notes}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and values in words."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _value(value)))
    return rows


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return _listed(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def _listed(values: Iterable[Any], most: int = 40) -> str:
    texts = [_value(value) for value in values]
    return ", ".join(texts[:most]) + (f", … ({len(texts):,} in all)" if len(texts) > most else "")
