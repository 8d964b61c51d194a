"""What one model shows of forgotten and unseen samples, without twins: numbers alone, whatever model they are of.

Source: a permutation test of the largest rank statistic; the Streisand effect as a share below a quantile of unseen
samples. One model tells nothing of one record, of ε, or of how far it is from a retrained one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from untrain.audit.finding import Values
from untrain.audit.score import CONFIDENCE
from untrain.audit.statistics import Interval, clopper_pearson
from untrain.audit.traces import Mean
from untrain.audit.within_classes import WithinClasses, p_of_largest
from untrain.errors import DataError

FEWEST_OF_EACH = 20
"""Forgotten and unseen samples of classes that have both."""
QUANTILE = 0.01
"""Of the confidences of unseen samples: a forgotten one should lie below it as rarely as they do."""


@dataclass(frozen=True)
class SignalTrace:
    """How well one signal tells forgotten from unseen samples of their class.

    Attributes:
        auc: chance that a forgotten sample's value lies above that of an unseen one; 0.5 is chance.
        auc_ci: its 95 % interval, over samples.
        null_sd: deviation of the AUC where labels are permuted.
        p: of an AUC as far from 0.5 to either side, adjusted for the number of signals.
    """

    auc: float
    auc_ci: Interval
    null_sd: float
    p: float


@dataclass(frozen=True)
class PushedAway:
    """Forgotten samples that the model is less sure of than of nearly all unseen ones: the Streisand effect.

    Attributes:
        share: of the forgotten samples, below the 1 % quantile of unseen ones of their class (below the smallest,
            where a class has fewer than 99).
        ci: Clopper–Pearson; approximate, for the samples of a class share a threshold.
        expected: the share where the two kinds do not differ.
        samples: forgotten samples that were looked at.
    """

    share: float
    ci: Interval
    expected: float
    samples: int


@dataclass(frozen=True)
class OneModelTraces(Values):
    """What is found of one model.

    Attributes:
        forgotten: samples that are compared.
        unseen: likewise.
        confidence: mean confidence, nats, of "forget" and "unseen" samples, all of them.
        p: that forgotten and unseen samples differ, over all signals; None where they may differ by themselves.
        signals: by name; none where there is no p.
        pushed_away: None where there is no p.
        direction: confidence of forgotten less that of unseen samples of their class, nats; None where there is no p.
    """

    forgotten: int
    unseen: int
    confidence: Mapping[str, float]
    p: float | None = None
    signals: dict[str, SignalTrace] = field(default_factory=dict)
    pushed_away: PushedAway | None = None
    direction: Mean | None = None

    def plain(self) -> dict[str, Any]:
        """Returns them as audit.json holds them."""
        return asdict(self)


def find_one_model(
    signals: Mapping[str, np.ndarray],
    forgotten: np.ndarray,
    labels: np.ndarray,
    references: Sequence[Mapping[str, np.ndarray]] = (),
    *,
    exchangeable: bool,
    seed: int = 0,
) -> OneModelTraces:
    """Finds how forgotten and unseen samples differ to one model.

    Args:
        signals: name → one number for each sample, [N].
        forgotten: which samples are, bool [N].
        labels: classes, int64 [N].
        references: signals of models that saw neither kind; their mean is taken off, and with it what makes one sample
            harder than another.
        exchangeable: whether both kinds were drawn from one source at random; else only means are told.
        seed: of permutations and resamples.

    Raises:
        DataError: if too few samples can be compared.
    """
    groups = WithinClasses(forgotten, labels)
    sizes = groups.sizes
    means = {}
    if CONFIDENCE in signals:
        own = signals[CONFIDENCE]
        means = {"forget": float(own[forgotten].mean()), "unseen": float(own[~forgotten].mean())}
    if not exchangeable:
        return OneModelTraces(int(forgotten.sum()), int((~forgotten).sum()), means)
    if min(sizes) < FEWEST_OF_EACH:
        raise DataError(
            f"{sizes[0]} forgotten and {sizes[1]} unseen samples are of classes that have both: fewer than "
            f"{FEWEST_OF_EACH} of each tell nothing. Give more, of the same classes."
        )
    names = [name for name in signals if all(name in each for each in references)]
    values = np.stack([_beside(name, signals, references) for name in names])
    rng = np.random.default_rng([seed, 7])
    sd, aucs = groups.null_sd(values), groups.aucs(values)
    some = np.where(sd > 0, sd, np.inf)  # a signal that is the same for all tells nothing
    permuted = np.abs(groups.permuted_aucs(values, rng) - 0.5) / some
    p = p_of_largest(np.abs(aucs - 0.5) / some, permuted)
    each = zip(names, aucs, groups.intervals(values, rng), sd, p, strict=True)
    found = {name: SignalTrace(float(auc), ci, float(sd), float(p)) for name, auc, ci, sd, p in each}
    if CONFIDENCE not in signals:
        return OneModelTraces(*sizes, means, float(p.min()), found)
    direction = Mean(*groups.mean_difference(_beside(CONFIDENCE, signals, references)))
    return OneModelTraces(*sizes, means, float(p.min()), found, share_pushed_away(own, groups), direction)


def _beside(name: str, signals: Mapping[str, np.ndarray], references: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """A signal without what models that saw neither kind say of the samples, [N]."""
    own = np.asarray(signals[name], dtype=np.float64)
    return own - np.mean([each[name] for each in references], axis=0) if references else own


def share_pushed_away(confidence: np.ndarray, groups: WithinClasses) -> PushedAway:
    """Counts forgotten samples below the k-th smallest unseen confidence of their class, k = ⌊(n₀ + 1) / 100⌋ or 1.

    Without a difference a forgotten sample lies there with the chance k / (n₀ + 1).
    """
    below = samples = 0
    expected = 0.0
    for part in groups.parts:
        ours = confidence[part][groups.forgotten[part]]
        others = np.sort(confidence[part][~groups.forgotten[part]])
        k = max(1, int(QUANTILE * (len(others) + 1)))
        below += int((ours < others[k - 1]).sum())
        samples += len(ours)
        expected += len(ours) * k / (len(others) + 1)
    return PushedAway(below / samples, clopper_pearson(below, samples), expected / samples, samples)
