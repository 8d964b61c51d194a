"""One self-contained HTML page about a run, made from the files of its folder alone, so it can be made again any time.

A section is a function from the run's data to a `Section`, or to None where it does not apply; the page is the list
that `SECTIONS` has for the task, in order. What a section needs and the folder lacks is said in the section.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from untrain.io import write_bytes
from untrain.report import figures, generator_page
from untrain.report.comparison_page import is_comparison, write_comparison_report
from untrain.report.drawing import clean
from untrain.report.figures import Clock, Curves
from untrain.report.generator_case import case_of
from untrain.report.measures import CLASSIFICATION, GENERATION, GENERATORS, TEXT
from untrain.report.run import Run, read_run
from untrain.report.sections import (
    Folded,
    Part,
    Section,
    choice_of,
    date_of,
    figure_section,
    flat,
    histogram_of,
    listed,
    tiles_of,
)
from untrain.report.tables import (
    HALVES,
    TARGET,
    comparison_table,
    duration,
    gauge_of,
    label,
    mapping,
    number,
    render,
    role_of,
    sequence,
    show,
)
from untrain.report.verdict import Verdict, verdict

SETS = {"FA": "forget", "RA": "retain", "TA": "test"}
DRAWN = 6
"""So many methods are drawn by class and by layer at most, the closest to the retrained model first."""
PANELS = 12
"""So many runs are drawn as curves at most."""

LEDES = {
    (CLASSIFICATION, TARGET): "No value here is good by itself. The retrained model never saw what was to be "
    "forgotten, so its row is the target; the small numbers are the differences to it.",
    (CLASSIFICATION, ""): "There is no retrained model in this run, so no value here has a target. Retraining once "
    "without the forget set would give one.",
    (GENERATION, TARGET): "The first value says whether the class is gone, the others what it cost the classes that "
    "should stay. The retrained generator never saw the forgotten class, so its row is the target; the small numbers "
    "are the differences to it.",
    (GENERATION, "original"): "The first value says whether the class is gone, the others what it cost the classes "
    "that should stay; the small numbers are the differences to the original. No generator was retrained without the "
    "class, which alone would show what all values should be.",
    (GENERATION, ""): "The first value says whether the class is gone, the others what it cost the classes that "
    "should stay.",
    (TEXT, TARGET): "The first value says whether the concept is gone, the others what it cost the prompts that should "
    "stay. The retrained pipeline never saw the concept, so its row is the target; the small numbers are the "
    "differences to it.",
    (TEXT, "original"): "The first value says whether the concept is gone, the others what it cost the prompts that "
    "should stay; the small numbers are the differences to the original.",
    (TEXT, ""): "The first value says whether the concept is gone, the others what it cost the prompts that should "
    "stay.",
}
"""What stands above the table: by task, and by the model that values are held against."""
UNITS = {CLASSIFICATION: "nats", GENERATION: "", TEXT: ""}
"""Of the loss: cross-entropy, or the error of the predicted noise."""
FLOOR_NOTE = (
    "Noise floor: how far models that were retrained with other seeds are from each other. No method can be told from "
    "retraining below it."
)
HALVES_NOTE = (
    f"{HALVES[0].upper()}{HALVES[1:]}: how far the two are from each other. A smaller distance to real images would "
    "mean nothing; from fewer images than the models are measured with, it is larger by chance alone."
)


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder from the files in it, whole or not at all.

    Args:
        folder: a run folder; `evaluation.json` must be there, `history.jsonl`, `manifest.json` and `config.yaml` may.
            One with `comparison.json` gets the page of a comparison.

    Returns:
        The page's path.

    Raises:
        UntrainError: if `evaluation.json` is missing, or a file cannot be read.
        FolderError: if the folder does not exist or cannot be written.
    """
    folder = Path(folder)
    if is_comparison(folder):
        return write_comparison_report(folder)
    page = page_of(read_run(folder))
    write_bytes(folder / "report.html", page.encode("utf-8", "replace"))
    return folder / "report.html"


