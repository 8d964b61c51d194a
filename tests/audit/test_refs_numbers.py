"""Whole models exchanged, where the answer is known: exact p, what was removed, kinds and verdicts."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest

from untrain.audit.permutation import label_splits, p_of_means, permutation_p, smallest_p
from untrain.audit.refs_card import number_rows
from untrain.audit.refs_score import (
    AS_RETRAINED,
    CANNOT_SHOW,
    DESCRIBED,
    DIFFERENT,
    MISSING,
    OVERSHOT,
    TOO_LITTLE,
    UNSURE,
    ModelTraces,
    find_numbers,
)
from untrain.audit.refs_verdict import SLIGHT, judge_numbers
from untrain.audit.removed import differs, removed_share
from untrain.audit.traces import Mean
from untrain.audit.verdict import BLIND, DAMAGED, PASSED, TRACE, WEAK
from untrain.domain import AuditNumber
from untrain.errors import DataError


def slow_p(one, other, one_sided=False):
    """By fractions, split by split."""
    values = [*map(int, one), *map(int, other)]

    def difference(chosen):
        mine = [values[i] for i in chosen]
        rest = [values[i] for i in range(len(values)) if i not in chosen]
        found = Fraction(sum(mine), len(mine)) - Fraction(sum(rest), len(rest))
        return found if one_sided else abs(found)

    real = difference(range(len(one)))
    every = [difference(chosen) for chosen in combinations(range(len(values)), len(one))]
    return Fraction(sum(each >= real for each in every), len(every))


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize(("k", "r"), [(6, 6), (5, 5), (4, 6)])
def test_p_is_that_of_every_split(k, r, one_sided):
    """Whole numbers of few values, so that there are many ties; scaled, so that sums are rounded."""
    rng = np.random.default_rng(k + 10 * r)
    for shift in (0, 1, 3):
        one, other = rng.integers(0, 4, k) + shift, rng.integers(0, 4, r)
        found = p_of_means(1e6 + 0.1 * one, 1e6 + 0.1 * other, one_sided=one_sided)
        assert found == pytest.approx(float(slow_p(one, other, one_sided)), abs=1e-12)


def test_splits_are_all_there_are_the_real_one_first():
    splits = label_splits(3, 4)
    assert len({tuple(row) for row in splits}) == len(splits) == comb(7, 3) and (splits.sum(1) == 3).all()
    assert splits[0].tolist() == [True] * 3 + [False] * 4
    drawn = label_splits(20, 20, seed=1)
    assert drawn.shape == (10_000, 40) and (drawn.sum(1) == 20).all() and drawn[0, :20].all()
    assert (drawn == label_splits(20, 20, seed=1)).all() and abs(drawn[1:].mean(0) - 0.5).max() < 0.03


def test_the_smallest_p_is_reached_and_five_of_each_are_needed():
    for k, r in ((5, 5), (6, 6), (5, 6)):
        p = p_of_means(10.0 + np.arange(k), np.arange(r) - 10.0)
        assert p == pytest.approx(smallest_p(k, r))
    assert 5 * smallest_p(5, 5) <= 0.05 < 5 * smallest_p(4, 4)
    assert smallest_p(5, 5, one_sided=True) == pytest.approx(1 / 252)


def test_p_of_drawn_splits_is_that_of_all():
    """Of 12 + 12 models 2,704,156 ways; of drawn ones p is off by at most four standard errors."""
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=12) + 0.5, rng.normal(size=12)
    drawn = [p_of_means(one, other, seed=seed) for seed in range(5)]
    assert np.std(drawn) < 4 * np.sqrt(np.mean(drawn) / 9999)


def test_alarms_without_a_difference_are_as_many_as_said():
    """Over 400 sets of five numbers, one in twenty at most has a trace, and two standard errors."""
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(400):
        values = np.exp(2 * rng.normal(size=(5, 10)))
        numbers = {str(i): number(5 * np.ones(5) + row[:5], row[:5], row[5:]) for i, row in enumerate(values)}
        alarms += any(each.p_holm <= 0.05 for each in find_numbers(numbers).values())
    assert alarms <= 400 * 0.05 + 2 * np.sqrt(400 * 0.05 * 0.95)


def number(original, unlearned, retrained, **more):
    return AuditNumber("Recall", " %", "Meaning.", original, unlearned, retrained, **more)


def test_removed_covers_the_truth():
    """Half removed, six models of each kind, 500 times: at least 93 % of intervals hold it."""
    rng, held = np.random.default_rng(3), 0
    for seed in range(500):
        original = 10 + rng.normal(size=6)
        share, (low, high) = removed_share(original, original - 5 + rng.normal(size=6), rng.normal(size=6), seed)
        held += low <= 0.5 <= high
        assert low <= share <= high
    assert held / 500 >= 0.93


def test_removed_is_exact_where_models_are_alike():
    ten, five, none = np.full(6, 10.0), np.full(6, 5.0), np.zeros(6)
    assert removed_share(ten, five, none) == (0.5, (0.5, 0.5))
    assert removed_share(ten, -five, none)[0] == 1.5
    assert removed_share(ten[:1], five[:1], none[:1]) == (0.5, None)
    assert differs(ten, none) and not differs(none, none)
    assert not differs(np.array([1.0, 3, 5, 7]), np.array([2.0, 4, 6, 8]))


SPREAD = np.array([-1.0, -0.6, -0.2, 0.2, 0.6, 1.0])
"""Of six models."""
BEFORE, NEVER = 90 + SPREAD, 10 + SPREAD[::-1]
KINDS = {
    TOO_LITTLE: 50 + SPREAD,
    OVERSHOT: -40 + SPREAD,
    DIFFERENT: 14 + SPREAD,
    AS_RETRAINED: 10.2 + SPREAD,
    UNSURE: 10 + 40 * SPREAD,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_number_is_told(kind):
    found = find_numbers({"recall": number(BEFORE, KINDS[kind], NEVER)})["recall"]
    assert found.kind == kind
    assert found.removed == pytest.approx((90 - KINDS[kind].mean()) / 80)


def test_a_number_that_tells_nothing_is_no_finding():
    nothing = find_numbers({"recall": number(NEVER, NEVER + 0.1, NEVER)})["recall"]
    assert nothing.kind == CANNOT_SHOW and nothing.removed is None
    described = find_numbers({"own": number(BEFORE, KINDS[TOO_LITTLE], NEVER, tested=False)})["own"]
    assert described.kind == DESCRIBED and described.p is None and described.p_holm is None
    missing = find_numbers({"refit": AuditNumber("New head", " %", "Meaning.", missing="no last layer")})["refit"]
    assert missing.kind == MISSING
    with pytest.raises(DataError, match="recall"):
        find_numbers({"recall": number(BEFORE, [np.nan] * 6, NEVER)})


def test_what_lies_below_is_no_trace_of_a_generator():
    found = find_numbers({"inversion": number(BEFORE, KINDS[OVERSHOT], NEVER, one_sided=True)})["inversion"]
    assert found.p == 1 and found.kind == AS_RETRAINED
    above = find_numbers({"inversion": number(BEFORE, KINDS[TOO_LITTLE], NEVER, one_sided=True)})["inversion"]
    assert above.p == pytest.approx(1 / comb(12, 6)) and above.kind == TOO_LITTLE


def test_a_p_of_the_domain_is_taken():
    found = find_numbers(
        {"members": number(BEFORE, KINDS[TOO_LITTLE], NEVER, p=0.5), "b": number(BEFORE, BEFORE, NEVER)}
    )
    assert found["members"].p == found["members"].p_holm == 0.5
    assert found["b"].p_holm == pytest.approx(2 * smallest_p(6, 6))


FINE = {"test": Mean(0.0, (-0.5, 0.5))}


@pytest.mark.parametrize(
    ("kinds", "kept", "verdict", "subkind"),
    [
        ((TOO_LITTLE, OVERSHOT), FINE, TRACE, TOO_LITTLE),
        ((AS_RETRAINED, OVERSHOT), FINE, TRACE, OVERSHOT),
        ((AS_RETRAINED, DIFFERENT), FINE, TRACE, SLIGHT),
        ((AS_RETRAINED, AS_RETRAINED), {"test": Mean(-4.0, (-5.0, -3.0))}, DAMAGED, None),
        ((AS_RETRAINED, UNSURE), FINE, WEAK, None),
        ((AS_RETRAINED, AS_RETRAINED), {"test": Mean(-1.0, (-3.0, 1.0))}, WEAK, None),
        ((AS_RETRAINED, AS_RETRAINED), FINE, PASSED, None),
        ((AS_RETRAINED, AS_RETRAINED), {}, PASSED, None),
    ],
)
def test_the_verdict_is_the_first_that_holds(kinds, kept, verdict, subkind):
    numbers = {f"{i}": number(BEFORE, KINDS[kind], NEVER) for i, kind in enumerate(kinds)}
    found = ModelTraces(find_numbers(numbers), kept)
    judged = judge_numbers("sfron", found, 6)
    assert (judged.kind, judged.subkind) == (verdict, subkind)
    assert not {"proved", "safe", "compliant"} & set(judged.sentence.lower().split())
    assert len([*number_rows(found, found)]) == 2 + len(kept)


def test_originals_that_show_nothing_are_no_proof():
    found = ModelTraces(find_numbers({"recall": number(NEVER, NEVER, NEVER[::-1])}), FINE)
    judged = judge_numbers("sfron", found, 6)
    assert judged.kind == BLIND and judged.remarks


def test_a_target_made_of_retrained_models_is_made_anew_for_every_split():
    """A distance to the retrained models' own mean would favour those that it is made of: p must not."""
    rng, small = np.random.default_rng(4), 0
    for _ in range(200):
        values = rng.normal(size=(10, 3))

        def statistic(splits, values=values):
            found = []
            for first in splits:
                mean = values[~first].mean(0)
                distances = np.linalg.norm(values - mean, axis=1)
                found.append(abs(distances[first].mean() - distances[~first].mean()))
            return np.array(found)

        small += permutation_p(statistic, 5, 5) <= 0.05
    assert small <= 200 * 0.05 + 2 * np.sqrt(200 * 0.05 * 0.95)
