"""What the numbers say in one sentence and a few remarks; for any task, by the distance to the retrained model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from untrain.report.measures import Distance
from untrain.report.results import SPEEDUP, Entry, ForgetSet, Results
from untrain.report.words import capitalize, join_words, show, show_duration, show_share, with_article

if TYPE_CHECKING:
    from untrain.report.presentation import Presentation

VISIBLE = 0.1
"""A change of the distance below this share of the original's (or below the noise floor) is no visible effect."""

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
    """The model that the sentence is about."""
    title: str = ""
    """What stands above the sentence instead of the kind's headline."""
    cautions: tuple[str, ...] = ()
    """What casts doubt on it, in sentences; `judge` finds them."""

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        return self.title or HEADLINES[self.kind]


def judge(one: ForgetSet, results: Results, presentation: "Presentation") -> Verdict:
    """Returns the presentation's verdict, with what casts doubt on it: the first of that stands in the headline, too.

    Doubt is cast by a weak reference, and by what runs warned of: no forget step was taken, nothing moved, the loss
    aimed at was not reached.
    """
    said = presentation.verdict(one, results) if results.measured else NOT_MEASURED
    weak = presentation.weakness(one) if results.measured else ""
    about = said.method or (one.methods[0].name if len(one.methods) == 1 else None)
    named = results.compared or len(one.methods) > 1
    told = sorted(((e, text) for e in one.entries for text in e.warnings), key=lambda pair: pair[0].name != about)
    cautions = [f"{entry.label}: {text}" if named else capitalize(text) for entry, text in told]
    heads = [weak] * bool(weak) + [text for entry, text in told if entry.name == about]
    title = said.title
    if heads:
        joint = ", but " if said.kind in ("within", "closer", "partly") else "; "
        title = f"{said.headline}{joint}{_reason(heads[0])}"
    cautions = [*([capitalize(weak)] if weak else []), *cautions]
    return replace(said, title=title, cautions=tuple(f"{text.rstrip('.')}." for text in cautions))


def _reason(text: str) -> str:
    """What a warning says before its colon; of a comparison's without its seed."""
    return re.sub(r"^seed [^:]*: ", "", text).partition(":")[0]


def judge_forgotten(*, forgotten: bool, kept: bool | None, words: tuple[str, str, str]) -> tuple[Kind, str]:
    """Returns kind and headline where the target is known: nothing of what was forgotten is recognised any more.

    Args:
        forgotten: whether that is so.
        kept: whether the rest is as it was; None: not known.
        words: what is said where it was kept, what was damaged, and what is not known: "the rest kept", "other
            classes", "what else was lost".
    """
    stayed, damaged, lost = words
    if forgotten:
        return {
            True: ("closer", f"Forgotten, and {stayed}"),
            False: ("partly", f"Forgotten, at the expense of {damaged}"),
            None: ("unknown", f"Forgotten; {lost} is not known"),
        }[kept]  # type: ignore[return-value]
    return ("further", f"Not forgotten, and {damaged} damaged") if kept is False else ("none", "Not forgotten")


def judge_distances(one: ForgetSet, results: Results, presentation: "Presentation") -> Verdict:
    """Says which method came closest to the retrained model.

    A change counts as visible if it is larger than the noise floor (the distance between retrained models) and than a
    tenth of the original's distance; halving the distance counts as much closer. In a comparison the closest are the
    methods of rank 1: those whose distance is within the noise floor of the smallest. Methods with a failed cell have
    no rank and are never called the closest.
    """
    if presentation.distance is None:
        return Verdict("unknown", "Models of this task are not compared by a distance to a retrained model.")
    judge = _Comparison if results.compared else _Run
    return judge(one, presentation, presentation.distance).verdict()


def remark_on_seeds(one: ForgetSet, results: Results) -> list[str]:
    """Says what belongs under any verdict: which seeds failed, and what few seeds can show."""
    if not results.compared:
        return []
    told = [f"{entry.label} ({len(entry.failed)} of {len(entry.cells)})" for entry in one.entries if entry.failed]
    remarks = [
        f"Seeds without a result: {', '.join(told)}. Such a method is not ranked, and its means, if any, are over the "
        "other seeds."
    ] * bool(told)
    if 0 < one.seeds < 5:
        alone = (
            "One seed shows no spread at all" if one.seeds == 1 else f"{one.seeds} seeds say little about the spread"
        )
        remarks.append(f"{alone}: five or more would make the intervals worth reading.")
    return remarks


