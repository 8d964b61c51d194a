"""The comparison of models as a table (terminal, text, Markdown, LaTeX, CSV, HTML)."""

import csv
import io
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from untrain.errors import UntrainError
from untrain.report.measures import GENERATORS, MEASURES, Measure, task_of

if TYPE_CHECKING:
    import jinja2
    import rich.table

TARGET = "retrained"
"""The model that the others are compared with: trained from scratch without the forget set."""

LABELS = {
    "sfron": "SFR-on", "scrub": "SCRUB", "salun": "SalUn", "neggrad-plus": "NegGrad+", "ssd": "SSD",
    "l1-sparse": "L1-sparse", "esd": "ESD", "selective-amnesia": "Selective Amnesia",
}  # fmt: skip

HALVES = "real images, two halves"
"""What stands beside the distances of generators to real images: how far these are from each other."""

Role = Literal["original", "target", "reference", "method", "floor"]


@dataclass(frozen=True)
class Cell:
    """One value of the table. `text` is it as shown, `small` the lines under it, `note` a footnote's number."""

    value: float | None
    text: str
    small: tuple[str, ...] = ()
    note: int | None = None


@dataclass(frozen=True)
class Row:
    """One model, or the noise floor."""

    name: str
    label: str
    role: Role
    cells: tuple[Cell, ...]
    closest: bool = False
    """Whether this is the method that came closest to the retrained model (smallest Avg.D)."""
    rank: str = ""
    note: int | None = None
    """The number of a footnote about the whole row."""


