"""What scores say of coins: AUC with exact p and intervals, hits at few false alarms, ε, Holm. All float64.

Coins decide who was forgotten, so under the hypothesis that a model carries no trace of them, every p is exact
whatever the signals are. Guesses on one sample by several models are dependent (twins shadow each other), so they are
never pooled into one binomial count, but for hits and ε, where the docstring says what holds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from untrain.audit.coins import Coins, are_usable
from untrain.lazy import stats

Interval = tuple[float, float]
LEVEL = 0.95
"""Confidence of every interval and bound."""


# ── area under the curve ────────────────────────────────────────────────────────────────────────────────────────


def auc_of_models(scores: np.ndarray, coins: Coins, chosen: np.ndarray | None = None) -> np.ndarray:
    """Computes each model's AUC: the chance that a forgotten sample scores above a never-seen one, ties counted half.

    Args:
        scores: [..., K, N].
        coins: [..., K, N].
        chosen: which samples count, bool [K, N], of one draw of coins; None: all.

    Returns:
        [..., K]; NaN for a model without both kinds.
    """
    if chosen is None:
        return _auc_of_ranks(stats.rankdata(scores, axis=-1), coins, scores.shape[-1])
    return weighted_auc(scores, coins, np.ones((1, scores.shape[1])), chosen)[0]


def weighted_auc(scores: np.ndarray, coins: Coins, weights: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """Computes each model's AUC where samples count several times or not at all.

    Args:
        scores: [K, N].
        coins: [K, N].
        weights: of the samples in each of B draws, [B, N].
        chosen: as in `auc_of_models`.

    Returns:
        [B, K]; NaN for a model without both kinds.
    """
    found = np.empty((len(weights), len(scores)))
    for k, (values, members) in enumerate(zip(scores, coins, strict=True)):
        order = np.argsort(values, kind="stable")
        if chosen is not None:
            order = order[chosen[k][order]]
        found[:, k] = _auc_in_order(values[order], members[order], weights[:, order])
    return found


def _auc_in_order(values: np.ndarray, members: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC of one model's ascending values [n] under weights [B, n]."""
    within = np.cumsum(np.where(members, 0.0, weights), axis=1)
    below = np.concatenate([np.zeros((len(weights), 1)), within], axis=1)
    first, last = np.searchsorted(values, values, "left"), np.searchsorted(values, values, "right")
    beaten = (below[:, first] + below[:, last]) / 2
    inside = np.where(members, weights, 0.0)
    pairs = inside.sum(axis=1) * below[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (inside * beaten).sum(axis=1) / pairs, np.nan)


def mean_auc(scores: np.ndarray, coins: Coins) -> np.ndarray:
    """Computes the mean of the models' AUCs, so that a model's level does not matter: [..., K, N] → [...].

    NaN where no model has both kinds of samples.
    """
    return _means(auc_of_models(scores, coins))


def _means(aucs: np.ndarray) -> np.ndarray:
    there = np.isfinite(aucs)
    with np.errstate(invalid="ignore"):
        return np.where(there, aucs, 0.0).sum(axis=-1) / there.sum(axis=-1)


