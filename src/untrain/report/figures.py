"""Figures of single models: losses and measures over the steps, losses of single samples, masks, times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from untrain.report.drawing import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    SETS,
    SKY,
    Figure,
    Floats,
    Key,
    in_style,
    label_outside,
    legend,
    make_panels,
    set_plain_log,
    with_unit,
    write_svg,
)
from untrain.report.results import Curve, Curves
from untrain.report.words import capitalize, clean, join_words, show, show_duration, show_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 500
"""A longer curve is thinned out to so many points: the mean of each stretch, and its range as a band."""

BARS = 40
"""So many layers are drawn as bars with names; of more, a profile by depth with a table beside it."""


@dataclass(frozen=True)
class Histogram:
    """How often each loss occurs: n + 1 edges, and n counts for each set ("forget", "retain", "test")."""

    label: str
    edges: Floats
    counts: Mapping[str, Floats]

    def shares(self, name: str) -> Floats:
        """Returns the counts of a set as shares of it; all zero for an empty set."""
        counts = self.counts[name]
        return counts / max(counts.sum(), 1.0)

    def overlap(self, target: "Histogram | None" = None) -> float | None:
        """Returns how far the forget set's losses look like the test set's, or the target's: Σ min of the shares."""
        other, name = (self, "test") if target is None else (target, "forget")
        if "forget" not in self.counts or name not in other.counts:
            return None
        return float(np.minimum(self.shares("forget"), other.shares(name)).sum())


@dataclass(frozen=True)
class Clock:
    """How long the parts of a run took, in seconds; `rest` is what its whole time holds beyond Fisher and steps."""

    label: str
    fisher: float
    steps: float
    rest: float = 0.0
    target: bool = False

    @property
    def total(self) -> float:
        """The whole time in seconds."""
        return self.fisher + self.steps + self.rest


# The figures.


@in_style
def draw_curves(
    name: str, runs: Sequence[Curves], sets: Mapping[str, str], words: str, unit: str,
    targets: Mapping[str, float] | None = None,
) -> Figure:  # fmt: skip
    """Draws losses, or what else was measured during each run, over its steps; one panel a run.

    Args:
        name: prefix of the drawing's ids.
        runs: their series are drawn.
        sets: series → the set that it is measured on, which decides how it is drawn.
        words: what the series are together.
        unit: of them.
        targets: series → the retrained model's value, drawn as a thin line; None: the series are losses.
    """
    drawing, panels = make_panels(len(runs), height=2.3, columns=2)
    looks = {key: SETS.get(part, SETS["test"]) for key, part in sets.items()}
    for axes, run in zip(panels, runs):
        for key, curve in run.series.items():
            _draw_curve(axes, curve, *looks[key])
            if targets and key in targets:
                axes.axhline(targets[key], color=looks[key][0], linewidth=0.7, alpha=0.8, zorder=1)
        if targets is None:
            _mark_skipped(axes, run.skipped)
            _mark_aim(axes, run)
            _set_wide_range(axes, [curve.values for curve in run.series.values()])
        axes.set_title(clean(run.label))
        axes.set_xlabel("step")
    for axes in panels[::2]:
        axes.set_ylabel(with_unit(words, unit))
    used = dict.fromkeys(key for run in runs for key in run.series)
    if targets is None:
        legend(drawing, [Key(f"{sets[k]} batches" if sets[k] in SETS else k, *looks[k][:2]) for k in used])
        alt, caption = "Loss over the steps. ", _describe_curves(runs)
    else:
        legend(drawing, [Key(key, *looks[key]) for key in used])
        alt = f"{capitalize(words)} on the {join_words([sets[key] for key in used])} sets over the steps. "
        caption = f"{capitalize(words)} measured during the run."
        caption += " Thin horizontal lines: the retrained model." if targets else ""
    alt += " ".join(_tell(run, "" if targets is None else f" {unit}") for run in runs)
    return Figure(write_svg(drawing, name, alt), alt, caption)


