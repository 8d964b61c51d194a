"""From signals and coins to findings: numbers alone, whatever model they are of."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from untrain.audit.attack import Attack, Shadowed, other_fold, other_twins
from untrain.audit.coins import Coins, are_usable
from untrain.audit.statistics import (
    Hits,
    Resamples,
    auc_of_models,
    epsilon_bound,
    hits_at,
    holm,
    mean_auc,
    mean_interval,
    p_of_redrawn_coins,
    p_of_redrawn_labels,
    percentiles,
)
from untrain.audit.traces import (
    EXPOSED,
    OUTPUTS,
    SIGNALS,
    Control,
    Group,
    Kept,
    Mean,
    Traces,
)
from untrain.errors import DataError, SettingError, UnknownName, unknown

Signals = Mapping[str, np.ndarray]
"""Name → one number for each twin and sample, [K, N]."""
CONFIDENCE = SIGNALS[OUTPUTS][0]
REDRAWS, DRAWS = 499, 1000
"""Redrawn coins for a p, and resamples for an interval."""
FEWEST_TWINS, FEWEST_SAMPLES, FEWEST_FOR_EXPOSED = 4, 100, 8
SEEN = 0.51
"""The originals' AUC must lie above this, at 95 %, for a share of their advantage to mean something."""
PLACES, CONTROL_REDRAWS = 4, 10
"""Places that retrained models take, at most; and how much more often labels are redrawn there than coins."""
TENTH = 10
FPRS = ((0.01, 0), (0.001, 10_000))
"""Shares of false alarms, and how many never-seen samples each takes, over all models."""


