"""What every figure of a report is made with: the style, the panels, the legend, and the way into the page.

Drawings of matplotlib become inline SVG that follows the page's colours and shares no ids. Text stays text, in the
page's font. Colours are those of Okabe and Ito, which colour-blind readers tell apart; a marker, a line style or a
hatch always says the same thing a second time.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from untrain.report.words import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Floats = np.ndarray[Any, np.dtype[np.float64]]
P = ParamSpec("P")

INK, MUTED, RULE, PAPER = "#1c2024", "#5c6670", "#e2e6ea", "#fefefe"
ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"
VARIABLES = {
    INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper", ORANGE: "--orange", SKY: "--sky",
    GREEN: "--green", BLUE: "--blue", VERMILLION: "--vermillion", PURPLE: "--purple",
}  # fmt: skip
"""Colour as drawn → the page's CSS variable that replaces it, so that dark screens and paper each get their own."""

WIDTH = 9.0
"""Width of every figure in inches; at the page's width its 8.5 pt text is as large as the small print beside it."""

SETS = {
    "forget": (VERMILLION, "-", "o"),
    "retain": (BLUE, (0, (5, 2)), "s"),
    "test": (GREEN, (0, (1.2, 1.4)), "^"),
}
"""Set of samples → its colour, line style and marker, the same in every figure."""


@dataclass(frozen=True)
class Figure:
    """A drawing ready to be put into the page, the words that replace it, and its caption."""

    svg: Markup
    """Inline SVG; of pictures, the table that they stand in, where each has its own words."""
    alt: str
    caption: str


def in_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Makes a function run in the report's style, whatever the user's matplotlib settings are."""

    @wraps(draw)
    def draw_styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        from matplotlib import style

        with style.context(STYLE, after_reset=True), warnings.catch_warnings():
            # Only the browser needs glyphs for every script; matplotlib's own font merely measures the text.
            warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
            return draw(*args, **kwargs)

    return draw_styled


def make_panels(
    count: int, *, height: float, columns: int, share_x: bool = False, share_y: bool = False
) -> tuple["Drawing", list["Axes"]]:
    """Makes an empty drawing with so many panels of this height in inches."""
    from matplotlib.figure import Figure as Drawing

    rows, columns = -(-count // columns), min(columns, count)
    drawing = Drawing(figsize=(WIDTH, rows * height + 0.3), layout="constrained")
    grid = drawing.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y).ravel().tolist()
    for unused in grid[count:]:
        unused.remove()
    return drawing, grid[:count]


STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "untrain", "text.parse_math": False, "font.family": ["DejaVu Sans"],
    "font.size": 8.5, "axes.titlesize": 8.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8, "text.color": INK, "axes.labelcolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": MUTED, "ytick.labelcolor": INK,
    "axes.edgecolor": RULE, "axes.titlecolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.7, "axes.axisbelow": True, "xtick.major.size": 0,
    "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0, "figure.facecolor": "none",
    "axes.facecolor": "none", "legend.frameon": False, "axes.formatter.use_mathtext": False,
    "figure.constrained_layout.h_pad": 0.06, "figure.constrained_layout.w_pad": 0.06,
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """What a mark of a figure means: an entry of its legend.

    Attributes:
        label: what it means.
        colour: of line, marker or patch.
        line: its style; empty for none.
        marker: likewise.
        face: the colour inside the marker; empty: the same.
        hatch: of a patch; None: it is none.
        pale: whether the patch is as pale as a shaded region.
    """

    label: str
    colour: str
    line: Any = ""
    marker: str = ""
    face: str = ""
    hatch: str | None = None
    pale: bool = False

    def handle(self) -> Any:
        """Makes what the legend shows beside the label."""
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        if self.hatch is not None:
            patch = Patch(facecolor=self.colour, hatch=self.hatch, edgecolor=PAPER, linewidth=0.4)
            patch.set_alpha(0.15 if self.pale else None)
            return patch
        handle = Line2D([], [], color=self.colour, linestyle=self.line or "none", marker=self.marker)
        handle.set(markersize=3.5 if self.line else 7, markerfacecolor=self.face or self.colour)
        handle.set(markeredgewidth=2.0 if self.marker in ("|", "+") else 1.4)
        return handle


def legend(drawing: "Drawing", keys: Sequence[Key], columns: int = 6) -> None:
    """Puts the keys above the panels."""
    length = 2.0 if any(key.line or key.hatch is not None for key in keys) else 1.0
    handles, labels = [key.handle() for key in keys], [clean(key.label) for key in keys]
    drawing.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=length)


def with_unit(words: str, unit: str) -> str:
    """Names an axis, with its unit in brackets if it has one."""
    return f"{words} [{unit}]" if unit else words


def set_plain_log(
    scale: Callable[..., None], panels: Sequence["Axes"], which: str, marks: tuple[float, ...] = (1.0,), most: int = 7
) -> None:
    """Sets a logarithmic scale whose labels are plain numbers instead of formulas.

    Args:
        scale: sets the scale of all the panels.
        panels: whose labels are set.
        which: "x" or "y".
        marks: labels stand at these multiples of powers of ten.
        most: so many labels at most.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    scale("log", nonpositive="mask")
    for axes in panels:
        axis = axes.xaxis if which == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(base=10, subs=marks, numticks=most))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())


def label_outside(panels: Sequence["Axes"], columns: int, x: str, y: str) -> None:
    """Puts labels only where the grid of panels ends: x under each column, y at the left."""
    for place, axes in enumerate(panels):
        bottom = place + columns >= len(panels)
        axes.tick_params(labelbottom=bottom, labelleft=place % columns == 0)
        axes.set_xlabel(x if bottom else "")
        axes.set_ylabel(y if place % columns == 0 else "")


# From a drawing to SVG in a page.


def write_svg(drawing: "Drawing", prefix: str, alt: str) -> Markup:
    """Writes the drawing as inline SVG: ids with the prefix, the page's colours and font, `alt` as its words."""
    root = ElementTree.fromstring(print_svg(drawing))
    for element in root.iter():
        for child in [c for c in element if _local(c.tag) in ("metadata", "style")]:
            element.remove(child)
        element.tag, element.tail = _local(element.tag), None
        element.text = element.text if element.text and element.text.strip() else None
        element.attrib = {_local(k): _attribute(_local(k), v, prefix) for k, v in element.attrib.items()}
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": clean(alt, 2000), "id": prefix}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree escaped every text and attribute


def print_svg(drawing: "Drawing") -> bytes:
    """Lays a drawing out and returns it as matplotlib's SVG; this takes most of a page's time."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.BytesIO()
    FigureCanvasSVG(drawing).print_svg(out, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return out.getvalue()


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "d":
        return " ".join(value.split())
    if name == "href":
        return value.replace("#", f"#{prefix}-", 1)
    value = value.replace("url(#", f"url(#{prefix}-")
    if name == "style":
        value = re.sub(r"font(-family)?:\s*[^;]*'?DejaVu Sans'?[^;]*;?", _font, value)
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, f"var({variable})")
    return value


def _font(match: re.Match[str]) -> str:
    """Returns what is left of a font: its size and weight; the family is the page's."""
    size, weight = re.search(r"[\d.]+px", match[0]), re.search(r"bold|\b[6-9]00\b", match[0])
    kept = [f"font-size: {size[0]};" if size else "", "font-weight: 600;" if weight else ""]
    return " ".join(k for k in kept if k)
