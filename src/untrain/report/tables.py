"""Models side by side, of a run or a comparison, as a table for terminal, text, Markdown, LaTeX, CSV and HTML.

Nothing that failed is averaged away: where a value comes from fewer cells than there are seeds, it says so, and the
errors stand under the table.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from untrain.report.html import render
from untrain.report.latex import LatexForm, write_compact, write_wide
from untrain.report.measures import AUDIT_AUC, AUDIT_VERDICT, AUDITED, TRACE_LEFT, Measure
from untrain.report.results import SPEEDUP, Entry, ForgetSet, Rank, Results, Role, Stat
from untrain.report.words import count_of, show, show_difference, show_duration, show_share, superscript

if TYPE_CHECKING:
    import rich.console
    import rich.table

    from untrain.report.presentation import Presentation


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
    role: Role | Literal["floor"]
    cells: tuple[Cell, ...]
    closest: bool = False
    """Whether this is a method that came closest to the retrained model."""
    rank: str = ""
    note: int | None = None
    """The number of a footnote about the whole row."""

    @property
    def marked(self) -> str:
        """The label with its footnote, and a star where it is the closest."""
        return self.label + superscript(self.note) + (" *" if self.closest else "")


@dataclass(frozen=True)
class Table:
    """The comparison of models: one row a model, one column a measure, footnotes for what could not be had."""

    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    marks: tuple[str, ...] = ()
    """What the signs in the table mean; the page says it in other words."""
    ranked: str = ""
    """The name of the measure that the column of ranks is by; empty: there is none."""
    absent: tuple[str, ...] = ()
    """The measures without a column, as no model has a value, and why."""

    def rich(self, legend: bool = True) -> "rich.table.Table":
        """Makes the table for the terminal; the differences to the retrained model stand dimmed under the values.

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
            unit = f"\n{measure.head_unit}" if measure.head_unit else ""
            table.add_column(Text(measure.name.replace(" ", "\n") + unit), justify="right", no_wrap=True)
        for row in self.rows:
            style = {"target": "bold", "floor": "dim italic"}.get(row.role, "green" if row.closest else "")
            head = [Text(text, style=style) for text in (row.marked, *([row.rank] if self.ranked else []))]
            cells = [Text(cell.text + superscript(cell.note), style=style) for cell in row.cells]
            for text, cell in zip(cells, row.cells):
                for line in cell.small:
                    text.append(f"\n{line}", style="dim not bold")
            table.add_row(*head, *cells)
        table.caption = Text("\n".join(self.legend())) if legend and self.legend() else None
        return table

    def text(self) -> str:
        """Writes the table as plain text, without colour or escape codes."""
        from rich.console import Console

        console = Console(file=io.StringIO(), width=400, color_system=None, force_terminal=False, emoji=False)
        with console.capture() as capture:
            console.print(self.rich(legend=False))
        lines = [line.rstrip() for line in capture.get().splitlines()]
        return "\n".join([line for line in lines if line] + list(self.legend())) + "\n"

    def markdown(self) -> str:
        """Writes the table in Markdown, the retrained model's row in bold."""
        ranked = ["#"] if self.ranked else []
        names = [f"{m.name} ({m.head_unit})" if m.head_unit else m.name for m in self.measures]
        lines = [_markdown_row(["model", *ranked, *names])]
        lines.append(_markdown_row(["---", *["---:"] * (len(ranked) + len(names))]))
        for row in self.rows:
            bold = "**" if row.role == "target" else ""
            cells = [
                f"{bold}{cell.text}{superscript(cell.note)}{bold}"
                + (f" ({escape_markdown('; '.join(cell.small))})" if cell.small else "")
                for cell in row.cells
            ]
            name = f"{bold}{escape_markdown(row.marked)}{bold}"
            lines.append(_markdown_row([name, *([row.rank] * len(ranked)), *cells]))
        notes = [escape_markdown(line) for line in self.legend()]
        return "\n".join(lines) + "\n" + ("\n" + "  \n".join(notes) + "\n" if notes else "")

    def latex(self, caption: str, name: str, form: LatexForm = "wide") -> str:
        r"""Writes the table for LaTeX with booktabs, everything escaped, the target's row bold.

        Args:
            caption: what stands above it, as plain text.
            name: what `\ref` calls it.
            form: "wide" is scaled to the page's width (graphicx), with all that stands under the values; "compact"
                fits a column of 234 pt as it is: short heads, deviations, and as many measures as there is room for.
        """
        return (write_compact if form == "compact" else write_wide)(self, caption, name)

    def csv(self) -> str:
        """Writes the values as they were measured, unrounded; an empty field where there is none."""
        rows = ([row.name, *(_csv_number(cell.value) for cell in row.cells)] for row in self.rows)
        return _csv([["model", *(m.key for m in self.measures)], *rows])

    def html(self) -> Markup:
        """Writes the table as an HTML fragment, all names escaped; its classes are styled by the page."""
        return render("comparison.html.j2", table=self)

    def legend(self) -> tuple[str, ...]:
        """Returns the lines that stand under the table: marks and footnotes."""
        return (*self.marks, *(f"{superscript(i)} {note}" for i, note in enumerate(self.notes, 1)), *self.absent)