@dataclass(frozen=True, eq=False)
class Resamples:
    """Draws of twins and of samples at once, the same for everything that is held against each other.

    Attributes:
        twins: how often each twin is in each draw, [B, K].
        samples: how often each sample is, [B, N].
    """

    twins: np.ndarray
    samples: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, twins: int, samples: int, draws: int = 1000) -> "Resamples":
        """Draws with replacement, as many as there are."""
        each = [rng.multinomial(count, np.full(count, 1 / count), size=draws) for count in (twins, samples)]
        return cls(*(counts.astype(np.float64) for counts in each))

    def mean_aucs(self, scores: np.ndarray, coins: Coins, chosen: np.ndarray | None = None) -> np.ndarray:
        """Computes the mean AUC in each draw, scores as they are, [B]."""
        aucs = weighted_auc(scores, coins, self.samples, chosen)
        weights = np.where(np.isfinite(aucs), self.twins, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nansum(np.where(weights > 0, aucs, 0.0) * weights, axis=1) / weights.sum(axis=1)


def percentiles(values: np.ndarray) -> Interval:
    """Computes the middle 95 % of draws, of those that are numbers."""
    low, high = np.nanpercentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


# ── exact p ─────────────────────────────────────────────────────────────────────────────────────────────────────


def p_of(observed: float, redrawn: np.ndarray) -> float:
    """Computes p = (1 + the redrawn values that are as large) / (1 + all): exact where each is as likely."""
    return float((1 + (redrawn >= observed).sum()) / (1 + len(redrawn)))


def redraw(rng: np.random.Generator, coins: Coins) -> Coins:
    """Draws other coins by the rule that these were drawn by."""
    while True:
        drawn = rng.integers(0, 2, coins.shape).astype(bool)
        if are_usable(drawn):
            return drawn


def p_of_redrawn_coins(
    statistic: Callable[[np.ndarray], np.ndarray], coins: Coins, rng: np.random.Generator, redraws: int
) -> tuple[float, float, float]:
    """Computes a statistic of coins, its p by redrawing all of them, and the standard deviation of the redrawn ones.

    Args:
        statistic: of several draws at once, [T, K, N] → [T].
        coins: the real ones.
        rng: draws.
        redraws: how many.
    """
    observed = float(statistic(coins[None])[0])
    at_once = max(1, AT_ONCE // coins.size)
    found = np.concatenate(
        [
            statistic(np.stack([redraw(rng, coins) for _ in range(min(at_once, redraws - first))]))
            for first in range(0, redraws, at_once)
        ]
    )
    return observed, p_of(observed, found), float(np.std(found, ddof=1))


AT_ONCE = 30_000
"""Coins that are redrawn at once: as much as stays near the processor."""


def p_of_redrawn_labels(
    scores: np.ndarray, coins: Coins, rng: np.random.Generator, redraws: int, chosen: np.ndarray | None = None
) -> tuple[float, float, float]:
    """As `p_of_redrawn_coins`, for scores into which none of these coins went: only the targets' labels are redrawn.

    Args:
        scores: of the targets, [K, N].
        coins: of the targets.
        rng: draws.
        redraws: how many.
        chosen: which samples count, bool [K, N].
    """
    kept = np.ones(scores.shape, dtype=bool) if chosen is None else chosen
    ranks = np.stack([_ranks(values, row) for values, row in zip(scores, kept, strict=True)])

    def statistic(labels: np.ndarray) -> np.ndarray:
        return _means(_auc_of_ranks(ranks, labels & kept, kept.sum(axis=1)))

    return p_of_redrawn_coins(statistic, coins, rng, redraws)


def _ranks(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Ranks of the values that are chosen, among these, from 1; 0 elsewhere."""
    ranks = np.zeros(len(values))
    ranks[chosen] = stats.rankdata(values[chosen])
    return ranks


def _auc_of_ranks(ranks: np.ndarray, members: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """AUC of each model, [..., K], by ranks [..., K, N] of `count` samples; NaN for a model without both kinds."""
    n1 = members.sum(axis=-1)
    pairs = n1 * (count - n1)
    above = (ranks * members).sum(axis=-1) - n1 * (n1 + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, above / pairs, np.nan)


def holm(p: dict[str, float]) -> dict[str, float]:
    """Adjusts p values for their number, so that one below 5 % is a false alarm in at most 5 % of families.

    Source: Holm 1979, *A simple sequentially rejective multiple test procedure*.
    """
    ordered = sorted(p, key=lambda name: p[name])
    adjusted: dict[str, float] = {}
    largest = 0.0
    for i, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - i) * p[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


# ── few false alarms ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Hits:
    """Forgotten samples found at few false alarms.

    Attributes:
        fpr: share of never-seen samples that the threshold lets pass at most.
        fpr_realised: share that it did let pass.
        tpr: share of forgotten samples above it.
        tpr_ci: Clopper–Pearson on counts summed over models: approximate, for one sample's are dependent.
        n_in: forgotten samples, over models.
        n_out: never-seen ones.
    """

    fpr: float
    fpr_realised: float
    tpr: float
    tpr_ci: Interval
    n_in: int
    n_out: int


def hits_at(scores: np.ndarray, coins: Coins, fpr: float) -> Hits | None:
    """Counts hits above a threshold of each model's own: the ⌈(1 − fpr)(n₀ + 1)⌉-th smallest never-seen score.

    A threshold over all models would mix their levels. Models with too few never-seen samples for such a threshold are
    left out; None where all are.
    """
    hits = alarms = n_in = n_out = 0
    for values, members in zip(scores, coins, strict=True):
        others = np.sort(values[~members])
        rank = math.ceil(round((1 - fpr) * (len(others) + 1), 9))
        if rank > len(others):
            continue
        threshold = others[rank - 1]
        hits += int((values[members] > threshold).sum())
        alarms += int((others > threshold).sum())
        n_in += int(members.sum())
        n_out += len(others)
    if not n_in:
        return None
    return Hits(fpr, alarms / n_out, hits / n_in, clopper_pearson(hits, n_in), n_in, n_out)


def clopper_pearson(hits: int, trials: int, level: float = LEVEL) -> Interval:
    """Computes the exact interval of a share."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, trials - hits + 1))
    high = 1.0 if hits == trials else float(stats.beta.ppf(1 - tail, hits + 1, trials - hits))
    return low, high


# ── ε ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SHARES = (0.01, 0.05, 0.2, 1.0)
"""Of the pool that is guessed on in each model: the likeliest members and others."""


@dataclass(frozen=True)
class Epsilon:
    """What ε is refuted: an (ε, 0)-certified forgetting would let an attacker guess right no more often.

    Attributes:
        lower: forgetting with a smaller ε is refuted.
        fold: whose models were guessed on, 0 or 1; None where nothing is refuted.
        share: of the pool that was guessed on.
        guesses: how many, over the fold's models.
        right: how many of them were right.
        delta: 0.
        level: confidence, over all folds and shares.
    """

    lower: float
    fold: int | None = None
    share: float | None = None
    guesses: int = 0
    right: int = 0
    delta: float = 0.0
    level: float = LEVEL


def epsilon_bound(scores: np.ndarray, coins: Coins) -> Epsilon:
    """Bounds ε from below, by the share and fold that bound it most.

    Args:
        scores: by the shadows of the other fold, [K, N]: within a fold, given the other, models and coins are
            independent, so its guesses may be summed.
        coins: [K, N].
    """
    best = Epsilon(0.0)
    tests = 2 * len(SHARES)
    for fold in (0, 1):
        for share in SHARES:
            guesses, right = _guess(scores[fold::2], coins[fold::2], share)
            lower = bound_of_guesses(guesses, right, (1 - LEVEL) / tests)
            if lower > best.lower:
                best = Epsilon(lower, fold, share, guesses, right)
    return best


def _guess(scores: np.ndarray, coins: Coins, share: float) -> tuple[int, int]:
    """In each model the highest scores are called members, as many of the lowest others: guesses, and right ones."""
    each = int(share * scores.shape[1] / 2)
    order = np.argsort(scores, axis=1, kind="stable")
    members = np.take_along_axis(coins, order, axis=1)
    right = int(members[:, len(order[0]) - each :].sum() + (~members[:, :each]).sum())
    return 2 * each * len(scores), right


def bound_of_guesses(guesses: int, right: int, alpha: float) -> float:
    """Finds the largest ε with P[Bin(guesses, 1 / (1 + e^−ε)) ≥ right] ≤ alpha; 0 if there is none.

    Source: Steinke et al. 2023, *Privacy Auditing with One (1) Training Run*, for δ = 0.
    """
    if right == 0:
        return 0.0
    share = float(stats.beta.ppf(alpha, right, guesses - right + 1))
    return math.log(share / (1 - share)) if 0.5 < share < 1 else 0.0


# ── means ───────────────────────────────────────────────────────────────────────────────────────────────────────


def mean_interval(values: np.ndarray) -> tuple[float, Interval | None]:
    """Computes a mean and its t-interval; None for fewer than two values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, (mean - half, mean + half)


def welch(one: np.ndarray, other: np.ndarray) -> tuple[float, Interval | None]:
    """Computes a difference of means and its interval by Welch's t; None where a side has fewer than two values."""
    difference = float(np.mean(one) - np.mean(other))
    if min(len(one), len(other)) < 2:
        return difference, None
    errors = [float(np.var(values, ddof=1)) / len(values) for values in (one, other)]
    if not sum(errors):
        return difference, (difference, difference)
    freedom = sum(errors) ** 2 / sum(e * e / (len(v) - 1) for e, v in zip(errors, (one, other), strict=True))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(sum(errors))
    return difference, (difference - half, difference + half)


def detectable_auc(twins: int, samples: int) -> float:
    """Computes the smallest AUC that is found in four of five audits, at 5 % of false alarms over four tests.

    The deviation of a mean AUC without any trace was measured at 0.85 / √(K · N); 2.6 / √(K · N) above chance is then
    three of them: 2.24 for a one-sided 1.25 %, and 0.84 for the power.
    """
    return 0.5 + 2.6 / math.sqrt(twins * samples)
