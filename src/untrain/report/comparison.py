"""What `comparison.json` holds, and its tables: as text, CSV, Markdown and LaTeX.

Nothing that failed is averaged away: where a value comes from fewer cells than there are seeds, it says so, and the
errors stand under the table. The reader takes what is there: a measure, a cell or a forget set may be missing.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from untrain.errors import UntrainError
from untrain.report.measures import CLASSIFICATION, MEASURES, Measure, task_of
from untrain.report.tables import (
    Cell,
    Role,
    Row,
    Table,
    difference,
    duration,
    label,
    mapping,
    markdown,
    number,
    role_of,
    sequence,
    show,
)

if TYPE_CHECKING:
    import rich.console

FLOOR = "noise floor"
SPEEDUP = "speedup"
"""Retraining seconds ÷ seconds; shown under the time instead of in a column."""


@dataclass(frozen=True)
class Stat:
    """One measure of one model over the seeds."""

    values: tuple[float | None, ...] = ()
    """One for each cell, None where it is missing."""
    n: int = 0
    """How many values went into the mean."""
    mean: float | None = None
    std: float | None = None
    interval: tuple[float, float] | None = None
    """95 % confidence interval of the mean, by Student's t."""
    few: bool = False
    """Whether there are fewer than five values, so that the interval says little."""
    difference: float | None = None
    """Mean over the seeds of value − the retrained model's of the same seed."""


@dataclass(frozen=True)
class Rank:
    """A method's place by one measure; tied where chance alone could separate it from others."""

    rank: int
    tied: bool

    def __str__(self) -> str:
        """The rank as shown: "2", or "1=" for a tie."""
        return f"{self.rank}=" if self.tied else str(self.rank)


@dataclass(frozen=True)
class SeedCell:
    """One model with one seed: whether it was made, and where."""

    seed: str
    state: str
    error: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Entry:
    """One model of a comparison, over all seeds."""

    name: str
    role: Role
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    cells: tuple[SeedCell, ...] = ()
    stats: Mapping[str, Stat] = field(default_factory=dict)
    ranks: Mapping[str, Rank] = field(default_factory=dict)
    losses: Mapping[str, Any] = field(default_factory=dict)
    by_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name as shown."""
        return label(self.name)

    @property
    def failed(self) -> tuple[SeedCell, ...]:
        """The cells without a result."""
        return tuple(cell for cell in self.cells if cell.state != "done")

    def stat(self, measure: str) -> Stat:
        """A measure; an empty one where it was not taken."""
        return self.stats.get(measure, Stat())

    def mean(self, measure: str) -> float | None:
        """The mean of a measure over the seeds."""
        return self.stat(measure).mean


@dataclass(frozen=True)
class ForgetSet:
    """All models on one forget set: original, retrained ones, then methods, the closest to the target first."""

    name: str
    entries: tuple[Entry, ...]
    spec: Any = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    floor: Mapping[str, Stat] = field(default_factory=dict)
    tuning: Mapping[str, Any] = field(default_factory=dict)
    task: str = CLASSIFICATION

    def of_role(self, *roles: Role) -> tuple[Entry, ...]:
        """The models of these roles, in order."""
        return tuple(entry for entry in self.entries if entry.role in roles)

    @property
    def target(self) -> Entry | None:
        """The retrained model that all are compared with."""
        return next(iter(self.of_role("target")), None)

    @property
    def methods(self) -> tuple[Entry, ...]:
        """What methods made: by rank, those without one last."""
        return self.of_role("method")

    @property
    def noise(self) -> float | None:
        """The noise floor of Avg.D: how far retrained models are from each other."""
        return self.floor["AvgD"].mean if "AvgD" in self.floor else None

    @property
    def seeds(self) -> int:
        """The largest number of cells that a model has."""
        return max((len(entry.cells) for entry in self.entries), default=0)


@dataclass(frozen=True)
class Comparison:
    """What `comparison.json` holds, checked as far as a report needs."""

    name: str
    sets: tuple[ForgetSet, ...]
    task: str = CLASSIFICATION
    seeds: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def comparison_of(content: Mapping[str, Any]) -> Comparison:
    """Reads the content of `comparison.json`.

    Raises:
        UntrainError: if there is no forget set with a model in it, or the task has no measures.
    """
    task = task_of(content)
    given = mapping(mapping(content).get("forget_sets"))
    sets = tuple(_forget_set(str(name), mapping(one), task) for name, one in given.items())
    sets = tuple(one for one in sets if one.entries)
    if not sets:
        raise UntrainError(
            "the comparison holds no model: expected {'forget_sets': {name: {'models': {name: …}}}}. "
            "Make comparison.json again with `untrain compare`."
        )
    return Comparison(
        _word(content.get("name")) or "comparison", sets, task,
        tuple(str(seed) for seed in sequence(content.get("seeds"))),
        tuple(str(name) for name in sequence(content.get("classes"))), mapping(content.get("settings")),
    )  # fmt: skip


def comparison_tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The tables of a comparison: "txt", "csv", "md" and "tex" → the file's text.

    The CSV has one line for each forget set, model and measure, every value unrounded; the others have one row a
    model and say mean ± standard deviation over the seeds, the difference to the retrained model, the 95 % confidence
    interval, ranks, and what failed.

    Args:
        content: what `comparison.json` holds.

    Raises:
        UntrainError: if there is no model in it.
    """
    comparison = comparison_of(content)
    plain = [(one, [t for t in (main_table(one), further_table(one)) if t]) for one in comparison.sets]
    text = [f"{_title(comparison, one)}\n\n" + "\n".join(t.text() for t in tables) for one, tables in plain]
    marked = [
        f"### {markdown(_title(comparison, one))}\n\n" + "\n".join(t.markdown() for t in tables)
        for one, tables in plain
    ]
    tex = [
        table.latex(f"{_title(comparison, one)}. {note}", f"tab:{_slug(comparison.name)}-{_slug(one.name)}{suffix}")
        for one, tables in plain
        for table, (note, suffix) in zip(tables, _CAPTIONS)
    ]
    head = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}\n"
    return {"txt": "\n".join(text), "csv": _csv(comparison), "md": "\n".join(marked), "tex": head + "\n".join(tex)}


