"""Statistics over seeds, against scipy and by hand. Tolerance 1e-12: the same formulas in another order."""

import math

import numpy as np
import pytest
from scipy import stats

from untrain.compare.statistics import difference, interval, noise_floor, ranks, speedups, summary
from untrain.report.results import Rank

VALUES = [90.1, 93.0, 88.7, 91.2]


def test_a_summary_is_what_scipy_says():
    found = summary(VALUES, [90.0, 92.0, 90.0, 91.0])
    assert found.mean == pytest.approx(np.mean(VALUES), rel=1e-12)
    assert found.std == pytest.approx(np.std(VALUES, ddof=1), rel=1e-12)
    ends = stats.t.interval(0.95, 3, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert found.interval == pytest.approx(list(ends), rel=1e-12)
    assert found.difference == pytest.approx((0.1 + 1.0 - 1.3 + 0.2) / 4, rel=1e-12)
    assert (found.n, found.few) == (4, True)


def test_two_values_in_closed_form():
    """t of one degree of freedom is Cauchy: its 97.5 % quantile is tan(0.475 π)."""
    low, high = interval([1.0, 3.0])
    half = math.tan(0.475 * math.pi) * math.sqrt(2) / math.sqrt(2)
    assert (low, high) == pytest.approx((2 - half, 2 + half), rel=1e-9)


def test_what_is_missing_is_not_averaged_away():
    found = summary([90.1, None, 91.0], [90.0, 89.0, None])
    assert found.values == (90.1, None, 91.0)
    assert found.n == 2
    assert found.mean == pytest.approx(90.55)
    assert found.difference == pytest.approx(0.1), "only of seeds that have both"
    alone = summary([4.0, None, None], None)
    assert (alone.std, alone.interval, alone.difference) == (None, None, None)
    nothing = summary([None, None])
    assert (nothing.n, nothing.mean, nothing.std, nothing.interval) == (0, None, None, None)
    assert difference([None], [1.0]) is None


def test_five_values_are_not_few():
    assert [summary([1.0] * n).few for n in (4, 5)] == [True, False]
    assert summary([1.0] * 5).interval == (1.0, 1.0)


def test_the_noise_floor_is_the_mean_of_the_references_in_each_seed():
    floor = noise_floor([[1.0, 2.0, None], [3.0, None, None]])
    assert (floor.mean, floor.std, floor.values) == (2.0, 0.0, (2.0, 2.0, None))
    assert noise_floor([]) is None
    assert noise_floor([[None, None]]) is None


def test_speedups_are_of_the_same_seed():
    assert speedups([2.0, None, 5.0, 0.0], [10.0, 10.0, None, 4.0]) == [5.0, None, None, None]


def test_ranks_share_a_place_within_the_noise_floor_of_the_first():
    found = ranks({"a": 1.0, "b": 1.5, "c": 2.4, "d": 3.2, "e": None}, floor=0.6)
    assert found["a"] == found["b"] == Rank(1, True)
    assert found["c"] == Rank(3, False), "near b, but not near the first of its group"
    assert found["d"] == Rank(4, False)
    assert found["e"] is None


def test_ranks_where_more_is_better_and_without_a_floor():
    assert ranks({"a": 0.9, "b": 0.99}, higher=True) == {
        "a": Rank(2, False),
        "b": Rank(1, False),
    }
    assert ranks({"a": 1.0, "b": 1.0})["b"] == Rank(1, True)
    assert ranks({}) == {}
