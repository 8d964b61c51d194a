"""What the numbers of a run or a comparison say, in one sentence and a few remarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from untrain.report.comparison import Entry, ForgetSet
from untrain.report.tables import TARGET, duration, label, mapping, methods_of, models_of, number, share, show

VISIBLE = 0.1
"""A change of Avg.D below this share of the original's Avg.D (or below the noise floor) counts as no visible effect."""

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
    title: str = ""
    """What stands above the sentence instead of the kind's headline."""

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        return self.title or HEADLINES[self.kind]


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


# What a comparison says.


def comparison_verdict(one: ForgetSet) -> Verdict:
    """What a comparison says about one forget set: which methods came closest, with ties, and what failed.

    The closest are the methods of rank 1 by Avg.D: those whose distance is within the noise floor of the smallest.
    Methods with a failed cell have no rank and are never called the closest.
    """
    best = [entry for entry in one.methods if (rank := entry.ranks.get("AvgD")) is not None and rank.rank == 1]
    distances = [(entry, mean) for entry in best if (mean := entry.mean("AvgD")) is not None]
    original = next(iter(one.of_role("original")), None)
    before = original.mean("AvgD") if original else None
    remarks = (*failed_remarks(one), *seeds_remark(one), *_no_floor_remark(one))
    if not distances:
        return Verdict("unknown", _none_closest(one), remarks, title="No method can be ranked")
    first, distance = distances[0]
    kind = "unknown" if before is None else _kind(before, distance, one.noise)
    remarks = (
        *_no_gain_remark(kind, before),
        *_time_remark(first),
        *_next_remark(one, best),
        *_kl_remark(one, best),
        *_worse_remark(one),
        *remarks,
    )
    return Verdict(kind, _closest_sentence(one, distances, before), remarks, first.name, _closest_title(best))


def _closest_title(best: Sequence[Entry]) -> str:
    if len(best) == 1:
        return f"{best[0].label} comes closest"
    counts = {2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six"}
    return f"{counts.get(len(best), str(len(best)))} methods tie for the closest"


def _closest_sentence(one: ForgetSet, distances: Sequence[tuple[Entry, float]], before: float | None) -> str:
    names = joined([entry.label for entry, _ in distances])
    told, floor, first = joined([show(mean) for _, mean in distances]), one.noise, distances[0][1]
    original = f", against {show(before)} for the original model" if before is not None else ""
    over = distances[0][0].stat("AvgD").n
    over_seeds = f" (mean over {over} seeds)" if over > 1 else ""
    if len(distances) == 1:
        beside = f"; that is {_beside_floor(first, floor)}" if floor is not None else ""
        return (
            f"{names} came closest to the retrained model: an average distance of {told} points{over_seeds}"
            f"{original}{beside}."
        )
    return (
        f"{names} came closest to the retrained model, at average distances of {told} points{over_seeds}{original}; "
        f"they differ by no more than the noise floor{f' of {show(floor)}' if floor is not None else ''}, "
        "so chance alone could order them."
    )


def _none_closest(one: ForgetSet) -> str:
    if one.target is None:
        return (
            "Which method came closest cannot be judged: no model was retrained without the forget set, and only such "
            "a model shows what the values should be."
        )
    if not one.methods:
        return "No method has been run yet, so there is nothing to compare."
    if all(entry.failed for entry in one.methods):
        return "No method has a result for every seed, so none can be ranked."
    return "No method has a distance to the retrained model, so none can be ranked."


def _no_gain_remark(kind: Kind, before: float | None) -> list[str]:
    if kind == "unknown" and before is not None:
        return ["The original was already within the noise floor, so these measures cannot show forgetting here."]
    if kind in ("none", "further"):
        return ["No method brought the model visibly closer to the retrained one than the original already was."]
    return []


def failed_remarks(one: ForgetSet) -> list[str]:
    """Which models lack a result for some seed."""
    told = [f"{entry.label} ({len(entry.failed)} of {len(entry.cells)})" for entry in one.entries if entry.failed]
    if not told:
        return []
    return [
        f"Seeds without a result: {', '.join(told)}. Such a method is not ranked, and its means, if any, are over the "
        "other seeds."
    ]


def seeds_remark(one: ForgetSet) -> list[str]:
    """What is to be said of few seeds."""
    seeds = one.seeds
    if not 0 < seeds < 5:
        return []
    alone = "One seed shows no spread at all" if seeds == 1 else f"{seeds} seeds say little about the spread"
    return [f"{alone}: five or more would make the intervals worth reading."]


def _no_floor_remark(one: ForgetSet) -> list[str]:
    if one.noise is not None or one.target is None:
        return []
    return ["Only one model was retrained for each seed, so the noise floor is unknown and ties cannot be seen."]


def _time_remark(first: Entry) -> list[str]:
    spent, factor = first.mean("seconds"), first.mean("speedup")
    if spent is None or not factor:
        return []
    told = f"{show(factor, 1)} times faster than" if factor > 1 else f"{show(1 / factor, 1)} times as long as"
    return [f"{first.label} took {duration(spent)}, {told} retraining."]


def _next_remark(one: ForgetSet, best: Sequence[Entry]) -> list[str]:
    rest = [
        f"{entry.label} ({show(mean)})"
        for entry in one.methods
        if entry not in best and "AvgD" in entry.ranks and (mean := entry.mean("AvgD")) is not None
    ]
    return [f"Next by average distance: {joined(rest[:3])}."] if rest else []


def _kl_remark(one: ForgetSet, best: Sequence[Entry]) -> list[str]:
    """Whether the finer comparison, sample by sample, agrees."""
    closest = [entry for entry in one.methods if (rank := entry.ranks.get("KL")) is not None and rank.rank == 1]
    if not closest or any(entry in best for entry in closest):
        return []
    return [
        f"Sample by sample the order differs: by the divergence KL, {joined([e.label for e in closest])} came closest."
    ]


def _worse_remark(one: ForgetSet) -> list[str]:
    original = next(iter(one.of_role("original")), None)
    before, floor = original.mean("AvgD") if original else None, one.noise or 0.0
    if before is None:
        return []
    worse = [e.label for e in one.methods if (mean := e.mean("AvgD")) is not None and mean > before + floor]
    return [f"Further from the retrained model than the original was: {joined(worse)}."] if worse else []


def joined(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