def run_table(results: Results, presentation: "Presentation") -> Table:
    """Makes the table of all measures of a run."""
    one = results.sets[0]
    return _Builder(one, results, presentation, columns_of(one, results, presentation)).build()


def main_table(
    one: ForgetSet, results: Results, presentation: "Presentation", narrow: bool = False, *, audited: bool = True
) -> Table:
    """Makes the table of a forget set in the measures that matter most.

    Args:
        one: the forget set.
        results: those that it belongs to.
        presentation: of the task.
        narrow: standard deviations go under the values, intervals and some measures are left out, for a terminal of 80
            columns.
        audited: whether what audits found has columns.
    """
    columns = [m for m in columns_of(one, results, presentation) if audited or m not in AUDITED]
    wanted = [m for m in columns if m.main and (m.narrow or not narrow)]
    return _Builder(one, results, presentation, wanted, narrow, ranked=presentation.distance is not None).build()


def further_table(one: ForgetSet, results: Results, presentation: "Presentation") -> Table | None:
    """Makes the table of the other measures in the same form; None where there are none."""
    rest = [m for m in columns_of(one, results, presentation) if not m.main]
    return _Builder(one, results, presentation, rest).build() if rest else None


def columns_of(one: ForgetSet, results: Results, presentation: "Presentation") -> list[Measure]:
    """Returns the measures that have a column: the task's, then any other number: nothing measured is hidden.

    In a comparison, a measure has one where any model has a value; in a run as the measure says.
    """
    have = dict.fromkeys(k for entry in one.entries for k, s in entry.stats.items() if s.n and k != SPEEDUP)
    named = {key for entry in one.entries for key in entry.missing} | set(have)
    known = {measure.key for measure in presentation.measures}
    there = {"always": known, "named": named} if not results.compared else {}
    columns = [measure for measure in presentation.measures if measure.key in there.get(measure.shown, have)]
    audited = [m for m in AUDITED if m.key in have or (m is AUDIT_VERDICT and one.audits)]
    further = [key for key in have if key not in known and key not in {m.key for m in AUDITED}]
    return [*audited, *columns, *map(presentation.measure, further)]


def terminal(results: Results, presentation: "Presentation") -> "rich.console.Group":
    """Makes the tables for the terminal: of a comparison the main one of each forget set, narrow, without intervals."""
    from rich.console import Group
    from rich.text import Text

    if not results.compared:
        return Group(run_table(results, presentation).rich())
    parts: list[Any] = []
    for one in results.sets:
        table = main_table(one, results, presentation, narrow=True, audited=False)
        parts += [Text(_title(results, one), style="bold"), table.rich(legend=False)]
        parts.append(Text("\n".join(table.legend()), style="dim"))
        parts += [Text(line) for line in describe_audits(one, presentation)]
    return Group(*parts)


