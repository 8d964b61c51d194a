"""Exact p where whole models are exchanged: every way to share the labels of two kinds out among them is as likely.

Source: Fisher 1935, *The Design of Experiments*; Phipson and Smyth 2010 for drawn permutations.
"""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np

MOST_SPLITS, DRAWN_SPLITS = 200_000, 9_999
"""Up to so many ways all are looked at; of more, so many are drawn, which is as exact and less sharp."""
EQUAL = 1e-9
"""Of the largest value: what differs by less is the same, computed in another order."""


def label_splits(one: int, other: int, seed: int = 0) -> np.ndarray:
    """Returns the ways to call `one` of all models the first kind: bool [S, one + other], the real one in row 0.

    Args:
        one: models of the first kind, which stand first.
        other: models of the second kind.
        seed: of drawn ways, where there are more than `MOST_SPLITS`.
    """
    models = one + other
    if math.comb(models, one) <= MOST_SPLITS:
        chosen = np.array(list(combinations(range(models), one)))
    else:
        rng = np.random.default_rng(seed)
        drawn = rng.permuted(np.tile(np.arange(models), (DRAWN_SPLITS, 1)), axis=1)
        chosen = np.concatenate([np.arange(one)[None], drawn[:, :one]])
    splits = np.zeros((len(chosen), models), dtype=bool)
    np.put_along_axis(splits, chosen, True, axis=1)
    return splits


def permutation_p(statistic: Callable[[np.ndarray], np.ndarray], one: int, other: int, seed: int = 0) -> float:
    """Computes the share of splits whose statistic is at least that of the real one, which is among them.

    Args:
        statistic: of splits, bool [S, one + other] → [S]; large where the kinds differ. It must compute everything
            from the labels that it is given: a target that is made of the models called retrained, too.
        one: models of the first kind.
        other: models of the second kind.
        seed: of drawn splits.
    """
    values = statistic(label_splits(one, other, seed))
    return float(np.mean(values >= values[0] - EQUAL * np.abs(values).max()))


def p_of_means(one: np.ndarray, other: np.ndarray, *, one_sided: bool = False, seed: int = 0) -> float:
    """Computes the exact p of a difference of means.

    Args:
        one: a value of each model of the first kind, [K].
        other: of the second, [R].
        one_sided: whether only a first kind above the second counts; else any difference.
        seed: of drawn splits.
    """
    values = np.concatenate([one, other]).astype(np.float64)
    values = values - values.mean()  # sums of numbers far from 0 lose digits

    def difference(splits: np.ndarray) -> np.ndarray:
        sums = splits @ values
        found = sums / len(one) - (values.sum() - sums) / len(other)
        return found if one_sided else np.abs(found)

    return permutation_p(difference, len(one), len(other), seed)


def smallest_p(one: int, other: int, *, one_sided: bool = False) -> float:
    """Computes the smallest p of a difference of means; of as many models, swapped labels differ as much."""
    splits = math.comb(one + other, one)
    least = 1 / splits if splits <= MOST_SPLITS else 1 / (1 + DRAWN_SPLITS)
    return least if one_sided or one != other else min(1.0, 2 * least)
