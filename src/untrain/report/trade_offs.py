"""Figures that put methods beside each other: trade-off, distance, time against quality, search for settings.

A method has the same colour and marker in all of them, and on paper too.
"""

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
    Key,
    in_style,
    label_outside,
    legend,
    make_panels,
    set_plain_log,
    with_unit,
    write_svg,
)
from untrain.report.measures import Measure
from untrain.report.words import clean, show_difference, show_duration, uncapitalize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "*")
COLOURS = (VERMILLION, BLUE, GREEN, PURPLE, ORANGE, SKY)
PARTS = ((VERMILLION, ""), (SKY, "////"), (GREEN, "...."), (ORANGE, "xxxx"), (PURPLE, "\\\\\\\\"), (BLUE, "++++"))
"""Colour and hatch of each part of a distance."""


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


ORIGINAL = Look(MUTED, "o", hollow=True)


def look_at(place: int) -> Look:
    """Returns the look of the method at this place: twelve markers, six colours, and hollow from the seventh on."""
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
    """The distance of one model in its parts: the mean over the seeds of each part's distance ÷ the number of parts."""

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
    criteria: Floats
    best: int | None


@in_style
def draw_trade_off(
    name: str, clouds: Sequence[Cloud], references: Floats, axes_of: tuple[Measure, Measure],
    ends: tuple[str, str] | None = None,
) -> Figure:  # fmt: skip
    """Draws forgetting against utility, both as differences to the retrained model of the same seed.

    Args:
        name: prefix of the drawing's ids.
        clouds: the original and the methods; x and y: the two measures − the retrained model's.
        references: the seeds of further retrained models in the same way, [N, 2]; the largest give the shaded region.
        axes_of: the measures of x and y.
        ends: what a value far to the left and far to the right means; None: not said.
    """
    drawing, (axes,) = make_panels(1, height=4.7, columns=1)
    axes.axhline(0, color=INK, linewidth=0.7, zorder=1)
    axes.axvline(0, color=INK, linewidth=0.7, zorder=1)
    spread = None
    if len(references):
        spread = np.abs(references).max(0).tolist()
        axes.fill_between([-spread[0], spread[0]], -spread[1], spread[1], color=INK, alpha=0.13, linewidth=0, zorder=0)
        axes.plot(*references.T, linestyle="", marker="+", color=INK, markersize=5, zorder=2)
    axes.plot([0], [0], linestyle="", marker="+", color=INK, markersize=15, markeredgewidth=2.6, zorder=6)
    for cloud in clouds:
        _draw_cloud(axes, cloud)
    wide = [
        _set_wide(axes, which, [getattr(cloud, which) for cloud in clouds], spread[place] if spread else 0.0,
                  10.0 ** (1 - axes_of[place].digits))
        for place, which in enumerate("xy")
    ]  # fmt: skip
    titles = [uncapitalize(measure.title) for measure in axes_of]
    x, y = (with_unit(f"{t} − retrained model's", m.gap_unit) for t, m in zip(titles, axes_of))
    axes.set_xlabel(f"← {ends[0]}  ·  {x}  ·  {ends[1]} →" if ends else x)
    axes.set_ylabel(y)
    shaded = [Key("retrained with other seeds", INK, hatch="", pale=True)] if spread else []
    legend(drawing, [Key("retrained (target)", INK, "", "+"), *shaded, *map(_key, clouds)], 5)
    told = []
    for cloud in clouds:
        gaps = (show_difference(float(v.mean()), m.digits) for v, m in zip((cloud.x, cloud.y), axes_of))
        told.append(f"{cloud.label} " + " and ".join(f"{gap} in {title}" for gap, title in zip(gaps, titles)))
    alt = "Differences to the retrained model: " + "; ".join(told) + "."
    several = any(len(cloud.x) > 1 for cloud in clouds)
    caption = "Large marks: means over the seeds, with the standard deviation as lines; small marks: single seeds. "
    caption = f"{caption if several else ''}The cross is the target: the retrained model of the same seed."
    caption += " Shaded: as far as other retrained models are from it." if spread else ""
    caption += " The axes are logarithmic away from the centre, so that far methods fit in." if any(wide) else ""
    return Figure(write_svg(drawing, name, alt), alt, caption)