def terminal(content: Mapping[str, Any]) -> "rich.console.Group":
    """The comparison for the terminal: the main table of each forget set, narrow, without intervals.

    Raises:
        UntrainError: if there is no model in it.
    """
    from rich.console import Group
    from rich.text import Text

    comparison = comparison_of(content)
    parts: list[Any] = []
    for one in comparison.sets:
        parts += [Text(_title(comparison, one), style="bold"), main_table(one, narrow=True).rich(legend=False)]
        parts.append(Text("\n".join(main_table(one, narrow=True).legend()), style="dim"))
    return Group(*parts)


def main_table(one: ForgetSet, narrow: bool = False) -> Table:
    """The comparison on one forget set in the measures that matter most.

    Args:
        one: the forget set.
        narrow: standard deviations go under the values, intervals and ToW are left out, for a terminal of 80 columns.
    """
    wanted = tuple(m for m in measures_of(one) if m.main and not (narrow and m.key == "ToW"))
    return _table(one, wanted, narrow, ranked=is_ranked(one))


def further_table(one: ForgetSet) -> Table | None:
    """The other measures in the same form; None where there are none."""
    rest = tuple(m for m in measures_of(one) if not m.main)
    return _table(one, rest, ranked=False) if rest else None


def is_ranked(one: ForgetSet) -> bool:
    """Whether methods have places: Avg.D, which they are ranked by, is a measure of the task."""
    return any(measure.key == "AvgD" for measure in MEASURES[one.task])


def measures_of(one: ForgetSet) -> tuple[Measure, ...]:
    """The measures that any model has a value of, the known ones first."""
    have = [k for entry in one.entries for k, stat in entry.stats.items() if stat.n and k != SPEEDUP]
    known = {measure.key: measure for measure in MEASURES[one.task]}
    extra = [key for key in dict.fromkeys(have) if key not in known]
    return (
        *(measure for key, measure in known.items() if key in have),
        *(Measure(key, key, key, "", "", "", digits=3, main=False) for key in extra),
    )


# Reading.


def _word(given: Any) -> str:
    return given if isinstance(given, str) else ""


def _forget_set(name: str, given: Mapping[str, Any], task: str) -> ForgetSet:
    entries = [_entry(str(key), mapping(value)) for key, value in mapping(given.get("models")).items()]
    order: dict[Role, int] = {"original": 0, "target": 1, "reference": 2, "method": 3}
    entries.sort(key=lambda entry: (order[entry.role], *_place(entry)))
    sizes = {str(k): int(n) for k, v in mapping(given.get("sizes")).items() if (n := number(v)) is not None}
    floor = {str(k): stat for k, v in mapping(given.get("noise_floor")).items() if (stat := _stat(v)).mean is not None}
    return ForgetSet(name, tuple(entries), given.get("spec"), sizes, floor, mapping(given.get("tuning")), task)


def _place(entry: Entry) -> tuple[bool, float, float]:
    """Where a method stands: by rank, then by its mean; the unranked after them."""
    if entry.role != "method":
        return (False, 0.0, 0.0)  # sorting is stable: as in the file
    rank, mean = entry.ranks.get("AvgD"), entry.mean("AvgD")
    infinite = float("inf")
    return (rank is None, rank.rank if rank else infinite, infinite if mean is None else mean)