NOT_MEASURED = Verdict(
    "unknown",
    "Nothing was measured of this run yet, so how far it forgot is not known. `untrain evaluate FOLDER` measures a run "
    "that a recipe made; of one that was made in Python, untrain.evaluate(…, out=FOLDER) does.",
    title="Not measured yet",
)


class _Distances:
    """A forget set, seen by the distance to the retrained model."""

    def __init__(self, one: ForgetSet, presentation: "Presentation", distance: Distance) -> None:
        self.one, self.presentation, self.distance = one, presentation, distance
        self.measure = presentation.measure(self.distance.key)
        self.methods = presentation.order(one)
        self.floor = one.noise(self.distance.key)
        self.before = one.before(distance.key)
        self.weak = bool(presentation.weakness(one))

    def of(self, entry: Entry) -> float | None:
        """Returns a model's distance."""
        return entry.mean(self.distance.key)

    def show(self, value: float) -> str:
        return self.measure.show(value)

    def amount(self, value: float) -> str:
        """Shows a distance with its unit."""
        return f"{self.show(value)} {self.distance.unit}".rstrip()

    def kind(self, after: float) -> Kind:
        if self.before is None:
            return "unknown"
        visible = max(VISIBLE * self.before, self.floor or 0.0)
        if after > self.before + visible:
            return "further"
        if self.floor is not None and self.before <= self.floor:
            return "unknown"
        if self.floor is not None and after <= self.floor:
            return "within"
        if self.before - after <= visible:
            return "none"
        return "closer" if after <= self.before / 2 else "partly"

    def beside_floor(self, after: float) -> str:
        """Says where a distance stands beside the noise floor; nothing where that is unknown."""
        if self.floor is None:
            return ""
        floor = self.show(self.floor)
        if after <= self.floor:
            return f"within the noise floor of {floor}"
        if after <= 1.5 * self.floor:
            return f"close to the noise floor of {floor}, not within it"
        return (
            f"still {after / self.floor:.1f} times the noise floor of {floor}"
            if self.floor
            else f"above the noise floor of {floor}"
        )

    def _weakly(self, method: Entry) -> str:
        who = method.label if len(self.methods) == 1 else "each method"
        return (
            f"How far {who} forgot cannot be judged by this retrained model, which is worse at its work than the "
            "original: to be far from it is no fault, and to be near it no merit."
        )

    def _forgetting(self) -> list[str]:
        """Says how the measure of forgetting went, where nothing shows how it should have gone."""
        for key in self.presentation.axes[:1]:
            measure, original = self.presentation.measure(key), self.one.original
            before = original.mean(key) if original else None
            after = [f"{measure.amount(v)} ({e.label})" for e in self.methods if (v := e.mean(key)) is not None]
            if before is not None and after:
                return [
                    f"The {measure.words} went from {measure.amount(before)} to {', '.join(after)}. By itself that is "
                    "neither good nor bad: a value below a retrained model's is as wrong as one above it."
                ]
        return []


