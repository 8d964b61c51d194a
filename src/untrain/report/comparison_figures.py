"""The figures of a comparison's page. A method has the same colour and marker in all of them, and on paper too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from untrain.report.drawing import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    VERMILLION,
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
from untrain.report.figures import Histogram, heavy_tailed, positive
from untrain.report.tables import difference, duration, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "*")
COLOURS = (VERMILLION, BLUE, GREEN, PURPLE, ORANGE, SKY)
COMPONENTS = {
    "FA": ("forget accuracy", VERMILLION, ""),
    "RA": ("retain accuracy", SKY, "////"),
    "TA": ("test accuracy", GREEN, "...."),
    "MIA": ("membership inference", ORANGE, "xxxx"),
}
"""Part of Avg.D → its name, colour and hatch."""
NUMBERED = 16
"""With so many classes at most, the heat map's cells hold their numbers."""
SHOWN = 0.9
"""The heat map's colours reach to this quantile of the differences, or one far method would leave the others pale."""
_DARK, _LIGHT = "#14181b", "#fdfdfd"
"""Numbers on the heat map, whose colours are the same on a dark screen: no variables of the page."""


@dataclass(frozen=True)
class Look:
    """How one model is drawn in every figure."""

    colour: str
    marker: str
    hollow: bool = False

    @property
    def face(self) -> str:
        """The colour inside the marker."""
        return PAPER if self.hollow else self.colour


ORIGINAL, RETRAINED = Look(MUTED, "o", hollow=True), Look(INK, "+")


def look_of(place: int) -> Look:
    """The look of the method at this place: twelve markers, six colours, and hollow from the seventh on."""
    return Look(COLOURS[place % 6], MARKERS[place % 12], hollow=place % 12 >= 6)


@dataclass(frozen=True)
class Cloud:
    """One model's seeds in the plane: x and y of equal length, both finite."""

    label: str
    look: Look
    x: Floats
    y: Floats


@dataclass(frozen=True)
class Distances:
    """Avg.D of one model in its parts: the mean over the seeds of each part's distance ÷ the number of parts."""

    label: str
    parts: Mapping[str, float]
    note: str = ""
    """What stands beside the bar after the sum, for instance how many seeds are in it."""

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Search:
    """A method's trials: the criterion of each (nan: failed), and the place of the best."""

    label: str
    look: Look
    criteria: Floats
    best: int | None


@styled
def trade_off(name: str, clouds: Sequence[Cloud], references: Cloud | None) -> Figure:
    """Forgetting against utility, both as differences to the retrained model of the same seed.

    Args:
        name: prefix of the drawing's ids.
        clouds: the original and the methods; x: FA − retrained's, y: TA − retrained's, in points.
        references: further retrained models in the same way; their largest distances give the shaded region.
    """
    drawing, (axes,) = panels_of(1, height=4.7, columns=1)
    axes.axhline(0, color=INK, linewidth=0.7, zorder=1)
    axes.axvline(0, color=INK, linewidth=0.7, zorder=1)
    spread = None
    if references is not None and len(references.x):
        spread = (float(np.abs(references.x).max()), float(np.abs(references.y).max()))
        axes.fill_between([-spread[0], spread[0]], -spread[1], spread[1], color=INK, alpha=0.13, linewidth=0, zorder=0)
        axes.plot(references.x, references.y, linestyle="", marker="+", color=INK, markersize=5, zorder=2)
    axes.plot([0], [0], linestyle="", marker="+", color=INK, markersize=15, markeredgewidth=2.6, zorder=6)
    for cloud in clouds:
        _cloud(axes, cloud)
    wide = [
        _wide(axes, which, [getattr(cloud, which) for cloud in clouds], spread[place] if spread else 0.0)
        for place, which in enumerate("xy")
    ]
    axes.set_xlabel("← forgot more  ·  forget accuracy − retrained model's [points]  ·  forgot less →")
    axes.set_ylabel("test accuracy − retrained model's [points]")
    target = [("retrained (target)", INK, "", "+")]
    _cloud_legend(drawing, target, clouds, "retrained with other seeds" if spread else "")
    means = [(c.label, *(difference(float(axis.mean()), 2) for axis in (c.x, c.y))) for c in clouds]
    told = [f"{label} {x} in forget and {y} in test accuracy" for label, x, y in means]
    alt = "Differences to the retrained model, in points: " + "; ".join(told) + "."
    several = any(len(cloud.x) > 1 for cloud in clouds)
    caption = "Large marks: means over the seeds, with the standard deviation as lines; small marks: single seeds. "
    caption = f"{caption if several else ''}The cross is the target: the retrained model of the same seed."
    caption += " Shaded: as far as other retrained models are from it." if spread else ""
    caption += " The axes are logarithmic away from the centre, so that far methods fit in." if any(wide) else ""
    return Figure(svg_of(drawing, name, alt), alt, caption)