def _entry(name: str, given: Mapping[str, Any]) -> Entry:
    roles: dict[Any, Role] = {"original": "original", "target": "target", "reference": "reference", "method": "method"}
    role = given.get("role")
    known = roles.get(role) if isinstance(role, str) else None
    return Entry(
        name, known or role_of(name), _word(given.get("method")), mapping(given.get("settings")),
        tuple(_cell_of(mapping(cell)) for cell in sequence(given.get("cells"))),
        {str(key): _stat(value) for key, value in mapping(given.get("measures")).items()},
        {str(key): rank for key, value in mapping(given.get("rank")).items() if (rank := _rank(value))},
        mapping(given.get("losses")),
        {str(key): _numbers(mapping(value)) for key, value in mapping(given.get("by_class")).items()},
    )  # fmt: skip


def _cell_of(given: Mapping[str, Any]) -> SeedCell:
    words = (given.get(key) for key in ("seed", "state", "error", "folder"))
    return SeedCell(*("" if word is None else str(word) for word in words))


def _stat(given: Any) -> Stat:
    if (alone := number(given)) is not None:
        return Stat((alone,), 1, alone, few=True)
    given = mapping(given)
    values = tuple(number(value) for value in sequence(given.get("values")))
    mean, counted = number(given.get("mean")), sum(value is not None for value in values)
    if mean is None:
        return Stat(values)
    n = int(number(given.get("n")) or counted or 1)
    ends = [number(end) for end in sequence(given.get("ci95"))]
    interval = (ends[0], ends[1]) if len(ends) == 2 and ends[0] is not None and ends[1] is not None else None
    few = given["few"] if isinstance(given.get("few"), bool) else n < 5
    return Stat(values, n, mean, number(given.get("std")), interval, few, number(given.get("difference")))


def _rank(given: Any) -> Rank | None:
    rank = number(mapping(given).get("rank"))
    return None if rank is None else Rank(int(rank), mapping(given).get("tied") is True)


def _numbers(given: Mapping[str, Any]) -> dict[str, float]:
    return {str(key): known for key, value in given.items() if (known := number(value)) is not None}


# Tables.

_CAPTIONS = (("Mean and standard deviation over the seeds.", ""), ("Further measures.", "-further"))


def _table(one: ForgetSet, measures: Sequence[Measure], narrow: bool = False, ranked: bool = True) -> Table:
    rows: list[Row] = []
    notes: list[str] = []
    flagged = len(_fewness(one, measures)) == 2
    for entry in one.entries:
        if entry.role == "method" and one.floor and not any(row.role == "floor" for row in rows):
            rows.append(_floor_row(one, measures, narrow))
        if entry.failed:
            notes.append(failures(entry))
        rank = entry.ranks.get("AvgD")
        cells = tuple(_cell(measure, entry, narrow, flagged) for measure in measures)
        shown = str(rank) if rank else "—" if entry.role == "method" else ""
        note = len(notes) if entry.failed else None
        rows.append(Row(entry.name, entry.label, entry.role, cells, bool(rank and rank.rank == 1), shown, note))
    if one.floor and not any(row.role == "floor" for row in rows):
        rows.append(_floor_row(one, measures, narrow))
    return Table(tuple(measures), tuple(rows), tuple(notes), _marks(one, measures, rows, narrow), ranked)


def few_note(one: ForgetSet, measures: Sequence[Measure] | None = None) -> str:
    """What is to be said of intervals from few seeds; nothing where there is none."""
    fewness = _fewness(one, measures_of(one) if measures is None else measures)
    which = "† from" if False in fewness else "all intervals are from"
    return f"{which} fewer than five seeds: read them with care" if True in fewness else ""


def _fewness(one: ForgetSet, measures: Sequence[Measure]) -> set[bool]:
    """Whether intervals come from few seeds: of both kinds only, if some do, single ones are marked."""
    stats = [entry.stat(measure.key) for entry in one.entries for measure in measures]
    return {stat.few for stat in stats if stat.interval}


def failures(entry: Entry) -> str:
    """Which cells of a model have no result, and why."""
    told = []
    for cell in entry.failed:
        state = "was not run" if cell.state == "missing" else cell.state
        told.append(f"seed {cell.seed} {state}" + (f": {' '.join(cell.error.split())}" if cell.error else ""))
    return f"{entry.label}: {'; '.join(told).rstrip('.')}."


