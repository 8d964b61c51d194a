"""The figures of a run's page: losses and accuracies over the steps, by class, of single samples; masks; times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from untrain.report.drawing import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SETS,
    SKY,
    Figure,
    Floats,
    clean,
    legend,
    outer_labels,
    panels_of,
    plain_log,
    styled,
    svg_of,
)
from untrain.report.tables import duration, share, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 500
"""A longer curve is thinned out to so many points: the mean of each stretch, and its range as a band."""

ROWS = 30
"""So many classes are drawn at most; of more, those furthest from the retrained model."""

BARS = 40
"""So many layers are drawn as bars with names; of more, a profile by depth with a table beside it."""


@dataclass
class Curve:
    """One value over the steps of a run; step and value lists are of equal length."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass
class Curves:
    """What one run recorded: its curves by name, and the forget steps that it skipped."""

    label: str
    series: dict[str, Curve] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Histogram:
    """How often each loss occurs: n + 1 edges in nats, and n counts for each set ("forget", "retain", "test")."""

    label: str
    edges: Floats
    counts: Mapping[str, Floats]

    def shares(self, name: str) -> Floats:
        """The counts of a set as shares of it; all zero for an empty set."""
        counts = self.counts[name]
        return counts / max(counts.sum(), 1.0)

    def overlap(self) -> float | None:
        """How far the forget set's losses look like the test set's: Σ min of the two shares, in [0, 1]."""
        if "forget" not in self.counts or "test" not in self.counts:
            return None
        return float(np.minimum(self.shares("forget"), self.shares("test")).sum())


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


@styled
def loss_curves(name: str, runs: Sequence[Curves], unit: str = "nats") -> Figure:
    """The loss on forget and retain batches over the steps of each run, one panel a run."""
    drawing, panels = panels_of(len(runs), height=2.3, columns=2)
    for axes, run in zip(panels, runs):
        for key, curve in run.series.items():
            _curve(axes, curve, *_series_style(key))
        _skipped(axes, run.skipped)
        _wide_range(axes, [curve.values for curve in run.series.values()])
        axes.set_title(clean(run.label))
        axes.set_xlabel("step")
    for axes in panels[::2]:
        axes.set_ylabel(f"loss [{unit}]" if unit else "loss")
    legend(drawing, [_series_entry(key) for key in dict.fromkeys(k for run in runs for k in run.series)])
    alt = "Loss over the steps. " + " ".join(_told(run) for run in runs)
    return Figure(svg_of(drawing, name, alt), alt, _curve_caption(runs))


@styled
def accuracy_curves(name: str, runs: Sequence[Curves], targets: Mapping[str, float]) -> Figure:
    """Accuracies measured during each run, with the retrained model's as thin lines; one panel a run."""
    sets = {"FA": "forget", "RA": "retain", "TA": "test"}
    drawing, panels = panels_of(len(runs), height=2.3, columns=2)
    for axes, run in zip(panels, runs):
        for key, curve in run.series.items():
            colour, line, marker = SETS[sets[key]]
            _curve(axes, curve, colour, line, marker)
            if key in targets:
                axes.axhline(targets[key], color=colour, linewidth=0.7, alpha=0.8, zorder=1)
        axes.set_title(clean(run.label))
        axes.set_xlabel("step")
    for axes in panels[::2]:
        axes.set_ylabel("accuracy [%]")
    legend(drawing, [(key, *SETS[sets[key]]) for key in sets if any(key in run.series for run in runs)])
    alt = "Accuracy on the forget, retain and test sets over the steps. " + " ".join(_told(run, " %") for run in runs)
    lines = " Thin horizontal lines: the retrained model." if targets else ""
    return Figure(svg_of(drawing, name, alt), alt, f"Accuracy measured during the run.{lines}")


