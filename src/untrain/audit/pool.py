"""The pool: samples whose membership is decided by coins, class by class as many forgotten as retained ones."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from untrain.audit.coins import Coins, draw_coins
from untrain.audit.score import FEWEST_SAMPLES
from untrain.data.splits import Split
from untrain.domain import Division, Domain
from untrain.errors import DataError
from untrain.io import hash_json

MOST_FORGOTTEN = 1000
"""Samples of the run's forget set that go into the pool, at most."""


@dataclass(frozen=True, eq=False)
class MemberPool:
    """Samples whose membership is decided by coins, and those that all twins keep.

    Attributes:
        samples: positions in the source, in an order that mixes forgotten and matched ones, int64 [N].
        base: positions of what all twins are trained on and keep, ascending.
        coins: bool [K, N].
        forgotten: which samples are of the run's forget set, bool [N].
        unseen: which samples the run kept back, so that its own models never saw them, bool [N].
        division: the run's own.
    """

    samples: np.ndarray
    base: np.ndarray
    coins: Coins
    forgotten: np.ndarray
    unseen: np.ndarray
    division: Division

    def division_of(self, k: int | None, seed: int) -> Division:
        """Divides the samples as twin k sees them; None: as a model of the base alone."""
        split = self.division.split
        given = np.ones(len(self.samples), dtype=bool) if k is None else self.coins[k]
        forget = torch.from_numpy(np.sort(self.samples[given]))
        spec = {"audit": seed, "holdout": split.spec.get("holdout"), **({} if k is None else {"twin": k})}
        mine = Split(forget, torch.from_numpy(self.base), split.holdout, "audit", spec, split.data_hash)
        return replace(self.division, split=mine, records=None)

    def facts(self) -> dict[str, Any]:
        """Says what it holds, as audit.json does."""
        forget, unseen = int(self.forgotten.sum()), int(self.unseen.sum())
        return {
            "size": len(self.samples),
            "forget": forget,
            "matched": len(self.samples) - forget - unseen,
            **({"unseen": unseen} if unseen else {}),
            "hash": hash_json(self.samples.tolist()),
        }


def make_pool(domain: Domain, division: Division, twins: int, seed: int) -> MemberPool:
    """Chooses the pool: samples that the run was asked to forget, and as many retained ones, class by class.

    Samples that the run kept back for an audit are in it too, where the forgotten ones were drawn at random: coins then
    decide on both alike, and an attack on the run's own model knows as much of the one kind as of the other.

    Args:
        domain: of the run.
        division: the run's.
        twins: K.
        seed: of samples and coins.

    Raises:
        DataError: if there are too few, or a class has too few retained samples beside those that are forgotten.
    """
    rng = np.random.default_rng([seed, 1])
    labels = domain.source.labels.numpy()
    forget = _some(rng, division.split.forget.numpy(), MOST_FORGOTTEN)
    retain = division.split.retain.numpy()
    matched = []
    for label, count in zip(*np.unique(labels[forget], return_counts=True), strict=True):
        same = retain[labels[retain] == label]
        if len(same) < 2 * count:
            name = domain.source.classes[label]
            raise DataError(
                f"{count} samples of class {name!r} are forgotten and {len(same)} retained: too few to compare them "
                "with. A class that is forgotten whole, or nearly, cannot be audited by coins: --design refs can."
            )
        matched.append(_some(rng, same, count))
    unseen = np.empty(0, dtype=np.int64)
    if division.split.is_random:
        unseen = _some(rng, division.split.unseen.numpy(), MOST_FORGOTTEN)
    samples = rng.permutation(np.concatenate([forget, *matched, unseen]))
    if len(samples) < FEWEST_SAMPLES:
        raise DataError(
            f"the pool has {len(samples)} samples, twice as many as are forgotten: fewer than {FEWEST_SAMPLES} tell "
            "nothing. Audit a run that forgets more, of the same kind."
        )
    base = np.setdiff1d(retain, samples)
    coins = draw_coins(seed, twins, len(samples))
    return MemberPool(samples, base, coins, np.isin(samples, forget), np.isin(samples, unseen), division)


def _some(rng: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    return np.sort(rng.permutation(values)[:count])