class Audited:
    """Signals of one kind of model, held against coins.

    Args:
        signals: of the models.
        coins: of the twins, [K, N].
        originals: signals of the models before unlearning; None: these are the originals.
        seed: of redraws and resamples.
        redraws: how often coins are redrawn for a p.
        draws: resamples for an interval.
    """

    def __init__(
        self,
        signals: Signals,
        coins: Coins,
        originals: "Audited | None" = None,
        *,
        seed: int = 0,
        redraws: int = REDRAWS,
        draws: int = DRAWS,
    ) -> None:
        self.signals = check_signals(signals, coins)
        self.coins = coins
        self.originals = originals
        self.seed, self.redraws = seed, redraws
        twins, samples = coins.shape
        drawn = Resamples.draw(self._rng(0), twins, samples, draws) if originals is None else originals.resamples
        self.resamples: Resamples = drawn
        self.attacks = {name: Attack(signal, other_twins(len(coins))) for name, signal in self.signals.items()}
        self.draws: dict[str, np.ndarray] = {}

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose])

    def scores(self, names: Sequence[str], coins: Coins) -> np.ndarray:
        """Computes the mean of the signals' scores by the other twins, [..., K, N]."""
        return np.mean([self.attacks[name].scores(coins) for name in names], axis=0)

    def group(self, name: str) -> Group:
        """Finds how well a group of signals tells forgotten samples apart."""
        names = [each for each in SIGNALS[name] if each in self.signals]
        if not names:
            return Group(missing="no such signal was given")
        auc, p, null_sd = p_of_redrawn_coins(
            lambda coins: mean_auc(self.scores(names, coins), coins), self.coins, self._rng(1), self.redraws
        )
        scores = self.scores(names, self.coins)
        alone = {each: float(mean_auc(self.attacks[each].scores(self.coins), self.coins)) for each in names}
        return self._with_left(name, Group(auc, p=p, null_sd=null_sd, signals=alone), scores, None)

    def _with_left(self, name: str, group: Group, scores: np.ndarray, chosen: np.ndarray | None) -> Group:
        """The group with its interval, and with what is left of the originals' advantage."""
        draws = self.draws[name] = self.resamples.mean_aucs(scores, self.coins, chosen)
        group = replace(group, auc_ci=percentiles(draws))
        before = None if self.originals is None else self.originals.draws.get(name)
        first = None if self.originals is None else self.originals.found[name].auc
        if before is None or percentiles(before)[0] <= SEEN or group.auc is None or first is None:
            return group
        left = (group.auc - 0.5) / (first - 0.5)
        return replace(group, left=left, left_ci=percentiles((draws - 0.5) / (before - 0.5)))

    @cached_property
    def by_other_fold(self) -> np.ndarray:
        """Scores of outputs by shadows of the other fold, [K, N]."""
        names = [name for name in SIGNALS[OUTPUTS] if name in self.signals]
        shadows = other_fold(len(self.coins))
        scores = [Attack(self.signals[name], shadows).scores(self.coins) for name in names]
        return np.mean(scores, axis=0)

    @cached_property
    def most_exposed(self) -> np.ndarray:
        """The tenth of the pool that shows most in the other fold's originals, bool [K, N]."""
        first = self.signals if self.originals is None else self.originals.signals
        exposure = Shadowed(first[CONFIDENCE], other_fold(len(self.coins))).effect(self.coins).exposure
        most = np.argsort(-exposure, axis=1, kind="stable")[:, : self.coins.shape[1] // TENTH]
        chosen = np.zeros(self.coins.shape, dtype=bool)
        np.put_along_axis(chosen, most, True, axis=1)
        return chosen

    def exposed(self) -> Group:
        """Finds how well outputs tell apart the tenth of the pool that shows most in the other fold's originals."""
        first = self.signals if self.originals is None else self.originals.signals
        reason = self._no_exposed(first)
        if reason is not None:
            return Group(missing=reason)
        chosen = self.most_exposed
        scores, rng = self.by_other_fold, self._rng(2)
        folds = [p_of_redrawn_labels(scores[f::2], self.coins[f::2], rng, self.redraws, chosen[f::2]) for f in (0, 1)]
        auc = float(np.nanmean(auc_of_models(scores, self.coins, chosen)))
        p = min(1.0, 2 * min(fold[1] for fold in folds))
        null_sd = float(np.hypot(folds[0][2], folds[1][2]) / 2)
        return self._with_left(EXPOSED, Group(auc, p=p, null_sd=null_sd), scores, chosen)

    def _no_exposed(self, first: Signals) -> str | None:
        if len(self.coins) < FEWEST_FOR_EXPOSED:
            return f"it takes {FEWEST_FOR_EXPOSED} twins"
        if CONFIDENCE not in first or not any(name in self.signals for name in SIGNALS[OUTPUTS]):
            return f"it takes the signal {CONFIDENCE}"
        return None

    def find(self, retrained: Signals | None = None, kept: Kept | None = None) -> Traces:
        """Finds all that signals and coins tell.

        Args:
            retrained: signals of models that never saw the pool, [R, N] each, in the places of the first twins.
            kept: accuracies, as they are.
        """
        groups = {name: self.group(name) for name in SIGNALS}
        groups[EXPOSED] = self.exposed()
        adjusted = holm({name: group.p for name, group in groups.items() if group.p is not None})
        self.found = {name: replace(group, p_holm=adjusted.get(name)) for name, group in groups.items()}
        outputs = [name for name in SIGNALS[OUTPUTS] if name in self.signals]
        return Traces(
            self.found,
            self._hits(outputs),
            epsilon_bound(self.by_other_fold, self.coins) if outputs else None,
            self._direction(),
            kept,
            None if retrained is None else self.control(retrained),
        )

    def _hits(self, names: Sequence[str]) -> tuple[Hits, ...]:
        if not names:
            return ()
        scores = self.scores(names, self.coins)
        found = [(hits_at(scores, self.coins, fpr), fewest) for fpr, fewest in FPRS]
        return tuple(hits for hits, fewest in found if hits is not None and hits.n_out >= fewest)

    def _direction(self) -> Mean | None:
        if CONFIDENCE not in self.signals:
            return None
        values = self.signals[CONFIDENCE]
        each = [row[coins].mean() - row[~coins].mean() for row, coins in zip(values, self.coins, strict=True)]
        return Mean(*mean_interval(np.array(each)))

    def control(self, retrained: Signals) -> Control:
        """Attacks retrained models in the places of twins, with these twins' coins.

        All R of them take the places of the first R twins, then of the next R, in up to `PLACES` such ways: one draw of
        a few coins is easily unlucky, and the same draw meets every method. Of each way p is exact; a group's is the
        smallest, times the number of ways and groups (Bonferroni).
        """
        every = {group: self.control_scores(group, retrained) for group in SIGNALS}
        scores = {group: each for group, each in every.items() if len(each)}
        p = {group: self.control_p(each, self._at_a_place(retrained)) for group, each in scores.items()}
        tests = sum(len(of_places) for of_places in p.values())
        aucs = {group: float(mean_auc(each, self.coins[: len(each)])) for group, each in scores.items()}
        return Control(aucs, {group: min(1.0, tests * min(of_places)) for group, of_places in p.items()})

    def control_p(self, scores: np.ndarray, count: int) -> list[float]:
        """Computes p of retrained models in each of the places that they take.

        Args:
            scores: of `control_scores`.
            count: models at a place.
        """
        places = range(0, len(scores), count)
        redraws = CONTROL_REDRAWS * self.redraws
        return [
            p_of_redrawn_labels(scores[k : k + count], self.coins[k : k + count], self._rng(3), redraws)[1]
            for k in places
        ]

    def control_scores(self, group: str, retrained: Signals) -> np.ndarray:
        """Computes a group's scores of retrained models in the places of the first twins, [M, N]; M 0: no signal."""
        there = [name for name in SIGNALS[group] if name in retrained and name in self.signals]
        count = self._at_a_place(retrained)
        places = range(0, len(self.coins) - count + 1, count)[:PLACES] if there else ()
        scores = [
            np.mean([self._scores_at(name, retrained[name][:count], k) for name in there], axis=0) for k in places
        ]
        return np.concatenate(scores) if scores else np.empty((0, self.coins.shape[1]))

    def _at_a_place(self, retrained: Signals) -> int:
        """How many retrained models take twins' places at once: half of the twins at most."""
        return min([len(self.coins) // 2, *(len(signal) for signal in retrained.values())])

    def _scores_at(self, name: str, others: np.ndarray, first: int) -> np.ndarray:
        """Scores of other models in the places of twins from the first one on, [R, N].

        Their shadows are the other twins alone. Were they each other's shadows too, one's coins would enter another's
        score, and redrawing labels would not be exact.
        """
        taken = slice(first, first + len(others))
        targets, shadows = self.signals[name].copy(), other_twins(len(self.coins))
        targets[taken] = others
        shadows[:, taken] = False
        rest = np.setdiff1d(np.arange(len(shadows)), np.arange(len(shadows))[taken])
        shadows[rest[:, None], rest] = True  # of the others themselves, whose scores nobody asks for
        return Attack(self.signals[name], shadows, targets).scores(self.coins)[taken]


def check_signals(signals: Signals, coins: Coins) -> dict[str, np.ndarray]:
    """Checks signals against coins; returns them as float64.

    Raises:
        UnknownName: if a signal is none that there is. SettingError: if twins or samples are too few.
        DataError: if shapes differ, a signal is not finite, or coins are no coins.
    """
    coins = np.asarray(coins)
    if coins.dtype != bool or coins.ndim != 2:
        raise DataError(f"coins must be true and false, [twins, samples], not {coins.dtype} {list(coins.shape)}.")
    if len(coins) < FEWEST_TWINS or coins.shape[1] < FEWEST_SAMPLES:
        raise SettingError(
            f"an audit takes at least {FEWEST_TWINS} twins and {FEWEST_SAMPLES} samples, not {len(coins)} and "
            f"{coins.shape[1]}: with fewer, chance looks like a trace."
        )
    if not are_usable(coins):
        raise DataError("a twin has less than a quarter of the samples, or more than three. Draw the coins anew.")
    known = [name for names in SIGNALS.values() for name in names]
    found = {}
    for name, signal in signals.items():
        if name not in known:
            raise UnknownName(unknown("signal", name, known))
        values = np.asarray(signal)
        if values.shape != coins.shape or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise DataError(
                f"the signal {name} must hold finite numbers {list(coins.shape)}, one a twin and sample, not "
                f"{values.dtype} {list(values.shape)}."
            )
        found[name] = values.astype(np.float64)
    if not found:
        raise DataError(f"there is no signal. Give one or more of {', '.join(known)}.")
    return found
