"""What an audit hands to its readers: figures as JSON, which any design puts into audit.json and the report draws.

`Finding.figures` maps a figure's name, which becomes its anchor, to one of four kinds, in the order in which they are
shown. A design makes them as the dataclasses below, and hands on their `plain()`:

    "roc": {"kind": "curve", "title": "…", "caption": "…", "x": "share of never-seen samples accused",
            "y": "share of forgotten samples found", "log": "xy", "diagonal": true,
            "lines": [{"name": "sfron", "role": "unlearned", "x": [0.001, …], "y": [0.004, …], "low": […], "high": […]},
                      {"name": "original", "role": "original", …}, {"name": "retrained", "role": "retrained", …}]}
    "scores": {"kind": "histogram", "title": "…", "caption": "…", "x": "score",
               "panels": [{"name": "sfron", "edges": [-4.0, …], "groups": {"forgotten": […], "never seen": […]}}]}
    "numbers": {"kind": "values", "title": "…", "caption": "…",
                "rows": [{"name": "recall of the class", "unit": "%", "target": null, "p": 0.004, "note": "",
                          "groups": [{"role": "original", "values": [91.0, …], "ci": null},
                                     {"role": "unlearned", "values": [2.0, …], "ci": [1.2, 3.4]},
                                     {"role": "retrained", "values": [0.0, …], "ci": null}]}]}
    "pictures": {"kind": "pictures", "title": "…", "caption": "…",
                 "rows": [{"name": "inversion, unlearned", "role": "unlearned",
                           "pictures": [{"file": "pictures/inversion-sfron.png", "caption": "seed 0"}]}]}

What holds of all of them: titles, captions and names are plain text, captions one or two sentences that say how to read
the figure. Numbers are finite. A value, a line or a bin is of many samples, never of one. A role is "original",
"unlearned", "retrained", "placebo" (the original, taught something else by the same attack) or "other". Files are PNG,
their paths relative to RUN/audit/ and below it; the page holds them itself. Optional parts may be left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Shown = Literal["original", "unlearned", "retrained", "placebo", "other"]
"""Whose values they are."""


@dataclass(frozen=True)
class AuditLine:
    """A line of a curve.

    Attributes:
        name: in the legend.
        x: ascending.
        y: of the same length.
        low: of a band about the line, of the same length; empty: there is none.
        high: likewise.
        role: whose line it is.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    role: Shown = "unlearned"


@dataclass(frozen=True)
class AuditCurve:
    """Lines in one pair of axes.

    Attributes:
        title: above the figure.
        lines: in the order of the legend.
        x: what the axis shows, with its unit in brackets.
        y: likewise.
        log: axes that are logarithmic: "", "x", "y" or "xy"; there, what is not above 0 is not drawn.
        diagonal: whether y = x is drawn as chance.
        caption: how to read it.
    """

    title: str
    lines: Sequence[AuditLine]
    x: str
    y: str
    log: Literal["", "x", "y", "xy"] = ""
    diagonal: bool = False
    caption: str = ""
    kind: Literal["curve"] = "curve"

    def plain(self) -> dict[str, Any]:
        """Returns it as audit.json holds it."""
        return asdict(self)


@dataclass(frozen=True)
class AuditBins:
    """A panel of a histogram: of one model, or of one kind.

    Attributes:
        name: above the panel.
        edges: of the bins, ascending, n + 1.
        groups: name → share or density of each bin, n each; the first is drawn in front.
    """

    name: str
    edges: Sequence[float]
    groups: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class AuditHistogram:
    """How values of groups of samples are spread; never so finely that a bin is one sample.

    Attributes:
        title: above the figure.
        panels: one under the other, on one axis.
        x: what the axis shows, with its unit in brackets.
        caption: how to read it.
    """

    title: str
    panels: Sequence[AuditBins]
    x: str
    caption: str = ""
    kind: Literal["histogram"] = "histogram"

    def plain(self) -> dict[str, Any]:
        """Returns it as audit.json holds it."""
        return asdict(self)


@dataclass(frozen=True)
class AuditGroup:
    """Values of one role, one a model or a run of an attack.

    Attributes:
        role: whose they are.
        values: each drawn as a point; their mean as a bar.
        ci: interval of their mean at 95 %; None: there is none.
        name: in the legend; empty: the role.
    """

    role: Shown
    values: Sequence[float]
    ci: tuple[float, float] | None = None
    name: str = ""


@dataclass(frozen=True)
class AuditRow:
    """A measure in a figure of values.

    Attributes:
        name: of the measure or attack.
        groups: roles beside each other.
        unit: of the values.
        target: what a model without a trace would have; None: what the retrained have.
        p: of the test between roles; None: there is none.
        note: beside p, such as the kind of what was found.
    """

    name: str
    groups: Sequence[AuditGroup]
    unit: str = ""
    target: float | None = None
    p: float | None = None
    note: str = ""


@dataclass(frozen=True)
class AuditValues:
    """Measures of models by role, each on an axis of its own.

    Attributes:
        title: above the figure.
        rows: measures, one panel each.
        caption: how to read it.
    """

    title: str
    rows: Sequence[AuditRow]
    caption: str = ""
    kind: Literal["values"] = "values"

    def plain(self) -> dict[str, Any]:
        """Returns it as audit.json holds it."""
        return asdict(self)


@dataclass(frozen=True)
class AuditPicture:
    """A PNG and what it shows: its path relative to RUN/audit/, and a caption."""

    file: str
    caption: str = ""


@dataclass(frozen=True)
class AuditStrip:
    """Pictures of one model or attack, side by side.

    Attributes:
        name: before the pictures.
        pictures: the i-th of all rows stand in one column.
        role: whose they are.
    """

    name: str
    pictures: Sequence[AuditPicture]
    role: Shown = "unlearned"


@dataclass(frozen=True)
class AuditPictures:
    """Pictures that attacks brought back.

    Attributes:
        title: above the pictures.
        rows: models or attacks.
        caption: how they were made, and that none was chosen.
    """

    title: str
    rows: Sequence[AuditStrip]
    caption: str = ""
    kind: Literal["pictures"] = "pictures"

    def plain(self) -> dict[str, Any]:
        """Returns it as audit.json holds it."""
        return asdict(self)


AuditFigure = AuditCurve | AuditHistogram | AuditValues | AuditPictures
