"""The scatter of forgetting against utility with what an audit finds: how much of the trace is left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from untrain.report.drawing import INK, Figure, Floats, Key, in_style, legend, make_panels, with_unit, write_svg
from untrain.report.measures import TRACE_LEFT, Measure
from untrain.report.results import Entry, ForgetSet, Results, Stat
from untrain.report.sections import Part, Plot, Section, collect, differences_of, look_of
from untrain.report.trade_offs import Look
from untrain.report.words import show_difference, uncapitalize

if TYPE_CHECKING:
    from untrain.report.presentation import Presentation


@dataclass(frozen=True)
class TracePoint:
    """A method: what is left of the trace by an audit, in percent, and what it cost, seed by seed."""

    label: str
    look: Look
    left: Stat
    cost: Floats


def show_trace_left(results: Results, presentation: "Presentation") -> Section | None:
    """What each method left of the trace, against what it cost; nothing where no method was audited."""
    if not any(entry.mean(TRACE_LEFT.key) is not None for one in results.sets for entry in one.methods):
        return None
    return _PLOT(results, presentation)


def _draw(one: ForgetSet, results: Results, presentation: "Presentation", name: str) -> Part:
    cost = presentation.measure(presentation.axes[-1] if presentation.axes else "")

    def point_of(entry: Entry) -> TracePoint | None:
        left, apart = entry.stat(TRACE_LEFT.key), differences_of(one, entry, [cost.key])
        if left.mean is None or not len(apart):
            return None
        return TracePoint(entry.label, look_of(entry, results, presentation), left, apart[:, 0])

    points, notes = collect([*one.of_role("original"), *presentation.order(one)], point_of)
    if not points:
        return Part([f"What is left of the trace and the {cost.words} are not both known of any method."])
    return Part(figures=[draw_trace_left(name, points, cost)], notes=notes)


@in_style
def draw_trace_left(name: str, points: Sequence[TracePoint], cost: Measure) -> Figure:
    """Draws what is left of the trace, with its interval, against a measure's difference to the retrained model."""
    drawing, (axes,) = make_panels(1, height=4.2, columns=1)
    axes.axhline(0, color=INK, linewidth=0.7, zorder=1)
    axes.axvline(0, color=INK, linewidth=0.7, zorder=1)
    axes.plot([0], [0], linestyle="", marker="+", color=INK, markersize=15, markeredgewidth=2.6, zorder=6)
    keys, told = [Key("without a trace, as good as retrained", INK, "", "+")], []
    for point in points:
        x, y, look = point.left.mean or 0.0, float(point.cost.mean()), point.look
        if point.left.interval is not None:
            axes.plot(point.left.interval, [y, y], color=look.colour, linewidth=1.2, zorder=3)
        if len(point.cost) > 1:
            half = float(point.cost.std(ddof=1))
            axes.plot([x, x], [y - half, y + half], color=look.colour, linewidth=1.2, zorder=3)
        axes.plot([x], [y], marker=look.marker, color=look.colour, markersize=8.5, markerfacecolor=look.face,
                  markeredgewidth=1.5, linestyle="", zorder=5)  # fmt: skip
        keys.append(Key(point.label, look.colour, "", look.marker, look.face))
        told.append(f"{point.label} {TRACE_LEFT.amount(x)} left, {show_difference(y, cost.digits)} {cost.gap_unit}")
    axes.margins(0.08)
    axes.set_xlabel("trace left, of an attacker's advantage on the original [%]")
    axes.set_ylabel(with_unit(f"{uncapitalize(cost.title)} − retrained model's", cost.gap_unit))
    legend(drawing, keys, 5)
    alt = f"Trace left and {cost.words} beside the retrained model's: {'; '.join(told)}."
    caption = (
        "Lines across: the 95 % interval of what is left, by the audit's models; lines up: the standard deviation over "
        "the seeds. The cross is where a method should be. What is left can be below 0 by chance."
    )
    return Figure(write_svg(drawing, name, alt), alt, caption)


_PLOT = Plot(
    "trace", "Trace left against utility",
    "Averages can be right while single samples are still told apart. Here forgetting is what an audit finds: the "
    "share of an attacker's advantage on the original that a method leaves.",
    _draw,
)  # fmt: skip
