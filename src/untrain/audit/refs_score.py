"""From the numbers of whole models to findings: exact p, what was removed, and of which kind each number is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from untrain.audit.finding import Values
from untrain.audit.permutation import p_of_means
from untrain.audit.removed import differs, removed_share
from untrain.audit.statistics import Interval, holm
from untrain.audit.traces import Mean
from untrain.audit.verdict import FAMILY_P
from untrain.domain import AuditNumber
from untrain.errors import DataError
from untrain.runs.names import ORIGINAL, RETRAINED

UNLEARNED = "unlearned"
TOLERATED_REMOVED = (0.75, 1.25)
"""Between these, what was removed counts as what retraining removes."""
TOO_LITTLE, OVERSHOT, DIFFERENT = "too-little", "overshot", "different"
"""A number that differs from the retrained models': still towards the originals, beyond, or hardly."""
AS_RETRAINED, UNSURE, CANNOT_SHOW = "as-retrained", "unsure", "cannot-show"
"""One that does not: it could by little at most, or by too much, or the originals do not differ either."""
DESCRIBED, MISSING = "described", "missing"
"""One that is not tested, and one that there is not."""
FOUND = (TOO_LITTLE, OVERSHOT, DIFFERENT)


@dataclass(frozen=True)
class NumberFinding:
    """One number of a method's models, held against that of retrained ones.

    Attributes:
        label: what it is called.
        unit: behind a value.
        meaning: in one sentence.
        digits: decimal places of a value.
        values: one of each model, by "original", "unlearned" and "retrained".
        one_sided: whether only values above the retrained ones' are a trace.
        tested: whether it enters the verdict.
        kind: too-little, overshot, different, as-retrained, unsure, cannot-show, described or missing.
        p: exact, that unlearned models could be retrained ones.
        p_holm: p, adjusted for the number of numbers.
        removed: share of the originals' difference from retrained models that is gone; None where there is none.
        removed_ci: its 95 % interval.
        facts: what belongs to it besides.
        missing: why there are no values.
    """

    label: str
    unit: str
    meaning: str
    digits: int
    values: dict[str, tuple[float, ...]]
    one_sided: bool
    tested: bool
    kind: str = MISSING
    p: float | None = None
    p_holm: float | None = None
    removed: float | None = None
    removed_ci: Interval | None = None
    facts: Mapping[str, Any] | None = None
    missing: str | None = None

    def mean(self, kind: str) -> float | None:
        """Returns the mean over models of a kind; None where there are none."""
        values = self.values[kind]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True)
class ModelTraces(Values):
    """What is found of one method's models.

    Attributes:
        numbers: by name, in the order of the card.
        kept: accuracy less that of retrained models, in points, on "base" and "test" data, where it was told.
    """

    numbers: Mapping[str, NumberFinding]
    kept: Mapping[str, Mean]

    def plain(self) -> dict[str, Any]:
        """Returns them as audit.json holds them."""
        return {
            "numbers": {name: asdict(number) for name, number in self.numbers.items()},
            "kept": {name: asdict(mean) for name, mean in self.kept.items()},
        }


def find_numbers(numbers: Mapping[str, AuditNumber], seed: int = 0) -> dict[str, NumberFinding]:
    """Finds what numbers tell: p by permutation over models, Holm over all that are tested, and what was removed.

    Args:
        numbers: as the domain made them.
        seed: of resamples, and of permutations where there are too many for all.

    Raises:
        DataError: names a number that is not finite.
    """
    found = {name: _compare(name, number, seed) for name, number in numbers.items()}
    adjusted = holm({name: each.p for name, each in found.items() if each.tested and each.p is not None})
    return {name: _with_kind(replace(each, p_holm=adjusted.get(name))) for name, each in found.items()}


def _compare(name: str, number: AuditNumber, seed: int) -> NumberFinding:
    values = {ORIGINAL: number.original, UNLEARNED: number.unlearned, RETRAINED: number.retrained}
    original, unlearned, retrained = (np.array(each, dtype=np.float64) for each in values.values())
    found = NumberFinding(
        number.label,
        number.unit,
        number.meaning,
        number.digits,
        {kind: tuple(float(value) for value in each) for kind, each in values.items()},
        number.one_sided,
        number.tested,
        facts=number.facts,
        missing=number.missing,
    )
    if number.missing is not None:
        return found
    if not all(len(each) and np.isfinite(each).all() for each in (original, unlearned, retrained)):
        raise DataError(f"the audit's number {name} is not finite for every model: {values}.")
    p = number.p
    if p is None and number.tested:
        p = p_of_means(unlearned, retrained, one_sided=number.one_sided, seed=seed)
    if not differs(original, retrained):
        return replace(found, p=p)
    removed, interval = removed_share(original, unlearned, retrained, seed)
    return replace(found, p=p, removed=removed, removed_ci=interval)


def _with_kind(found: NumberFinding) -> NumberFinding:
    return replace(found, kind=_kind_of(found))


def _kind_of(found: NumberFinding) -> str:
    low, high = TOLERATED_REMOVED
    if found.missing is not None or not found.tested:
        return DESCRIBED if found.missing is None else MISSING
    if found.p_holm is not None and found.p_holm <= FAMILY_P:
        if found.removed is None or low <= found.removed <= high:
            return DIFFERENT
        return TOO_LITTLE if found.removed < low else OVERSHOT
    if found.removed is None or found.removed_ci is None:
        return CANNOT_SHOW
    least, most = found.removed_ci
    return AS_RETRAINED if least >= low and (found.one_sided or most <= high) else UNSURE
