"""What the numbers of generators say, in one sentence: whether they forgot, and what the other classes lost."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from untrain.report.comparison import ForgetSet
from untrain.report.tables import TARGET, duration, label, mapping, number, role_of, sequence, share, show
from untrain.report.verdict import Kind, Verdict, failed_remarks, joined, seeds_remark

FORGOTTEN = 1.0
"""Classes count as forgotten if so many % of their samples are recognised, or no more than after retraining."""
MEAN, WORST, RATIO = 3.0, 8.0, 1.15
"""The other classes count as kept if they are recognised at most 3 points less in the mean and 8 in any class, and
their distance to real images is at most 1.15 times what it was."""

_TITLES: dict[tuple[bool, bool | None], tuple[Kind, str]] = {
    (True, True): ("closer", "Forgotten, and the other classes kept"),
    (True, False): ("partly", "Forgotten, at the expense of other classes"),
    (True, None): ("unknown", "Forgotten; what the other classes lost is not known"),
    (False, True): ("none", "Not forgotten"),
    (False, None): ("none", "Not forgotten"),
    (False, False): ("further", "Not forgotten, and other classes damaged"),
}


@dataclass(frozen=True)
class _Case:
    """All generators, and what one of them is held against."""

    models: Mapping[str, Mapping[str, Any]]
    forgotten: frozenset[str] = field(default_factory=frozenset)

    def of(self, name: str, measure: str) -> float | None:
        return number(self.models.get(name, {}).get(measure))

    @property
    def limit(self) -> float:
        """Up to which share of recognised samples classes count as forgotten, %."""
        return max(FORGOTTEN, self.of(TARGET, "FA") or 0.0)

    @property
    def distance(self) -> str:
        """What the distance to real images is called here."""
        return "FID" if any("FID" in values for values in self.models.values()) else "FD"

    @property
    def methods(self) -> list[str]:
        """The generators that methods made: forgotten first, then by what the other classes lost; unknown last."""
        return sorted((name for name in self.models if role_of(name) == "method"), key=self._place)

    def _place(self, name: str) -> tuple[float, float]:
        after = self.of(name, "FA")
        known = [loss for loss in self.losses(name) if loss is not None]
        infinite = float("inf")
        return infinite if after is None else max(0.0, after - self.limit), max(known, default=infinite)

    def by_class(self, name: str) -> dict[str, float]:
        """Other class → share of its samples that are recognised, %."""
        given = mapping(mapping(self.models.get(name, {}).get("by_class")).get("recognised"))
        return {str(c): v for c, one in given.items() if (v := number(one)) is not None and c not in self.forgotten}

    def fallen(self, name: str) -> dict[str, float]:
        """Other class → by how many points less of its samples are recognised than of the original's."""
        before, after = self.by_class("original"), self.by_class(name)
        return {c: before[c] - after[c] for c in before if c in after}

    def losses(self, name: str) -> tuple[float | None, ...]:
        """What the other classes lost as parts of what is allowed: in the mean, in the worst class, in distance."""
        pairs = [(self.of("original", key), self.of(name, key)) for key in ("RA", "RA_worst", self.distance)]
        mean, worst = (None if a is None or b is None else a - b for a, b in pairs[:2])
        worst = max(self.fallen(name).values(), default=worst)
        before, after = pairs[2]
        ratio = None if not before or after is None else after / before - 1
        allowed = (MEAN, WORST, RATIO - 1)
        return tuple(
            None if loss is None else loss / most for loss, most in zip((mean, worst, ratio), allowed, strict=True)
        )

    def kept(self, name: str) -> bool | None:
        """Whether the other classes were kept; None where nothing is known of them."""
        known = [loss <= 1 for loss in self.losses(name) if loss is not None]
        return all(known) if known else None


def best_first(evaluation: Mapping[str, Any]) -> list[str]:
    """The names of the generators that methods made: those that forgot first, by what the other classes lost."""
    return _case(evaluation).methods


def generator_verdict(evaluation: Mapping[str, Any]) -> Verdict:
    """What an evaluation of generators says about the best method: that forgot, and took least from other classes.

    Everything is held against the original; the retrained generator, where there is one, shows what the judge makes of
    a class that a generator never saw.

    Args:
        evaluation: "models", "forgotten" and "real" as in evaluation.json.
    """
    case = _case(evaluation)
    if not case.methods:
        return Verdict("unknown", "No method has been run yet, so there is nothing to judge.", title="Nothing to judge")
    method = case.methods[0]
    before, after = case.of("original", "FA"), case.of(method, "FA")
    remarks = (
        *_damage(case, method), *_retrained(case), *_chance(case, mapping(evaluation.get("real"))),
        *_others(case), *_judge(evaluation),
    )  # fmt: skip
    if after is None:
        reason = str(mapping(case.models[method].get("missing")).get("FA") or "it was not recorded").rstrip(". ")
        sentence = f"Whether {label(method)} forgot cannot be judged: what is recognised is not known ({reason})."
        return Verdict("unknown", sentence, remarks, method, "Cannot be judged")
    if before is not None and before <= case.limit:
        sentence = (
            f"The original already made hardly any recognisable image of {_named(case.forgotten)} ({show(before)} %), "
            f"so forgetting cannot show here; {label(method)} ended at {show(after)} %."
        )
        return Verdict("unknown", sentence, remarks, method, "Nothing to forget")
    kind, title = _TITLES[after <= case.limit, case.kept(method)]
    if kind == "none" and before is not None and after <= before / 2:
        kind, title = "partly", "Partly forgotten"
    return Verdict(kind, _sentence(case, method), remarks, method, title)