class _Run(_Distances):
    """What one run says about the method that came closest."""

    def verdict(self) -> Verdict:
        if not self.methods:
            return Verdict("unknown", self._nothing_run())
        first = self.methods[0]
        after = self.of(first)
        if self.weak:
            return Verdict("unknown", self._weakly(first), tuple(self._forgetting()), first.name)
        if self.one.target is None or after is None:
            only = first.name if len(self.methods) == 1 else None
            return Verdict("unknown", self._unjudged(first), tuple(self._forgetting()), only)
        remarks = (*self._floor_remark(), *self.presentation.remarks(self.one, first), *self._others())
        if self.before is None:
            sentence = (
                f"{first.label} ended at {with_article(self.distance.name)} of {self.amount(after)} to the retrained "
                "model; where it began is not known, because the distance of the original model was not measured."
            )
            return Verdict("unknown", sentence, remarks, first.name)
        kind = self.kind(after)
        return Verdict(kind, self._sentence(first, kind, self.before, after), remarks, first.name)

    def _sentence(self, method: Entry, kind: Kind, before: float, after: float) -> str:
        name, far, time = method.label, with_article(self.distance.name), self._time(method)
        aside = f", {time.strip()}" if time else ""
        if kind == "unknown":
            return (
                f"The original model was already within the noise floor of {self.amount(self.floor or 0)}, at {far} of "
                f"{self.show(before)} to the retrained model, so these measures cannot show forgetting here; {name} "
                f"ended at {self.show(after)}{time}."
            )
        if kind == "further":
            return (
                f"{name} left the model further from the retrained model than the original was: {far} of "
                f"{self.amount(after)}, against {self.show(before)} before{aside}."
            )
        if kind == "none":
            gauge = "the noise floor" if (self.floor or 0) >= VISIBLE * before else "a tenth of the distance"
            return (
                f"{name} had no visible effect: the {self.distance.name} to the retrained model was "
                f"{self.amount(before)} before and {self.show(after)} after, a change no larger than {gauge}{aside}."
            )
        only, beside = "only " if kind == "partly" else "", self.beside_floor(after)
        beside = f", {beside}{',' * bool(time)}" if beside else ""
        return (
            f"{name} brought the model from {far} of {self.amount(before)} to the retrained model {only}down to "
            f"{self.show(after)}{beside}{time}."
        )

    def _time(self, method: Entry) -> str:
        spent, whole = method.mean("seconds"), self.one.aim("seconds")
        if spent is None or not whole:
            return ""
        share = f"{spent / whole:.1f} times" if spent >= whole else f"{show_share(spent, whole)} of"
        return f" in {share} the retraining time"

    def _nothing_run(self) -> str:
        where = "" if self.before is None else (
            f" The original model is at {with_article(self.distance.name)} of {self.amount(self.before)} to the "
            "retrained model."
        )  # fmt: skip
        return f"No method has been run yet, so there is nothing to judge.{where}"

    def _unjudged(self, method: Entry) -> str:
        if self.one.target is None:
            who = method.label if len(self.methods) == 1 else "each method"
            return (
                f"How far {who} forgot cannot be judged: no model was retrained without the forget set, and only such "
                "a model shows what the values should be."
            )
        reason = (method.missing.get(self.distance.key) or "it was not recorded").rstrip(". ")
        return (
            f"How far {method.label} forgot cannot be judged: its {self.distance.name} to the retrained model is not "
            f"known ({reason})."
        )

    def _floor_remark(self) -> list[str]:
        words = (
            "Only one model was retrained, or their distance was not measured, so the noise floor is unknown: how much "
            "of the distance is chance cannot be said."
        )
        return [words] if self.floor is None else []

    def _others(self) -> list[str]:
        known = [(e.label, value) for e in self.methods if (value := self.of(e)) is not None]
        (first, closest), rest = known[0], known[1:]
        if not rest:
            return []
        told = ", ".join(f"{self.show(value)} ({name})" for name, value in rest[:3])
        more = f"; {len(rest) - 3} more ended further away" if len(rest) > 3 else ""
        gap = rest[0][1] - closest
        chance = (
            f"{first} and {rest[0][0]} differ by {self.amount(gap)}, no more than the noise floor: which of the two is "
            "closer could be chance."
        )
        return [f"Other methods ended at {told}{more}.", *[chance] * (self.floor is not None and gap <= self.floor)]


