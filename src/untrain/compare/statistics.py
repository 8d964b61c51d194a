"""Values over seeds: mean, spread, confidence, differences, noise floor, speed-up, ranks. Pure functions.

A value that is missing stays visible: it is None in the list, and n says how many there were.
"""

import math
from collections.abc import Mapping, Sequence

from untrain.report.results import FEW, Rank, Stat

Values = Sequence[float | None]
"""One for each seed; None where it is missing."""


def summary(values: Values, targets: Values | None = None) -> Stat:
    """Summarises one measure of one model.

    Args:
        values: one for each seed.
        targets: the retrained model's, of the same seeds.
    """
    there = _there(values)
    apart = None if targets is None else difference(values, targets)
    few = len(there) < FEW
    return Stat(tuple(values), len(there), mean(there), deviation(there), interval(there), few, apart)


def mean(values: Sequence[float]) -> float | None:
    """Computes Σ x / n; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Computes the sample standard deviation, √(Σ (x − x̄)² / (n − 1)); None of fewer than two."""
    middle = mean(values)
    if middle is None or len(values) < 2:
        return None
    return math.sqrt(math.fsum((x - middle) ** 2 for x in values) / (len(values) - 1))


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Computes x̄ ± t · s / √n with Student's t of n − 1 degrees of freedom; None of fewer than two values."""
    middle, spread = mean(values), deviation(values)
    if middle is None or spread is None:
        return None
    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return middle - half, middle + half


def difference(values: Values, targets: Values) -> float | None:
    """Computes the mean of value − target over the seeds that have both; None where none has."""
    return mean([a - b for a, b in zip(values, targets, strict=True) if a is not None and b is not None])


def noise_floor(values: Sequence[Values]) -> Stat | None:
    """Summarises how far retrained models are from each other in one measure.

    Args:
        values: of each reference but the target, one for each seed.

    Returns:
        Mean, spread and values of the references' mean in each seed; None where there is none.
    """
    seeds = tuple(mean(_there(same)) for same in zip(*values, strict=True))
    there = _there(seeds)
    return Stat(seeds, len(there), mean(there), deviation(there), few=len(there) < FEW) if there else None


def speedups(seconds: Values, retraining: Values) -> list[float | None]:
    """Computes retraining seconds / seconds, of the same seed."""
    pairs = zip(seconds, retraining, strict=True)
    return [full / own if own and full is not None else None for own, full in pairs]


def ranks(means: Mapping[str, float | None], floor: float = 0.0, *, higher: bool = False) -> dict[str, Rank | None]:
    """Places methods by their means. Whoever is within the noise floor of the first of a group shares its place.

    Args:
        means: method → mean; None: not ranked.
        floor: differences up to this are chance.
        higher: whether more is better.

    Returns:
        Method → its place, from 1; None for those that are not ranked.
    """
    known = {name: -value if higher else value for name, value in means.items() if value is not None}
    result: dict[str, Rank | None] = dict.fromkeys(means)
    order = sorted(known, key=lambda name: known[name])
    while order:
        group = [name for name in order if known[name] <= known[order[0]] + floor]
        place = 1 + sum(rank is not None for rank in result.values())
        result |= dict.fromkeys(group, Rank(place, len(group) > 1))
        order = order[len(group) :]
    return result


def _there(values: Values) -> list[float]:
    return [value for value in values if value is not None]
