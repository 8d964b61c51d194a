"""What a verdict on models that make images is drawn from: their measures, and what counts as forgotten and kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from untrain.report.measures import GENERATION, TEXT
from untrain.report.tables import TARGET, duration, label, mapping, number, role_of, sequence, share, show


@dataclass(frozen=True)
class Limits:
    """What counts as forgotten, and what the rest may lose to count as kept."""

    forgotten: float
    """So many % of the images are recognised at most, or no more than after retraining."""
    relative: float | None
    """Nor more than this part of the original's share, which is small where few prompts bring the concept about."""
    mean: float
    """Points that the rest may be recognised less in the mean."""
    worst: float
    """Points that any class, or anything else that is asked for, may be recognised less."""
    ratio: float | None
    """How many times larger than the original's the Fréchet distance to real images may be."""
    clip: float | None
    """By how much the CLIP score may fall."""


LIMITS = {GENERATION: Limits(1.0, None, 3.0, 8.0, 1.15, None), TEXT: Limits(5.0, 0.1, 3.0, 5.0, None, 1.0)}
"""Of each task. Of a text-to-image pipeline, the distance is one to the original's own images, which has no scale."""


@dataclass(frozen=True)
class Losses:
    """What the rest lost, in points or as a ratio less one; None where it is not known."""

    mean: float | None
    worst: float | None
    distance: float | None
    clip: float | None

    def beside(self, limits: Limits) -> dict[str, float]:
        """Each that is known and limited, as a part of what is allowed."""
        allowed = {
            "mean": limits.mean, "worst": limits.worst, "clip": limits.clip,
            "distance": None if limits.ratio is None else limits.ratio - 1,
        }  # fmt: skip
        known = {key: getattr(self, key) for key in allowed}
        return {key: known[key] / most for key, most in allowed.items() if most and known[key] is not None}


@dataclass(frozen=True)
class Case:
    """All models, and what one of them is held against."""

    models: Mapping[str, Mapping[str, Any]]
    forgotten: tuple[str, ...] = ()
    task: str = GENERATION

    def of(self, name: str, measure: str) -> float | None:
        """A measure of a model; None where it is not known."""
        return number(self.models.get(name, {}).get(measure))

    def knows(self, measure: str) -> bool:
        """Whether any model has the measure."""
        return any(self.of(name, measure) is not None for name in self.models)

    @property
    def limits(self) -> Limits:
        """What counts as forgotten and as kept."""
        return LIMITS[self.task]

    @property
    def limit(self) -> float:
        """Up to which share of recognised images something counts as forgotten, %."""
        before, relative = self.of("original", "FA"), self.limits.relative
        most = self.limits.forgotten
        if relative is not None and before is not None:
            most = min(most, relative * before)
        return max(most, self.of(TARGET, "FA") or 0.0)

    @property
    def nothing(self) -> float:
        """Up to which share the original itself hardly shows what is to be forgotten, %."""
        return self.limit if self.limits.relative is None else max(1.0, self.of(TARGET, "FA") or 0.0)

    @property
    def distance(self) -> str:
        """What the Fréchet distance is called here."""
        return "FID" if any("FID" in values for values in self.models.values()) else "FD"

    @property
    def methods(self) -> list[str]:
        """The models that methods made: forgotten first, then by what the rest lost; unknown last."""
        return sorted((name for name in self.models if role_of(name) == "method"), key=self._place)

    def _place(self, name: str) -> tuple[float, float, float]:
        after, far = self.of(name, "FA"), self.of(name, self.distance)
        known = self.losses(name).beside(self.limits).values()
        infinite = float("inf")
        return (
            infinite if after is None else max(0.0, after - self.limit),
            max(known, default=infinite),
            infinite if far is None else far,
        )

    def by_class(self, name: str) -> dict[str, float]:
        """What else is asked for (other classes, labels) → share of its images that are recognised, %."""
        given = mapping(mapping(self.models.get(name, {}).get("by_class")).get("recognised"))
        return {str(c): v for c, one in given.items() if (v := number(one)) is not None and str(c) not in self.gone}

    def fallen(self, name: str) -> dict[str, float]:
        """Of what else is asked for: by how many points less of it is recognised than of the original's."""
        before, after = self.by_class("original"), self.by_class(name)
        return {c: before[c] - after[c] for c in before if c in after}

    def losses(self, name: str) -> Losses:
        """What the rest lost."""
        mean, worst, clip = (self._fall(name, key) for key in ("RA", "RA_worst", "CLIP"))
        worst = max(self.fallen(name).values(), default=worst)
        before, after = self.of("original", self.distance), self.of(name, self.distance)
        return Losses(mean, worst, None if not before or after is None else after / before - 1, clip)

    def kept(self, name: str) -> bool | None:
        """Whether the rest was kept; None where nothing is known of it."""
        known = self.losses(name).beside(self.limits).values()
        return max(known) <= 1 if known else None

    @property
    def gone(self) -> frozenset[str]:
        """What was to be forgotten."""
        return frozenset(self.forgotten)

    @property
    def concepts(self) -> list[str]:
        """The labels of what prompts were to be forgotten for, where a classifier has some; else these prompts."""
        judged = [mapping(mapping(values.get("by_class")).get("recognised")) for values in self.models.values()]
        labels = [name for name in self.forgotten if any(name in shares for shares in judged)]
        return labels or list(self.forgotten)

    def _fall(self, name: str, measure: str) -> float | None:
        before, after = self.of("original", measure), self.of(name, measure)
        return None if before is None or after is None else before - after


