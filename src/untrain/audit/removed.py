"""How much of a difference is gone: (original − unlearned) / (original − retrained), with an interval over models."""

import math

import numpy as np

from untrain.audit.statistics import LEVEL, Interval
from untrain.lazy import stats

DRAWS = 10_000
"""Resamples of models for an interval."""
SHOWN = 2.0
"""Originals and retrained models must lie further apart than this many deviations of one model."""


def differs(original: np.ndarray, retrained: np.ndarray) -> bool:
    """Returns whether originals and retrained models lie so far apart that a share of it means something."""
    if min(len(original), len(retrained)) < 2:
        return False
    noise = math.sqrt((float(np.var(original, ddof=1)) + float(np.var(retrained, ddof=1))) / 2)
    return abs(float(original.mean() - retrained.mean())) > SHOWN * noise


def removed_share(
    original: np.ndarray, unlearned: np.ndarray, retrained: np.ndarray, seed: int = 0
) -> tuple[float, Interval | None]:
    """Computes the share of the difference between originals and retrained models that unlearning removed.

    Models are drawn with replacement, an original together with what was made of it, and percentiles are those that
    give the interval of a mean of so few normal values its right width.

    Args:
        original: a value of each, [K].
        unlearned: of what was made of these, in their order.
        retrained: [R].
        seed: of the resamples.

    Returns:
        The share, 1 where unlearned models are as retrained ones, and its 95 % interval; None for single models.

    Source: Hesterberg 2015, *What Teachers Should Know About the Bootstrap*, the expanded percentile interval.
    """
    share = _share(original.mean(), unlearned.mean(), retrained.mean())
    fewest = min(len(unlearned), len(retrained))
    if fewest < 2:
        return float(share), None
    rng = np.random.default_rng([seed, len(unlearned), len(retrained)])
    first = rng.integers(0, len(original), (DRAWS, len(original)))
    second = first if len(unlearned) == len(original) else rng.integers(0, len(unlearned), (DRAWS, len(unlearned)))
    third = rng.integers(0, len(retrained), (DRAWS, len(retrained)))
    drawn = _share(original[first].mean(1), unlearned[second].mean(1), retrained[third].mean(1))
    width = math.sqrt(fewest / (fewest - 1)) * float(stats.t.ppf((1 + LEVEL) / 2, fewest - 1))
    tail = 100 * float(stats.norm.sf(width))
    low, high = np.percentile(drawn[np.isfinite(drawn)], [tail, 100 - tail])
    return float(share), (float(low), float(high))


def _share(original: np.ndarray, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (original - unlearned) / (original - retrained)