@styled
def distance_bars(name: str, bars: Sequence[Distances], floor: float | None) -> Figure:
    """Avg.D of each model, stacked from its parts; the noise floor as a line."""
    rows = np.arange(len(bars))
    drawing, (axes,) = panels_of(1, height=0.75 + 0.28 * len(bars), columns=1)
    limit, cut = _limit([bar.total for bar in bars], floor or 0.0)
    used = [key for key in COMPONENTS if any(key in bar.parts for bar in bars)]
    left = np.zeros(len(bars))
    for key in used:
        _, colour, hatch = COMPONENTS[key]
        wide = np.array([bar.parts.get(key, 0.0) for bar in bars])
        drawn = np.clip(wide, 0, np.maximum(limit - left, 0))
        axes.barh(rows, drawn, left=left, height=0.62, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0.4)
        left = left + wide
    plate = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}  # keeps the text apart from the dashed line
    for row, bar in zip(rows, bars):
        beyond = bar.total > limit
        text = "  ·  ".join([show(bar.total), *([bar.note] * bool(bar.note)), *(["longer than drawn →"] * beyond)])
        axes.annotate(
            text, (min(bar.total, limit), row), (6, 0), textcoords="offset points", va="center", zorder=5, bbox=plate
        )
    if floor is not None:
        axes.axvline(floor, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=4)
    axes.set_yticks(rows, [clean(bar.label, 26) for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, (1.34 if cut else 1.18) * limit)
    if cut:
        axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= limit])
    axes.set_xlabel("average distance to the retrained model, Avg.D [points]")
    axes.grid(axis="y", visible=False)
    _patches(drawing, [(COMPONENTS[key][0], *COMPONENTS[key][1:]) for key in used], floor is not None)
    alt = "Avg.D: " + ", ".join(f"{bar.label} {show(bar.total)}" for bar in bars) + "."
    caption = "What Avg.D is made of: the distance in each measure ÷ 4, mean over the seeds."
    caption += (
        f" Dashed: the noise floor, {show(floor)}; what is below it could be chance." if floor is not None else ""
    )
    caption += " Bars that are longer than the figure end with an arrow." if cut else ""
    return Figure(svg_of(drawing, name, alt), alt, caption)


