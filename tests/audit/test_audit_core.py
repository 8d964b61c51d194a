"""The attack and its statistics, where the answer is known: closed forms, models without traces, and cheats."""

import math

import numpy as np
import pytest
from scipy import stats

from untrain.audit.attack import membership_scores, other_fold, other_twins
from untrain.audit.coins import draw_coins, hash_coins
from untrain.audit.score import Audited
from untrain.audit.statistics import (
    auc_of_models,
    bound_of_guesses,
    clopper_pearson,
    epsilon_bound,
    hits_at,
    holm,
    mean_auc,
    p_of_redrawn_coins,
)
from untrain.audit.traces import EXPOSED, INSIDE, OUTPUTS, RELEARNED
from untrain.audit.verdict import judge_traces, needed_twins
from untrain.errors import DataError, SettingError, UnknownName

NAMES = ("confidence", "refit", "relearned")
"""A signal of each group."""


def slow_scores(signal, coins, shadows):
    """The attack as it is written down, target by target and sample by sample."""
    level, twins = signal.astype(float), len(signal)

    def moments(k):
        seen = level[shadows[k]]
        n = len(seen)
        mean, variance = seen.mean(axis=0), seen.var(axis=0, ddof=1)
        return mean, ((n - 1) * variance + 4 * variance.mean()) / (n - 1 + 4)

    spread = np.empty_like(level)
    for k in range(twins):
        mean, variance = moments(k)
        spread[k] = np.log((level[k] - mean) ** 2 / variance + 0.1)
    return slow_part(level, coins, shadows) + slow_part(spread, coins, shadows)


def slow_part(values, coins, shadows):
    twins, samples = values.shape
    scores = np.empty_like(values)
    for k in range(twins):
        groups = [(values[shadows[k] & coins[:, x], x], values[shadows[k] & ~coins[:, x], x]) for x in range(samples)]
        inside = [sum(((g - g.mean()) ** 2).sum() for g in pair if len(g)) for pair in groups]
        freedom = [sum(max(len(g) - 1, 0) for g in pair) for pair in groups]
        over_all = sum(inside) / sum(freedom)
        variance = [(a + 4 * over_all) / (b + 4) for a, b in zip(inside, freedom, strict=True)]
        whole = [x for x in range(samples) if all(len(g) for g in groups[x])]
        d = {x: groups[x][0].mean() - groups[x][1].mean() for x in whole}
        e = {x: variance[x] * sum(1 / len(g) for g in groups[x]) for x in whole}
        mean = sum(d[x] / e[x] for x in whole) / sum(1 / e[x] for x in whole)
        apart = max(0.0, sum((d[x] - mean) ** 2 - e[x] for x in whole) / len(whole))
        for x in range(samples):
            effect = mean + apart / (apart + e[x]) * (d[x] - mean) if x in d else mean
            one, other = groups[x]
            middle = (one.sum() + other.sum() - (len(one) - len(other)) * effect / 2) / (len(one) + len(other))
            scores[k, x] = (values[k, x] - middle) * effect / variance[x]
    return scores


@pytest.mark.parametrize("shadows", [other_twins, other_fold])
def test_scores_are_those_of_the_definition(shadows):
    """Tolerance 1e-9: sums in another order, about a mean that is 50 deviations from 0."""
    rng = np.random.default_rng(0)
    coins = draw_coins(0, 6, 40)
    coins[:, 3], coins[:, 4] = True, False  # no difference is defined there
    signal = 50 + rng.standard_t(3, size=coins.shape) + coins * rng.normal(size=40)
    found = membership_scores(signal, coins, shadows(6))
    assert np.abs(found - slow_scores(signal, coins, shadows(6))).max() < 1e-9 * np.abs(found).max()


@pytest.mark.parametrize("effect", [0.5, 1.0])
def test_gaussians_are_told_apart_as_well_as_can_be(effect):
    coins = draw_coins(1, 128, 1200)
    signal = np.random.default_rng(2).normal(size=coins.shape) + effect * coins
    scores = membership_scores(signal, coins, other_twins(128))
    assert mean_auc(scores, coins) == pytest.approx(stats.norm.cdf(effect / math.sqrt(2)), abs=0.005)
    hits = hits_at(scores, coins, 0.01)
    assert hits.tpr == pytest.approx(stats.norm.sf(stats.norm.isf(hits.fpr_realised) - effect), abs=0.006)
    assert hits.tpr_ci[0] < hits.tpr < hits.tpr_ci[1] and hits.n_in == coins.sum()


