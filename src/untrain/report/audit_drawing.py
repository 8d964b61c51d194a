"""Draws the figures of an audit, whatever design they are of: curves, histograms, values by role, pictures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from untrain.errors import UntrainError
from untrain.reading import DAMAGED, open_regular
from untrain.report.audit import (
    AuditBins,
    AuditCurve,
    AuditFigure,
    AuditGroup,
    AuditHistogram,
    AuditPictures,
    AuditRow,
    AuditValues,
)
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
    Key,
    in_style,
    legend,
    make_panels,
    set_plain_log,
    with_unit,
    write_svg,
)
from untrain.report.html import render
from untrain.report.words import clean, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST = 512
"""A picture is shown no larger than so many pixels a side."""


@dataclass(frozen=True)
class RoleLook:
    """How one role's values are drawn, in every figure of an audit."""

    colour: str
    line: Any
    marker: str
    face: str


LOOKS = {
    "original": RoleLook(MUTED, (0, (5, 2)), "o", PAPER),
    "unlearned": RoleLook(VERMILLION, "-", "o", VERMILLION),
    "retrained": RoleLook(BLUE, (0, (1.2, 1.4)), "s", BLUE),
    "placebo": RoleLook(PURPLE, (0, (5, 1.5, 1.2, 1.5)), "^", PURPLE),
    "other": RoleLook(GREEN, (0, (3, 1.5)), "D", GREEN),
}
FURTHER = (ORANGE, SKY, GREEN, PURPLE)
"""Colours of further lines of the same role."""


def draw_figure(name: str, figure: AuditFigure, folder: Path) -> tuple[Figure | None, str]:
    """Draws a figure; None, and why, where there is nothing to draw.

    Args:
        name: prefix of the drawing's ids.
        figure: as audit.json has it.
        folder: of the audit, where pictures lie.
    """
    if isinstance(figure, AuditPictures):
        return _draw_pictures(figure, folder)
    if isinstance(figure, AuditCurve):
        return (_draw_curve(name, figure), "") if figure.lines else (None, "There is no curve.")
    if isinstance(figure, AuditHistogram):
        return (_draw_histogram(name, figure), "") if figure.panels else (None, "There is no histogram.")
    rows = [row for row in figure.rows if any(group.values for group in row.groups)]
    return (_draw_values(name, figure, rows), "") if rows else (None, "No model has a value.")


# ── curves ──────────────────────────────────────────────────────────────────────────────────────────────────────


