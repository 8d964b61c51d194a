"""The comparison of models as a table (terminal, text, Markdown, CSV, HTML), and what it says in one sentence."""

import csv
import io
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from untrain.errors import UntrainError

if TYPE_CHECKING:
    import jinja2
    import rich.table

TARGET = "retrained"
"""The model that the others are compared with: trained from scratch without the forget set."""

VISIBLE = 0.1
"""A change of Avg.D below this share of the original's Avg.D (or below the noise floor) counts as no visible effect."""

LABELS = {"sfron": "SFR-on", "scrub": "SCRUB", "salun": "SalUn", "esd": "ESD"}

Role = Literal["original", "target", "reference", "method", "floor"]


@dataclass(frozen=True)
class Measure:
    """One measure: how it is called, what it means and what it should be, in words for a reader new to the field."""

    key: str
    name: str
    title: str
    unit: str
    meaning: str
    aim: str
    digits: int = 2
    compared: bool = False
    """Whether the difference to the retrained model is shown under the value."""


MEASURES = (
    Measure(
        "FA", "FA", "Forget accuracy", "%",
        "The share of the samples to be forgotten that the model classifies correctly.",
        "The retrained model's value. For samples of known classes that is far from zero: a model often recognises "
        "what it never saw.",
        compared=True,
    ),
    Measure(
        "RA", "RA", "Retain accuracy", "%",
        "The share of the samples to be kept that the model classifies correctly.",
        "The retrained model's value; below it, forgetting has damaged what should stay.",
        compared=True,
    ),
    Measure(
        "TA", "TA", "Test accuracy", "%",
        "The share of new images, never trained on, that the model classifies correctly. When whole classes are "
        "forgotten, only the other classes count.",
        "The retrained model's value; below it, the model has become worse at its work.",
        compared=True,
    ),
    Measure(
        "forgotten_TA", "TA, forgotten", "Test accuracy on the forgotten class", "%",
        "The share of new images of the forgotten class that the model still calls by that class.",
        "The retrained model's value, which is usually zero.",
        compared=True,
    ),
    Measure(
        "MIA", "MIA", "Membership inference attack", "%",
        "An attacker looks at how sure the model is of a sample and guesses whether it was trained on it; the value "
        "is the share of the forget set that is taken for training data.",
        "The retrained model's value: samples it never saw, so whatever the attacker finds there is a false alarm.",
        compared=True,
    ),
    Measure(
        "AvgD", "Avg.D", "Average distance", "points",
        "The mean of the four differences to the retrained model in FA, RA, TA and MIA, in percentage points.",
        "Zero, or the noise floor where that is known.",
    ),
    Measure(
        "ToW", "ToW", "Tug of war", "",
        "One number for how near the accuracies on the forget, retain and test sets come to the retrained model's.",
        "One, which means the same three accuracies.",
        digits=3,
    ),
    Measure(
        "KL", "KL", "Kullback–Leibler divergence", "nats",
        "How far the predicted probabilities on the forget set are from those of the retrained model.",
        "Zero, or the noise floor where that is known.",
        digits=3,
    ),
    Measure(
        "JS", "JS", "Jensen–Shannon divergence", "nats",
        "The same comparison made symmetrical; it never exceeds ln 2 ≈ 0.693.",
        "Zero, or the noise floor where that is known.",
        digits=3,
    ),
    Measure(
        "seconds", "Time", "Run time", "s",
        "How long it took to make the model, the look at the data before the first step (Fisher) included and "
        "evaluation left out. Under it: the share of the retraining time.",
        "A small share of the retraining time; otherwise one could retrain.",
    ),
)  # fmt: skip
OPTIONAL = {"forgotten_TA"}
"""Measures that are left out of the table, not shown as missing, where no model has them."""


@dataclass(frozen=True)
class Cell:
    """One value of the table. `text` is it as shown, `extra` the small line under it, `note` a footnote's number."""

    value: float | None
    text: str
    extra: str = ""
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