@styled
def class_accuracies(
    name: str, label: str, classes: Sequence[str], accuracies: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Figure:
    """Accuracy by class before and after, one panel a set, one row a class.

    Args:
        name: prefix of the drawing's ids.
        label: the method, as shown.
        classes: the rows from top to bottom.
        accuracies: set ("forget", "retain", "test") → model ("original", "method", "retrained") → class → %.
    """
    rows = np.arange(len(classes))
    drawing, panels = panels_of(len(accuracies), height=0.75 + 0.21 * len(classes), columns=3, share_y=True)
    for axes, (title, models) in zip(panels, accuracies.items()):
        values = {model: _in_order(classes, of) for model, of in models.items()}
        _dumbbells(axes, rows, values)
        axes.set_title({"forget": "forget set", "retain": "retain set"}.get(title, "test set"))
        axes.set_xlabel("accuracy [%]")
        axes.set_xlim(*_zoom(np.concatenate(list(values.values()))))
    panels[0].set_yticks(rows, [clean(c, 26) for c in classes])
    panels[0].set_ylim(len(classes) - 0.4, -0.6)
    entries = {"original": ("original", MUTED, "", "o"), "method": (clean(label), PURPLE, "", "D")}
    entries["retrained"] = ("retrained", INK, "", "|")
    drawn = [role for role in entries if any(models.get(role) for models in accuracies.values())]
    legend(drawing, [entries[role] for role in drawn])
    alt = f"Accuracy by class of the original model, {label} and the retrained model. " + _worst(classes, accuracies)
    target = "; the bar is the target" if "retrained" in drawn else ""
    caption = f"{label}: each row goes from the accuracy before to the accuracy after{target}."
    return Figure(svg_of(drawing, name, alt), alt, caption + " The axes need not begin at zero.")


@styled
def loss_histograms(name: str, models: Sequence[Histogram]) -> Figure:
    """How the losses of the forget, retain and test sets are spread, one panel a model, all on the same axes."""
    logarithmic = heavy_tailed(models)
    columns = 2 if len(models) in (2, 4) else 3
    drawing, panels = panels_of(len(models), height=2.0, columns=columns, share_x=True, share_y=True)
    for axes, model in zip(panels, models):
        edges = positive(model.edges) if logarithmic else model.edges
        for part in (p for p in SETS if p in model.counts):
            colour, line, _ = SETS[part]
            axes.stairs(
                model.shares(part) * 100, edges, color=colour, linestyle=line, linewidth=1.4,
                fill=part == "forget", alpha=0.25 if part == "forget" else 1.0,
            )  # fmt: skip
            if part == "forget":
                axes.stairs(model.shares(part) * 100, edges, color=colour, linewidth=1.4)
        overlap = model.overlap()
        axes.set_title(
            clean(model.label, 36 if columns == 2 else 22)
            + (f" · overlap {overlap:.0%}".replace("%", " %") if overlap else "")
        )
    if logarithmic:
        plain_log(panels[0].set_xscale, panels, "x")
    outer_labels(panels, columns, "loss of a sample [nats]", "share of the set [%]")
    legend(drawing, [(f"{part} set", *SETS[part][:2], "") for part in SETS if part in models[0].counts])
    told = [f"{m.label} {o:.0%}" for m in models if (o := m.overlap()) is not None]
    alt = "Histograms of the loss on the forget, retain and test sets. Overlap of forget and test: " + ", ".join(told)
    caption = (
        "How large the loss of single samples is. What was forgotten should look like new images (test), as it does "
        "for the retrained model; overlap is the share that the two have in common."
    )
    return Figure(svg_of(drawing, name, alt), alt, caption + (" Logarithmic axis." if logarithmic else ""))


@styled
def mask_density(name: str, label: str, layers: Mapping[str, float], overall: float | None) -> Figure:
    """The share of each layer's weights that the mask lets a forget step move, in %, in the order of the layers."""
    names, values = list(layers), 100 * np.asarray(list(layers.values()))
    few = len(names) <= BARS
    drawing, (axes,) = panels_of(1, height=0.55 + 0.17 * len(names) if few else 3.0, columns=1)
    if few:
        _layer_bars(axes, names, values)
    else:
        _layer_profile(axes, names, values)
    if overall is not None:
        (axes.axvline if few else axes.axhline)(100 * overall, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_title(clean(label))
    top, low = int(np.argmax(values)), int(np.argmin(values))
    alt = (
        f"Mask density of {label} by layer, {len(names)} layers: highest {show(values[top], 1)} % in {names[top]}, "
        f"lowest {show(values[low], 1)} % in {names[low]}."
    )
    line = f" Dashed line: all weights together, {show(100 * overall, 1)} %." if overall is not None else ""
    return Figure(svg_of(drawing, name, alt), alt, f"Share of each layer's weights that forget steps may move.{line}")


@styled
def times(name: str, clocks: Sequence[Clock]) -> Figure:
    """How long each run took, its Fisher pass and its steps one after the other; the label compares with retraining."""
    whole = next((c.total for c in clocks if c.target), None)
    rows = np.arange(len(clocks))
    parts = [
        ("Fisher pass", ORANGE, np.array([c.fisher for c in clocks])),
        ("steps", SKY, np.array([c.steps for c in clocks])),
        ("everything else", MUTED, np.array([c.rest for c in clocks])),
    ]
    parts = [part for part in parts if part[0] == "steps" or part[2].any()]
    drawing, (axes,) = panels_of(1, height=0.6 + 0.3 * len(clocks), columns=1)
    left = np.zeros(len(clocks))
    for _, colour, seconds in parts:
        axes.barh(rows, seconds, left=left, height=0.56, color=colour)
        left = left + seconds
    told = []
    for row, clock in enumerate(clocks):
        beside = f"{share(clock.total, whole)} of retraining" if whole and not clock.target else ""
        text = "  ·  ".join(part for part in (duration(clock.total), beside) if part)
        axes.annotate(text, (clock.total, row), (6, 0), textcoords="offset points", va="center")
        told.append(f"{clock.label} {text.replace('  ·  ', ', ')}")
    axes.set_yticks(rows, [clean(c.label, 30) for c in clocks])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.32 * max(float(left.max()), 1e-9))
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)
    legend(drawing, [(name, colour, "", "s") for name, colour, _ in parts])
    alt = "Time taken: " + "; ".join(told) + "."
    return Figure(svg_of(drawing, name, alt), alt, "Time to make each model, evaluation left out.")