@in_style
def _draw_curve(name: str, figure: AuditCurve) -> Figure:
    drawing, (axes,) = make_panels(1, height=4.2, columns=1)
    _set_scales(axes, figure)
    low, high = _limits(figure, "x"), _limits(figure, "y")
    keys: list[Key] = []
    seen: dict[str, int] = {}
    for line in figure.lines:
        place = seen[line.role] = seen.get(line.role, -1) + 1
        look = LOOKS[line.role]
        colour = look.colour if place == 0 else FURTHER[(place - 1) % len(FURTHER)]
        if line.low:
            axes.fill_between(
                line.x, np.maximum(line.low, high[0] / 10 if "y" in figure.log else -np.inf), line.high,
                color=colour, alpha=0.16, linewidth=0,
            )  # fmt: skip
        axes.plot(line.x, line.y, color=colour, linestyle=look.line, linewidth=1.6)
        keys.append(Key(line.name, colour, look.line))
    if figure.diagonal:
        ends = [max(low[0], high[0]), min(low[1], high[1])]
        axes.plot(ends, ends, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        keys.append(Key("chance", INK, (0, (4, 3))))
    axes.set_xlim(*low)
    axes.set_ylim(*high)
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    legend(drawing, keys, 5)
    told = "; ".join(f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in figure.lines)
    alt = f"{figure.title}: {figure.y} against {figure.x}: {told}."
    log = {"": "", "x": " Logarithmic axis.", "y": " Logarithmic axis.", "xy": " Logarithmic axes."}[figure.log]
    return Figure(write_svg(drawing, name, alt), alt, f"{figure.caption}{log}".strip())


def _set_scales(axes: "Axes", figure: AuditCurve) -> None:
    for which, scale in (("x", axes.set_xscale), ("y", axes.set_yscale)):
        if which in figure.log:
            set_plain_log(scale, [axes], which, (1.0, 2.0, 5.0), most=9)


def _limits(figure: AuditCurve, which: str) -> tuple[float, float]:
    """Returns the ends of an axis: all lines, on a logarithmic one what is above 0, and some room."""
    values = np.concatenate([np.asarray(getattr(line, which), dtype=float) for line in figure.lines])
    if which == "y":
        bands = [np.asarray(band, dtype=float) for line in figure.lines for band in (line.low, line.high)]
        values = np.concatenate([values, *(band for band in bands if "y" not in figure.log and len(band))])
    if which in figure.log:
        values = values[values > 0]
        if not len(values):
            return 0.1, 1.0
        return float(values.min()) / (1.4 if which == "y" else 1.0), float(values.max()) * 1.05
    if not len(values):
        return 0.0, 1.0
    room = 0.05 * max(float(np.ptp(values)), 1e-9)
    return float(values.min()) - room, float(values.max()) + room


# ── histograms ──────────────────────────────────────────────────────────────────────────────────────────────────

_OUTLINES = ((VERMILLION, "-"), (BLUE, (0, (5, 2))), (GREEN, (0, (1.2, 1.4))), (PURPLE, (0, (3, 1.5))))


@in_style
def _draw_histogram(name: str, figure: AuditHistogram) -> Figure:
    columns = min(2, len(figure.panels))
    drawing, panels = make_panels(len(figure.panels), height=2.3, columns=columns)
    groups = list(dict.fromkeys(group for panel in figure.panels for group in panel.groups))
    overlaps = []
    for axes, panel in zip(panels, figure.panels):
        for place, group in enumerate(groups):
            if group in panel.groups:
                colour, line = _OUTLINES[place % len(_OUTLINES)]
                values = np.asarray(panel.groups[group], dtype=float)
                if place == 0:
                    axes.stairs(values, panel.edges, color=colour, fill=True, alpha=0.25)
                axes.stairs(values, panel.edges, color=colour, linestyle=line, linewidth=1.3)
        overlap = _overlap(panel)
        words = "" if overlap is None else f" · overlap {100 * overlap:.0f} %"
        overlaps.append(f"{panel.name}{words}")
        axes.set_title(clean(panel.name) + words)
        axes.set_yticks([])
        axes.set_xlabel(figure.x)
    panels[0].set_ylabel("density")
    legend(drawing, [Key(group, *_OUTLINES[place % len(_OUTLINES)]) for place, group in enumerate(groups)])
    alt = f"{figure.title}, as histograms of {' and '.join(groups)}: {'; '.join(overlaps)}."
    return Figure(write_svg(drawing, name, alt), alt, figure.caption)


def _overlap(panel: AuditBins) -> float | None:
    """Returns the share that two groups have in common; None where there are not two."""
    if len(panel.groups) != 2:
        return None
    shares = []
    for values in panel.groups.values():
        mass = np.asarray(values, dtype=float) * np.diff(panel.edges)
        shares.append(mass / max(float(mass.sum()), 1e-12))
    return float(np.minimum(*shares).sum())


# ── values by role ──────────────────────────────────────────────────────────────────────────────────────────────


@in_style
def _draw_values(name: str, figure: AuditValues, rows: Sequence[AuditRow]) -> Figure:
    columns = min(2, len(rows))
    most = max(len(row.groups) for row in rows)
    alike = len({(row.unit, row.target) for row in rows}) == 1 and rows[0].target is not None
    drawing, panels = make_panels(len(rows), height=0.85 + 0.26 * most, columns=columns, share_x=alike)
    keys: dict[str, Key] = {}
    told = []
    for axes, row in zip(panels, rows):
        for place, group in enumerate(row.groups):
            look, label = LOOKS[group.role], group.name or group.role
            _draw_group(axes, place, group, look)
            keys.setdefault(label, Key(label, look.colour, "", look.marker, look.face))
        if row.target is not None:
            axes.axvline(row.target, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.set_yticks(range(len(row.groups)), [clean(g.name or g.role, 22) for g in row.groups])
        axes.set_ylim(len(row.groups) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
        axes.tick_params(labelbottom=True)
        aside = ([f"p {row.p:.3f}"] if row.p is not None else []) + ([row.note] if row.note else [])
        axes.set_title(" · ".join([clean(row.name, 34), *(clean(text, 22) for text in aside)]))
        if row.unit:
            axes.set_xlabel(with_unit("value", row.unit))
        means = ", ".join(f"{g.name or g.role} {show(float(np.mean(g.values)), 3)}" for g in row.groups if g.values)
        told.append(f"{row.name} {means} {row.unit}".rstrip())
    targets = [Key("without a trace", INK, (0, (4, 3)))] if any(row.target is not None for row in rows) else []
    legend(drawing, [*keys.values(), *targets])
    alt = f"{figure.title}: {'; '.join(told)}."
    return Figure(write_svg(drawing, name, alt), alt, figure.caption)


def _draw_group(axes: "Axes", place: int, group: AuditGroup, look: RoleLook) -> None:
    """Draws single values small and pale, their mean as a bar, and its interval as a line through it."""
    if not group.values:
        return
    mean, rows = float(np.mean(group.values)), np.full(len(group.values), place)
    alone = len(group.values) == 1
    axes.plot(
        group.values, rows, linestyle="", marker=look.marker, color=look.colour, markersize=7 if alone else 4,
        markerfacecolor=look.face, alpha=1.0 if alone else 0.55, zorder=3,
    )  # fmt: skip
    if group.ci is not None:
        axes.plot(group.ci, [place, place], color=look.colour, linewidth=2.0, zorder=2, solid_capstyle="butt")
    if not alone:
        axes.plot([mean], [place], marker="|", color=look.colour, markersize=13, markeredgewidth=2.4, zorder=4)


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class AuditImage:
    """A picture as it stands in the page: embedded, with its words and its size in pixels."""

    source: str
    alt: str
    caption: str
    width: int
    height: int


def _draw_pictures(figure: AuditPictures, folder: Path) -> tuple[Figure | None, str]:
    lines, unread = [], []
    for row in figure.rows:
        cells = []
        for picture in row.pictures:
            alt = f"{row.name}: {picture.caption}".rstrip(": ")
            image = _read_picture(folder, picture.file, alt, picture.caption)
            unread += [] if isinstance(image, AuditImage) else [image]
            cells.append(image if isinstance(image, AuditImage) else None)
        lines.append({"name": row.name, "role": row.role, "cells": cells})
    columns = max((len(line["cells"]) for line in lines), default=0)
    missing = " ".join(unread)
    if not any(cell for line in lines for cell in line["cells"]):
        return None, missing or "There is no picture."
    return Figure(render("audit_pictures.html.j2", lines=lines, columns=columns), "", figure.caption), missing


def _read_picture(folder: Path, name: str, alt: str, caption: str) -> AuditImage | str:
    """Reads a picture; returns why where that fails."""
    from PIL import Image

    try:
        with open_regular(folder / name) as file, Image.open(file, formats=("PNG",)) as opened:
            image = opened.convert("RGB")
    except (UntrainError, Image.DecompressionBombError, *DAMAGED) as error:
        return f"{name} cannot be read: {str(error).rstrip('.')}."
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    out, kind = io.BytesIO(), "png" if max(image.size) <= LARGEST // 2 else "webp"
    if kind == "png":
        image.save(out, "PNG", optimize=True)
    else:
        image.save(out, "WEBP", quality=85)
    source = f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
    return AuditImage(source, alt, caption, *image.size)