@styled
def time_quality(name: str, clouds: Sequence[Cloud], floor: float | None, retraining: float | None) -> Figure:
    """Seconds against Avg.D; x and y of a cloud are seconds > 0 and points."""
    drawing, (axes,) = panels_of(1, height=3.9, columns=1)
    seconds = np.concatenate([cloud.x for cloud in clouds] + ([[retraining]] if retraining else []))
    plain_log(axes.set_xscale, [axes], "x")
    low, high = float(seconds.min()), float(seconds.max())
    axes.set_xlim(low / 1.5, high * 1.7)
    _time_ticks(axes, low / 1.5, high * 1.7)
    totals = np.concatenate([cloud.y for cloud in clouds])
    far = len(totals) > 2 and float(totals.max()) > 8 * max(float(np.median(totals)), 1e-9) and float(totals.min()) > 0
    highest, bottom = max(float(totals.max()), floor or 0.0, 1e-9), 0.0
    if far:
        plain_log(axes.set_yscale, [axes], "y", (1.0, 2.0, 5.0))
        bottom = 0.7 * min(float(totals.min()), floor or np.inf)
    axes.set_ylim(bottom, (1.4 if far else 1.1) * highest)
    if floor:
        axes.axhspan(bottom, floor, color=INK, alpha=0.1, linewidth=0, zorder=0)
    if retraining:
        axes.axvline(retraining, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    for cloud in clouds:
        _cloud(axes, cloud)
    axes.set_xlabel("time to make the model")
    axes.set_ylabel("Avg.D [points]")
    lines: list[tuple[str, str, Any, str]] = [("retraining", INK, (0, (4, 3)), "")] if retraining else []
    _cloud_legend(drawing, lines, clouds, "noise floor" if floor else "")
    told = [f"{c.label} {duration(float(c.x.mean()))} and {show(float(c.y.mean()))} points" for c in clouds]
    alt = "Time and average distance: " + "; ".join(told) + "."
    caption = "Further down is closer to the retrained model, further left is faster; the time axis is logarithmic."
    caption += " So is the distance." if far else ""
    caption += " Dashed: the time of retraining, which is what a method has to beat." if retraining else ""
    caption += " In the shaded region a method cannot be told from retraining." if floor else ""
    return Figure(svg_of(drawing, name, alt), alt, caption)


@styled
def histograms_against(name: str, models: Sequence[Histogram], target: Histogram) -> Figure:
    """The losses on the forget set, one panel a model, the retrained model's as an outline in each."""
    logarithmic = heavy_tailed([target, *models])
    columns = min(4, len(models))
    height = 1.45 if len(models) > 4 else 1.8
    drawing, panels = panels_of(len(models), height=height, columns=columns, share_x=True, share_y=True)
    aim = target.shares("forget") * 100
    edges = positive(target.edges) if logarithmic else target.edges
    overlaps = {}
    for axes, model in zip(panels, models):
        shares = model.shares("forget") * 100
        axes.stairs(shares, edges, color=VERMILLION, fill=True, alpha=0.35)
        axes.stairs(shares, edges, color=VERMILLION, linewidth=1.0)
        axes.stairs(aim, edges, color=INK, linewidth=1.2, linestyle=(0, (3, 1.5)))
        overlaps[model.label] = float(np.minimum(shares, aim).sum())
        axes.set_title(f"{clean(model.label, 17)} · {overlaps[model.label]:.0f} %")
    if logarithmic:
        plain_log(panels[0].set_xscale, panels, "x", most=4)
    panels[0].set_xlim(*_occupied(edges, [target, *models]))
    outer_labels(panels, columns, "loss [nats]", "share [%]")
    legend(drawing, [("this model", VERMILLION, "-", ""), ("retrained (target)", INK, (0, (3, 1.5)), "")])
    alt = "Losses on the forget set; overlap with the retrained model: "
    alt += ", ".join(f"{label} {overlap:.0f} %" for label, overlap in overlaps.items()) + "."
    caption = (
        "How large the loss of single forgotten samples is, against the retrained model's. The percentage is the share "
        "that the two have in common: 100 % would be the same losses."
    )
    return Figure(svg_of(drawing, name, alt), alt, caption + (" Logarithmic axis." if logarithmic else ""))


@styled
def class_map(name: str, models: Sequence[str], classes: Sequence[str], values: Floats) -> Figure:
    """Test accuracy by class as differences to the retrained model.

    Args:
        name: prefix of the drawing's ids.
        models: the rows, as shown.
        classes: the columns.
        values: [models, classes] in points, nan where unknown.
    """
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    drawing, (axes,) = panels_of(1, height=1.25 + 0.27 * len(models), columns=1)
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
                axes.text(column + 0.5, row + 0.5, _whole(value), color=colour, ha="center", va="center", fontsize=7.5)
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
        f"{difference(float(values[row, column]), 2)} points for {classes[column]} in {models[row]}."
    )
    caption = (
        "Test accuracy by class minus the retrained model's, mean over the seeds: blue is above it, orange below. "
        "Neither is better; pale is on target."
    )
    return Figure(svg_of(drawing, name, alt), alt, caption)


