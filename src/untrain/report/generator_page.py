"""Sections of a run's page that only models have that make images: verdict, pictures, what is recognised in them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from untrain.report.concept_verdict import PROMPT, finds_nudity
from untrain.report.drawing import Figure, clean
from untrain.report.figures import ROWS
from untrain.report.generator_verdict import generator_verdict
from untrain.report.measures import TEXT
from untrain.report.pictures import Grid, Line, Picture, chosen, picture_table, read_grids, read_snapshots
from untrain.report.run import Run
from untrain.report.sections import Folded, Part, Section, figure_section, flat, generator_tiles, in_words
from untrain.report.tables import TARGET, difference, duration, label, mapping, number, render, role_of, share, show
from untrain.report.verdict import Verdict

PICTURED = 16
"""So many classes or prompts are shown as pictures at most, forgotten ones among them."""
STEPS = 8
"""So many snapshots of a run are shown at most, spread evenly from the first to the last."""
BESIDE = 2
"""Images of a class or prompt beside each other in a snapshot."""


def verdict_of(run: Run) -> tuple[Verdict, list[dict[str, str]]]:
    """What the numbers say, and those that it rests on."""
    said = generator_verdict(run.evaluation)
    if said.method is None:
        return said, []
    original, target = run.models.get("original", {}), run.models.get(TARGET, {})
    real = mapping(run.evaluation.get("real"))
    return said, generator_tiles(run.task, original, run.models[said.method], target, real)


def grids_section(run: Run) -> Section:
    """Images of the same noise before, after, and of the retrained model."""
    grids, bad = read_grids(run.folder)
    notes = list(bad)
    made: list[tuple[str, Figure]] = []
    for name in [n for n in run.methods if n in grids]:
        beside = {n: grids[n] for n in ("original", name, TARGET) if n in grids}
        made.append((label(name), _side_by_side(run, beside, notes)))
    if not made and grids:
        made.append(("the models", _side_by_side(run, {n: grids[n] for n in run.models if n in grids}, notes)))
    absent = [label(n) for n in ("original", *run.methods) if n in run.models and n not in grids]
    notes += [f"Without pictures: {', '.join(absent)}."] if absent and made else []
    missing = [] if made else ["There are no pictures: the folder grids is missing or holds none of this run's models."]
    what = "What was to be forgotten" if run.task == TEXT else "The forgotten class"
    lede = (
        "Every column of a row began with the same noise in each model, so images can be compared one by one. "
        f"{what} should be gone, the others should still be there, if not the same to the pixel."
    )
    part = Part(missing, [f for _, f in made[:1]], [Folded(f"The same for {n}", f) for n, f in made[1:]], _once(notes))
    return figure_section("grids", "Images before and after", lede, part)


def classes_section(run: Run) -> Section | None:
    """How many images of each class are recognised, or of each thing that prompts ask for, in each model."""
    shares = {name: found for name in _ordered(run) if (found := _numbers(run.models[name], "by_class", "recognised"))}
    known = dict.fromkeys(c for found in shares.values() for c in found)
    classes = [*(c for c in run.classes if c in known), *(c for c in known if c not in run.classes)]
    text = run.task == TEXT
    title, which = ("Recognised by label", "label") if text else ("Recognised by class", "class")
    if not classes:
        missing = Part([f"The shares by {which} are not in evaluation.json."])
        return None if text and finds_nudity(run.evaluation) else figure_section("classes", title, "", missing)
    shown = _furthest(classes, shares, run)
    notes = ["Small: the difference to the original, in points."] if "original" in shares and len(shares) > 1 else []
    if len(shown) < len(classes):
        forgotten, others = ("what was to be forgotten", "what") if text else ("the forgotten ones", "those that")
        plural = "labels" if text else "classes"
        notes.append(f"Shown are {len(shown)} of {len(classes):,} {plural}: {forgotten} and {others} lost most.")
    lede = "The share of generated images of each class that the judge calls by that class."
    if text:
        lede = (
            "Of the images whose prompts ask for it, the share in which a classifier sees it. What was to be "
            "forgotten should be gone, and everything else as often there as before."
        )
    lines = [(c, c in run.forgotten, _compared(shares, c, 1)) for c in shown]
    html = _table("Asked for" if text else "Class", "%", shares, lines, notes)
    return Section("classes", title, render("lede.html.j2", lede=lede) + html)


def parts_section(run: Run) -> Section | None:
    """In how many images each part of a body was found; nothing where the detector does not look for any."""
    if not finds_nudity(run.evaluation):
        return None
    counts = {name: found for name in _ordered(run) if (found := _numbers(run.models[name], "by_part"))}
    known = dict.fromkeys(part for found in counts.values() for part in found)
    if not known:
        missing = "The counts by part of the body are not in evaluation.json."
        return figure_section("parts", "Counts by part of the body", "", Part([missing]))
    counts = {name: dict.fromkeys(known, 0.0) | found for name, found in counts.items()}  # not found is a zero
    parts = sorted(known, key=lambda part: -next(iter(counts.values()))[part])
    lines = [(_spoken(part), False, _compared(counts, part, 0)) for part in parts]
    made = number(mapping(next(iter(run.models.values())).get("samples")).get("forgotten"))
    threshold = number(mapping(run.evaluation.get("detector")).get("threshold"))
    beyond = f" with a score of at least {show(threshold)}" if threshold is not None else ""
    of = f"the {made:,.0f} images" if made is not None else "the images"
    lede = (
        f"In how many of {of} of forgotten prompts the detector finds each part{beyond}. One image can show several. "
        "All counts should be near zero."
    )
    notes = ["Small: the difference to the original."] if "original" in counts and len(counts) > 1 else []
    absent = [label(name) for name in _ordered(run) if name not in counts]
    notes += [f"Not counted: {', '.join(absent)}."] if absent else []
    html = _table("Part of the body", "images", counts, lines, notes)
    return Section("parts", "Counts by part of the body", render("lede.html.j2", lede=lede) + html)


def setup_section(run: Run) -> Section:
    """What was trained, what looked at the images, and how these were made."""
    known = run.evaluation
    trained, detector, prompts = (mapping(known.get(key)) for key in ("trained", "detector", "prompts"))
    count, whole = number(trained.get("parameters")), number(trained.get("of"))
    size = [] if count is None else [("parameters", f"{count:,.0f}" + (f" of {whole:,.0f}" if whole else ""))]
    size += [("share of all", share(count, whole))] if count is not None and whole else []
    parts = [("parts", _PARTS.get(words, words)) for words in [in_words(trained.get("parts") or "")] if words]
    took = [
        (label(name), f"{steps:,.0f} steps" + (f", {duration(seconds)}" if seconds is not None else ""))
        for name in run.methods
        if (steps := number(run.models[name].get("steps"))) is not None
        for seconds in [number(run.models[name].get("seconds"))]
    ]
    groups = [
        ("What was trained", [*parts, *size, *took]),
        ("What looked at the images", [*_detector(detector),
                                       *flat({w: known[k] for k, w in _NETWORKS.items() if known.get(k)})]),
        ("How they were made", [*[(_MADE.get(k, k), v) for k, v in flat(prompts)],
                                *[(_SAMPLED.get(k, k), v) for k, v in flat(mapping(known.get("sampler")))]]),
    ]  # fmt: skip
    missing = [f"{title} is not in evaluation.json." for title, rows in groups if not rows]
    html = render("groups.html.j2", groups=[group for group in groups if group[1]], missing=missing)
    return Section("setup", "What was trained, and how it was judged", html)


def snapshots_section(run: Run) -> Section | None:
    """How images of the same noise changed during each run; nothing where no snapshots were made."""
    found, bad = read_snapshots(run.folder)
    if not found and not bad:
        return None
    originals = read_grids(run.folder)[0]
    order = [*(n for n in run.methods if n in found), *(n for n in found if n not in run.methods)]
    made = [(label(n), _strip(run, n, found[n], originals.get("original"))) for n in order]
    what = "what was to be forgotten" if run.task == TEXT else "the forgotten class"
    lede = f"The same noise again and again while a method runs: when {what} goes, and what goes with it."
    part = Part(
        [] if made else ["No snapshot could be read."],
        [f for _, f in made[:1]], [Folded(f"The same for {n}", f) for n, f in made[1:]], _once(bad),
    )  # fmt: skip
    return figure_section("snapshots", "Images during the run", lede, part)


# What the sections are made of.

# Keys and values of evaluation.json in words.
_MADE = {"forget": "forgotten prompts", "retain": "retained prompts", "images": "images of each prompt"}
_SAMPLED = {"steps": "sampling steps", "eta": "η"}
_NETWORKS = {"features": "network of the Fréchet distance", "clip": "network of the CLIP score"}
_PARTS = {
    "full": "all weights (full)", "xattn": "cross-attention (xattn)", "noxattn": "all but cross-attention (noxattn)",
    "selfattn": "self-attention (selfattn)", "notime": "all but the embedding of time (notime)",
}  # fmt: skip


def _side_by_side(run: Run, grids: Mapping[str, Grid], notes: list[str]) -> Figure:
    """One row a class or prompt, one column a model."""
    classes = _rows(run, grids.values())
    rows = chosen(classes, run.forgotten, PICTURED)
    if len(rows) < len(classes):
        notes.append(f"Shown are {len(rows)} of {len(classes):,} {'prompts' if run.task == TEXT else 'classes'}.")
    lines = []
    for c in rows:
        cells = [grid.cut(c, f"{label(n)}: {grid.columns} images of {_row(run, c)}") for n, grid in grids.items()]
        lines.append(_line(run, c, cells))
    caption = _sampled(run)
    if any(grid.blurred for grid in grids.values()):
        caption += " Images in which the detector sees what was to be forgotten are blurred."
    return picture_table([_titled(n) for n in grids], lines, caption, prompts=run.task == TEXT)


def _strip(run: Run, name: str, grids: Mapping[int, Grid], original: Grid | None) -> Figure:
    """One row a class or prompt, one column a snapshot; before them the original, after which a method began."""
    steps = list(grids)
    apart = (len(steps) - 1) / max(1, min(STEPS, len(steps)) - 1)
    columns = {
        f"step {steps[round(i * apart)]:,}": grids[steps[round(i * apart)]] for i in range(min(STEPS, len(steps)))
    }
    if original is not None and role_of(name) == "method":
        columns = {"before": original} | columns
    lines = []
    for c in chosen(_rows(run, columns.values()), run.forgotten, PICTURED):
        cells = [grid.cut(c, f"{_row(run, c)}, {when}", BESIDE) for when, grid in columns.items()]
        lines.append(_line(run, c, cells))
    caption = f"{label(name)}: the same noise after so many steps."
    if any(grid.blurred for grid in columns.values()):  # no detector looks while a method runs
        caption += " Images of forgotten prompts are blurred, whatever they show."
    return picture_table(list(columns), lines, caption, prompts=run.task == TEXT)


def _rows(run: Run, grids: Iterable[Grid]) -> list[str]:
    """The names of all rows; prompts that were to be forgotten come first."""
    names = list(dict.fromkeys(c for grid in grids for c in grid.classes))
    return sorted(names, key=lambda name: name not in run.forgotten) if run.task == TEXT else names


def _row(run: Run, name: str) -> str:
    """What a row is, where its pictures are put into words."""
    return f"“{clean(name, PROMPT)}”" if run.task == TEXT else f"class {name}"


def _line(run: Run, name: str, cells: Sequence[Picture | None]) -> Line:
    return Line(clean(name, PROMPT) if run.task == TEXT else name, name in run.forgotten, cells)


def _compared(values: Mapping[str, Mapping[str, float]], key: str, digits: int) -> list[tuple[str, str]]:
    """A row of each model's values, and in small type their differences to the original's."""
    before, cells = values.get("original", {}).get(key), []
    for name, found in values.items():
        value = found.get(key)
        apart = name != "original" and value is not None and before is not None
        small = difference(value - before, digits) if apart and value is not None and before is not None else ""
        cells.append(("—" if value is None else show(value, digits), small))
    return cells


def _table(
    head: str, unit: str, columns: Iterable[str], lines: Sequence[tuple[str, bool, list[tuple[str, str]]]],
    notes: Sequence[str],
) -> Markup:  # fmt: skip
    return render(
        "by_class.html.j2", head=head, unit=unit, columns=[label(name) for name in columns], lines=lines, notes=notes
    )


def _detector(detector: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which detector it was, and how good."""
    told = {k: v for k, v in detector.items() if k != "test_accuracy" and v not in (None, "")}
    right = mapping(detector.get("test_accuracy"))
    shown = [(f"right on test images, {k}", f"{show(v)} %") for k, x in right.items() if (v := number(x)) is not None]
    return [*flat({"detector" if k == "name" else k: v for k, v in told.items()}), *shown]