def page_of(run: Run) -> str:
    """The whole page as HTML."""
    sections = [section for make in SECTIONS[run.task] if (section := make(run)) is not None]
    data = mapping(run.manifest.get("data"))
    subject = data.get("name") or run.folder.resolve().name
    version = run.manifest.get("untrain")
    return render(
        "page.html.j2", kind="Unlearning report", subject=subject, facts=_facts(run), sections=sections, version=version
    )


# The sections.


def verdict_section(run: Run) -> Section:
    """What the numbers say, in one sentence, with the four values it rests on."""
    said, tiles = generator_page.verdict_of(run) if run.task in GENERATORS else _verdict_of(run)
    remarks = [*said.remarks, *_seed_remark(run)]
    return Section("verdict", "Verdict", render("verdict.html.j2", verdict=said, remarks=remarks, tiles=tiles))


def table_section(run: Run) -> Section:
    """All measures of all models."""
    lede = LEDES[run.task, gauge_of(run.models, run.task)]
    notes = [FLOOR_NOTE] if mapping(run.evaluation.get("noise_floor")) else []
    notes += [HALVES_NOTE] if mapping(run.evaluation.get("real")) else []
    html = render("table.html.j2", table=comparison_table(run.evaluation), lede=lede, notes=notes)
    return Section("comparison", "All models side by side", html)


def measures_section(run: Run) -> Section:
    """What each measure means, and the value it should have."""
    target = run.models.get(TARGET, {})
    rows = []
    for measure in comparison_table(run.evaluation).measures:
        value = number(target.get(measure.key)) if measure.compared else None
        here = f"Here: {f'{show(value, measure.digits)} {measure.unit}'.strip()}." if value is not None else ""
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
        made.append(figures.loss_curves("loss-curves", losses[:PANELS], UNITS[run.task]))
    if accuracies:
        target = run.models.get(TARGET, {})
        known = {key: value for key in SETS if (value := number(target.get(key))) is not None}
        made.append(figures.accuracy_curves("accuracy-curves", accuracies[:PANELS], known))
    missing = [] if losses else ["There are no curves: history.jsonl is missing or holds no loss."]
    lede = (
        "Forget steps should raise the loss on the forget set, and the retain steps after each of them keep the loss "
        "on the rest low."
    )
    if run.task in GENERATORS:
        what = "concept" if run.task == TEXT else "class"
        lede = f"{lede} A method that redirects the {what} to something else lowers both: there, low is right."
    notes = _left_out([c.label for c in losses[PANELS:]])
    if run.unreadable:
        notes.append(f"{run.unreadable} unreadable lines of history.jsonl were left out.")
    return figure_section("curves", "Losses while unlearning", lede, Part(missing, made, notes=notes))


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
    return figure_section(
        "classes", "Accuracy by class", lede,
        Part(missing, [f for _, f in made[:1]], [Folded(f"The same for {n}", f) for n, f in made[1:]], notes),
    )  # fmt: skip


def histograms_section(run: Run) -> Section:
    """How the losses of single samples are spread, for each model."""
    originals = [name for name in run.models if role_of(name) == "original"]
    order = [*originals, *run.methods[:PANELS], *([TARGET] if TARGET in run.models else [])]
    read = [(name, histogram_of(label(name), run.models[name].get("losses"))) for name in order]
    models = [histogram for _, histogram in read if histogram is not None]
    made = [figures.loss_histograms("loss-histograms", models)] if models else []
    missing = [] if made else ["The losses of single samples are not in evaluation.json."]
    absent = [label(name) for name, histogram in read if histogram is None]
    notes = [f"Without histogram: {', '.join(absent)}."] if absent and models else []
    notes += _left_out([label(name) for name in run.methods[PANELS:]])
    lede = (
        "One accuracy can hide much; here is every sample's loss. A small loss, to the left, is a sure, right answer."
    )
    return figure_section("losses", "Losses of single samples", lede, Part(missing, made, notes=notes))


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
    drawn = [shown.figure for shown in made[:1] if shown.figure is not None]
    part = Part(missing, drawn, [*first, *made[1:]], notes)
    return figure_section("mask", "Where the mask lets forgetting act", lede, part)


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
    return figure_section("times", "Time", lede, Part(missing, made, notes=notes))