def latex_tables(results: Results, presentation: "Presentation", form: LatexForm = "wide") -> str:
    """Writes the tables of a run or a comparison for LaTeX; compact ones have the measures that matter most alone."""
    packages = ("booktabs",) if form == "compact" else ("booktabs", "graphicx")
    found = ["% needs " + " and ".join(f"\\usepackage{{{package}}}" for package in packages)]
    for one in results.sets:
        if not results.compared:
            found.append(run_table(results, presentation).latex(results.name, f"tab:{_slug(results.name)}", form))
            continue
        title, name = _title(results, one), f"tab:{_slug(results.name)}-{_slug(one.name)}"
        main = main_table(one, results, presentation, narrow=form == "compact")
        found.append(main.latex(f"{title}. Mean and standard deviation over the seeds.", name, form))
        further = further_table(one, results, presentation) if form == "wide" else None
        found += [further.latex(f"{title}. Further measures.", f"{name}-further")] if further else []
    return "\n".join(found)


def comparison_tables(results: Results, presentation: "Presentation", form: LatexForm = "wide") -> dict[str, str]:
    """Writes the tables of a comparison: "txt", "csv", "md" and "tex" → the file's text.

    The CSV has one line for each forget set, model and measure, every value unrounded; the others have one row a
    model and say mean ± standard deviation over the seeds, the difference to the retrained model, the 95 % confidence
    interval, ranks, and what failed.

    Args:
        results: of the comparison.
        presentation: of the task.
        form: of the tables for LaTeX.
    """
    text, marked = [], []
    for one in results.sets:
        main, further = main_table(one, results, presentation), further_table(one, results, presentation)
        title = _title(results, one)
        tables = [main, *([further] if further else [])]
        text.append(f"{title}\n\n" + "\n".join(table.text() for table in tables))
        marked.append(f"### {escape_markdown(title)}\n\n" + "\n".join(table.markdown() for table in tables))
    return {
        "txt": "\n".join(text),
        "csv": _long_csv(results, presentation),
        "md": "\n".join(marked),
        "tex": latex_tables(results, presentation, form),
    }


def describe_audits(one: ForgetSet, presentation: "Presentation") -> list[str]:
    """Says what audits found, a line a method; none where there is none."""
    lines = []
    for entry in presentation.order(one):
        if (found := one.audits.get(entry.name)) is not None:
            known = [(m, stat) for m in (TRACE_LEFT, AUDIT_AUC) if (stat := entry.stat(m.key)).mean is not None]
            told = [f"{m.name} {m.amount(stat.mean or 0.0)}" for m, stat in known]
            lines.append(f"audit of {entry.label}: {', '.join([found.kind, *filter(None, [found.subkind]), *told])}")
    return lines


def describe_failures(entry: Entry) -> str:
    """Says which cells of a model have no result, and why."""
    told = []
    for cell in entry.failed:
        state = "was not run" if cell.state == "missing" else cell.state
        told.append(f"seed {cell.seed} {state}" + (f": {' '.join(cell.error.split())}" if cell.error else ""))
    return f"{entry.label}: {'; '.join(told).rstrip('.')}."


def describe_fewness(one: ForgetSet, measures: Iterable[Measure]) -> str:
    """Says what is to be said of intervals from few seeds; nothing where there is none."""
    fewness = _fewness(one, measures)
    which = "† from" if False in fewness else "all intervals are from"
    return f"{which} fewer than five seeds: read them with care" if True in fewness else ""


def _fewness(one: ForgetSet, measures: Iterable[Measure]) -> set[bool]:
    """Whether intervals come from few seeds: of both kinds only, if some do, single ones are marked."""
    stats = [entry.stat(measure.key) for measure in measures for entry in one.entries]
    return {stat.few for stat in stats if stat.interval}


