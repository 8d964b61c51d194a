"""The attack: what other twins show of forgotten and of never-seen samples, held against one twin.

It learns from its shadows how a forgotten sample differs, in level and in spread, and asks whether the target differs
in that way. So a method that lowers a forgotten sample's confidence, raises it, or makes it oddly constant is found
alike. Sums over shadows are products with a matrix of who shadows whom; none of a target's own coins enters its score.

Source: the likelihood ratio of LiRA (Carlini et al. 2022) with variances and effects shrunk over samples, since with
sixteen twins those of single samples are noise.
"""

from dataclasses import dataclass

import numpy as np

from untrain.audit.coins import Coins

PRIOR = 4.0
"""How many twins the variance over all samples counts for beside a sample's own."""
FLOOR = 0.1
"""Added to squared deviations before their logarithm, which has no end below."""
TINY = 1e-300
"""In place of a variance of 0, where every value is the same and no difference is left to divide."""


def other_twins(twins: int) -> np.ndarray:
    """Returns who shadows whom where all other twins do: bool [K targets, K shadows]."""
    return ~np.eye(twins, dtype=bool)


def other_fold(twins: int) -> np.ndarray:
    """Returns who shadows whom where the twins of the other fold do, k mod 2: bool [K targets, K shadows]."""
    fold = np.arange(twins) % 2
    return fold[:, None] != fold[None, :]


@dataclass(frozen=True, eq=False)
class Effect:
    """What the shadows of each target show of the samples; all [..., K targets, N], float64.

    Attributes:
        difference: D, of forgotten and never-seen samples in mean, shrunk to that over all samples.
        variance: of one value about its group's mean, shrunk likewise.
        middle: c, half-way between the two groups' means.
    """

    difference: np.ndarray
    variance: np.ndarray
    middle: np.ndarray

    @property
    def exposure(self) -> np.ndarray:
        """|D| / √variance: how far a sample's groups lie apart."""
        return np.abs(self.difference) / np.sqrt(self.variance)


class Shadowed:
    """Values of twins as the shadows of each target see them; what no coin enters is computed once.

    Args:
        values: of each twin and sample, [K, N].
        shadows: who shadows whom, bool [K, K].
    """

    def __init__(self, values: np.ndarray, shadows: np.ndarray) -> None:
        self.values = values.astype(np.float64)
        self.shadows = shadows.astype(np.float64)
        self.count = self.shadows.sum(axis=1, keepdims=True)
        self.total = self.shadows @ self.values
        self.squares = self.shadows @ (self.values * self.values)

    def effect(self, coins: Coins) -> Effect:
        """Fits how forgotten samples differ.

        Args:
            coins: of the twins, [K, N], or several draws of them, [..., K, N].
        """
        b = coins.astype(np.float64)
        n1, s1 = self.shadows @ b, self.shadows @ (self.values * b)
        n0, s0 = self.count - n1, self.total - s1
        some1, some0 = np.maximum(n1, 1), np.maximum(n0, 1)
        m1, m0 = s1 / some1, s0 / some0
        squares = np.maximum(self.squares - s1 * m1 - s0 * m0, 0)
        freedom = np.maximum(n1 - 1, 0) + np.maximum(n0 - 1, 0)
        over_all = squares.sum(-1, keepdims=True) / np.maximum(freedom.sum(-1, keepdims=True), 1)
        variance = np.maximum((squares + PRIOR * over_all) / (freedom + PRIOR), TINY)
        difference = _shrink(m1 - m0, variance * (1 / some1 + 1 / some0), (n1 > 0) & (n0 > 0))
        middle = (self.total - (n1 - n0) * difference / 2) / self.count
        return Effect(difference, variance, middle)


def _shrink(d: np.ndarray, error: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Differences d [..., K, N] drawn to their mean over samples, by the variance that their errors leave to them."""
    weights = np.where(defined, 1 / error, 0.0)
    mean = (weights * d).sum(-1, keepdims=True) / np.maximum(weights.sum(-1, keepdims=True), TINY)
    apart = d - mean
    excess = np.where(defined, apart * apart - error, 0.0).sum(-1, keepdims=True)
    spread = np.maximum(excess / np.maximum(defined.sum(-1, keepdims=True), 1), 0.0)
    return mean + np.where(defined, spread / (spread + error), 0.0) * apart


def deviations(targets: np.ndarray, signal: np.ndarray, shadows: np.ndarray) -> np.ndarray:
    """Computes u = log((s − a)² / v + 0.1) of each target's values s, [K, N]: how far it is from its own shadows.

    a and v are mean and variance of a target's shadows whatever their coins, v shrunk over samples. So u tells a
    spread as values tell a level, and no coin enters it.
    """
    a = shadows.astype(np.float64)
    n = a.sum(axis=1, keepdims=True)
    mean = a @ signal / n
    variance = np.maximum(a @ (signal * signal) - n * mean * mean, 0) / np.maximum(n - 1, 1)
    variance = ((n - 1) * variance + PRIOR * variance.mean(axis=1, keepdims=True)) / (n - 1 + PRIOR)
    return np.log((targets - mean) ** 2 / np.maximum(variance, TINY) + FLOOR)


def membership_scores(
    signal: np.ndarray, coins: Coins, shadows: np.ndarray, targets: np.ndarray | None = None
) -> np.ndarray:
    """Scores each sample of each target: the higher, the rather it is a forgotten one.

    Args:
        signal: of the shadows, and of the targets where none are given apart, [K, N].
        coins: of the shadows.
        shadows: who shadows whom, bool [K, K], such as `other_twins`.
        targets: signals that take the twins' places as targets, [K, N]; None: the twins' own.
    """
    return Attack(signal, shadows, targets).scores(coins)


class Attack:
    """An attack by one signal: what does not depend on coins is computed once, for all redrawn coins.

    Args:
        signal: [K, N].
        shadows: who shadows whom, bool [K, K].
        targets: as in `membership_scores`.
    """

    def __init__(self, signal: np.ndarray, shadows: np.ndarray, targets: np.ndarray | None = None) -> None:
        centre = signal.mean(axis=0, keepdims=True, dtype=np.float64)  # sums of squares lose digits far from 0
        level = signal - centre
        spread = deviations(level, level, shadows)
        self.level, self.spread = Shadowed(level, shadows), Shadowed(spread, shadows)
        self.targets = level if targets is None else targets - centre
        self.target_spread = spread if targets is None else deviations(self.targets, level, shadows)

    def scores(self, coins: Coins) -> np.ndarray:
        """Computes the sum of the parts by level and by spread, [..., K, N], for coins of that shape."""
        by_level = _ratio(self.targets, self.level.effect(coins))
        return by_level + _ratio(self.target_spread, self.spread.effect(coins))


def _ratio(values: np.ndarray, effect: Effect) -> np.ndarray:
    """(s − c) · D / variance: the logarithm of the likelihood ratio of two normal distributions."""
    return (values - effect.middle) * effect.difference / effect.variance