# What is drawn into the panels.


def _curve(axes: "Axes", curve: Curve, colour: str, line: Any, marker: str) -> None:
    steps, mean, low, high = thin(curve.steps, curve.values)
    alone = len(steps) <= 12
    axes.plot(steps, mean, color=colour, linestyle=line, linewidth=1.4, marker=marker if alone else "", markersize=3.5)
    if len(steps) < len(curve.steps):
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _skipped(axes: "Axes", steps: Sequence[int]) -> None:
    if steps:
        places = np.unique(np.linspace(0, len(steps) - 1, POINTS).astype(int))
        at = np.asarray(steps, dtype=float)[places]
        axes.plot(at, np.zeros(len(at)), "|", color=MUTED, markersize=5, transform=axes.get_xaxis_transform(), zorder=3)


def _dumbbells(axes: "Axes", rows: Any, values: Mapping[str, Floats]) -> None:
    before, after, target = (values.get(m) for m in ("original", "method", "retrained"))
    if before is not None and after is not None:
        axes.hlines(rows, before, after, color=MUTED, linewidth=1.0, alpha=0.7, zorder=2)
    if target is not None:
        axes.plot(target, rows, linestyle="", marker="|", color=INK, markersize=10, markeredgewidth=1.8, zorder=3)
    if before is not None:
        axes.plot(before, rows, linestyle="", marker="o", markerfacecolor=PAPER, color=MUTED, markersize=5, zorder=4)
    if after is not None:
        axes.plot(after, rows, linestyle="", marker="D", color=PURPLE, markersize=4.6, zorder=5)