@dataclass(frozen=True)
class Table:
    """The comparison of models: one row a model, one column a measure, footnotes for what could not be had."""

    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

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
        for measure in self.measures:
            unit = f"\n{measure.unit}" if measure.unit and measure.key != "seconds" else ""
            table.add_column(Text(measure.name + unit), justify="right", no_wrap=True)
        for row in self.rows:
            style = {"target": "bold", "floor": "dim italic"}.get(row.role, "green" if row.closest else "")
            name = Text(_marked(row), style=style)
            cells = [Text(cell.text + _superscript(cell.note), style=style) for cell in row.cells]
            for text, cell in zip(cells, row.cells):
                if cell.extra:
                    text.append(f"\n{cell.extra}", style="dim not bold")
            table.add_row(name, *cells)
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
        head = ["model", *(f"{m.name} ({m.unit})" if m.unit and m.key != "seconds" else m.name for m in self.measures)]
        lines = [_markdown_row(head), _markdown_row(["---", *["---:"] * len(self.measures)])]
        for row in self.rows:
            bold = "**" if row.role == "target" else ""
            cells = [
                f"{bold}{cell.text}{_superscript(cell.note)}{bold}" + (f" ({cell.extra})" if cell.extra else "")
                for cell in row.cells
            ]
            lines.append(_markdown_row([f"{bold}{_markdown(_marked(row))}{bold}", *cells]))
        notes = [_markdown(line) for line in self.legend()]
        return "\n".join(lines) + "\n" + ("\n" + "  \n".join(notes) + "\n" if notes else "")

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
        target = [
            f"the target is {row.label}; under the values, the difference to it"
            for row in self.rows
            if row.role == "target"
        ]
        marks = ["* the method closest to it (smallest Avg.D)"] if any(row.closest for row in self.rows) else []
        return (*target, *marks, *(f"{_superscript(i)} {note}" for i, note in enumerate(self.notes, 1)))


def comparison_table(evaluation: Mapping[str, Any]) -> Table:
    """The comparison of all models in an evaluation, the retrained model as target.

    Args:
        evaluation: what `evaluation.json` holds: `{"models": {name: {measure: value}}, "noise_floor": …}`. A value
            that is null or not finite is shown as — with its reason from `missing` as a footnote.

    Raises:
        UntrainError: if there is no model in it.
    """
    models = models_of(evaluation)
    floor = mapping(evaluation.get("noise_floor"))
    measures = _columns(models)
    target, best = models.get(TARGET, {}), closest_methods(models)
    notes: dict[str, int] = {}
    rows = []
    for name, values in models.items():
        role = role_of(name)
        cells = tuple(_cell(m, values, {} if role == "target" else target, role, notes) for m in measures)
        rows.append(Row(name, label(name), role, cells, name in best))
    if floor:
        cells = tuple(_floor_cell(measure, number(floor.get(measure.key))) for measure in measures)
        rows.append(Row("noise floor", "noise floor", "floor", cells))
    return Table(measures, tuple(rows), tuple(notes))


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
    """A number with so many decimals and a real minus sign; tiny ones in scientific notation, never as 0."""
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}".replace("-", "−")
    return f"{value:,.{digits}f}".replace("-", "−").replace(",", "\u2009")


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


def _columns(models: Mapping[str, Mapping[str, Any]]) -> tuple[Measure, ...]:
    """The known measures, then any further number that the evaluation brings: nothing measured is hidden."""
    have = {key for values in models.values() for key, value in values.items() if number(value) is not None}
    known = {measure.key for measure in MEASURES}
    columns = [m for m in MEASURES if m.key not in OPTIONAL or m.key in have]
    extra = [key for values in models.values() for key in values if key in have and key not in known]
    return (*columns, *(Measure(key, key, key, "", "", "", digits=3) for key in dict.fromkeys(extra)))


def _cell(
    measure: Measure, values: Mapping[str, Any], target: Mapping[str, Any], role: Role, notes: dict[str, int]
) -> Cell:
    value = number(values.get(measure.key))
    if value is None:
        note = notes.setdefault(_reason(measure, values, role), len(notes) + 1)
        return Cell(None, "—", note=note)
    aim = number(target.get(measure.key))
    if measure.key == "seconds":
        return Cell(value, duration(value), share(value, aim) if aim and role != "original" else "")
    extra = _difference(value - aim, measure.digits) if measure.compared and aim is not None else ""
    return Cell(value, show(value, measure.digits), extra)


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
    return "not recorded"