@in_style
def draw_distances(
    name: str, bars: Sequence[Distances], parts: Mapping[str, str], measure: Measure, floor: float | None
) -> Figure:
    """Draws the distance of each model, stacked from its parts; the noise floor as a line.

    Args:
        name: prefix of the drawing's ids.
        bars: the models.
        parts: key → name of each part.
        measure: the distance.
        floor: the noise floor of it.
    """
    rows = np.arange(len(bars))
    drawing, (axes,) = make_panels(1, height=0.75 + 0.28 * len(bars), columns=1)
    limit, cut = _end_of([bar.total for bar in bars], floor or 0.0)
    left, keys = np.zeros(len(bars)), []
    for place, (key, title) in enumerate(parts.items()):
        colour, hatch = PARTS[place % len(PARTS)]
        keys.append(Key(title, colour, hatch=hatch))
        wide = np.array([bar.parts.get(key, 0.0) for bar in bars])
        drawn = np.clip(wide, 0, np.maximum(limit - left, 0))
        axes.barh(rows, drawn, left=left, height=0.62, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0.4)
        left = left + wide
    plate = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}  # keeps the text apart from the dashed line
    for row, bar in zip(rows, bars):
        beyond = bar.total > limit
        text = "  ·  ".join(
            [measure.show(bar.total), *([bar.note] * bool(bar.note)), *(["longer than drawn →"] * beyond)]
        )
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
    axes.set_xlabel(with_unit(f"{measure.words} to the retrained model, {measure.name}", measure.unit))
    axes.grid(axis="y", visible=False)
    legend(drawing, keys + ([Key("noise floor", INK, (0, (4, 3)))] if floor is not None else []))
    alt = f"{measure.name}: " + ", ".join(f"{bar.label} {measure.show(bar.total)}" for bar in bars) + "."
    caption = f"What {measure.name} is made of: the distance in each measure ÷ {len(parts)}, mean over the seeds."
    if floor is not None:
        caption += f" Dashed: the noise floor, {measure.show(floor)}; what is below it could be chance."
    caption += " Bars that are longer than the figure end with an arrow." if cut else ""
    return Figure(write_svg(drawing, name, alt), alt, caption)