def without_trace(seed, twins=16, samples=300):
    """Heavy tails, of another scale for each sample, and a level for each model."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=samples))
    return rng.standard_t(3, size=(twins, samples)) * scale + rng.normal(size=(twins, 1))


def test_nothing_is_found_where_nothing_is():
    """Over 200 audits. ε is refuted in at most 5 % of them, and an interval of 95 % misses 0.5 in at most 7 %."""
    aucs, covered, refuted = [], 0, 0
    for seed in range(200):
        coins, signal = draw_coins(seed, 16, 300), without_trace(seed)
        audited = Audited({"confidence": signal}, coins, seed=seed, redraws=2, draws=200)
        group = audited.group(OUTPUTS)
        aucs.append(group.auc)
        covered += group.auc_ci[0] <= 0.5 <= group.auc_ci[1]
        refuted += epsilon_bound(membership_scores(signal, coins, other_fold(16)), coins).lower > 0
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.003)
    assert covered >= 186 and refuted <= 10


def test_models_without_a_trace_pass():
    """Over 200 audits of 8 twins, 99 redraws: false alarms 5 % ± two standard errors, p of each group uniform."""
    traces, p = 0, {name: [] for name in (OUTPUTS, INSIDE, RELEARNED)}
    for seed in range(200):
        coins = draw_coins(seed, 8, 120)
        signals = {name: without_trace([seed, i], 8, 120) for i, name in enumerate(NAMES)}
        seen = Audited({name: signal + 3 * coins for name, signal in signals.items()}, coins, redraws=2, draws=20)
        groups = Audited(signals, coins, seed=seed, redraws=99, draws=20)
        first, found = seen.find(), groups.find()
        traces += judge_traces("method", found, known(first), 8).kind == "trace"
        for name in p:
            p[name].append(found.groups[name].p)
    assert traces <= 16
    assert all(stats.kstest(values, "uniform").pvalue > 0.01 for values in p.values())


def known(findings):
    """Findings as if their outputs had been seen with certainty."""
    from dataclasses import replace

    outputs = replace(findings.groups[OUTPUTS], p=0.001, auc_ci=(0.8, 0.9))
    return replace(findings, groups={**findings.groups, OUTPUTS: outputs})


def test_lowered_confidence_is_found():
    coins, rng = draw_coins(3, 8, 400), np.random.default_rng(3)
    before = 3 * rng.normal(size=400) + rng.normal(size=(8, 400)) + coins
    after = before - 3 * coins
    original = Audited({"confidence": before}, coins, redraws=199)
    first = original.find()
    found = Audited({"confidence": after}, coins, original, redraws=199).find()
    verdict = judge_traces("cheat", found, first, 8)
    assert (verdict.kind, verdict.subkind) == ("trace", "pushed-away")
    assert found.groups[OUTPUTS].auc > 0.85
    assert np.mean(auc_of_models(after, coins)) < 0.35


def matched_to_others(signal, coins):
    """Members' values are replaced by quantiles of the same model's other values."""
    matched = signal.copy()
    for row, members in zip(matched, coins, strict=True):
        order = np.argsort(row[members], kind="stable")
        values = np.quantile(row[~members], (np.arange(members.sum()) + 0.5) / members.sum())
        row[np.flatnonzero(members)[order]] = values
    return matched


@pytest.mark.parametrize("uneven", [True, False])
def test_matched_marginals_hide_an_uneven_effect_from_averages_alone(uneven):
    """With the same effect on every sample the cheat is exact forgetting, and nothing may be found."""
    coins, rng = draw_coins(4, 8, 800), np.random.default_rng(4)
    effect = 3.0 * (rng.random(800) < 1 / 3) if uneven else np.full(800, 3.0)
    signal = matched_to_others(3 * rng.normal(size=800) + rng.normal(size=(8, 800)) + effect * coins, coins)
    assert np.mean(auc_of_models(signal, coins)) == pytest.approx(0.5, abs=0.001)
    auc = mean_auc(membership_scores(signal, coins, other_twins(8)), coins)
    assert auc > 0.70 if uneven else auc == pytest.approx(0.5, abs=0.03)


def test_values_that_are_oddly_constant_are_found():
    from untrain.audit.attack import Attack, _ratio

    coins, rng = draw_coins(5, 16, 1000), np.random.default_rng(5)
    signal = rng.normal(size=1000) + rng.normal(size=(16, 1000)) * np.where(coins, 0.5, 1.0)
    attack = Attack(signal, other_twins(16))
    level = _ratio(attack.targets, attack.level.effect(coins))
    assert mean_auc(level, coins) == pytest.approx(0.5, abs=0.02)
    assert 0.65 < mean_auc(attack.scores(coins), coins) < 2 / math.pi * math.atan(2) + 0.01


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 2.0])
def test_the_bound_on_epsilon_holds_and_is_near(epsilon):
    rng = np.random.default_rng(6)
    right = rng.binomial(5000, 1 / (1 + math.exp(-epsilon)), size=400)
    bounds = np.array([bound_of_guesses(5000, int(count), 0.05) for count in right])
    assert (bounds <= epsilon).mean() >= 0.93
    assert epsilon == 0 or np.median(bounds) >= epsilon - 0.1
    for count, bound in zip(right[:20].tolist(), bounds, strict=False):
        tail = stats.binom.sf(count - 1, 5000, 1 / (1 + math.exp(-bound)))
        assert tail == pytest.approx(0.05, rel=1e-6) if bound else tail >= 0.05 - 1e-9


def test_coins_must_not_be_balanced():
    """With variances of single samples, balanced coins make models without a trace look worse than chance."""

    def plain(signal, coins):
        """Differences and variances of single samples, by the other twins."""
        a = other_twins(len(coins)).astype(float)
        b = coins.astype(float)
        n1, n0 = a @ b, a @ (1 - b)
        m1, m0 = a @ (signal * b) / n1, a @ (signal * (1 - b)) / n0
        v1 = a @ (signal**2 * b) / n1 - m1**2 + 1e-3
        v0 = a @ (signal**2 * (1 - b)) / n0 - m0**2 + 1e-3
        return (signal - m0) ** 2 / v0 - (signal - m1) ** 2 / v1 + np.log(v0 / v1)

    balanced, fair = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        signal = rng.normal(size=(16, 1000))
        half = np.argsort(rng.random((16, 1000)), axis=0) < 8
        coins = draw_coins(seed, 16, 1000)
        few = np.flatnonzero(np.minimum(coins.sum(axis=0), 16 - coins.sum(axis=0)) < 2)
        coins[:2, few], coins[2:4, few] = True, False  # so that both variances are there, whoever is left out
        balanced.append(np.mean(auc_of_models(plain(signal, half), half)))
        fair.append(np.mean(auc_of_models(plain(signal, coins), coins)))
    assert np.mean(balanced) < 0.495
    assert np.mean(fair) == pytest.approx(0.5, abs=0.003)


def test_a_targets_own_coins_do_not_enter_its_score():
    coins, signal = draw_coins(7, 8, 200), without_trace(7, 8, 200)
    flipped = coins.copy()
    flipped[2] = ~flipped[2]
    for shadows in (other_twins(8), other_fold(8)):
        one, other = (membership_scores(signal, each, shadows)[2] for each in (coins, flipped))
        assert (one == other).all()


class TestVerdicts:
    def test_originals_that_show_nothing_are_blind(self):
        coins = draw_coins(8, 8, 200)
        original = Audited({"confidence": without_trace(8, 8, 200)}, coins, redraws=99)
        first = original.find()
        found = Audited({"confidence": without_trace(9, 8, 200)}, coins, original, redraws=99).find()
        assert judge_traces("method", found, first, 8).kind == "blind"
        assert found.groups[OUTPUTS].left is None

    def test_traces_in_retrained_models_break_the_audit(self):
        coins = draw_coins(9, 8, 300)
        signal = without_trace(9, 8, 300)
        original = Audited({"confidence": signal + 3 * coins}, coins, redraws=199)
        first = original.find()
        audited = Audited({"confidence": signal + 0.5 * coins}, coins, original, redraws=199)
        later = {"confidence": 3.0 * coins[4:] + without_trace(10, 4, 300)}
        assert judge_traces("method", audited.find(later), first, 8).kind == "broken", "in whichever places"
        broken = audited.find({"confidence": 3.0 * coins[:4] + without_trace(10, 4, 300)})
        assert judge_traces("method", broken, first, 8).kind == "broken"
        sound = audited.find({"confidence": without_trace(10, 4, 300)})
        assert sound.control.p[OUTPUTS] > 0.005
        assert judge_traces("method", sound, first, 8).kind == "trace"

    def test_a_few_samples_that_leak_are_exposed(self):
        found_by = 0
        for seed in range(20):
            rng, coins = np.random.default_rng(seed), draw_coins(seed, 16, 400)
            leaking = np.arange(400) < 20
            noise = rng.normal(size=(2, 16, 400))
            original = Audited({"confidence": noise[0] + coins * (0.3 + 3.0 * leaking)}, coins, redraws=199, draws=50)
            original.find()
            found = Audited({"confidence": noise[1] + coins * 3.0 * leaking}, coins, original, redraws=199, draws=50)
            exposed = found.find().groups[EXPOSED]
            found_by += exposed.p <= 0.01
        assert found_by >= 19
        assert found.found[OUTPUTS].auc < 0.6 < exposed.auc

    def test_what_passes_says_what_is_excluded_and_what_is_weak_how_many_twins_it_takes(self):
        coins, rng = draw_coins(11, 16, 1000), np.random.default_rng(11)
        noise = rng.normal(size=(2, 16, 1000))
        original = Audited({"confidence": noise[0] + 2 * coins}, coins, redraws=99)
        first = original.find()
        passed = judge_traces(
            "method", Audited({"confidence": noise[1]}, coins, original, redraws=99).find(), first, 16
        )
        assert passed.kind == "passed" and "Other attacks may find more" in passed.sentence
        assert "What lies dormant was not looked for" in passed.sentence, "there is no signal of relearning"
        few = draw_coins(12, 4, 100)
        original = Audited({"confidence": noise[0, :4, :100] + 1.5 * few}, few, redraws=199)
        first = original.find()
        weak = judge_traces(
            "method", Audited({"confidence": noise[1, :4, :100]}, few, original, redraws=99).find(), first, 4
        )
        assert weak.kind == "weak" and "--twins" in weak.sentence
        assert needed_twins(4, 0.0, 0.5) == math.ceil(4 * (0.5 / 0.25) ** 2)


def test_small_parts_against_scipy_and_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert clopper_pearson(3, 20) == pytest.approx(tuple(stats.binomtest(3, 20).proportion_ci()))
    assert clopper_pearson(0, 5)[0] == 0 and clopper_pearson(5, 5)[1] == 1
    scores, coins = np.array([[1.0, 2, 2, 3]]), np.array([[False, True, False, True]])
    assert auc_of_models(scores, coins).tolist() == [(1 + 0.5 + 1 + 1) / 4]
    assert hits_at(scores, coins, 0.01) is None, "too few never-seen samples for such a threshold"
    assert draw_coins(0, 4, 100).tolist() == draw_coins(0, 4, 100).tolist()
    assert hash_coins(draw_coins(0, 4, 100)) != hash_coins(draw_coins(1, 4, 100))
    observed, p, _ = p_of_redrawn_coins(
        lambda draws: draws.mean(axis=(1, 2)), np.ones((4, 8), bool), np.random.default_rng(0), 99
    )
    assert (observed, p) == (1.0, 0.01)


@pytest.mark.parametrize(
    ("signals", "coins", "error"),
    [
        ({"nope": np.zeros((4, 100))}, draw_coins(0, 4, 100), UnknownName),
        ({"confidence": np.zeros((4, 99))}, draw_coins(0, 4, 100), DataError),
        ({"confidence": np.full((4, 100), np.nan)}, draw_coins(0, 4, 100), DataError),
        ({"confidence": np.zeros((3, 100))}, draw_coins(0, 3, 100), SettingError),
        ({"confidence": np.zeros((4, 50))}, draw_coins(0, 4, 50), SettingError),
        ({"confidence": np.zeros((4, 100))}, np.ones((4, 100), bool), DataError),
        ({"confidence": np.zeros((4, 100))}, draw_coins(0, 4, 100).astype(int), DataError),
        ({}, draw_coins(0, 4, 100), DataError),
    ],
)
def test_what_cannot_be_audited_is_named(signals, coins, error):
    with pytest.raises(error):
        Audited(signals, coins)


def test_the_control_raises_no_false_alarm():
    """Over 200 audits of methods without a trace, retrained models that differ from twins alike: p is uniform."""
    found = []
    for seed in range(200):
        coins, rng = draw_coins(seed, 6, 150), np.random.default_rng(seed)
        audited = Audited({"confidence": rng.normal(size=(6, 150))}, coins, seed=seed, redraws=99, draws=2)
        apart = 2 * rng.normal(size=150)
        retrained = {"confidence": apart + 0.3 * rng.normal(size=(3, 150))}
        found.append(audited.control_p(audited.control_scores(OUTPUTS, retrained), 3))
        assert audited.control(retrained).p[OUTPUTS] == min(1.0, 2 * min(found[-1]))
    for place in zip(*found, strict=True):
        assert stats.kstest(place, "uniform").pvalue > 0.01