@dataclass(frozen=True)
class Table:
    """The comparison of models: one row a model, one column a measure, footnotes for what could not be had."""

    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    marks: tuple[str, ...] = ()
    """What the signs in the table mean; the page says it in other words."""
    ranked: bool = False
    """Whether there is a column of ranks."""
    absent: tuple[str, ...] = ()
    """The measures without a column, as no model has a value, and why."""

    def rich(self, legend: bool = True) -> "rich.table.Table":
        """The table for the terminal; the differences to the retrained model stand dimmed under the values.

        Args:
            legend: whether the marks and footnotes stand under it.
        """
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption_justify="left", caption_style="dim"
        )
        table.add_column("model", no_wrap=True)
        if self.ranked:
            table.add_column("#", no_wrap=True)
        for measure in self.measures:
            unit = f"\n{measure.unit}" if measure.unit and measure.key != "seconds" else ""
            table.add_column(Text(measure.name.replace(" ", "\n") + unit), justify="right", no_wrap=True)
        for row in self.rows:
            style = {"target": "bold", "floor": "dim italic"}.get(row.role, "green" if row.closest else "")
            head = [Text(text, style=style) for text in (_marked(row), *([row.rank] if self.ranked else []))]
            cells = [Text(cell.text + _superscript(cell.note), style=style) for cell in row.cells]
            for text, cell in zip(cells, row.cells):
                for line in cell.small:
                    text.append(f"\n{line}", style="dim not bold")
            table.add_row(*head, *cells)
        table.caption = Text("\n".join(self.legend())) if legend and self.legend() else None
        return table

    def text(self) -> str:
        """The table as plain text, without colour or escape codes."""
        from rich.console import Console

        console = Console(file=io.StringIO(), width=400, color_system=None, force_terminal=False, emoji=False)
        with console.capture() as capture:
            console.print(self.rich(legend=False))
        lines = [line.rstrip() for line in capture.get().splitlines()]
        return "\n".join([line for line in lines if line] + list(self.legend())) + "\n"

    def markdown(self) -> str:
        """The table in Markdown, the retrained model's row in bold."""
        ranked = ["#"] if self.ranked else []
        names = [f"{m.name} ({m.unit})" if m.unit and m.key != "seconds" else m.name for m in self.measures]
        lines = [_markdown_row(["model", *ranked, *names])]
        lines.append(_markdown_row(["---", *["---:"] * (len(ranked) + len(names))]))
        for row in self.rows:
            bold = "**" if row.role == "target" else ""
            cells = [
                f"{bold}{cell.text}{_superscript(cell.note)}{bold}"
                + (f" ({markdown('; '.join(cell.small))})" if cell.small else "")
                for cell in row.cells
            ]
            lines.append(_markdown_row([f"{bold}{markdown(_marked(row))}{bold}", *([row.rank] * len(ranked)), *cells]))
        notes = [markdown(line) for line in self.legend()]
        return "\n".join(lines) + "\n" + ("\n" + "  \n".join(notes) + "\n" if notes else "")

    def latex(self, caption: str, name: str) -> str:
        r"""The table for LaTeX with booktabs, as wide as the page, everything escaped, the retrained model's row bold.

        Args:
            caption: what stands above it, as plain text.
            name: what `\ref` calls it.
        """
        ranked = self.ranked
        names = [f"{m.name} [{m.unit}]" if m.unit and m.key != "seconds" else m.name for m in self.measures]
        lines = [
            "\\begin{table*}", "\\centering", f"\\caption{{{latex(caption)}}}", f"\\label{{{name}}}",
            "\\resizebox{\\textwidth}{!}{%", f"\\begin{{tabular}}{{l{'c' * ranked}{'r' * len(names)}}}", "\\toprule",
            " & ".join(["Model", *(["Rank"] * ranked), *map(latex, names)]) + r" \\", "\\midrule",
        ]  # fmt: skip
        for place, row in enumerate(self.rows):
            lines += ["\\addlinespace"] * bool(place) + _latex_rows(row, ranked)
        lines += ["\\bottomrule", "\\end{tabular}}"]
        lines += [rf"\par\raggedright\footnotesize {latex(line)}" for line in self.legend()]
        return "\n".join([*lines, "\\end{table*}"]) + "\n"

    def csv(self) -> str:
        """The values as they were measured, unrounded; an empty field where there is none."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["model", *(m.key for m in self.measures)])
        for row in self.rows:
            writer.writerow([row.name, *("" if cell.value is None else repr(cell.value) for cell in row.cells)])
        return out.getvalue()

    def html(self) -> Markup:
        """The table as an HTML fragment, all names escaped; its classes are styled by the page."""
        return render("comparison.html.j2", table=self)

    def legend(self) -> tuple[str, ...]:
        """The lines that stand under the table: marks and footnotes."""
        return (*self.marks, *(f"{_superscript(i)} {note}" for i, note in enumerate(self.notes, 1)), *self.absent)


def comparison_table(evaluation: Mapping[str, Any]) -> Table:
    """The comparison of all models in an evaluation, the retrained model as target.

    Args:
        evaluation: what `evaluation.json` holds: `{"models": {name: {measure: value}}, "noise_floor": …}`. A value
            that is null or not finite is shown as — with its reason from `missing` as a footnote.

    Raises:
        UntrainError: if there is no model in it.
    """
    models, task = models_of(evaluation), task_of(evaluation)
    measures = _columns(models, task)
    gauge, best = gauge_of(models, task), closest_methods(models)
    notes: dict[str, int] = {}
    rows = []
    for name, values in models.items():
        role, aims = role_of(name), {} if name == gauge else dict(models.get(gauge, {}))
        aims["seconds"] = None if role == "target" else models.get(TARGET, {}).get("seconds")
        cells = tuple(_cell(measure, values, aims, role, notes) for measure in measures)
        rows.append(Row(name, label(name), role, cells, name in best))
    for name, key in (("noise floor", "noise_floor"), (HALVES, "real")):
        if known := mapping(evaluation.get(key)):
            cells = tuple(_floor_cell(measure, number(known.get(measure.key))) for measure in measures)
            rows.append(Row(name, name, "floor", cells))
    marks = [f"the target is {TARGET}; under the values, the difference to it"] if gauge == TARGET else []
    marks += [f"under the values, the difference to {gauge}"] if gauge == "original" else []
    marks += ["* the method closest to it (smallest Avg.D)"] if best else []
    return Table(measures, tuple(rows), tuple(notes), tuple(marks), absent=_absent(models, task, measures))


def gauge_of(models: Mapping[str, Any], task: str) -> str:
    """The model that values are held against: the retrained one, else, of generators, the original; "" for none.

    The values of a classifier mean nothing beside the original's, as no retrained model has them; a generator should
    keep what the original had.
    """
    if TARGET in models:
        return TARGET
    return "original" if task in GENERATORS and "original" in models else ""


def models_of(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Model name → its measures, in the order of the evaluation, which must hold at least one model."""
    models = {str(name): dict(mapping(values)) for name, values in mapping(evaluation.get("models")).items()}
    if not models:
        raise UntrainError(
            "the evaluation holds no model: expected {'models': {name: {measure: value}}}. "
            "Make evaluation.json again with `untrain evaluate`."
        )
    return models


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one: what a hand-made file gets wrong counts as missing."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """The value if it is a list or tuple, else an empty one."""
    return value if isinstance(value, list | tuple) else ()


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None  # a longer integer fits no float


def label(name: str) -> str:
    """A model's name as it is shown: methods as their papers write them."""
    return LABELS.get(name, name)


