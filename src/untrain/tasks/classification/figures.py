"""Figures of accuracies by class: before and after in one run, and as a map of many methods."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from untrain.report.drawing import (
    INK,
    MUTED,
    PAPER,
    PURPLE,
    Figure,
    Floats,
    Key,
    in_style,
    legend,
    make_panels,
    write_svg,
)
from untrain.report.words import clean, show, show_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = 30
"""So many classes are drawn at most; of more, those furthest from the retrained model."""
NUMBERED = 16
"""With so many classes at most, the heat map's cells hold their numbers."""
SHOWN = 0.9
"""The heat map's colours reach to this quantile of the differences, or one far method would leave the others pale."""
_DARK, _LIGHT = "#14181b", "#fdfdfd"
"""Numbers on the heat map, whose colours are the same on a dark screen: no variables of the page."""


@in_style
def draw_classes(
    name: str, label: str, classes: Sequence[str], accuracies: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Figure:
    """Draws accuracies by class before and after, one panel a set, one row a class.

    Args:
        name: prefix of the drawing's ids.
        label: the method, as shown.
        classes: the rows from top to bottom.
        accuracies: set ("forget", "retain", "test") → model ("original", "method", "retrained") → class → %.
    """
    rows = np.arange(len(classes))
    drawing, panels = make_panels(len(accuracies), height=0.75 + 0.21 * len(classes), columns=3, share_y=True)
    for axes, (title, models) in zip(panels, accuracies.items()):
        values = {model: _order_values(classes, of) for model, of in models.items()}
        _draw_dumbbells(axes, rows, values)
        axes.set_title({"forget": "forget set", "retain": "retain set"}.get(title, "test set"))
        axes.set_xlabel("accuracy [%]")
        axes.set_xlim(*_limits_of(np.concatenate(list(values.values()))))
    panels[0].set_yticks(rows, [clean(c, 26) for c in classes])
    panels[0].set_ylim(len(classes) - 0.4, -0.6)
    keys = {"original": Key("original", MUTED, "", "o", PAPER), "method": Key(label, PURPLE, "", "D")}
    keys["retrained"] = Key("retrained", INK, "", "|")
    drawn = [role for role in keys if any(models.get(role) for models in accuracies.values())]
    legend(drawing, [keys[role] for role in drawn])
    alt = f"Accuracy by class of the original model, {label} and the retrained model. " + _tell_largest(
        classes, accuracies
    )
    target = "; the bar is the target" if "retrained" in drawn else ""
    caption = f"{label}: each row goes from the accuracy before to the accuracy after{target}."
    return Figure(write_svg(drawing, name, alt), alt, caption + " The axes need not begin at zero.")


@in_style
def draw_class_map(name: str, models: Sequence[str], classes: Sequence[str], values: Floats) -> Figure:
    """Draws test accuracies by class as differences to the retrained model.

    Args:
        name: prefix of the drawing's ids.
        models: the rows, as shown.
        classes: the columns.
        values: [models, classes] in points, nan where unknown.
    """
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    drawing, (axes,) = make_panels(1, height=1.25 + 0.27 * len(models), columns=1)
    known = np.abs(values[np.isfinite(values)])
    end = max(2.0, float(np.ceil(np.quantile(known, SHOWN)))) if len(known) else 2.0
    fixed = ["#b34700", "#f0a868", "#f4f4f2", "#74add1", "#00508f"]
    colours = LinearSegmentedColormap.from_list("loss-gain", fixed, N=41)  # with more, the bar would become a bitmap
    scale = Normalize(-end, end)
    drawn = axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=scale, edgecolors=_LIGHT, linewidth=0.8)
    if len(classes) <= NUMBERED:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = _LIGHT if abs(value) > 0.72 * end else _DARK
                axes.text(
                    column + 0.5, row + 0.5, _show_rounded(value), color=colour, ha="center", va="center", fontsize=7.5
                )
    axes.set_xticks(np.arange(len(classes)) + 0.5, [clean(c, 18) for c in classes], rotation=40, ha="right")
    for text in axes.get_xticklabels():
        text.set_rotation_mode("anchor")
    axes.set_yticks(np.arange(len(models)) + 0.5, [clean(m, 24) for m in models])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    extend = "both" if len(known) and known.max() > end else "neither"
    bar = drawing.colorbar(drawn, ax=axes, shrink=0.9, aspect=22, pad=0.015, extend=extend)
    bar.set_label("difference [points]")
    bar.outline.set_visible(False)
    row, column = divmod(int(np.nanargmax(np.abs(values))), len(classes))
    alt = (
        f"Test accuracy of {len(models)} models by class, as differences to the retrained model. The largest: "
        f"{show_difference(float(values[row, column]), 2)} points for {classes[column]} in {models[row]}."
    )
    caption = (
        "Test accuracy by class minus the retrained model's, mean over the seeds: blue is above it, orange below. "
        "Neither is better; pale is on target."
    )
    return Figure(write_svg(drawing, name, alt), alt, caption)


def _draw_dumbbells(axes: "Axes", rows: Any, values: Mapping[str, Floats]) -> None:
    before, after, target = (values.get(m) for m in ("original", "method", "retrained"))
    if before is not None and after is not None:
        axes.hlines(rows, before, after, color=MUTED, linewidth=1.0, alpha=0.7, zorder=2)
    if target is not None:
        axes.plot(target, rows, linestyle="", marker="|", color=INK, markersize=10, markeredgewidth=1.8, zorder=3)
    if before is not None:
        axes.plot(before, rows, linestyle="", marker="o", markerfacecolor=PAPER, color=MUTED, markersize=5, zorder=4)
    if after is not None:
        axes.plot(after, rows, linestyle="", marker="D", color=PURPLE, markersize=4.6, zorder=5)


def _tell_largest(classes: Sequence[str], accuracies: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Tells the largest change of each set, in words."""
    told = []
    for part, models in accuracies.items():
        before, after = models.get("original", {}), models.get("method", {})
        gaps = {c: after[c] - before[c] for c in classes if c in before and c in after}
        if gaps:
            most = max(gaps, key=lambda c: abs(gaps[c]))
            told.append(f"{part}: {most} from {show(before[most], 1)} to {show(after[most], 1)} %")
    return f"Largest changes: {'; '.join(told)}." if told else ""


def _order_values(classes: Sequence[str], values: Mapping[str, float]) -> Floats:
    return np.array([values.get(c, np.nan) for c in classes], dtype=float)


def _limits_of(values: Floats) -> tuple[float, float]:
    """Returns limits in % that show the values: steps of 10 below them, and no more than a little above 100."""
    known = values[np.isfinite(values)]
    if not len(known):
        return -3.0, 103.0
    low = 10 * np.floor((known.min() - 1) / 10)
    high = min(100.0, 10 * np.ceil((known.max() + 1) / 10))
    low, high = max(low, 0.0), max(high, low + 10)
    return low - 0.03 * (high - low), high + 0.03 * (high - low)


def _show_rounded(value: float) -> str:
    text = f"{value:+.1f}" if abs(value) < 9.95 else f"{value:+.0f}"
    return "0" if not text.strip("+-0.") else text.replace("-", "−")
