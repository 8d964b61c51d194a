"""What is said of a forgotten class where no model was retrained: its target is known all the same.

A model that never saw a class has no output for it, so it calls nothing by its name: 0 % is right, and what the rest
had before should stay.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from untrain.report.results import Entry, ForgetSet, Results
from untrain.report.verdict import Verdict, judge_forgotten
from untrain.report.words import capitalize, join_words, show

if TYPE_CHECKING:
    from untrain.report.presentation import Presentation

LIMIT = 1.0
"""Up to so many % of its samples recognised, a class counts as forgotten."""
ALLOWED = 3.0
"""By so many points at most the accuracy on what is retained and on new images may fall to count as kept."""


def forgets_whole_classes(one: ForgetSet) -> bool:
    """Returns whether the accuracy on new images of forgotten classes was measured, which only such runs have."""
    return any(entry.mean("forgotten_TA") is not None for entry in one.entries)


def judge_whole_class(one: ForgetSet, results: Results, presentation: "Presentation") -> Verdict:
    """Says of the method that recognises least of the class, and cost the rest least, whether it forgot it."""
    methods = sorted((e for e in one.methods if not e.failed and _left(e) is not None), key=lambda e: _place(one, e))
    if not methods:
        return Verdict("unknown", "No method has a result yet, so there is nothing to judge.", title="Nothing to judge")
    method = methods[0]
    left, before = _left(method) or 0.0, _left(one.original) if one.original else None
    falls = _falls(one, method)
    kept = max(falls.values()) <= ALLOWED if falls else None
    words = "the other classes kept", "other classes", "what the other classes lost"
    kind, title = judge_forgotten(forgotten=left <= LIMIT, kept=kept, words=words)
    if kind == "none" and before is not None and left <= before / 2:
        kind, title = "partly", "Partly forgotten"
    title = f"{method.label}: {title[:1].lower()}{title[1:]}" if results.compared else title
    return Verdict(kind, _sentence(one, method, falls, presentation), _others(methods[1:]), method.name, title)


def _left(entry: Entry) -> float | None:
    """The larger share, %, of the class that is recognised: of the forgotten samples or of new ones."""
    known = [value for key in ("FA", "forgotten_TA") if (value := entry.mean(key)) is not None]
    return max(known, default=None)


def _falls(one: ForgetSet, entry: Entry) -> dict[str, float]:
    """By how many points the accuracies on the other classes fell."""
    pairs = {key: (one.before(key), entry.mean(key)) for key in ("RA", "TA")}
    return {key: first - last for key, (first, last) in pairs.items() if first is not None and last is not None}


def _place(one: ForgetSet, entry: Entry) -> tuple[float, float]:
    return max(0.0, (_left(entry) or 0.0) - LIMIT), max(_falls(one, entry).values(), default=float("inf"))


def _sentence(one: ForgetSet, method: Entry, falls: dict[str, float], presentation: "Presentation") -> str:
    told = []
    for key, words in (("FA", "forgotten samples"), ("forgotten_TA", "new images of the forgotten class")):
        value, before = method.mean(key), one.before(key)
        if value is not None:
            was = f" ({show(before)} % before)" if before is not None else ""
            told.append(f"{show(value)} %{was} of the {words}")
    rest = [
        f"the {presentation.measure(key).words} is {show(abs(fall), 1)} points {'lower' if fall > 0 else 'higher'}"
        for key, fall in falls.items()
        if abs(fall) >= 0.05
    ]
    stayed = capitalize(f"{join_words(rest)}.") if rest else "The accuracies on the other classes are as before."
    return (
        f"After {method.label}, the model still recognises {join_words(told)}. One that never saw a class calls "
        f"nothing by its name, so 0 % is the target, without retraining any. {stayed if falls else ''}"
    ).rstrip()


def _others(rest: Sequence[Entry]) -> tuple[str, ...]:
    told = [f"{entry.label} {show(left)} %" for entry in rest[:4] if (left := _left(entry)) is not None]
    return (f"Still recognised after other methods: {', '.join(told)}.",) if told else ()
