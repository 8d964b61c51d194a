"""The sections of a run's page that generators have of their own: verdict, pictures before and after, classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from untrain.report.drawing import Figure
from untrain.report.figures import ROWS
from untrain.report.generator_verdict import generator_verdict
from untrain.report.pictures import Grid, Line, chosen, picture_table, read_grids, read_snapshots
from untrain.report.run import Run
from untrain.report.sections import Folded, Part, Section, figure_section, generator_tiles
from untrain.report.tables import TARGET, difference, label, mapping, number, render, role_of, show
from untrain.report.verdict import Verdict

PICTURED = 16
"""So many classes are shown as pictures at most, the forgotten ones among them."""
STEPS = 8
"""So many snapshots of a run are shown at most, spread evenly from the first to the last."""
BESIDE = 2
"""Images of a class beside each other in a snapshot."""


def verdict_of(run: Run) -> tuple[Verdict, list[dict[str, str]]]:
    """What the numbers say, and those that it rests on."""
    said = generator_verdict(run.evaluation)
    if said.method is None:
        return said, []
    original, target = run.models.get("original", {}), run.models.get(TARGET, {})
    return said, generator_tiles(original, run.models[said.method], target, mapping(run.evaluation.get("real")))


def grids_section(run: Run) -> Section:
    """Images of the same noise before, after, and of the retrained generator."""
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
    lede = (
        "Every column of a row began with the same noise in each model, so images can be compared one by one. The "
        "forgotten class should be gone, the others should still be there, if not the same to the pixel."
    )
    part = Part(missing, [f for _, f in made[:1]], [Folded(f"The same for {n}", f) for n, f in made[1:]], _once(notes))
    return figure_section("grids", "Images before and after", lede, part)


def classes_section(run: Run) -> Section:
    """How many images of each class are recognised, in each model."""
    shares = {name: found for name in _ordered(run) if (found := _recognised(run.models[name]))}
    known = dict.fromkeys(c for found in shares.values() for c in found)
    classes = [*(c for c in run.classes if c in known), *(c for c in known if c not in run.classes)]
    missing = "The shares by class are not in evaluation.json."
    if not classes:
        return figure_section("classes", "Recognised by class", "", Part([missing]))
    shown, before = _furthest(classes, shares, run), shares.get("original", {})
    lines = []
    for c in shown:
        cells = []
        for name, found in shares.items():
            value, was = found.get(c), before.get(c)
            compared = name != "original" and value is not None and was is not None
            small = difference(value - was, 1) if compared and value is not None and was is not None else ""
            cells.append(("—" if value is None else show(value, 1), small))
        lines.append((c, c in run.forgotten, cells))
    notes = ["Small: the difference to the original, in points."] if before and len(shares) > 1 else []
    if len(shown) < len(classes):
        notes.append(
            f"Shown are {len(shown)} of {len(classes):,} classes: the forgotten ones and those that lost most."
        )
    html = render("by_class.html.j2", columns=[label(name) for name in shares], lines=lines, notes=notes)
    lede = "The share of generated images of each class that the judge calls by that class."
    return Section("classes", "Recognised by class", render("lede.html.j2", lede=lede) + html)


def snapshots_section(run: Run) -> Section | None:
    """How images of the same noise changed during each run; nothing where no snapshots were made."""
    found, bad = read_snapshots(run.folder)
    if not found and not bad:
        return None
    originals = read_grids(run.folder)[0]
    order = [*(n for n in run.methods if n in found), *(n for n in found if n not in run.methods)]
    made = [(label(n), _strip(run, n, found[n], originals.get("original"))) for n in order]
    lede = "The same noise again and again while a method runs: when the forgotten class goes, and what goes with it."
    part = Part(
        [] if made else ["No snapshot could be read."],
        [f for _, f in made[:1]], [Folded(f"The same for {n}", f) for n, f in made[1:]], _once(bad),
    )  # fmt: skip
    return figure_section("snapshots", "Images during the run", lede, part)


# What the sections are made of.


def _side_by_side(run: Run, grids: Mapping[str, Grid], notes: list[str]) -> Figure:
    """One row a class, one column a model."""
    classes = list(dict.fromkeys(c for grid in grids.values() for c in grid.classes))
    rows = chosen(classes, run.forgotten, PICTURED)
    if len(rows) < len(classes):
        notes.append(f"Shown are {len(rows)} of {len(classes):,} classes.")
    lines = []
    for c in rows:
        cells = [grid.cut(c, f"{label(n)}: {grid.columns} images of class {c}") for n, grid in grids.items()]
        lines.append(Line(c, c in run.forgotten, cells))
    return picture_table([_titled(n) for n in grids], lines, _sampled(run))


def _strip(run: Run, name: str, grids: Mapping[int, Grid], original: Grid | None) -> Figure:
    """One row a class, one column a snapshot; before them the original, after which a method began."""
    steps = list(grids)
    apart = (len(steps) - 1) / max(1, min(STEPS, len(steps)) - 1)
    columns = {
        f"step {steps[round(i * apart)]:,}": grids[steps[round(i * apart)]] for i in range(min(STEPS, len(steps)))
    }
    if original is not None and role_of(name) == "method":
        columns = {"before": original} | columns
    classes = list(dict.fromkeys(c for grid in columns.values() for c in grid.classes))
    lines = []
    for c in chosen(classes, run.forgotten, PICTURED):
        cells = [grid.cut(c, f"class {c}, {when}", BESIDE) for when, grid in columns.items()]
        lines.append(Line(c, c in run.forgotten, cells))
    return picture_table(list(columns), lines, f"{label(name)}: the same noise after so many steps.")


def _titled(name: str) -> str:
    return {"original": "before: original", "target": "retrained"}.get(role_of(name), f"after: {label(name)}")


def _sampled(run: Run) -> str:
    """How the images were made."""
    sampler = mapping(run.evaluation.get("sampler"))
    steps, eta, guidance = (number(sampler.get(key)) for key in ("steps", "eta", "guidance"))
    told = [f"{steps:.0f} steps"] if steps is not None else []
    told += [f"η = {eta:g}"] if eta is not None else []
    told += [f"guidance {guidance:g}"] if guidance is not None else []
    return "The same noise in each model" + (f"; sampled with {', '.join(told)}." if told else ".")


def _recognised(values: Mapping[str, Any]) -> dict[str, float]:
    given = mapping(mapping(values.get("by_class")).get("recognised"))
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
    return chosen(classes, [*(c for c in classes if c in run.forgotten), *lost][:ROWS], ROWS)


def _once(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))
