"""Tables for LaTeX: scaled to the width of a page, or small enough for one of two columns as they are."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from untrain.report.measures import Measure
from untrain.report.words import clean, list_values, superscript

if TYPE_CHECKING:
    from untrain.report.tables import Row, Table

LatexForm = Literal["wide", "compact"]

COLUMN = 234.0
"""Width in pt of the narrowest column of usual styles (3.25 inches)."""
GAP = 2.5
"""Space in pt at each side of a compact table's columns, `\\tabcolsep`."""
NAME = 14
"""Longer names of models are cut short in a compact table."""


def write_wide(table: "Table", caption: str, name: str) -> str:
    """Writes a table as wide as the page, which scales it."""
    ranked = bool(table.ranked)
    names = [f"{m.name} [{m.head_unit}]" if m.head_unit else m.name for m in table.measures]
    lines = [
        "\\begin{table*}", "\\centering", f"\\caption{{{escape_latex(caption)}}}", f"\\label{{{name}}}",
        "\\resizebox{\\textwidth}{!}{%", f"\\begin{{tabular}}{{l{'c' * ranked}{'r' * len(names)}}}", "\\toprule",
        " & ".join(["Model", *(["Rank"] * ranked), *map(escape_latex, names)]) + r" \\", "\\midrule",
    ]  # fmt: skip
    for place, row in enumerate(table.rows):
        lines += ["\\addlinespace"] * bool(place) + _rows_of(row, ranked)
    lines += ["\\bottomrule", "\\end{tabular}}"]
    lines += [rf"\par\raggedright\footnotesize {escape_latex(line)}" for line in table.legend()]
    return "\n".join([*lines, "\\end{table*}"]) + "\n"


def write_compact(table: "Table", caption: str, name: str) -> str:
    """Writes a table that fits a column as it is; measures that do not fit are left out, and named under it."""
    kept, absent = _fitting(table)
    chosen = [table.measures.index(measure) for measure in kept]
    units = {unit: [m.name for m in kept if m.head_unit == unit] for unit in dict.fromkeys(m.head_unit for m in kept)}
    told = [f"{', '.join(names)} in {unit}" for unit, names in units.items() if unit]
    lines = [
        "\\begin{table}", "\\centering\\footnotesize", f"\\setlength{{\\tabcolsep}}{{{GAP}pt}}",
        f"\\caption{{{escape_latex(caption)}}}", f"\\label{{{name}}}",
        f"\\begin{{tabular}}{{@{{}}l{'r' * len(kept)}@{{}}}}", "\\toprule",
        " & ".join(["Model", *(escape_latex(measure.name) for measure in kept)]) + r" \\", "\\midrule",
    ]  # fmt: skip
    used: set[int | None] = set()
    for row in table.rows:
        cells = [row.cells[place] for place in chosen]
        if not any(cell.text for cell in cells):
            continue  # the noise floor of measures that are left out
        used |= {row.note, *(cell.note for cell in cells)}
        lines.append(
            " & ".join(
                [_styled(row, _short(row)), *(_styled(row, cell.text + superscript(cell.note)) for cell in cells)]
            )
            + r" \\"
        )
        if any(_spread(cell.small) for cell in cells):
            small = [rf"\scriptsize {escape_latex(text)}" if (text := _spread(cell.small)) else "" for cell in cells]
            lines.append(" & ".join(["", *small]) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    notes = [f"{'; '.join(told)}."] if told else []
    notes += [f"Left out to fit the column: {list_values(absent)}."] if absent else []
    notes += [mark for mark in table.marks if mark.startswith("*")]
    notes += [f"{superscript(i)} {note}" for i, note in enumerate(table.notes, 1) if i in used]
    lines += [rf"\par\raggedright\scriptsize {escape_latex(line)}" for line in notes]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _fitting(table: "Table") -> tuple[list[Measure], list[str]]:
    """Returns the measures that fit a column beside the names, in order, and the names of those that do not.

    The last ones go first, by their worth.
    """
    expendable = sorted(
        range(len(table.measures)),
        key=lambda i: (*_worth(table, table.measures[i]), -i),
    )
    left_out: set[int] = set()
    while _width(table, left_out) > COLUMN and len(left_out) < len(table.measures) - 1:
        left_out.add(expendable[len(left_out)])
    kept = [measure for place, measure in enumerate(table.measures) if place not in left_out]
    return kept, [table.measures[place].name for place in sorted(left_out)]


def _worth(table: "Table", measure: Measure) -> tuple[bool, bool, bool, bool]:
    """Orders measures by how long they stay: what a narrow terminal shows, what ranks methods, and the time longest."""
    return measure.narrow, measure.main, measure.key == "seconds", measure.name == table.ranked


def _width(table: "Table", left_out: set[int]) -> float:
    """Estimates the width of a compact table in pt."""
    columns = [max(width_of(text) for text in ["Model", *map(_short, table.rows)])]
    for place, measure in enumerate(table.measures):
        if place not in left_out:
            cells = [row.cells[place] for row in table.rows]
            small = [0.75 * width_of(_spread(cell.small)) for cell in cells]
            columns.append(max([width_of(measure.name), *(width_of(cell.text) for cell in cells), *small]))
    return sum(columns) + 2 * GAP * (len(columns) - 1)


def width_of(text: str) -> float:
    """Estimates the width of text in pt in Computer Modern of 8 pt, bold, the widest that a table has."""
    narrow, wide = set("ijlI.,:;'|!()[] "), set("mwMW%±×→−—")
    return sum(2.9 if sign in narrow else 7.8 if sign in wide else 6.2 if sign.isupper() else 4.7 for sign in text)


def _short(row: "Row") -> str:
    return clean(row.label, NAME) + superscript(row.note) + (" *" if row.closest else "")


def _spread(small: Sequence[str]) -> str:
    """Returns the standard deviation among the lines under a value."""
    return next((line for line in small if line.startswith("±")), "")


def _styled(row: "Row", text: str) -> str:
    bold = r"\bfseries " if row.role == "target" else r"\itshape " if row.role == "floor" else ""
    return bold + escape_latex(text)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "†": r"$^{\dagger}$",
    "≈": r"$\approx$", "Δ": r"$\Delta$", "—": "---", "–": "--", "…": r"\dots{}", "\u2009": r"\,", "\u00a0": "~",
    "[": "{[}", "]": "{]}", "*": "{*}",
    **{mark: f"$^{{{i}}}$" for i, mark in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Escapes text for LaTeX; brackets and stars get braces, as after a row they would be read as its arguments."""
    return "".join(_LATEX.get(sign, sign) for sign in re.sub(r"[\x00-\x1f\x7f]+", " ", text))


def _rows_of(row: "Row", ranked: bool) -> list[str]:
    """Writes the row, and under it one line in small type for each small line of its cells."""
    cells = [_styled(row, cell.text + superscript(cell.note)) for cell in row.cells]
    head = [_styled(row, text) for text in (row.marked, *([row.rank] if ranked else []))]
    lines = [" & ".join([*head, *cells]) + r" \\"]
    for place in range(max((len(cell.small) for cell in row.cells), default=0)):
        small = [cell.small[place] if place < len(cell.small) else "" for cell in row.cells]
        told = [rf"\scriptsize {escape_latex(text)}" if text else "" for text in small]
        lines.append(" & ".join(["", *([""] * ranked), *told]) + r" \\")
    return lines
