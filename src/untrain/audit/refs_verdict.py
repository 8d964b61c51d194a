"""From numbers of whole models to a verdict: the first that holds, in a sentence."""

from collections.abc import Mapping, Sequence

from untrain.audit.finding import AuditVerdict
from untrain.audit.refs_score import (
    AS_RETRAINED,
    CANNOT_SHOW,
    DIFFERENT,
    FOUND,
    OVERSHOT,
    TOLERATED_REMOVED,
    TOO_LITTLE,
    UNSURE,
    ModelTraces,
    NumberFinding,
)
from untrain.audit.statistics import Interval
from untrain.audit.traces import Mean
from untrain.audit.verdict import (
    BLIND,
    NOT_EXCLUDED,
    PASSED,
    TOLERATED_POINTS,
    TRACE,
    WEAK,
    judge_damage,
    needed_twins,
)
from untrain.report.words import capitalize, join_words, uncapitalize

MOST_ADVISED = 50
"""More twins than these are named, but not advised."""
SLIGHT = "slight"
"""The subkind of a trace of which all numbers lie within what is tolerated."""
_SUBKINDS = {TOO_LITTLE: TOO_LITTLE, OVERSHOT: OVERSHOT, DIFFERENT: SLIGHT}
_LEAVES = {
    TOO_LITTLE: "{method} leaves a trace: of what the forgotten data had changed, too little is gone, by {numbers}.",
    OVERSHOT: "{method} leaves a trace, for it goes too far: beyond models that never saw the forgotten data, by "
    "{numbers}.",
    DIFFERENT: "{method} leaves a slight trace: its models can be told from ones that never saw the forgotten data, by "
    "{numbers}.",
}


def judge_numbers(method: str, found: ModelTraces, twins: int) -> AuditVerdict:
    """Judges a method by the numbers of its models.

    Args:
        method: its name, for the sentence.
        found: of its models.
        twins: K.
    """
    remarks = tuple(_cannot_show(found.numbers))
    by_kind = {kind: [n for n in found.numbers.values() if n.kind == kind] for kind in FOUND}
    traces = [_LEAVES[kind].format(method=method, numbers=_named(by_kind[kind])) for kind in FOUND if by_kind[kind]]
    if traces:
        first = next(kind for kind in FOUND if by_kind[kind])
        return AuditVerdict(TRACE, _SUBKINDS[first], traces[0], (*traces[1:], *remarks))
    shown = [number for number in found.numbers.values() if number.kind in (AS_RETRAINED, UNSURE)]
    if not shown:
        return AuditVerdict(
            BLIND,
            None,
            "The audit cannot judge: by none of its numbers do the originals lie further from models that never saw "
            "the forgotten data than these from each other.",
            remarks,
        )
    return _nothing_differs(found.kept, shown, twins, remarks)


def _nothing_differs(
    kept: Mapping[str, Mean], shown: Sequence[NumberFinding], twins: int, remarks: tuple[str, ...]
) -> AuditVerdict:
    test = kept["test"].ci if "test" in kept else None
    damaged = judge_damage(test)
    if damaged is not None:
        return damaged
    unsure = [number for number in shown if number.kind == UNSURE]
    if unsure:
        low, high = (100 * end for end in TOLERATED_REMOVED)
        missed = f"less than {low:.0f} % or more than {high:.0f} % could be gone by {_named(unsure)}"
        needed = max(_needed(number, twins) for number in unsure)
        advice = f"use --twins {needed}" if needed <= MOST_ADVISED else f"it would take about {needed} twins to tell"
        return AuditVerdict(WEAK, None, f"Nothing was found, but {missed}; {advice}.", remarks)
    if test is not None and test[0] < -TOLERATED_POINTS:
        return AuditVerdict(WEAK, None, f"Nothing was found, but {NOT_EXCLUDED}; use --twins {2 * twins}.", remarks)
    return AuditVerdict(
        PASSED,
        None,
        "No trace was found: its models cannot be told from ones that never saw the forgotten data by "
        f"{_named(shown)}. Other attacks may find more.",
        remarks,
    )


def _named(numbers: Sequence[NumberFinding]) -> str:
    """Numbers by their labels, each with the share that is gone."""
    return join_words([uncapitalize(number.label) + show_removed(number, " ({})") for number in numbers])


def show_removed(number: NumberFinding, form: str = "{}") -> str:
    """Says which share of a difference is gone, with its interval; nothing where there is none."""
    if number.removed is None:
        return ""
    interval = "" if number.removed_ci is None else f", {show_shares(number.removed_ci)}"
    return form.format(f"{100 * number.removed:.0f} % gone{interval}")


def show_shares(interval: Interval) -> str:
    """Writes an interval of shares in percent."""
    low, high = (100 * end for end in interval)
    return f"{low:.0f} to {high:.0f} %"


def _cannot_show(numbers: Mapping[str, NumberFinding]) -> list[str]:
    silent = [number.label for number in numbers.values() if number.kind == CANNOT_SHOW]
    if not silent:
        return []
    verb = "tells" if len(silent) == 1 else "tell"
    named = capitalize(join_words([uncapitalize(label) for label in silent]))
    return [f"{named} {verb} nothing here: the originals do not differ from retrained models by it."]


def _needed(number: NumberFinding, twins: int) -> int:
    """How many models of each kind it takes, as intervals shrink with their root."""
    if number.removed is None or number.removed_ci is None:
        return 2 * twins
    low, high = number.removed_ci
    furthest = max(1 - low, 0.0 if number.one_sided else high - 1)
    off = abs(1 - number.removed)
    assumed = min(off, 1 - TOLERATED_REMOVED[0])
    return needed_twins(twins, assumed, max(furthest, assumed))