def _cell(measure: Measure, entry: Entry, narrow: bool, flagged: bool) -> Cell:
    stat = entry.stat(measure.key)
    whole = max(len(entry.cells), len(stat.values))
    if stat.mean is None:
        return Cell(None, "—", (f"0 of {whole}",) if entry.failed else ())
    text, spread = _mean(measure, stat)
    small = [spread.replace(" ", "", 1)] if narrow and spread else []
    if measure.compared and stat.difference is not None and entry.role != "target":
        small.append(difference(stat.difference, measure.digits))
    if stat.interval and not narrow:
        ends = ", ".join(_shown(measure, end, stat.mean) for end in stat.interval)
        small.append(f"[{ends}]" + ("†" if flagged and stat.few else ""))
    if measure.key == "seconds" and entry.role == "method" and (factor := entry.mean(SPEEDUP)) is not None:
        small.append(f"{show(factor, 1)}×")
    if measure.key == "KL" and (rank := entry.ranks.get("KL")):
        small.append(f"#{rank}" if narrow else f"rank {rank}")
    if stat.n < whole:
        small.append(f"{stat.n} of {whole}")
    return Cell(stat.mean, text if narrow or not spread else f"{text} {spread}", tuple(small))


def _floor_row(one: ForgetSet, measures: Sequence[Measure], narrow: bool) -> Row:
    cells = []
    for measure in measures:
        stat = one.floor.get(measure.key, Stat())
        text, spread = _mean(measure, stat) if measure.key != "seconds" else ("", "")
        together = text if narrow or not spread else f"{text} {spread}"
        cells.append(Cell(stat.mean, together, (spread.replace(" ", "", 1),) if narrow and spread else ()))
    return Row(FLOOR, FLOOR, "floor", tuple(cells))


def _mean(measure: Measure, stat: Stat) -> tuple[str, str]:
    """Mean and "± standard deviation" as shown; the latter is empty where there is none."""
    if stat.mean is None:
        return "", ""
    spread = "" if stat.std is None else f"± {_shown(measure, stat.std, stat.mean)}"
    return (duration(stat.mean) if measure.key == "seconds" else show(stat.mean, measure.digits)), spread


def _shown(measure: Measure, value: float, like: float) -> str:
    """A spread or an end of an interval, as precise as the mean beside it."""
    if measure.key == "seconds":
        return duration(value) if like >= 119.95 else show(value, 2 if like < 10 else 1)
    return show(value, measure.digits) if abs(value) >= 0.5 * 10**-measure.digits else f"{0:.{measure.digits}f}"


def _marks(one: ForgetSet, measures: Sequence[Measure], rows: Sequence[Row], narrow: bool) -> tuple[str, ...]:
    under = ["the difference to it"] if any(m.compared for m in measures) and one.target else []
    if _fewness(one, measures) and not narrow:
        under.append("[95 % confidence interval of the mean]")
    if any(m.key == "seconds" for m in measures) and any(entry.mean(SPEEDUP) for entry in one.methods):
        under.append("how many times faster than retraining")
    said = [f"the target is {one.target.label}"] if one.target else []
    marks = ["; under the values: ".join([*said, *([", ".join(under)] if under else [])])] if said or under else []
    if not narrow and (few := few_note(one, measures)):
        marks.append(few)
    if any(row.closest for row in rows):
        marks.append("* the closest to it by Avg.D")
    if any(rank.tied for entry in one.methods for rank in entry.ranks.values()):
        marks.append("= methods that the noise floor cannot tell apart")
    return tuple(marks)


def _title(comparison: Comparison, one: ForgetSet) -> str:
    seeds = len(comparison.seeds) or one.seeds
    parts = [f"{comparison.name}, forget set {one.name}"]
    if "forget" in one.sizes and "retain" in one.sizes:
        parts.append(f"{one.sizes['forget']:,} of {one.sizes['forget'] + one.sizes['retain']:,} samples")
    parts.append(f"{seeds} {'seed' if seeds == 1 else 'seeds'}")
    return ", ".join(parts)


def _csv(comparison: Comparison) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([
        "forget_set", "model", "measure", "n", "mean", "std", "ci_low", "ci_high", "difference", "rank", "tied", "few",
    ])  # fmt: skip
    for one in comparison.sets:
        for entry in one.entries:
            for key, stat in entry.stats.items():
                writer.writerow([one.name, entry.name, key, *_csv_values(stat, entry.ranks.get(key))])
        for key, stat in one.floor.items():
            writer.writerow([one.name, FLOOR, key, *_csv_values(stat, None)])
    return out.getvalue()


def _csv_values(stat: Stat, rank: Rank | None) -> list[str]:
    low, high = stat.interval or (None, None)
    numbers = [stat.mean, stat.std, low, high, stat.difference]
    flags = [str(rank.rank), str(rank.tied).lower()] if rank else ["", ""]
    few = str(stat.few).lower() if stat.n else ""
    return [str(stat.n), *("" if value is None else repr(value) for value in numbers), *flags, few]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "set"