def case_of(evaluation: Mapping[str, Any]) -> Case:
    """The models of an evaluation; of generators of classes, where it names no other task."""
    models = {str(name): mapping(values) for name, values in mapping(evaluation.get("models")).items()}
    task = TEXT if evaluation.get("task") == TEXT else GENERATION
    return Case(models, tuple(dict.fromkeys(str(c) for c in sequence(evaluation.get("forgotten")))), task)


# Words that verdicts of both tasks have in common.


def share_after(case: Case, method: str) -> str:
    """The share that is still recognised, and beside it what it was, and after retraining."""
    after, before, aim = (case.of(name, "FA") for name in (method, "original", TARGET))
    beside = [f"{show(before)} % before"] if before is not None else []
    beside += [f"{show(aim)} % after retraining"] if aim is not None else []
    return f"{show(after or 0)} %" + (f" ({', '.join(beside)})" if beside else "")


def share_beside(case: Case, method: str, measure: str) -> str:
    """A share after and before; nothing where it is not known after."""
    after, before = case.of(method, measure), case.of("original", measure)
    if after is None:
        return ""
    return f"{show(after)} %" + (f" ({show(before)} % before)" if before is not None else "")


def time_taken(case: Case, method: str) -> str:
    """How long the method took, as a sentence with a space before it."""
    spent, whole = case.of(method, "seconds"), case.of(TARGET, "seconds")
    if spent is None:
        return ""
    return f" It took {duration(spent)}" + (f", {share(spent, whole)} of the retraining time." if whole else ".")


def shares_after_others(case: Case) -> str:
    """What is recognised after the methods that come next; nothing where there are none."""
    told = []
    for name in case.methods[1:4]:
        after, kept = case.of(name, "FA"), case.of(name, "RA")
        if after is not None:
            told.append(f"{label(name)} {show(after)} %" + (f" and {show(kept)} %" if kept is not None else ""))
    return "; ".join(told)


def retrained_values(case: Case, measures: Mapping[str, str]) -> str:
    """The retrained model's values of these measures, key → unit; nothing where none is known."""
    known = [f"{key} {show(v)}{unit}" for key, unit in measures.items() if (v := case.of(TARGET, key)) is not None]
    return ", ".join(known)
