"""What scores look like: ROC curves with bands, and how scores are spread, never so finely that a bin is one sample."""

from dataclasses import dataclass

import numpy as np

from untrain.audit.coins import Coins
from untrain.audit.statistics import LEVEL, Resamples

BINS, FEWEST = 48, 20
"""Bins of a histogram at most, and the scores that each holds at least."""
TAIL = 0.005
"""Share of all scores at each end that the last bins hold together."""


@dataclass(frozen=True, eq=False)
class Roc:
    """A mean ROC curve of several models.

    Attributes:
        fpr: shares of false alarms, ascending, [G].
        tpr: share of forgotten samples found at them, mean over models, [G].
        low: of a 95 % band over models and samples at once, [G].
        high: likewise.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    low: np.ndarray
    high: np.ndarray


def false_alarms(samples: int) -> np.ndarray:
    """Returns shares of false alarms in equal ratios, from three samples of a model to all: fewer are chance alone.

    Args:
        samples: of the pool; half of them are never-seen.
    """
    return np.geomspace(min(6.0 / samples, 0.1), 1.0, 41)


def roc_of(scores: np.ndarray, coins: Coins, resamples: Resamples, fpr: np.ndarray) -> Roc:
    """Computes the mean ROC curve, each model with a threshold of its own, and its band by the resamples of the AUC.

    At each share of false alarms stands the largest share of hits that takes no more of them.

    Args:
        scores: [K, N].
        coins: [K, N].
        resamples: of K twins and N samples.
        fpr: ascending, [G].
    """
    once = np.ones((1, scores.shape[1]))
    tpr = np.mean([_hits(*of, once, fpr)[0] for of in zip(scores, coins, strict=True)], axis=0)
    summed, weight = np.zeros((len(resamples.samples), len(fpr))), np.zeros((len(resamples.samples), 1))
    for k, of in enumerate(zip(scores, coins, strict=True)):
        hits, twins = _hits(*of, resamples.samples, fpr), resamples.twins[:, k : k + 1]
        there = np.isfinite(hits)
        summed += np.where(there, hits, 0.0) * twins
        weight += twins * there[:, :1]
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = summed / weight
    low, high = np.nanpercentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
    return Roc(fpr, tpr, low, high)


def _hits(values: np.ndarray, members: np.ndarray, weights: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    """Share of hits of one model's values [N] at each share of false alarms, under weights [B, N]: [B, G]."""
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=np.inf))  # a threshold takes in all that score alike
    found = [np.cumsum(np.where(kind, weights, 0.0)[:, order], axis=1)[:, ends] for kind in (members, ~members)]
    with np.errstate(invalid="ignore", divide="ignore"):
        hits, alarms = (np.pad(each / each[:, -1:], ((0, 0), (1, 0))) for each in found)
    rows = 2.0 * np.arange(len(weights))[:, None]  # one search for all draws, whose shares lie from 0 to 1
    places = np.searchsorted((alarms + rows).ravel(), (fpr + rows + 1e-12).ravel(), "right").reshape(-1, len(fpr)) - 1
    return np.take_along_axis(hits, places - alarms.shape[1] * np.arange(len(weights))[:, None], axis=1)


def spread_of(scores: np.ndarray, coins: Coins, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the densities of forgotten and of never-seen samples' scores over all models, [bins] each.

    What lies outside of the edges counts for the first or the last bin.
    """
    clipped = np.clip(scores, edges[0], edges[-1])
    counts = [np.histogram(clipped[kind], edges)[0] for kind in (coins, ~coins)]
    member, other = (count / max(1, count.sum()) / np.diff(edges) for count in counts)
    return member, other


def edges_of(scores: np.ndarray) -> np.ndarray:
    """Returns edges of bins that hold at least 20 of the scores each, nearly all of them equally wide."""
    values = np.sort(scores, axis=None)
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    if not low < high:
        low, high = low - 0.5, high + 0.5
    given = np.linspace(low, high, min(BINS, max(2, len(values) // FEWEST)) + 1)
    below = np.searchsorted(values, given, "left").astype(float)
    below[0], below[-1] = 0, len(values)
    edges, count = [given[0]], 0.0
    for edge, there in zip(given[1:], below[1:], strict=True):
        if there - count >= FEWEST:
            edges.append(edge)
            count = there
    if edges[-1] != given[-1]:  # what is left at the end joins the last bin
        edges[-1 if len(edges) > 1 else len(edges) :] = [given[-1]]
    return np.array(edges)
