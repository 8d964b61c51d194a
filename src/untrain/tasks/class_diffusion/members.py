"""Whether a generator's losses tell images that it was trained on from held-out ones of the same classes.

−log ℓ_t of an image, less the mean over retrained models, which saw neither kind: what makes an image hard for
every model falls out. Where chance alone held images out, labels can be permuted within classes: p is exact.
"""

from collections.abc import Sequence

import numpy as np

from untrain.audit.within_classes import WithinClasses, p_of_largest
from untrain.domain import Told

MEMBERS, UNSEEN = "members", "unseen"


def member_aucs(told: Sequence[Told], retrained: Sequence[Told]) -> list[float]:
    """Computes each model's AUC by its mean signal over timesteps.

    Args:
        told: what models told.
        retrained: what retrained ones told; one of these is compared with the others.
    """
    within = _within(told[0])
    signals = np.stack([_signals(each, retrained).mean(1) for each in told])
    return [float(auc) for auc in within.aucs(signals)]


def member_p(told: Sequence[Told], retrained: Sequence[Told], seed: int) -> float:
    """Computes the exact p that no signal tells the two kinds of images apart, on either side.

    The signals are the models' means at every timestep, and their mean; the statistic is the largest |AUC − ½| in
    deviations of its null.

    Args:
        told: what the models of one method told.
        retrained: what retrained ones told.
        seed: of 9,999 permutations.
    """
    within = _within(told[0])
    mean = np.mean([_signals(each, retrained) for each in told], axis=0).T
    signals = np.concatenate([mean, mean.mean(0, keepdims=True)])
    deviation = np.maximum(within.null_sd(signals), np.finfo(np.float64).tiny)
    permuted = np.abs(within.permuted_aucs(signals, np.random.default_rng([seed, 2])) - 0.5) / deviation
    return float(p_of_largest(np.abs(within.aucs(signals) - 0.5) / deviation, permuted).min())


def _within(told: Told) -> WithinClasses:
    counts = [len(told.signals[name]) for name in (MEMBERS, UNSEEN)]
    labels = np.concatenate([told.signals[f"{name}_classes"] for name in (MEMBERS, UNSEEN)])
    return WithinClasses(np.repeat([True, False], counts), labels)


def _signals(told: Told, retrained: Sequence[Told]) -> np.ndarray:
    """A model's −log ℓ_t less the mean of the other models that are retrained, [N, T]."""
    others = [_joined(each) for each in retrained if each is not told]
    return _joined(told) - np.mean(others, axis=0)


def _joined(told: Told) -> np.ndarray:
    return np.concatenate([told.signals[MEMBERS], told.signals[UNSEEN]])