class _Builder:
    """Makes the table of a forget set in some measures."""

    def __init__(
        self, one: ForgetSet, results: Results, presentation: "Presentation", measures: Sequence[Measure],
        narrow: bool = False, ranked: bool = False,
    ) -> None:  # fmt: skip
        self.one, self.results, self.presentation = one, results, presentation
        self.measures, self.narrow, self.ranked = measures, narrow, ranked
        self.gauge = one.target if results.compared else presentation.gauge(one)
        self.closest = [e.name for e in presentation.find_closest(one, ranked=results.compared)]
        self.flagged = len(_fewness(one, measures)) == 2
        self.notes: dict[str, int] = {}

    def build(self) -> Table:
        one = self.one
        floors = [self._floor_row(f.name, f.stats) for f in self.presentation.floors(one, self.results)]
        if self.results.compared:
            rows = [self._row(entry) for entry in self.presentation.entries(one)]
            place = len(rows) - len(one.methods)
            rows[place:place] = floors
        else:
            rows = [*map(self._row, one.entries), *floors]
        ranked = self.presentation.gap.name if self.ranked else ""
        return Table(tuple(self.measures), tuple(rows), tuple(self.notes), self._marks(rows), ranked, self._absent())

    def _row(self, entry: Entry) -> Row:
        note = self._note(describe_failures(entry)) if entry.failed else None
        cells = tuple(self._cell(measure, entry) for measure in self.measures)
        rank = entry.ranks.get(self.presentation.gap.key)
        shown = str(rank) if rank else "—" if entry.role == "method" else ""
        return Row(entry.name, entry.label, entry.role, cells, entry.name in self.closest, shown, note)

    def _floor_row(self, name: str, stats: Mapping[str, Stat]) -> Row:
        cells = []
        for measure in self.measures:
            stat = stats.get(measure.key, Stat()) if measure.key != "seconds" else Stat()
            text, spread = self._mean(measure, stat)
            cells.append(Cell(stat.mean, text, (spread,) if spread else ()))
        return Row(name, name, "floor", tuple(cells))

    def _note(self, text: str) -> int:
        return self.notes.setdefault(text, len(self.notes) + 1)

    def _cell(self, measure: Measure, entry: Entry) -> Cell:
        stat = entry.stat(measure.key)
        if measure is AUDIT_VERDICT:
            one = self.one.audits.get(entry.name)
            return Cell(None, "") if one is None else Cell(None, one.kind, (one.subkind,) if one.subkind else ())
        whole = max(len(entry.cells), len(stat.values))
        if stat.mean is None:
            if not self.results.compared:
                return Cell(None, "—", note=self._note(_reason(measure, entry)))
            return Cell(None, "—", (f"0 of {whole}",) if entry.failed else ())
        text, spread = self._mean(measure, stat)
        small = [spread] if spread else []
        apart = self._difference(measure, entry, stat)
        small += [show_difference(apart, measure.digits)] if apart is not None else []
        if stat.interval and not self.narrow:
            ends = ", ".join(_show_like(measure, end, stat.mean) for end in measure.within(stat.interval))
            small.append(f"[{ends}]" + ("†" if self.flagged and stat.few else ""))
        if measure.key == "seconds":
            small += self._speed(entry, stat.mean)
        if measure.key in self.presentation.finer and (rank := entry.ranks.get(measure.key)):
            small.append(f"#{rank}" if self.narrow else f"rank {rank}")
        if stat.n < whole and measure not in AUDITED:  # one audit a forget set: its models are other seeds
            small.append(f"{stat.n} of {whole}")
        return Cell(stat.mean, text, tuple(small))

    def _mean(self, measure: Measure, stat: Stat) -> tuple[str, str]:
        """Shows mean and standard deviation, which stands beside it, or in a narrow table under it."""
        if stat.mean is None:
            return "", ""
        text = measure.show(stat.mean)
        if stat.std is None:
            return text, ""
        spread = _show_like(measure, stat.std, stat.mean)
        return (text, f"±{spread}") if self.narrow else (f"{text} ± {spread}", "")

    def _difference(self, measure: Measure, entry: Entry, stat: Stat) -> float | None:
        """Returns the difference to the model that values are held against; a comparison has it seed by seed."""
        if not measure.compared or self.gauge is None or entry is self.gauge:
            return None
        aim = self.gauge.mean(measure.key)
        if self.results.compared:
            return stat.difference
        return None if aim is None or stat.mean is None else stat.mean - aim

    def _speed(self, entry: Entry, seconds: float) -> list[str]:
        """Compares a time with retraining: how many times faster, or of a single run which part of it."""
        if self.results.compared:
            factor = entry.mean(SPEEDUP)
            return [f"{show(factor, 1)}×"] if entry.role == "method" and factor is not None else []
        whole = self.one.aim("seconds")
        return [show_share(seconds, whole)] if whole and entry.role not in ("original", "target") else []

    def _marks(self, rows: Sequence[Row]) -> tuple[str, ...]:
        under, few = [], describe_fewness(self.one, self.measures)
        if self.gauge and any(measure.compared for measure in self.measures):
            under.append(f"the difference to {'it' if self.gauge.role == 'target' else self.gauge.label}")
        if _fewness(self.one, self.measures) and not self.narrow:
            under.append("[95 % confidence interval of the mean]")
        timed = any(measure.key == "seconds" for measure in self.measures)
        if timed and any(entry.mean(SPEEDUP) for entry in self.one.methods):
            under.append("how many times faster than retraining")
        said = [f"the target is {self.gauge.label}"] if self.gauge and self.gauge.role == "target" else []
        said += [f"under the values: {', '.join(under)}"] if under else []
        marks = ["; ".join(said)] if said else []
        marks += [few] if few and not self.narrow else []
        marks += [f"* the closest to it by {self.presentation.gap.name}"] if any(row.closest for row in rows) else []
        tied = any(rank and rank.tied for entry in self.one.methods for rank in entry.ranks.values())
        return (*marks, *["= methods that the noise floor cannot tell apart"] * tied)

    def _absent(self) -> tuple[str, ...]:
        """Says why no model has measures that are noted where they are missing: a line for each reason."""
        told: dict[str, list[str]] = {}
        for measure in () if self.results.compared else self.presentation.measures:
            if measure.shown == "noted" and measure not in self.measures:
                known = dict.fromkeys(reason.rstrip(". ") for entry in self.one.entries
                                      if (reason := entry.missing.get(measure.key)))  # fmt: skip
                if known:
                    told.setdefault("; ".join(known), []).append(f"{measure.title} ({measure.name})")
        return tuple(f"not measured: {', '.join(names)}: {reason}" for reason, names in told.items())


