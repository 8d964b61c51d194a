"""Two kinds of samples compared within their classes, where either kind could have been the other.

If forgotten and unseen samples were drawn from one source at random, and a model carries no trace of which is which,
then, given the classes, each choice of the forgotten ones is as likely. So a p by permuting labels within classes is
exact, whatever is computed of the samples and however classes differ.
"""

import numpy as np

from untrain.audit.statistics import AT_ONCE, Interval, percentiles, weighted_auc
from untrain.lazy import stats

PERMUTATIONS = 9_999
DRAWS = 1_000
"""Resamples of an interval."""
ROUNDING = 1e-9
"""Statistics that differ by less are equal: sums are taken in another order for each permutation."""


class WithinClasses:
    """Forgotten and unseen samples, class by class; a class that has one kind alone counts for nothing.

    Args:
        forgotten: which samples are, bool [N].
        labels: the classes, int64 [N].
    """

    def __init__(self, forgotten: np.ndarray, labels: np.ndarray) -> None:
        self.forgotten = forgotten
        parts = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.parts = [part for part in parts if 0 < forgotten[part].sum() < len(part)]
        self.pairs = [int(forgotten[part].sum()) * int((~forgotten[part]).sum()) for part in self.parts]

    @property
    def sizes(self) -> tuple[int, int]:
        """How many forgotten and unseen samples are compared."""
        ours = [int(self.forgotten[part].sum()) for part in self.parts]
        return sum(ours), sum(map(len, self.parts)) - sum(ours)

    def centred_ranks(self, values: np.ndarray) -> np.ndarray:
        """Ranks values [S, N] within classes; scaled so that a sum over forgotten samples is AUC − ½."""
        ranks = np.zeros(values.shape)
        for part in self.parts:
            ranks[:, part] = stats.rankdata(values[:, part], axis=1) - (len(part) + 1) / 2
        return ranks / sum(self.pairs)

    def aucs(self, values: np.ndarray) -> np.ndarray:
        """Computes the chance that a forgotten sample's value lies above that of an unseen one of its class, [S].

        Args:
            values: [S, N]; ties count half.
        """
        return 0.5 + self.centred_ranks(values)[:, self.forgotten].sum(axis=1)

    def null_sd(self, values: np.ndarray) -> np.ndarray:
        """Computes the standard deviation of the AUCs over all permutations, ties included, [S].

        Of n ranks, n₁ are drawn without replacement: the variance of their sum is n₁n₀ / (n(n − 1)) · Σ(r − r̄)².
        """
        ranks = self.centred_ranks(values)
        each = [
            pairs / (len(part) * (len(part) - 1)) * np.square(ranks[:, part]).sum(axis=1)
            for part, pairs in zip(self.parts, self.pairs, strict=True)
        ]
        return np.sqrt(np.sum(each, axis=0))

    def permuted_aucs(self, values: np.ndarray, rng: np.random.Generator, count: int = PERMUTATIONS) -> np.ndarray:
        """Computes AUCs where labels are permuted within classes, [count, S]."""
        ranks = self.centred_ranks(values).T
        at_once = max(1, 10 * AT_ONCE // values.shape[1])
        found = [self._permuted(rng, min(at_once, count - first)) @ ranks for first in range(0, count, at_once)]
        return 0.5 + np.concatenate(found)

    def _permuted(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Other choices of as many forgotten samples of each class, as 0 and 1, [count, N]."""
        drawn = np.zeros((count, len(self.forgotten)))
        for part in self.parts:
            chosen = int(self.forgotten[part].sum())
            order = np.argpartition(rng.random((count, len(part))), chosen - 1, axis=1)[:, :chosen]
            np.put_along_axis(drawn, part[order], 1.0, axis=1)
        return drawn

    def resampled_aucs(self, values: np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
        """Computes AUCs where the samples of each class and kind are drawn with replacement, [draws, S]."""
        found = np.zeros((draws, len(values)))
        for part, pairs in zip(self.parts, self.pairs, strict=True):
            ours = self.forgotten[part]
            weights = np.zeros((draws, len(part)))
            for kind in (ours, ~ours):
                count = int(kind.sum())
                weights[:, kind] = rng.multinomial(count, np.full(count, 1 / count), size=draws)
            members = np.broadcast_to(ours, (len(values), len(part)))
            found += pairs / sum(self.pairs) * weighted_auc(values[:, part], members, weights)
        return found

    def intervals(self, values: np.ndarray, rng: np.random.Generator) -> list[Interval]:
        """Computes a 95 % interval of each signal's AUC, by resampling."""
        return [percentiles(draws) for draws in self.resampled_aucs(values, rng).T]

    def mean_difference(self, values: np.ndarray) -> tuple[float, Interval | None]:
        """Computes the mean over pairs of a class of forgotten less unseen values, with a 95 % interval.

        Args:
            values: [N].

        Returns:
            Mean, and the interval by the normal distribution; None where every class has one sample of a kind alone.
        """
        mean = variance = 0.0
        known = 0
        for part, pairs in zip(self.parts, self.pairs, strict=True):
            kinds = [values[part][self.forgotten[part]], values[part][~self.forgotten[part]]]
            share = pairs / sum(self.pairs)
            mean += share * float(kinds[0].mean() - kinds[1].mean())
            if min(map(len, kinds)) > 1:
                known += pairs
                variance += share**2 * sum(float(np.var(kind, ddof=1)) / len(kind) for kind in kinds)
        if not known:
            return mean, None
        half = float(stats.norm.ppf(0.975) * np.sqrt(variance)) * sum(self.pairs) / known
        return mean, (mean - half, mean + half)


def p_of_largest(observed: np.ndarray, permuted: np.ndarray) -> np.ndarray:
    """Computes p of each signal's statistic by the largest of all signals in each permutation, [S].

    The smallest is the p of the largest; the others are adjusted for how many signals there are.

    Args:
        observed: [S].
        permuted: [T, S].

    Source: Westfall and Young 1993, *Resampling-based multiple testing*.
    """
    largest = permuted.max(axis=1)
    return (1 + (largest[:, None] >= observed * (1 - ROUNDING)).sum(axis=0)) / (1 + len(largest))