def settings_section(run: Run) -> Section:
    """What would be needed to make the run again: settings, versions, hashes, notes, the recipe."""
    data, split = mapping(run.manifest.get("data")), mapping(run.manifest.get("split"))
    head = {k: run.manifest[k] for k in ("untrain", "created", "device", "threads", "seed") if k in run.manifest}
    head |= {f"data {k}": v for k, v in data.items() if k != "classes"} | {f"split {k}": v for k, v in split.items()}
    groups = [("Run", flat(head)), ("Versions", flat(mapping(run.manifest.get("versions"))))]
    by = () if run.task == TEXT else ("judge", "features", "sampler")  # which has a section of its own for them
    measured = {k: run.evaluation[k] for k in by if run.evaluation.get(k)}
    groups += [("Measured with", flat(measured)), ("Evaluation", flat(mapping(run.evaluation.get("settings"))))]
    models = [_model_settings(str(name), mapping(made)) for name, made in mapping(run.manifest.get("models")).items()]
    html = render(
        "settings.html.j2", groups=[g for g in groups if g[1]], models=models, config=run.config,
        has_manifest=bool(run.manifest),
    )  # fmt: skip
    return Section("settings", "Settings, versions, hashes", html)


SECTIONS: dict[str, tuple[Callable[[Run], Section | None], ...]] = {
    CLASSIFICATION: (
        verdict_section,
        table_section,
        measures_section,
        curves_section,
        classes_section,
        histograms_section,
        mask_section,
        times_section,
        settings_section,
    ),
    GENERATION: (
        verdict_section,
        generator_page.grids_section,
        table_section,
        measures_section,
        generator_page.classes_section,
        generator_page.snapshots_section,
        curves_section,
        mask_section,
        times_section,
        settings_section,
    ),
    TEXT: (
        verdict_section,
        generator_page.grids_section,
        table_section,
        measures_section,
        generator_page.parts_section,
        generator_page.classes_section,
        generator_page.snapshots_section,
        generator_page.setup_section,
        curves_section,
        mask_section,
        times_section,
        settings_section,
    ),
}
"""Task → the sections of its page."""


# What the sections are made of.


def _facts(run: Run) -> list[str]:
    """The line under the title: what was forgotten, of what, when and where."""
    sizes, split = mapping(run.evaluation.get("sizes")), mapping(run.manifest.get("split"))
    known = {str(key): int(n) for key, value in sizes.items() if (n := number(value)) is not None}
    facts, text = [], run.task == TEXT
    if "forget" in known and "retain" in known:
        whole = known["forget"] + known["retain"]
        what = "images are of what is to be forgotten" if text else "training samples to forget"
        facts.append(f"{known['forget']:,} of {whole:,} {what}")
    if run.forgotten:
        names = [clean(name, 80) for name in case_of(run.evaluation).concepts] if text else run.forgotten
        facts.append(f"forgotten: {listed(names, 6)}")
    elif split.get("kind"):
        spec = split.get("spec")
        facts.append(f"chosen by {split['kind']}" + (f": {choice_of(spec)}" if spec not in (None, "", []) else ""))
    facts += [
        f"{known[key]:,} {name}" for key, name in (("holdout", "held out"), ("test", "to test")) if known.get(key)
    ]
    if run.manifest.get("created"):
        facts.append(date_of(str(run.manifest["created"])))
    return facts


def _seed_remark(run: Run) -> list[str]:
    seed = run.manifest.get("seed")
    return [f"This is one run (seed {seed}); another seed can end differently."] if seed is not None else []


def _verdict_of(run: Run) -> tuple[Verdict, list[dict[str, str]]]:
    """What the numbers of classifiers say, and those that it rests on."""
    said = verdict(run.evaluation)
    if said.method is None:
        return said, []
    floor = mapping(run.evaluation.get("noise_floor"))
    return said, tiles_of(run.models.get("original", {}), run.models[said.method], run.models.get(TARGET, {}), floor)


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
    return {"name": label(name), "head": flat(head), "settings": flat(mapping(made.get("settings"))), "notes": notes}