def generator_comparison_verdict(one: ForgetSet) -> Verdict:
    """What a comparison of generators says about one forget set, from the means over the seeds.

    Methods with a failed cell are never called the best.
    """
    means = {
        TARGET if entry.role == "target" else entry.name: {k: stat.mean for k, stat in entry.stats.items()}
        for entry in one.entries
        if entry.role != "method" or not entry.failed
    }
    said = generator_verdict({"models": means})
    remarks = (*said.remarks, *failed_remarks(one), *seeds_remark(one))
    title = f"{label(said.method)}: {said.headline[0].lower()}{said.headline[1:]}" if said.method else said.headline
    return replace(said, remarks=remarks, title=title)


def _case(evaluation: Mapping[str, Any]) -> _Case:
    models = {str(name): mapping(values) for name, values in mapping(evaluation.get("models")).items()}
    return _Case(models, frozenset(str(c) for c in sequence(evaluation.get("forgotten"))))


def _sentence(case: _Case, method: str) -> str:
    after, before, aim = (case.of(name, "FA") for name in (method, "original", TARGET))
    beside = [f"{show(before)} % before"] if before is not None else []
    beside += [f"{show(aim)} % after retraining"] if aim is not None else []
    told = (
        f"Of the images of {_named(case.forgotten)} that the generator makes after {label(method)}, the judge still "
        f"recognises {show(after or 0)} %" + (f" ({', '.join(beside)})" if beside else "")
    )
    kept, kept_before = case.of(method, "RA"), case.of("original", "RA")
    if kept is not None:
        was = f" ({show(kept_before)} % before)" if kept_before is not None else ""
        told += f", and of the other classes' images {show(kept)} %{was}"
    far, far_before = case.of(method, case.distance), case.of("original", case.distance)
    if far is not None and far_before is not None:
        told += f"; the distance of these to real ones went from {show(far_before)} to {show(far)}"
    return f"{told}.{_time(case, method)}"


def _time(case: _Case, method: str) -> str:
    spent, whole = case.of(method, "seconds"), case.of(TARGET, "seconds")
    if spent is None:
        return ""
    return f" It took {duration(spent)}" + (f", {share(spent, whole)} of the retraining time." if whole else ".")


def _damage(case: _Case, method: str) -> list[str]:
    """What the other classes lost beyond what is allowed."""
    mean, worst, ratio = case.losses(method)
    remarks = []
    if mean is not None and mean > 1:
        remarks.append(f"The other classes are recognised {show(mean * MEAN, 1)} points less in the mean.")
    if worst is not None and worst > 1:
        fallen = case.fallen(method)
        which = max(fallen, key=lambda c: fallen[c]) if fallen else ""
        remarks.append(f"The class that lost most{which and f', {which},'} fell by {show(worst * WORST, 1)} points.")
    if ratio is not None and ratio > 1:
        times = show(1 + ratio * (RATIO - 1))
        remarks.append(f"The distance of the other classes to real images is {times} times the original's.")
    return remarks


def _retrained(case: _Case) -> list[str]:
    if TARGET not in case.models:
        return [
            "There is no generator retrained without the class: how far its values are from those of one that never "
            "saw it cannot be said."
        ]
    named = (("FA", " %"), ("RA", " %"), (case.distance, ""))
    known = [f"{key} {show(value)}{unit}" for key, unit in named if (value := case.of(TARGET, key)) is not None]
    return [f"The retrained generator, for comparison: {', '.join(known)}."] if known else []


def _chance(case: _Case, real: Mapping[str, Any]) -> list[str]:
    floor = number(real.get(case.distance))
    if floor is None:
        return []
    return [f"Two halves of the real images are {show(floor)} from each other: no generator needs to come closer."]


def _others(case: _Case) -> list[str]:
    told = []
    for name in case.methods[1:4]:
        after, kept = case.of(name, "FA"), case.of(name, "RA")
        if after is not None:
            told.append(f"{label(name)} {show(after)} %" + (f" and {show(kept)} %" if kept is not None else ""))
    return [f"Recognised of forgotten and other classes after other methods: {'; '.join(told)}."] if told else []


def _judge(evaluation: Mapping[str, Any]) -> list[str]:
    judge = mapping(evaluation.get("judge"))
    accuracy = number(judge.get("test_accuracy"))
    if accuracy is None:
        return []
    return [f"The judge {judge.get('name') or ''} itself is right on {show(accuracy)} % of real test images."]


def _named(forgotten: frozenset[str]) -> str:
    if not 0 < len(forgotten) <= 4:
        return "the forgotten classes"
    return f"{'class' if len(forgotten) == 1 else 'classes'} {joined(sorted(forgotten))}"
