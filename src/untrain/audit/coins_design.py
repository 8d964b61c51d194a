"""The design by coins: who was trained on what is drawn by lot, so that chance is all that a perfect attack is left.

Each twin trains on the base and on the samples that its coins give it, and every method is told to forget these. What
the coins do not give it is given to nobody. Models that are retrained on the base alone never saw any sample of the
pool, so a few of them serve all twins.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from untrain.audit.card import card_rows, lines_below
from untrain.audit.coins import hash_coins
from untrain.audit.design import ReadTold
from untrain.audit.finding import Audit, Finding
from untrain.audit.plan import AuditPlan
from untrain.audit.pool import MemberPool, make_pool
from untrain.audit.score import FEWEST_TWINS, REDRAWS, Audited
from untrain.audit.statistics import detectable_auc, welch
from untrain.audit.traces import Kept, Mean
from untrain.audit.twins import BASE, TwinDesign, check_trained, number_of
from untrain.audit.verdict import TOLERATED_LEFT, TOLERATED_POINTS, judge_traces
from untrain.domain import Division, Domain, Told
from untrain.errors import SettingError
from untrain.io import hash_json
from untrain.runs.names import ORIGINAL
from untrain.runs.stages import Experiment

NOT_TRIED = (
    "attacks that know what a sample looks like to a model trained with and without it alone",
    "attacks on weights that no input reaches",
    "more than a hundred steps of relearning",
)


class CoinsDesign(TwinDesign):
    """Twins by coins, of requests that name samples."""

    name, default_twins, default_references = "coins", 16, 4
    fixed = ("design", "seed", "coins_sha256", "pool", "twins")

    @classmethod
    def check_plan(cls, plan: AuditPlan) -> None:
        """Refuses too few twins, and a run whose originals cannot be trained anew."""
        if plan.twins < FEWEST_TWINS:
            raise SettingError(
                f"an audit takes at least {FEWEST_TWINS} twins, not {plan.twins}: with fewer, chance looks like a "
                "trace."
            )
        check_trained(plan.recipe)

    @cached_property
    def pool(self) -> MemberPool:
        """The samples that coins decide on."""
        return make_pool(self.run.domain, self.run.division, self.plan.twins, self.plan.seed)

    def division_of(self, domain: Domain, k: int | None) -> Division:
        """Divides the samples by twin k's coins; None: those of the base alone."""
        return self.pool.division_of(k, self.plan.seed)

    def ask(self, experiment: Experiment, group: str, name: str, module: nn.Module) -> Told:
        """Asks a model for its signals of the pool."""
        rate = self.relearning_rate(experiment)
        return experiment.domain.ask(module, experiment.division, self.pool.samples, rate)

    def mark_of(self, group: str, name: str) -> str:
        """Fingerprints all that decides a model's training, and the samples asked."""
        recipe, pool, k = self.plan.recipe, self.pool, number_of(group)
        plain = recipe.plain()
        inputs = {key: plain[key] for key in ("task", "train", "batch_size", "precision", "parts", "seed")}
        coins = [] if k is None else pool.coins[k].tolist()
        data = pool.division.split.data_hash
        method = str(recipe.methods.get(name))
        return hash_json([inputs, method, pool.facts(), data, self.plan.seed, group, name, coins])

    def facts(self) -> Mapping[str, Any]:
        """Says which samples, coins and models there are."""
        plan, pool = self.plan, self.pool
        split = pool.division.split
        return {
            "version": 1,
            "design": self.name,
            "run": plan.recipe.folder.name,
            "seed": plan.seed,
            "twins": plan.twins,
            "references": plan.references,
            "coins_sha256": hash_coins(pool.coins),
            "pool": pool.facts(),
            "base": {"size": len(pool.base)},
            "train_size": {
                "run": len(split.forget) + len(split.retain),
                "twins": len(pool.base) + len(pool.samples) // 2,
            },
        }

    def score(self, read: ReadTold) -> Audit:
        """Judges every method by what its twins told."""
        plan, pool = self.plan, self.pool
        before = self._told_of(read, ORIGINAL)
        retrained = [read(BASE, name) for name in self.models(BASE)]
        control = _stacked(retrained) if retrained else None
        originals = Audited(_stacked(before), pool.coins, seed=plan.seed)
        first = originals.find(control, kept=_kept(before, retrained, pool))
        findings = {}
        for name in plan.methods:
            told = self._told_of(read, name)
            audited = Audited(_stacked(told), pool.coins, originals, seed=plan.seed)
            found = audited.find(control, kept=_kept(told, retrained, pool))
            verdict = judge_traces(name, found, first, plan.twins)
            findings[name] = Finding(found, verdict, tuple(card_rows(found, first)), lines_below(found, self.facts()))
        facts = {
            "detectable_auc": detectable_auc(*pool.coins.shape),
            "tolerance": {"left": TOLERATED_LEFT, "points": TOLERATED_POINTS},
            "redraws": REDRAWS,
            "not_tried": list(NOT_TRIED),
            "notes": sorted({note for told in (*before, *retrained) for note in told.notes}),
        }
        return Audit({**self.facts(), **facts}, first, findings)

    def _told_of(self, read: ReadTold, name: str) -> list[Told]:
        return [read(self.twin(k), name) for k in range(self.plan.twins)]


def _stacked(told: Sequence[Told]) -> dict[str, np.ndarray]:
    """Signals that all models told, [models, N]."""
    names = [name for name in told[0].signals if all(name in each.signals for each in told)]
    return {name: np.stack([each.signals[name] for each in told]) for name in names}


def _kept(told: Sequence[Told], retrained: Sequence[Told], pool: MemberPool) -> Kept | None:
    """How accurate models are beside retrained ones."""
    if not retrained or any(each.correct is None for each in (*told, *retrained)):
        return None
    unseen = [100 * float(each.correct[~coins].mean()) for each, coins in zip(told, pool.coins, strict=False)]  # type: ignore[index]
    whole = [100 * float(each.correct.mean()) for each in retrained]  # type: ignore[union-attr]

    def apart(name: str) -> Mean:
        one, other = ([each.scores.get(name, np.nan) for each in side] for side in (told, retrained))
        return Mean(*welch(np.array(one), np.array(other)))

    return Kept(apart("base"), apart("test"), Mean(*welch(np.array(unseen), np.array(whole))))