def role_of(name: str) -> Role:
    """What a model is by its name: original, target, another retrained model, or made by a method."""
    if name in ("original", TARGET):
        return "original" if name == "original" else "target"
    return "reference" if re.fullmatch(rf"{TARGET}-\d+", name) else "method"


def methods_of(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of the models that methods made, closest to the retrained model first, unknown distance last."""
    names = [name for name in models if role_of(name) == "method"]
    return sorted(names, key=lambda name: _or_infinite(models[name].get("AvgD")))


def closest_methods(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The methods with the smallest Avg.D: one, several if they tie exactly, none where no distance is known."""
    known = {n: d for n in models if role_of(n) == "method" and (d := number(models[n].get("AvgD"))) is not None}
    return [name for name, distance in known.items() if distance == min(known.values())]


def show(value: float, digits: int = 2) -> str:
    """A number with so many decimals and a real minus sign; tiny ones in scientific notation, as 0 below 1e-12."""
    if 1e-12 <= abs(value) < 0.5 * 10**-digits:  # what is smaller is the rounding error of a sum
        return f"{value:.1e}".replace("-", "−")
    return f"{value if abs(value) >= 1e-12 else 0.0:,.{digits}f}".replace("-", "−").replace(",", "\u2009")


def duration(seconds: float) -> str:
    """A time span in the units a reader would choose."""
    if seconds < 10:
        return f"{show(seconds)} s"
    if seconds < 119.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if seconds < 7199.5:
        return f"{int(round(seconds) // 60)} min {int(round(seconds) % 60):02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def share(part: float, whole: float) -> str:
    """A part of a whole in percent, coarser the larger it is."""
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:,.0f} %".replace(",", "\u2009")


@cache
def environment() -> "jinja2.Environment":
    """The templates of the report: everything put into them is escaped, an unknown name in them is an error."""
    import jinja2

    loader = jinja2.PackageLoader("untrain.report", "templates")
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["unbroken"] = lambda text: re.sub(r"(?<=\d) (?=(%|s|min|h|nats|points)\b|%)", "\u00a0", text)
    return made


def render(template: str, **values: Any) -> Markup:
    """A template filled in; the result counts as safe HTML because the template escapes what it is given."""
    return Markup(environment().get_template(template).render(**values))


def _columns(models: Mapping[str, Mapping[str, Any]], task: str) -> tuple[Measure, ...]:
    """The task's measures, then any further number that the evaluation brings: nothing measured is hidden."""
    have = {key for values in models.values() for key, value in values.items() if number(value) is not None}
    named = {key for values in models.values() for key in (*values, *mapping(values.get("missing")))}
    there = {"known": have, "named": named, "noted": have}
    known = {measure.key for measure in MEASURES[task]}
    columns = [m for m in MEASURES[task] if m.shown == "always" or m.key in there[m.shown]]
    extra = [key for values in models.values() for key in values if key in have and key not in known]
    return (*columns, *(Measure(key, key, key, "", "", "", digits=3) for key in dict.fromkeys(extra)))