def _difference(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else f"±{text[1:]}"


def _marked(row: Row) -> str:
    return row.label + (" *" if row.closest else "")


def _superscript(note: int | None) -> str:
    return "" if note is None else str(note).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#$~&])", r"\\\1", " ".join(text.split()))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _or_infinite(value: Any) -> float:
    known = number(value)
    return math.inf if known is None else known


# What the table says, in words.

Kind = Literal["within", "closer", "partly", "none", "further", "unknown"]
HEADLINES: dict[Kind, str] = {
    "within": "As close as another retraining",
    "closer": "Much closer to the retrained model",
    "partly": "Somewhat closer to the retrained model",
    "none": "No visible effect",
    "further": "Further from the retrained model than before",
    "unknown": "How far it forgot cannot be judged",
}


@dataclass(frozen=True)
class Verdict:
    """What the numbers say: a kind, one sentence in plain words, and remarks that belong beside it."""

    kind: Kind
    sentence: str
    remarks: tuple[str, ...] = ()
    method: str | None = None
    """The model that the sentence is about: the method closest to the retrained model."""

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        return HEADLINES[self.kind]


@dataclass(frozen=True)
class _Case:
    """What a verdict is drawn from: the method closest to the target, and all that it is held against."""

    models: Mapping[str, Mapping[str, Any]]
    methods: Sequence[str]
    floor: Mapping[str, Any] = field(default_factory=dict)

    def of(self, name: str, measure: str) -> float | None:
        return number(self.models.get(name, {}).get(measure))

    def noise(self, measure: str) -> float | None:
        return number(self.floor.get(measure))


def verdict(evaluation: Mapping[str, Any]) -> Verdict:
    """What an evaluation says about the method that came closest to the retrained model.

    The distance is Avg.D. A change counts as visible if it is larger than the noise floor (the distance between
    retrained models) and than a tenth of the original's distance; halving the distance counts as much closer.
    """
    models = models_of(evaluation)
    case = _Case(models, methods_of(models), mapping(evaluation.get("noise_floor")))
    if not case.methods:
        return Verdict("unknown", _nothing_run(case))
    method = case.methods[0]
    before, after = case.of("original", "AvgD"), case.of(method, "AvgD")
    if TARGET not in models or after is None:
        only = method if len(case.methods) == 1 else None
        return Verdict("unknown", _unjudged(case, method), tuple(_forget_accuracy(case)), only)
    remarks = (*_floor_remark(case), *_balance(case, method), *_class_remark(case, method), *_others(case))
    if before is None:
        sentence = (
            f"{label(method)} ended at an average distance of {show(after)} points to the retrained model; where it "
            "began is not known, because the distance of the original model was not measured."
        )
        return Verdict("unknown", sentence, remarks, method)
    kind = _kind(before, after, case.noise("AvgD"))
    return Verdict(kind, _sentence(case, method, kind, before, after), remarks, method)


def _kind(before: float, after: float, floor: float | None) -> Kind:
    visible = max(VISIBLE * before, floor or 0.0)
    if after > before + visible:
        return "further"
    if floor is not None and before <= floor:
        return "unknown"
    if floor is not None and after <= floor:
        return "within"
    if before - after <= visible:
        return "none"
    return "closer" if after <= before / 2 else "partly"


def _sentence(case: _Case, method: str, kind: Kind, before: float, after: float) -> str:
    name, floor, time = label(method), case.noise("AvgD"), _time_phrase(case, method)
    if kind == "unknown":
        return (
            f"The original model was already within the noise floor of {show(floor or 0)} points, at an average "
            f"distance of {show(before)} to the retrained model, so these measures cannot show forgetting here; "
            f"{name} ended at {show(after)}{time}."
        )
    if kind == "further":
        return (
            f"{name} left the model further from the retrained model than the original was: an average distance of "
            f"{show(after)} points, against {show(before)} before{time and f', {time.strip()}'}."
        )
    if kind == "none":
        gauge = "the noise floor" if (floor or 0) >= VISIBLE * before else "a tenth of the distance"
        return (
            f"{name} had no visible effect: the average distance to the retrained model was {show(before)} points "
            f"before and {show(after)} after, a change no larger than {gauge}{time and f', {time.strip()}'}."
        )
    only = "only " if kind == "partly" else ""
    beside = f", {_beside_floor(after, floor)}" if floor is not None else ""
    return (
        f"{name} brought the model from an average distance of {show(before)} points to the retrained model {only}down "
        f"to {show(after)}{beside}{',' if beside and time else ''}{time}."
    )


def _beside_floor(after: float, floor: float) -> str:
    if after <= floor:
        return f"within the noise floor of {show(floor)}"
    if after <= 1.5 * floor:
        return f"close to the noise floor of {show(floor)}, not within it"
    if floor == 0:
        return "above the noise floor of 0.00"
    return f"still {after / floor:.1f} times the noise floor of {show(floor)}"


def _time_phrase(case: _Case, method: str) -> str:
    spent, whole = case.of(method, "seconds"), case.of(TARGET, "seconds")
    if spent is None or not whole:
        return ""
    if spent >= whole:
        return f" in {spent / whole:.1f} times the retraining time"
    return f" in {share(spent, whole)} of the retraining time"


def _nothing_run(case: _Case) -> str:
    distance = case.of("original", "AvgD")
    where = (
        f" The original model is at an average distance of {show(distance)} points to the retrained model."
        if distance is not None
        else ""
    )
    return f"No method has been run yet, so there is nothing to judge.{where}"


def _unjudged(case: _Case, method: str) -> str:
    if TARGET not in case.models:
        who = label(method) if len(case.methods) == 1 else "each method"
        return (
            f"How far {who} forgot cannot be judged: no model was retrained without the forget set, and only "
            "such a model shows what the values should be."
        )
    reason = mapping(case.models[method].get("missing")).get("AvgD") or "it was not recorded"
    reason = str(reason).rstrip(". ")
    return (
        f"How far {label(method)} forgot cannot be judged: its average distance to the retrained model is not known "
        f"({reason})."
    )


def _forget_accuracy(case: _Case) -> list[str]:
    before = case.of("original", "FA")
    after = {label(name): value for name in case.methods if (value := case.of(name, "FA")) is not None}
    if before is None or not after:
        return []
    told = ", ".join(f"{show(value)} % ({name})" for name, value in after.items())
    return [
        f"The accuracy on the forget set went from {show(before)} % to {told}. By itself that is neither good nor "
        "bad: a value below a retrained model's is as wrong as one above it."
    ]


def _floor_remark(case: _Case) -> list[str]:
    if case.noise("AvgD") is not None:
        return []
    return [
        "Only one model was retrained, or their distance was not measured, so the noise floor is unknown: how much of "
        "the distance is chance cannot be said."
    ]


def _balance(case: _Case, method: str) -> list[str]:
    """Where one side pays for the other: damage to what should stay, forgetting too little or too much."""
    remarks = []
    words = {
        "RA": ("It recognises less of what should be kept than the retrained model does", None),
        "TA": ("It is worse on new images than the retrained model", None),
        "FA": (
            "It forgot more than retraining would, which can itself give the forgotten samples away",
            "It still recognises more of the forget set than the retrained model does",
        ),
    }
    for measure, (below, above) in words.items():
        value, aim = case.of(method, measure), case.of(TARGET, measure)
        if value is None or aim is None:
            continue
        gap, allowed = value - aim, max(1.0, 2 * (case.noise(measure) or 0.0))
        said = below if gap < -allowed else above if gap > allowed else None
        if said:
            remarks.append(f"{said}: {measure} is {show(value)} %, against {show(aim)} %.")
    return remarks


def _class_remark(case: _Case, method: str) -> list[str]:
    value, aim = case.of(method, "forgotten_TA"), case.of(TARGET, "forgotten_TA")
    if value is None:
        return []
    beside = f", the retrained model {show(aim)} %" if aim is not None else ""
    return [f"Of new images of the forgotten class it still recognises {show(value)} %{beside}."]


def _others(case: _Case) -> list[str]:
    first, rest = case.methods[0], [n for n in case.methods[1:] if case.of(n, "AvgD") is not None]
    if not rest:
        return []
    told = ", ".join(f"{show(case.of(n, 'AvgD') or 0)} ({label(n)})" for n in rest[:3])
    more = f"; {len(rest) - 3} more ended further away" if len(rest) > 3 else ""
    remarks = [f"Other methods ended at {told}{more}."]
    gap, floor = (case.of(rest[0], "AvgD") or 0) - (case.of(first, "AvgD") or 0), case.noise("AvgD")
    if floor is not None and gap <= floor:
        remarks.append(
            f"{label(first)} and {label(rest[0])} differ by {show(gap)} points, no more than the noise floor: which of "
            "the two is closer could be chance."
        )
    return remarks