@in_style
def draw_time_quality(
    name: str, clouds: Sequence[Cloud], measure: Measure, floor: float | None, retraining: float
) -> Figure:
    """Draws seconds against the distance; x of a cloud is > 0, and retraining 0 where that time is not known."""
    drawing, (axes,) = make_panels(1, height=3.9, columns=1)
    seconds = np.concatenate([cloud.x for cloud in clouds] + ([[retraining]] if retraining else []))
    set_plain_log(axes.set_xscale, [axes], "x")
    low, high = float(seconds.min()), float(seconds.max())
    axes.set_xlim(low / 1.5, high * 1.7)
    _set_time_ticks(axes, low / 1.5, high * 1.7)
    totals = np.concatenate([cloud.y for cloud in clouds])
    far = len(totals) > 2 and float(totals.max()) > 8 * max(float(np.median(totals)), 1e-9) and float(totals.min()) > 0
    highest, bottom = max(float(totals.max()), floor or 0.0, 1e-9), 0.0
    if far:
        set_plain_log(axes.set_yscale, [axes], "y", (1.0, 2.0, 5.0))
        bottom = 0.7 * min(float(totals.min()), floor or np.inf)
    axes.set_ylim(bottom, (1.4 if far else 1.1) * highest)
    if floor:
        axes.axhspan(bottom, floor, color=INK, alpha=0.1, linewidth=0, zorder=0)
    if retraining:
        axes.axvline(retraining, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    for cloud in clouds:
        _draw_cloud(axes, cloud)
    axes.set_xlabel("time to make the model")
    axes.set_ylabel(with_unit(measure.name, measure.unit))
    lines = [Key("retraining", INK, (0, (4, 3)))] if retraining else []
    shaded = [Key("noise floor", INK, hatch="", pale=True)] if floor else []
    legend(drawing, [*lines, *shaded, *map(_key, clouds)], 5)
    told = [f"{c.label} {show_duration(float(c.x.mean()))} and {measure.amount(float(c.y.mean()))}" for c in clouds]
    alt = f"Time and {measure.words}: " + "; ".join(told) + "."
    caption = "Further down is closer to the retrained model, further left is faster; the time axis is logarithmic."
    caption += " So is the distance." if far else ""
    caption += " Dashed: the time of retraining, which is what a method has to beat." if retraining else ""
    caption += " In the shaded region a method cannot be told from retraining." if floor else ""
    return Figure(write_svg(drawing, name, alt), alt, caption)


@in_style
def draw_trials(name: str, searches: Sequence[Search]) -> Figure:
    """Draws the criterion of each trial, one panel a method; the line is the best so far."""
    from matplotlib.ticker import MaxNLocator

    columns = min(4, len(searches))
    drawing, panels = make_panels(len(searches), height=1.6, columns=columns)
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
    label_outside(panels, columns, "trial", "criterion")
    for axes in panels:
        axes.tick_params(labelbottom=True, labelleft=True)
    keys = [Key("trial", BLUE, "", "."), Key("best so far", MUTED, "-"), Key("chosen", VERMILLION, "", "o", PAPER)]
    legend(drawing, keys + ([Key("failed", VERMILLION, "", "x")] if failed else []))
    told = [f"{s.label} {int(np.isfinite(s.criteria).sum())} of {len(s.criteria)}" for s in searches]
    alt = "Criterion of the trials of each method; trials with a result: " + ", ".join(told) + "."
    counts = {len(search.criteria) for search in searches}
    same = f" Every method had {max(counts)} trials." if len(counts) == 1 else ""
    caption = f"Lower is better; the axes differ from method to method.{same}"
    return Figure(write_svg(drawing, name, alt), alt, caption)


def _draw_cloud(axes: "Axes", cloud: Cloud) -> None:
    """Draws the seeds as small pale marks, their mean as a large one, the standard deviation as lines through it."""
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


def _key(cloud: Cloud) -> Key:
    return Key(cloud.label, cloud.look.colour, "", cloud.look.marker, cloud.look.face)


def _set_wide(axes: "Axes", which: str, values: Sequence[Floats], spread: float, least: float) -> bool:
    """Sets a scale that is linear near zero and logarithmic beyond, where some models are far off and most are near.

    Differences below `least` are not told apart.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    means = np.abs([v.mean() for v in values if len(v)])
    far = max((float(np.abs(v).max()) for v in values if len(v)), default=0.0)
    middle = float(np.median(means)) if len(means) else 0.0
    limit = 1.15 * max(far, spread, least)
    low = min((float(v.min()) for v in values if len(v)), default=0.0)
    high = max((float(v.max()) for v in values if len(v)), default=0.0)
    edges = min(low, -spread, 0.0), max(high, spread, 0.0)
    margin = 0.08 * max(edges[1] - edges[0], least)
    setter = axes.set_xlim if which == "x" else axes.set_ylim
    if far <= 6 * max(middle, spread, 1e-9):
        setter(edges[0] - margin, edges[1] + margin)
        return False
    linear = max(middle, spread, least)
    (axes.set_xscale if which == "x" else axes.set_yscale)("symlog", linthresh=linear, linscale=1.4)
    steps = [s * 10.0**e for e in range(-6, 7) for s in (1, 2, 5) if linear / 3 <= s * 10.0**e <= limit]
    ticks = [s for s in steps if len(steps) <= 5 or s in steps[::2]]
    axis = axes.xaxis if which == "x" else axes.yaxis
    places = [-t for t in reversed(ticks)] + [0.0] + ticks
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
    setter(1.35 * edges[0] if edges[0] < -linear else edges[0] - 0.3 * linear,
           1.35 * edges[1] if edges[1] > linear else edges[1] + 0.3 * linear)  # fmt: skip
    return True


def _set_time_ticks(axes: "Axes", low: float, high: float) -> None:
    """Sets ticks at times that a reader thinks in."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    units = ((1, "s"), (60, "min"), (3600, "h"), (86_400, "d"))
    usual = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10_800, 36_000, 86_400, 259_200, 864_000]
    shown = [t for t in usual if low <= t <= high]
    if len(shown) < 2:
        shown = np.geomspace(low * 1.1, high / 1.1, 4).tolist()

    def name_time(value: float, _: Any) -> str:
        size, unit = next(((s, u) for s, u in reversed(units) if value >= s), units[0])
        return f"{value / size:.3g} {unit}"

    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FuncFormatter(name_time))


def _end_of(totals: Sequence[float], floor: float) -> tuple[float, bool]:
    """Returns where the axis of the bars ends, and whether bars are cut there, where one would dwarf the others."""
    ordered = sorted(totals)
    longest = max([*ordered, floor, 1e-9])
    middle = ordered[len(ordered) // 2]
    if len(ordered) < 4 or longest <= 4 * max(middle, floor):
        return longest, False
    kept = [total for total in ordered if total <= 3 * max(middle, floor)]
    return 1.25 * max([*kept, floor]), True
