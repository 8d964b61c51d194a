"""ROC curves and histograms of scores, against closed forms."""

import numpy as np
import pytest
from scipy import stats

from untrain.audit.coins import draw_coins
from untrain.audit.curves import FEWEST, edges_of, false_alarms, roc_of, spread_of
from untrain.audit.statistics import Resamples, mean_auc


def test_the_curve_of_two_normal_distributions():
    """TPR = 1 − Φ(Φ⁻¹(1 − FPR) − δ); 32 · 500 never-seen samples leave about 0.01 of chance."""
    rng = np.random.default_rng(0)
    coins = draw_coins(0, 32, 1000)
    scores = rng.standard_normal(coins.shape) + coins
    fpr = false_alarms(1000)
    roc = roc_of(scores, coins, Resamples.draw(rng, 32, 1000, 200), fpr)
    exact = 1 - stats.norm.cdf(stats.norm.ppf(1 - fpr) - 1)
    assert roc.tpr == pytest.approx(exact, abs=0.015)
    assert (roc.low <= roc.tpr).all() and (roc.tpr <= roc.high).all()
    assert ((roc.low <= exact + 0.01) & (exact - 0.01 <= roc.high)).mean() > 0.9
    assert (np.diff(roc.tpr) >= 0).all() and roc.tpr[-1] == 1


def test_the_area_under_it_is_the_auc():
    rng = np.random.default_rng(1)
    coins = draw_coins(1, 8, 400)
    scores = rng.standard_normal(coins.shape) + 0.7 * coins
    fpr = np.linspace(0, 1, 2001)
    roc = roc_of(scores, coins, Resamples.draw(rng, 8, 400, 4), fpr)
    assert np.trapezoid(roc.tpr, fpr) == pytest.approx(float(mean_auc(scores, coins)), abs=0.005)


def test_equal_scores_are_one_threshold():
    """All samples score alike: nobody can be accused without everybody."""
    coins = draw_coins(2, 4, 100)
    roc = roc_of(np.zeros(coins.shape), coins, Resamples.draw(np.random.default_rng(0), 4, 100, 10), np.array([0.5, 1]))
    assert roc.tpr.tolist() == [0, 1] == roc.low.tolist() == roc.high.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_no_bin_is_of_few_samples(seed):
    rng = np.random.default_rng(seed)
    scores, coins = rng.standard_t(2, (6, 150)), draw_coins(seed, 6, 150)
    edges = edges_of(scores)
    assert (np.diff(edges) > 0).all()
    counts = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0]
    assert counts.min() >= FEWEST and counts.sum() == scores.size
    for densities in spread_of(scores, coins, edges):
        assert (densities * np.diff(edges)).sum() == pytest.approx(1)


def test_scores_that_are_all_the_same_have_a_histogram():
    edges = edges_of(np.zeros((4, 100)))
    assert len(edges) >= 2 and edges[0] < 0 < edges[-1]