def _spoken(part: str) -> str:
    """A part of the body in words: FEET_EXPOSED as "feet, exposed"."""
    return re.sub(r" (exposed|covered)$", r", \1", clean(part.replace("_", " ").lower(), 60))


def _titled(name: str) -> str:
    return {"original": "before: original", "target": "retrained"}.get(role_of(name), f"after: {label(name)}")


def _sampled(run: Run) -> str:
    """How the images were made."""
    sampler = mapping(run.evaluation.get("sampler"))
    steps, eta, guidance = (number(sampler.get(key)) for key in ("steps", "eta", "guidance_scale"))
    told = [f"{steps:.0f} steps"] if steps is not None else []
    told += [f"η = {eta:g}"] if eta is not None else []
    told += [f"guidance scale {guidance:g}"] if guidance is not None else []
    return "The same noise in each model" + (f"; sampled with {', '.join(told)}." if told else ".")


def _numbers(values: Mapping[str, Any], *path: str) -> dict[str, float]:
    """The numbers of a mapping inside of a model's values, by name."""
    given = values
    for key in path:
        given = mapping(given.get(key))
    return {str(c): v for c, value in given.items() if (v := number(value)) is not None}


def _ordered(run: Run) -> list[str]:
    """All models: as they were, as they should be, then what methods made, the best first."""
    others = [name for name in run.models if role_of(name) != "method"]
    return [*others, *run.methods]


def _furthest(classes: Sequence[str], shares: Mapping[str, Mapping[str, float]], run: Run) -> list[str]:
    """The classes to show, in order; of many the forgotten ones and those that lost most after the best method."""
    if len(classes) <= ROWS:
        return list(classes)
    first = next((name for name in run.methods if name in shares), "")
    before, after = shares.get("original", {}), shares.get(first, {})
    lost = sorted(classes, key=lambda c: after.get(c, 0.0) - before.get(c, 0.0))
    kept = set(list(dict.fromkeys([*(c for c in classes if c in run.forgotten), *lost]))[:ROWS])
    return [c for c in classes if c in kept]


def _once(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))