@in_style
def draw_histograms(name: str, models: Sequence[Histogram], unit: str = "", target: Histogram | None = None) -> Figure:
    """Draws how the losses of single samples are spread, one panel a model, all on the same axes.

    Args:
        name: prefix of the drawing's ids.
        models: the panels.
        unit: of the loss.
        target: the retrained model: the forget set's losses are drawn against its alone; None: against those of the
            model's other sets.
    """
    logarithmic = is_heavy_tailed([*models, *([target] if target else [])])
    columns = min(4, len(models)) if target else 2 if len(models) in (2, 4) else 3
    height = 2.0 if target is None else 1.45 if len(models) > 4 else 1.8
    drawing, panels = make_panels(len(models), height=height, columns=columns, share_x=True, share_y=True)
    overlaps = {}
    for axes, model in zip(panels, models):
        edges = make_positive(model.edges) if logarithmic else model.edges
        if "forget" in model.counts:
            axes.stairs(model.shares("forget") * 100, edges, color=SETS["forget"][0], fill=True, alpha=0.3)
        for _, shares, style in _outlines(model, target):
            axes.stairs(shares * 100, edges, color=style[0], linestyle=style[1], linewidth=1.3)
        if (overlap := model.overlap(target)) is not None:
            overlaps[model.label] = f"{overlap:.0%}".replace("%", " %")
        words = f" · {'' if target else 'overlap '}{overlaps[model.label]}" if model.label in overlaps else ""
        axes.set_title(clean(model.label, 17 if target else 36 if columns == 2 else 22) + words)
    if logarithmic:
        set_plain_log(panels[0].set_xscale, panels, "x", most=4 if target else 7)
    if target is not None:
        panels[0].set_xlim(*_occupied(make_positive(target.edges) if logarithmic else target.edges, [target, *models]))
    label_outside(panels, columns, with_unit("loss of a sample", unit), "share of the set [%]")
    legend(drawing, [Key(f"{part}", *style) for part, _, style in _outlines(models[0], target)])
    told = ", ".join(f"{label} {overlap}" for label, overlap in overlaps.items())
    if target is None:
        alt = f"Histograms of the loss on the forget, retain and test sets. Overlap of forget and test: {told}"
        caption = (
            "How large the loss of single samples is. What was forgotten should look like new samples (test), as it "
            "does for the retrained model; overlap is the share that the two have in common."
        )
    else:
        alt = f"Losses on the forget set; overlap with the retrained model: {told}."
        caption = (
            "How large the loss of single forgotten samples is, against the retrained model's. The percentage is the "
            "share that the two have in common: 100 % would be the same losses."
        )
    return Figure(write_svg(drawing, name, alt), alt, caption + (" Logarithmic axis." if logarithmic else ""))


def _outlines(model: Histogram, target: Histogram | None) -> list[tuple[str, Floats, tuple[str, Any]]]:
    """Returns what is outlined in a model's panel: name, shares, colour and line."""
    if target is None:
        return [(f"{part} set", model.shares(part), SETS[part][:2]) for part in SETS if part in model.counts]
    own = ("this model", model.shares("forget"), (SETS["forget"][0], "-"))
    return [own, ("retrained (target)", target.shares("forget"), (INK, (0, (3, 1.5))))]


@in_style
def draw_mask(name: str, label: str, layers: Mapping[str, float], overall: float | None) -> Figure:
    """Draws the share of each layer's weights that the mask lets a forget step move, in %, layer by layer."""
    names, values = list(layers), 100 * np.asarray(list(layers.values()))
    few = len(names) <= BARS
    drawing, (axes,) = make_panels(1, height=0.55 + 0.17 * len(names) if few else 3.0, columns=1)
    if few:
        _draw_layer_bars(axes, names, values)
    else:
        _draw_layer_profile(axes, names, values)
    if overall is not None:
        (axes.axvline if few else axes.axhline)(100 * overall, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_title(clean(label))
    top, low = int(np.argmax(values)), int(np.argmin(values))
    alt = (
        f"Mask density of {label} by layer, {len(names)} layers: highest {show(values[top], 1)} % in {names[top]}, "
        f"lowest {show(values[low], 1)} % in {names[low]}."
    )
    line = f" Dashed line: all weights together, {show(100 * overall, 1)} %." if overall is not None else ""
    return Figure(
        write_svg(drawing, name, alt), alt, f"Share of each layer's weights that forget steps may move.{line}"
    )


@in_style
def draw_times(name: str, clocks: Sequence[Clock]) -> Figure:
    """Draws how long each run took, its Fisher pass and its steps; the label compares with retraining."""
    whole = next((c.total for c in clocks if c.target), None)
    rows = np.arange(len(clocks))
    parts = [
        ("Fisher pass", ORANGE, np.array([c.fisher for c in clocks])),
        ("steps", SKY, np.array([c.steps for c in clocks])),
        ("everything else", MUTED, np.array([c.rest for c in clocks])),
    ]
    parts = [part for part in parts if part[0] == "steps" or part[2].any()]
    drawing, (axes,) = make_panels(1, height=0.6 + 0.3 * len(clocks), columns=1)
    left = np.zeros(len(clocks))
    for _, colour, seconds in parts:
        axes.barh(rows, seconds, left=left, height=0.56, color=colour)
        left = left + seconds
    told = []
    for row, clock in enumerate(clocks):
        beside = f"{show_share(clock.total, whole)} of retraining" if whole and not clock.target else ""
        text = "  ·  ".join(part for part in (show_duration(clock.total), beside) if part)
        axes.annotate(text, (clock.total, row), (6, 0), textcoords="offset points", va="center")
        told.append(f"{clock.label} {text.replace('  ·  ', ', ')}")
    axes.set_yticks(rows, [clean(c.label, 30) for c in clocks])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.32 * max(float(left.max()), 1e-9))
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)
    legend(drawing, [Key(part, colour, "", "s") for part, colour, _ in parts])
    alt = "Time taken: " + "; ".join(told) + "."
    return Figure(write_svg(drawing, name, alt), alt, "Time to make each model, evaluation left out.")