@styled
def trials(name: str, searches: Sequence[Search]) -> Figure:
    """The criterion of each trial, one panel a method; the line is the best so far."""
    from matplotlib.ticker import MaxNLocator

    columns = min(4, len(searches))
    drawing, panels = panels_of(len(searches), height=1.6, columns=columns)
    failed = False
    for axes, search in zip(panels, searches):
        places = np.arange(1, len(search.criteria) + 1)
        done = np.isfinite(search.criteria)
        axes.plot(places[done], search.criteria[done], linestyle="", marker="o", color=BLUE, markersize=3.6, zorder=3)
        if done.any():
            best = np.minimum.accumulate(np.where(done, search.criteria, np.inf))
            known = np.isfinite(best)
            axes.step(places[known], best[known], where="post", color=MUTED, linewidth=1.1, zorder=2)
        if (~done).any():
            failed = True
            at = places[~done]
            axes.plot(
                at, np.full(len(at), 0.06), "x", color=VERMILLION, markersize=5, transform=axes.get_xaxis_transform()
            )
        if search.best is not None and 0 <= search.best < len(done) and done[search.best]:
            axes.plot(
                [search.best + 1], [search.criteria[search.best]], "o", markersize=9, markerfacecolor="none",
                color=VERMILLION, markeredgewidth=1.6, zorder=4,
            )  # fmt: skip
        axes.set_title(clean(search.label, 22))
        axes.set_xlim(0.4, len(search.criteria) + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.margins(y=0.18)
    outer_labels(panels, columns, "trial", "criterion")
    for axes in panels:
        axes.tick_params(labelbottom=True, labelleft=True)
    entries: list[tuple[str, str, Any, str]] = [
        ("trial", BLUE, "", "."), ("best so far", MUTED, "-", ""), ("chosen", VERMILLION, "", "o"),
    ]  # fmt: skip
    legend(drawing, entries + ([("failed", VERMILLION, "", "x")] if failed else []))
    told = [f"{s.label} {int(np.isfinite(s.criteria).sum())} of {len(s.criteria)}" for s in searches]
    alt = "Criterion of the trials of each method; trials with a result: " + ", ".join(told) + "."
    counts = {len(search.criteria) for search in searches}
    same = f" Every method had {max(counts)} trials." if len(counts) == 1 else ""
    caption = f"Lower is better; the axes differ from method to method.{same}"
    return Figure(svg_of(drawing, name, alt), alt, caption)


# What is drawn into the panels.


def _cloud(axes: "Axes", cloud: Cloud) -> None:
    """The seeds as small pale marks, their mean as a large one, the standard deviation as lines through it."""
    look = cloud.look
    if len(cloud.x) > 1:
        axes.plot(
            cloud.x, cloud.y, linestyle="", marker=look.marker, color=look.colour, markersize=3.6, alpha=0.45,
            markerfacecolor=look.face, zorder=3,
        )  # fmt: skip
        axes.errorbar(
            cloud.x.mean(), cloud.y.mean(), xerr=cloud.x.std(ddof=1), yerr=cloud.y.std(ddof=1), color=look.colour,
            linewidth=1.1, capsize=0, zorder=4,
        )  # fmt: skip
    axes.plot(
        [cloud.x.mean()], [cloud.y.mean()], linestyle="", marker=look.marker, color=look.colour, markersize=8.5,
        markerfacecolor=look.face, markeredgewidth=1.5, zorder=5,
    )  # fmt: skip


def _cloud_legend(
    drawing: Any, first: Sequence[tuple[str, str, Any, str]], clouds: Sequence[Cloud], shaded: str = ""
) -> None:
    """What the marks mean: lines and crosses first, then the shaded region if there is one, then the models."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=colour, linestyle=line or "none", marker=marker, markersize=9, markeredgewidth=2)
        for _, colour, line, marker in first
    ]
    for cloud in clouds:
        look = cloud.look
        handle = Line2D([], [], color=look.colour, linestyle="none", marker=look.marker, markersize=7)
        handle.set(markerfacecolor=look.face, markeredgewidth=1.4)
        handles.append(handle)
    labels = [entry[0] for entry in first] + [clean(cloud.label, 22) for cloud in clouds]
    if shaded:
        handles.insert(len(first), Patch(facecolor=INK, alpha=0.15, linewidth=0))
        labels.insert(len(first), shaded)
    drawing.legend(handles, labels, loc="outside upper left", ncols=5, handlelength=1.6)


def _patches(drawing: Any, entries: Sequence[tuple[str, str, str]], floor: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=PAPER, linewidth=0.4) for _, colour, hatch in entries
    ]
    labels = [entry[0] for entry in entries]
    if floor:
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (4, 3))))
        labels.append("noise floor")
    drawing.legend(handles, labels, loc="outside upper left", ncols=6, handlelength=2.0)


def _wide(axes: "Axes", which: str, values: Sequence[Floats], spread: float) -> bool:
    """A scale that is linear near zero and logarithmic beyond, where some models are far off and most are near."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    means = np.abs([v.mean() for v in values if len(v)])
    far = max((float(np.abs(v).max()) for v in values if len(v)), default=0.0)
    middle = float(np.median(means)) if len(means) else 0.0
    limit = 1.15 * max(far, spread, 0.1)
    low = min((float(v.min()) for v in values if len(v)), default=0.0)
    high = max((float(v.max()) for v in values if len(v)), default=0.0)
    edges = min(low, -spread, 0.0), max(high, spread, 0.0)
    margin = 0.08 * max(edges[1] - edges[0], 0.1)
    setter = axes.set_xlim if which == "x" else axes.set_ylim
    if far <= 6 * max(middle, spread, 1e-9):
        setter(edges[0] - margin, edges[1] + margin)
        return False
    linear = max(middle, spread, 0.1)
    (axes.set_xscale if which == "x" else axes.set_yscale)("symlog", linthresh=linear, linscale=1.4)
    steps = [s * 10.0**e for e in range(-2, 4) for s in (1, 2, 5) if linear / 3 <= s * 10.0**e <= limit]
    ticks = [s for s in steps if len(steps) <= 5 or s in steps[::2]]
    axis = axes.xaxis if which == "x" else axes.yaxis
    places = [-t for t in reversed(ticks)] + [0.0] + ticks
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
    setter(1.35 * edges[0] if edges[0] < -linear else edges[0] - 0.3 * linear,
           1.35 * edges[1] if edges[1] > linear else edges[1] + 0.3 * linear)  # fmt: skip
    return True


def _time_ticks(axes: "Axes", low: float, high: float) -> None:
    """Ticks at times that a reader thinks in."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    units = ((1, "s"), (60, "min"), (3600, "h"), (86_400, "d"))
    usual = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10_800, 36_000, 86_400, 259_200, 864_000]
    shown = [t for t in usual if low <= t <= high]
    if len(shown) < 2:
        shown = np.geomspace(low * 1.1, high / 1.1, 4).tolist()

    def named(value: float, _: Any) -> str:
        size, unit = next(((s, u) for s, u in reversed(units) if value >= s), units[0])
        return f"{value / size:.3g} {unit}"

    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(named))


def _limit(totals: Sequence[float], floor: float) -> tuple[float, bool]:
    """Where the axis of the bars ends, and whether bars are cut there: if one would make the others unreadable."""
    ordered = sorted(totals)
    longest = max([*ordered, floor, 1e-9])
    middle = ordered[len(ordered) // 2]
    if len(ordered) < 4 or longest <= 4 * max(middle, floor):
        return longest, False
    kept = [total for total in ordered if total <= 3 * max(middle, floor)]
    return 1.25 * max([*kept, floor]), True


def _occupied(edges: Floats, models: Sequence[Histogram]) -> tuple[float, float]:
    """The range of losses that holds all but a thousandth of each model's forget set."""
    shares = np.max([model.shares("forget") for model in models], axis=0)
    used = np.flatnonzero(shares > 1e-3)
    return float(edges[used[0]]), float(edges[used[-1] + 1])


def _whole(value: float) -> str:
    text = f"{value:+.1f}" if abs(value) < 9.95 else f"{value:+.0f}"
    return "0" if not text.strip("+-0.") else text.replace("-", "−")