def _absent(models: Mapping[str, Mapping[str, Any]], task: str, columns: Sequence[Measure]) -> tuple[str, ...]:
    """Why no model has measures that are noted where they are missing: a line for each reason."""
    told: dict[str, list[str]] = {}
    for measure in MEASURES[task]:
        if measure.shown == "noted" and measure not in columns:
            reasons = (mapping(values.get("missing")).get(measure.key) for values in models.values())
            known = dict.fromkeys(str(reason).rstrip(". ") for reason in reasons if reason)
            if known:
                told.setdefault("; ".join(known), []).append(f"{measure.title} ({measure.name})")
    return tuple(f"not measured: {', '.join(names)}: {reason}" for reason, names in told.items())


def _cell(
    measure: Measure, values: Mapping[str, Any], aims: Mapping[str, Any], role: Role, notes: dict[str, int]
) -> Cell:
    value = number(values.get(measure.key))
    if value is None:
        note = notes.setdefault(_reason(measure, values, role), len(notes) + 1)
        return Cell(None, "—", note=note)
    aim = number(aims.get(measure.key))
    if measure.key == "seconds":
        return Cell(value, duration(value), (share(value, aim),) if aim and role != "original" else ())
    small = (difference(value - aim, measure.digits),) if measure.compared and aim is not None else ()
    return Cell(value, show(value, measure.digits), small)


def _floor_cell(measure: Measure, value: float | None) -> Cell:
    if value is None or measure.key == "seconds":
        return Cell(None, "")
    return Cell(value, show(value, measure.digits))


def _reason(measure: Measure, values: Mapping[str, Any], role: Role) -> str:
    """Why a value is missing, as the evaluation recorded it."""
    recorded = mapping(values.get("missing")).get(measure.key)
    if recorded:
        return str(recorded)
    if isinstance(values.get(measure.key), float):
        return f"the value was not finite ({values[measure.key]})"
    if role == "target" and not measure.compared and measure.key != "seconds":
        return "the retrained model is itself what is compared with"
    if role == "original" and measure.key == "seconds":
        return "the time that training the original took was not recorded"
    if role == "original" and measure.key == "steps":
        return "the original was made by no method"
    return "not recorded"


def difference(value: float, digits: int) -> str:
    """A difference with its sign; ± where it rounds to zero."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else f"±{text[1:]}"


def _marked(row: Row) -> str:
    return row.label + _superscript(row.note) + (" *" if row.closest else "")


def _superscript(note: int | None) -> str:
    return "" if note is None else str(note).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def markdown(text: str) -> str:
    """Text as Markdown shows it, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#$~&])", r"\\\1", " ".join(text.split()))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "†": r"$^{\dagger}$",
    "≈": r"$\approx$", "Δ": r"$\Delta$", "—": "---", "–": "--", "…": r"\dots{}", "\u2009": r"\,", "\u00a0": "~",
    "[": "{[}", "]": "{]}", "*": "{*}",
    **{mark: f"$^{{{i}}}$" for i, mark in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}  # fmt: skip


def latex(text: str) -> str:
    """Text as LaTeX shows it; brackets and stars get braces, as after a row they would be read as its arguments."""
    return "".join(_LATEX.get(sign, sign) for sign in re.sub(r"[\x00-\x1f\x7f]+", " ", text))


def _latex_rows(row: Row, ranked: bool) -> list[str]:
    """The row, and under it one line in small type for each small line of its cells."""
    bold = r"\bfseries " if row.role == "target" else r"\itshape " if row.role == "floor" else ""
    cells = [bold + latex(cell.text + _superscript(cell.note)) for cell in row.cells]
    head = [bold + latex(text) for text in (_marked(row), *([row.rank] if ranked else []))]
    lines = [" & ".join([*head, *cells]) + r" \\"]
    for place in range(max((len(cell.small) for cell in row.cells), default=0)):
        small = [cell.small[place] if place < len(cell.small) else "" for cell in row.cells]
        told = [rf"\scriptsize {latex(text)}" if text else "" for text in small]
        lines.append(" & ".join(["", *([""] * ranked), *told]) + r" \\")
    return lines


def _or_infinite(value: Any) -> float:
    known = number(value)
    return math.inf if known is None else known