# What is drawn into the panels.


def _draw_curve(axes: "Axes", curve: Curve, colour: str, line: Any, marker: str) -> None:
    steps, mean, low, high = thin(curve.steps, curve.values)
    alone = len(steps) <= 12
    axes.plot(steps, mean, color=colour, linestyle=line, linewidth=1.4, marker=marker if alone else "", markersize=3.5)
    if len(steps) < len(curve.steps):
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _mark_skipped(axes: "Axes", steps: Sequence[int]) -> None:
    if steps:
        places = np.unique(np.linspace(0, len(steps) - 1, POINTS).astype(int))
        at = np.asarray(steps, dtype=float)[places]
        axes.plot(at, np.zeros(len(at)), "|", color=MUTED, markersize=5, transform=axes.get_xaxis_transform(), zorder=3)


def _mark_aim(axes: "Axes", run: Curves) -> None:
    """Draws the forget loss that a run aimed at as a line with its name, where it has a forget loss."""
    if run.aim is None or "forget_loss" not in run.series:
        return
    axes.axhline(run.aim, color=SETS["forget"][0], linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=1)
    axes.annotate(
        f"aimed at: {show(run.aim)}", (1.0, run.aim), (-2, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", va="bottom", color=INK, fontsize=7.5, zorder=6,
        bbox={"boxstyle": "square,pad=0.15", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip


def _draw_layer_bars(axes: "Axes", names: Sequence[str], values: Floats) -> None:
    rows = np.arange(len(names))
    axes.barh(rows, values, height=0.66, color=BLUE)
    for row, value in zip(rows, values):
        axes.annotate(show(value, 1), (value, row), (4, 0), textcoords="offset points", va="center", color=MUTED)
    axes.set_yticks(rows, [clean(n, 44, keep="end") for n in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, min(max(1.12 * float(values.max()), 1.0), 108))
    axes.set_xlabel("share of weights [%]")
    axes.grid(axis="y", visible=False)


def _draw_layer_profile(axes: "Axes", names: Sequence[str], values: Floats) -> None:
    """Draws many layers: one column each, in order, with a tick where a new block of the model begins."""
    places = np.arange(len(names))
    axes.vlines(places, 0, values, color=BLUE, linewidth=max(0.6, min(4.0, 420 / len(names))))
    blocks = _blocks(names)
    axes.set_xticks([start - 0.5 for start, _ in blocks], [clean(block, 22, keep="end") for _, block in blocks])
    axes.tick_params(axis="x", length=4, labelrotation=40)
    for text in axes.get_xticklabels():
        text.set_horizontalalignment("right")
        text.set_rotation_mode("anchor")
    axes.set_xlim(-1, len(names))
    axes.set_ylim(0, max(1.08 * float(values.max()), 1.0))
    axes.set_ylabel("share of weights [%]")
    axes.grid(axis="x", visible=False)


def _blocks(names: Sequence[str], most: int = 24) -> list[tuple[int, str]]:
    """Finds where the blocks of a model begin: the deepest dotted prefix that leaves so many, else spread out."""
    best: list[tuple[int, str]] = []
    for depth in range(1, 1 + max(name.count(".") for name in names) + 1):
        prefixes = [".".join(name.split(".")[:depth]) for name in names]
        starts = [(i, p) for i, p in enumerate(prefixes) if i == 0 or p != prefixes[i - 1]]
        if best and len(starts) > most:
            break
        best = starts
    apart = max(1, len(names) // most)
    kept = [best[0]]
    for start, block in best[1:]:
        if start - kept[-1][0] >= apart:
            kept.append((start, block))
    return kept


def thin(steps: Sequence[float], values: Sequence[float], most: int = POINTS) -> tuple[Floats, Floats, Floats, Floats]:
    """Returns at most so many points of a curve: mean step, mean value, lowest and highest value of each stretch.

    Values that are not finite are left out.
    """
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    if len(x) <= most:
        return x, y, y, y
    starts = np.linspace(0, len(x), most, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(x)))
    mean = np.add.reduceat(y, starts) / sizes
    return (
        np.add.reduceat(x, starts) / sizes, mean, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    )  # fmt: skip


def _describe_curves(runs: Sequence[Curves]) -> str:
    parts = ["Mean loss of the batches that each step saw."]
    if any(run.aim is not None and "forget_loss" in run.series for run in runs):
        parts.append(
            "Dotted line: the forget loss aimed at, as high as on samples that the original never saw; of a class that "
            "is to be gone, where it has next to no probability left."
        )
    if any(len(curve.steps) > POINTS for run in runs for curve in run.series.values()):
        parts.append(f"Long runs are thinned out to {POINTS} points: the mean, and the range as a band.")
    if any(run.skipped for run in runs):
        parts.append(
            "Ticks at the foot: forget steps that were skipped, the batch being forgotten already or retaining having "
            "the last word."
        )
    bad = sum(int((~np.isfinite(np.asarray(c.values))).sum()) for run in runs for c in run.series.values())
    if bad:
        parts.append(f"{bad} values that were not finite are left out.")
    return " ".join(parts)


def _tell(run: Curves, unit: str = "") -> str:
    told = []
    for key, curve in run.series.items():
        _, mean, _, _ = thin(curve.steps, curve.values)
        if len(mean):
            told.append(f"{key.replace('_', ' ')} from {show(mean[0])}{unit} to {show(mean[-1])}{unit}")
    if told and run.aim is not None and "forget_loss" in run.series:
        told.append(f"aimed at a forget loss of {show(run.aim)}")
    return f"{run.label}: {', '.join(told)}." if told else ""


def _set_wide_range(axes: "Axes", series: Sequence[Sequence[float]]) -> None:
    """Sets a logarithmic axis where the values span more than two powers of ten."""
    values = np.concatenate([np.asarray(s, dtype=float) for s in series]) if series else np.empty(0)
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) and np.quantile(values, 0.99) > 100 * max(np.quantile(values, 0.01), 1e-12):
        set_plain_log(axes.set_yscale, [axes], "y")


def is_heavy_tailed(models: Sequence[Histogram]) -> bool:
    """Whether the bulk of the losses lies in the lowest twentieth of their range, or the bins say so themselves."""
    if any(model.edges[0] < 0 for model in models):
        return False
    edges = models[0].edges
    if np.diff(edges)[-1] > 5 * np.diff(edges)[0]:
        return True
    counts = sum((c for c in models[0].counts.values()), np.zeros(len(edges) - 1))
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    return bool(edges[min(middle + 1, len(edges) - 1)] - edges[0] < 0.05 * (edges[-1] - edges[0]))


def make_positive(edges: Floats) -> Floats:
    """Returns edges for a logarithmic axis: a first edge at zero is moved to where its bin is as wide as the next."""
    if edges[0] > 0:
        return edges
    ratio = edges[2] / edges[1] if len(edges) > 2 else 10.0
    return np.concatenate([[edges[1] / ratio], edges[1:]])


def _occupied(edges: Floats, models: Sequence[Histogram]) -> tuple[float, float]:
    """Returns the range of losses that holds all but a thousandth of each model's forget set."""
    shares = np.max([model.shares("forget") for model in models], axis=0)
    used = np.flatnonzero(shares > 1e-3)
    return float(edges[used[0]]), float(edges[used[-1] + 1])