def _layer_bars(axes: "Axes", names: Sequence[str], values: Floats) -> None:
    rows = np.arange(len(names))
    axes.barh(rows, values, height=0.66, color=BLUE)
    for row, value in zip(rows, values):
        axes.annotate(show(value, 1), (value, row), (4, 0), textcoords="offset points", va="center", color=MUTED)
    axes.set_yticks(rows, [clean(n, 44, keep="end") for n in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, min(max(1.12 * float(values.max()), 1.0), 108))
    axes.set_xlabel("share of weights [%]")
    axes.grid(axis="y", visible=False)


def _layer_profile(axes: "Axes", names: Sequence[str], values: Floats) -> None:
    """Many layers: one column each, in order, with a tick where a new block of the model begins."""
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
    """Where the blocks of a model begin: the deepest dotted prefix that leaves so many, the first spread out else."""
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


# Helpers of the drawing.


def thin(steps: Sequence[float], values: Sequence[float], most: int = POINTS) -> tuple[Floats, Floats, Floats, Floats]:
    """At most so many points of a curve: mean step, mean value, lowest and highest value of each stretch.

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


def _series_style(key: str) -> tuple[str, Any, str]:
    return SETS.get(key.removesuffix("_loss"), SETS["test"])


def _series_entry(key: str) -> tuple[str, str, Any, str]:
    part = key.removesuffix("_loss")
    return (f"{part} batches" if part in SETS else clean(key), *_series_style(key)[:2], "")


def _curve_caption(runs: Sequence[Curves]) -> str:
    parts = ["Mean loss of the batches that each step saw."]
    if any(len(curve.steps) > POINTS for run in runs for curve in run.series.values()):
        parts.append(f"Long runs are thinned out to {POINTS} points: the mean, and the range as a band.")
    if any(run.skipped for run in runs):
        parts.append("Ticks at the foot: forget steps that were skipped, the batch being forgotten already.")
    bad = sum(int((~np.isfinite(np.asarray(c.values))).sum()) for run in runs for c in run.series.values())
    if bad:
        parts.append(f"{bad} values that were not finite are left out.")
    return " ".join(parts)


def _told(run: Curves, unit: str = "") -> str:
    told = []
    for key, curve in run.series.items():
        _, mean, _, _ = thin(curve.steps, curve.values)
        if len(mean):
            told.append(f"{key.replace('_', ' ')} from {show(mean[0])}{unit} to {show(mean[-1])}{unit}")
    return f"{run.label}: {', '.join(told)}." if told else ""


def _worst(classes: Sequence[str], accuracies: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The largest change of each set, in words."""
    told = []
    for part, models in accuracies.items():
        before, after = models.get("original", {}), models.get("method", {})
        gaps = {c: after[c] - before[c] for c in classes if c in before and c in after}
        if gaps:
            most = max(gaps, key=lambda c: abs(gaps[c]))
            told.append(f"{part}: {most} from {show(before[most], 1)} to {show(after[most], 1)} %")
    return f"Largest changes: {'; '.join(told)}." if told else ""


def _in_order(classes: Sequence[str], values: Mapping[str, float]) -> Floats:
    return np.array([values.get(c, np.nan) for c in classes], dtype=float)


def _zoom(values: Floats) -> tuple[float, float]:
    """Limits in % that show the values: steps of 10 below them, and no more than a little above 100."""
    known = values[np.isfinite(values)]
    if not len(known):
        return -3.0, 103.0
    low = 10 * np.floor((known.min() - 1) / 10)
    high = min(100.0, 10 * np.ceil((known.max() + 1) / 10))
    low, high = max(low, 0.0), max(high, low + 10)
    return low - 0.03 * (high - low), high + 0.03 * (high - low)


def _wide_range(axes: "Axes", series: Sequence[Sequence[float]]) -> None:
    """A logarithmic axis where the values span more than two powers of ten."""
    values = np.concatenate([np.asarray(s, dtype=float) for s in series]) if series else np.empty(0)
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) and np.quantile(values, 0.99) > 100 * max(np.quantile(values, 0.01), 1e-12):
        plain_log(axes.set_yscale, [axes], "y")


def heavy_tailed(models: Sequence[Histogram]) -> bool:
    """Whether the bulk of the losses lies in the lowest twentieth of their range, or the bins say so themselves."""
    if any(model.edges[0] < 0 for model in models):
        return False
    edges = models[0].edges
    if np.diff(edges)[-1] > 5 * np.diff(edges)[0]:
        return True
    counts = sum((c for c in models[0].counts.values()), np.zeros(len(edges) - 1))
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    return bool(edges[min(middle + 1, len(edges) - 1)] - edges[0] < 0.05 * (edges[-1] - edges[0]))


def positive(edges: Floats) -> Floats:
    """Edges for a logarithmic axis: a first edge at zero is moved to where its bin is as wide as the next."""
    if edges[0] > 0:
        return edges
    ratio = edges[2] / edges[1] if len(edges) > 2 else 10.0
    return np.concatenate([[edges[1] / ratio], edges[1:]])