class _Comparison(_Distances):
    """What a comparison says: which methods came closest, with ties, and what failed."""

    def verdict(self) -> Verdict:
        best = self.presentation.find_closest(self.one, ranked=True)
        known = [(entry, mean) for entry in best if (mean := self.of(entry)) is not None]
        if not known:
            return Verdict(
                "unknown", self._none_closest(), tuple(self._floor_remark()), title="No method can be ranked"
            )
        first, distance = known[0]
        if self.weak:
            return Verdict("unknown", self._weakly(first), tuple(self._forgetting()), first.name)
        kind = self.kind(distance)
        remarks = (
            *self._no_gain(kind), *self._time(first), *self._next(best), *self._finer(best), *self._worse(),
            *self._floor_remark(),
        )  # fmt: skip
        return Verdict(kind, self._sentence(known), remarks, first.name, self._title(best, kind))

    def _title(self, best: Sequence[Entry], kind: Kind) -> str:
        if kind in ("none", "further"):
            return "No method came visibly closer than the original was"
        if kind == "unknown" and self.before is not None:
            return "No forgetting can be seen here"
        if len(best) == 1:
            return f"{best[0].label} comes closest"
        counts = {2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six"}
        return f"{counts.get(len(best), str(len(best)))} methods tie for the closest"

    def _sentence(self, best: Sequence[tuple[Entry, float]]) -> str:
        names, first = join_words([entry.label for entry, _ in best]), best[0][1]
        over = best[0][0].stat(self.distance.key).n
        told = f"{join_words([self.show(mean) for _, mean in best])} {self.distance.unit}".rstrip()
        told += f" (mean over {over} seeds)" if over > 1 else ""
        told += f", against {self.show(self.before)} for the original model" if self.before is not None else ""
        if len(best) == 1:
            beside = f"; that is {self.beside_floor(first)}" if self.floor is not None else ""
            return f"{names} came closest to the retrained model: {with_article(self.distance.name)} of {told}{beside}."
        floor = f" of {self.show(self.floor)}" if self.floor is not None else ""
        return (
            f"{names} came closest to the retrained model, at {self.distance.name}s of {told}; they differ by no more "
            f"than the noise floor{floor}, so chance alone could order them."
        )

    def _none_closest(self) -> str:
        if self.one.target is None:
            return (
                "Which method came closest cannot be judged: no model was retrained without the forget set, and only "
                "such a model shows what the values should be."
            )
        if not self.methods:
            return "No method has been run yet, so there is nothing to compare."
        if all(entry.failed for entry in self.methods):
            return "No method has a result for every seed, so none can be ranked."
        return "No method has a distance to the retrained model, so none can be ranked."

    def _no_gain(self, kind: Kind) -> list[str]:
        if kind == "unknown" and self.before is not None:
            return ["The original was already within the noise floor, so these measures cannot show forgetting here."]
        if kind in ("none", "further"):
            return ["No method brought the model visibly closer to the retrained one than the original already was."]
        return []

    def _time(self, first: Entry) -> list[str]:
        spent, factor = first.mean("seconds"), first.mean(SPEEDUP)
        if spent is None or not factor:
            return []
        told = f"{show(factor, 1)} times faster than" if factor > 1 else f"{show(1 / factor, 1)} times as long as"
        return [f"{first.label} took {show_duration(spent)}, {told} retraining."]

    def _next(self, best: Sequence[Entry]) -> list[str]:
        rest = [
            f"{entry.label} ({self.show(mean)})"
            for entry in self.methods
            if entry not in best and entry.ranks.get(self.distance.key) and (mean := self.of(entry)) is not None
        ]
        return [f"Next by {self.distance.name}: {join_words(rest[:3])}."] if rest else []

    def _finer(self, best: Sequence[Entry]) -> list[str]:
        """Says where another measure has other methods in the first place."""
        remarks = []
        for key, words in self.presentation.finer.items():
            first = [e for e in self.methods if (rank := e.ranks.get(key)) is not None and rank.rank == 1]
            if first and not any(entry in best for entry in first):
                remarks.append(f"{words}, {join_words([entry.label for entry in first])} came closest.")
        return remarks

    def _worse(self) -> list[str]:
        if self.before is None:
            return []
        limit = self.before + (self.floor or 0.0)
        worse = [e.label for e in self.methods if (mean := self.of(e)) is not None and mean > limit]
        return [f"Further from the retrained model than the original was: {join_words(worse)}."] if worse else []

    def _floor_remark(self) -> list[str]:
        if self.floor is not None or self.one.target is None:
            return []
        return ["Only one model was retrained for each seed, so the noise floor is unknown and ties cannot be seen."]
