"""The run's own model as the target: what twins show of forgotten samples, held against samples that it never saw.

Twins are trained on coins' choice of forgotten and of unseen samples alike, so that the attack knows as much of the one
kind as of the other. The run's model knows no coin, and which of the samples it was told to forget was drawn at random;
if it carries no trace of that, each choice within a class is as likely, and a p by permuting is exact.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from untrain.audit.attack import Attack, other_twins
from untrain.audit.coins import Coins
from untrain.audit.one_model import FEWEST_OF_EACH
from untrain.audit.statistics import p_of
from untrain.audit.traces import ThisModel
from untrain.audit.within_classes import ROUNDING, WithinClasses


def target_scores(signal: np.ndarray, coins: Coins, target: np.ndarray) -> np.ndarray:
    """Scores the samples of one model that is no twin, by all twins as its shadows, [N].

    Args:
        signal: of the twins, [K, N].
        coins: of the twins.
        target: of the model, [N].
    """
    twins = len(signal)
    shadows = np.zeros((twins + 1, twins + 1), dtype=bool)
    shadows[:twins, :twins] = other_twins(twins)
    shadows[twins, :twins] = True
    attack = Attack(np.concatenate([signal, target[None]]), shadows)
    own = np.zeros((1, coins.shape[1]), dtype=bool)  # it shadows nobody, so what stands here enters nothing
    return attack.scores(np.concatenate([coins, own]))[twins]


def find_this_model(
    signals: Mapping[str, np.ndarray],
    coins: Coins,
    targets: Mapping[str, np.ndarray],
    names: Sequence[str],
    kinds: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    *,
    seed: int = 0,
) -> ThisModel | None:
    """Finds how well the run's own model tells forgotten from unseen samples.

    Args:
        signals: of the twins, name → [K, N].
        coins: of the twins.
        targets: of the model, name → [N].
        names: signals that are looked at.
        kinds: which samples the run forgot, and which it never saw, bool [N] each.
        labels: classes, int64 [N].
        seed: of permutations and resamples.

    Returns:
        What is found; None where too few samples of one class are of either kind.
    """
    chosen = kinds[0] | kinds[1]
    groups = WithinClasses(kinds[0][chosen], labels[chosen])
    there = [name for name in names if name in signals and name in targets]
    if not there or min(groups.sizes) < FEWEST_OF_EACH:
        return None
    scores = np.mean([target_scores(signals[name], coins, targets[name]) for name in there], axis=0)[None, chosen]
    rng = np.random.default_rng([seed, 8])
    auc = float(groups.aucs(scores)[0])
    p = p_of(auc - ROUNDING, groups.permuted_aucs(scores, rng)[:, 0])
    return ThisModel(auc, groups.intervals(scores, rng)[0], p, *groups.sizes)