def _reason(measure: Measure, entry: Entry) -> str:
    """Says why a value of a run is missing, as it was recorded."""
    if recorded := entry.missing.get(measure.key):
        return recorded
    if entry.role == "target" and not measure.compared and measure.key != "seconds":
        return "the retrained model is itself what is compared with"
    if entry.role == "original" and measure.key == "seconds":
        return "the time that training the original took was not recorded"
    if entry.role == "original" and measure.key == "steps":
        return "the original was made by no method"
    return "not recorded"


def _show_like(measure: Measure, value: float, like: float) -> str:
    """Shows a spread or an end of an interval as precisely as the mean beside it."""
    if measure.key == "seconds":
        return show_duration(value) if like >= 119.95 else show(value, 2 if like < 10 else 1)
    return show(value, measure.digits) if abs(value) >= 0.5 * 10**-measure.digits else f"{0:.{measure.digits}f}"


def _title(results: Results, one: ForgetSet) -> str:
    parts = [f"{results.name}, forget set {one.name}"]
    if "forget" in one.sizes and "retain" in one.sizes:
        parts.append(f"{one.sizes['forget']:,} of {one.sizes['forget'] + one.sizes['retain']:,} samples")
    return ", ".join([*parts, count_of(len(results.seeds) or one.seeds, "seed")])


# Texts of the forms.


def _long_csv(results: Results, presentation: "Presentation") -> str:
    head = [
        "forget_set",
        "model",
        "measure",
        "n",
        "mean",
        "std",
        "ci_low",
        "ci_high",
        "difference",
        "rank",
        "tied",
        "few",
    ]
    rows = [head]
    for one in results.sets:
        for entry in presentation.entries(one):
            for key, stat in entry.stats.items():
                values = _csv_values(presentation.measure(key), stat, entry.ranks.get(key))
                rows.append([one.name, entry.name, key, *values])
        for key, stat in one.floor.items():
            rows.append([one.name, "noise floor", key, *_csv_values(presentation.measure(key), stat, None)])
    return _csv(rows)


def _csv_values(measure: Measure, stat: Stat, rank: Rank | None) -> list[str]:
    low, high = measure.within(stat.interval) if stat.interval else (None, None)
    numbers = [_csv_number(value) for value in (stat.mean, stat.std, low, high, stat.difference)]
    flags = [str(rank.rank), str(rank.tied).lower()] if rank else ["", ""]
    return [str(stat.n), *numbers, *flags, str(stat.few).lower() if stat.n else ""]


def _csv_number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "set"


def escape_markdown(text: str) -> str:
    """Escapes text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#$~&])", r"\\\1", " ".join(text.split()))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
