"""The design by coins: who was trained on what is drawn by lot, so that chance is all that a perfect attack is left.

Each twin trains on the base and on the samples that its coins give it, and every method is told to forget these. What
the coins do not give it is given to nobody. Models that are retrained on the base alone never saw any sample of the
pool, so a few of them serve all twins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from untrain.audit.card import card_rows, lines_below
from untrain.audit.coins import hash_coins
from untrain.audit.coins_figures import figures_of
from untrain.audit.design import SIGNALS_OF, ReadTold
from untrain.audit.finding import Audit, Finding
from untrain.audit.per_sample import SampleRow, check_named, sample_rows
from untrain.audit.plan import AuditPlan
from untrain.audit.planted import Planted, find_planted, plant, remembered, with_planted
from untrain.audit.pool import MemberPool, make_pool
from untrain.audit.run_models import RUN, load_finished
from untrain.audit.score import FEWEST_TWINS, REDRAWS, Audited
from untrain.audit.statistics import detectable_auc, welch
from untrain.audit.this_model import find_this_model
from untrain.audit.traces import OUTPUTS, SIGNALS, Kept, Mean, Traces
from untrain.audit.twins import BASE, KEPT, TwinDesign, check_trained, number_of, relearning_rate, scores_apart
from untrain.audit.verdict import TOLERATED_LEFT, TOLERATED_POINTS, judge_traces
from untrain.compare.plan import Cell
from untrain.data.sections import Forget
from untrain.domain import Division, Domain, Told
from untrain.errors import SettingError
from untrain.io import hash_json
from untrain.runs import stages
from untrain.runs.names import ORIGINAL, SPLIT
from untrain.runs.recipe import Recipe
from untrain.runs.stages import Experiment

DEFAULT_TWINS, DEFAULT_REFERENCES = 16, 4
NOT_TRIED = (
    "attacks that know what a sample looks like to a model trained with and without it alone",
    "attacks on weights that no input reaches",
    "more than a hundred steps of relearning",
)
NOT_RELEARNED = "relearning, which this audit was told to leave out, so that what lies dormant was not looked for"


class CoinsDesign(TwinDesign):
    """Twins by coins, of requests that name samples."""

    name = "coins"
    takes = ("per_sample", "planted", "no_relearning")
    fixed = ("design", "seed", "coins_sha256", "pool", "twins", "planted")

    @classmethod
    def sizes(cls, recipe: Recipe, twins: int | None, references: int | None) -> tuple[int, int]:
        """Returns K and R."""
        return DEFAULT_TWINS if twins is None else twins, DEFAULT_REFERENCES if references is None else references

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

    @property
    def groups(self) -> list[str]:
        """The base, the twins, and the run itself where it kept samples back."""
        return [*super().groups, *([RUN] if self._asks_run else [])]

    @property
    def _asks_run(self) -> bool:
        """Whether samples were kept back for an audit of the run's own models, or will be where the run is not made."""
        recipe = self.plan.recipe
        if (recipe.folder / SPLIT).exists():
            return bool(self.pool.unseen.any())
        forget = getattr(recipe.sections, "forget", None)
        return isinstance(forget, Forget) and bool(forget.audit_holdout and (forget.fraction or forget.count))

    def cells(self) -> list[Cell]:
        """Returns the cells of base and twins, and one that asks the run's own models."""
        found = [cell for cell in super().cells() if cell.group != RUN]
        return [*found, Cell(RUN, SIGNALS_OF)] if RUN in self.groups else found

    def open(self, group: str) -> Experiment:
        """Opens the folder of a twin or of the base, or the run itself, into which nothing is written."""
        return self.run if group == RUN else super().open(group)

    def load(self, experiment: Experiment, group: str, names: list[str]) -> Mapping[str, nn.Module]:
        """Returns models of a twin or of the base, which are made where they are not there, or reads the run's own."""
        return load_finished(experiment, names) if group == RUN else super().load(experiment, group, names)

    def finish(self, experiment: Experiment) -> None:
        """Removes a twin's weights, unless they are to be kept; the run's stay."""
        if experiment is not self.run:
            super().finish(experiment)

    def planted_of(self, k: int) -> Planted:
        """Returns what is planted in twin k."""
        source, base = self.run.domain.source, torch.from_numpy(self.pool.base)
        return plant(source, base, self.plan.planted, self.plan.seed, k)

    def division_of(self, domain: Domain, k: int | None) -> Division:
        """Divides the samples by twin k's coins; None: those of the base alone. What is planted joins the samples."""
        division = self.pool.division_of(k, self.plan.seed)
        if k is None or not self.plan.planted:
            return division
        domain.source, division = with_planted(domain.source, self.planted_of(k), division)
        return division

    def ask(self, experiment: Experiment, group: str, name: str, module: nn.Module) -> Told:
        """Asks a model for its signals of the pool, and how it remembers planted noise.

        The run's own models are asked for outputs alone, beside what all twins keep. A retrained model is asked for the
        noise of a twin, which it never saw.
        """
        domain, pool = experiment.domain, self.pool
        if group == RUN:
            return domain.ask(module, pool.division_of(None, self.plan.seed), pool.samples, None)
        rate = None if self.plan.no_relearning else relearning_rate(stages.peak_lr(experiment))
        told = domain.ask(module, experiment.division, pool.samples, rate)
        if not self.plan.planted:
            return told
        k = self.models(BASE).index(name) % self.plan.twins if group == BASE else number_of(group)
        planted = self.planted_of(int(k or 0))
        values = remembered(module, domain.task, self.run.domain.source, planted, experiment.engine)
        return replace(told, planted=values)

    def mark_of(self, group: str, name: str) -> str:
        """Fingerprints all that decides a model's training, and the samples asked."""
        pool, k = self.pool, None if group == RUN else number_of(group)
        coins = [] if k is None else pool.coins[k].tolist()
        data = pool.division.split.data_hash
        made = self.run.folder.facts.get(name, {}).get("hash") if group == RUN else self.plan.planted
        asked = ["no relearning"] if self.plan.no_relearning else []
        return hash_json([*self.making_of(name), pool.facts(), data, self.plan.seed, group, name, coins, made, *asked])

    def facts(self) -> Mapping[str, Any]:
        """Says which samples, coins and models there are."""
        plan, pool = self.plan, self.pool
        split = pool.division.split
        if plan.per_sample:
            check_named(pool.division)
        if plan.planted:
            self.planted_of(0)
        return {
            **self.heading(),
            "twins": plan.twins,
            "references": plan.references,
            "coins_sha256": hash_coins(pool.coins),
            "pool": pool.facts(),
            "planted": plan.planted,
            "base": {"size": len(pool.base)},
            "train_size": {
                "run": len(split.forget) + len(split.retain),
                "twins": len(pool.base) + len(pool.samples) // 2,
            },
        }

    def score(self, read: ReadTold) -> Audit:
        """Judges every method by what its twins told."""
        plan, pool = self.plan, self.pool
        before = self.told_of(read, ORIGINAL)
        retrained = [read(BASE, name) for name in self.models(BASE)]
        control = _stacked(retrained) if retrained else None
        originals = Audited(_stacked(before), pool.coins, seed=plan.seed)
        first = originals.find(control, kept=_kept(before, retrained, pool))
        first = self._with_more(ORIGINAL, first, read, before, before)
        findings, rows = {}, self._sample_rows(ORIGINAL, originals)
        for name in plan.methods:
            told = self.told_of(read, name)
            audited = Audited(_stacked(told), pool.coins, originals, seed=plan.seed)
            found = audited.find(control, kept=_kept(told, retrained, pool))
            found = self._with_more(name, found, read, told, before)
            verdict = judge_traces(name, found, first, plan.twins)
            shown = tuple(card_rows(found, first)), lines_below(found, self.facts())
            findings[name] = Finding(found, verdict, *shown, figures_of(name, audited, originals, control))
            rows += self._sample_rows(name, audited)
        facts = {
            "detectable_auc": detectable_auc(*pool.coins.shape),
            "tolerance": {"left": TOLERATED_LEFT, "points": TOLERATED_POINTS},
            "redraws": REDRAWS,
            "how": self._how(),
            "not_tried": [*NOT_TRIED, *([NOT_RELEARNED] if plan.no_relearning else [])],
            "notes": sorted({note for told in (*before, *retrained) for note in told.notes}),
        }
        if plan.planted and retrained:
            clean = find_planted([np.asarray(told.planted) for told in retrained])
            facts["planted_control"] = None if clean is None else {"values": clean.values, "p": clean.p}
        return Audit({**self.facts(), **facts}, first, findings, tuple(rows))

    def _how(self) -> str:
        """Says what was done, for a reader who knows nothing of it."""
        plan, size = self.plan, len(self.pool.samples)
        return (
            f"{plan.twins} models were trained for this audit, each on a random part of {size:,} samples as coins "
            "decided, and told to forget that part. An attack then guesses from a model's answers which samples these "
            "were: for a model without a trace, its guesses are as good as coin flips."
        )

    def _with_more(
        self, name: str, found: Traces, read: ReadTold, told: Sequence[Told], before: Sequence[Told]
    ) -> Traces:
        """What was found, with what the run's own model shows and what of planted noise is remembered."""
        plan, pool = self.plan, self.pool
        mine = noise = None
        if RUN in self.groups:
            labels = self.run.domain.source.labels.numpy()[pool.samples]
            targets, kinds = read(RUN, name).signals, (pool.forgotten, pool.unseen)
            names = SIGNALS[OUTPUTS]
            mine = find_this_model(_stacked(told), pool.coins, targets, names, kinds, labels, seed=plan.seed)
        if plan.planted:
            own, first = ([np.asarray(each.planted) for each in side] for side in (told, before))
            noise = find_planted(own, first)
        return replace(found, this_model=mine, planted=noise)

    def _sample_rows(self, name: str, audited: Audited) -> list[SampleRow]:
        """What is known of each sample, where that was asked for."""
        if not self.plan.per_sample:
            return []
        return sample_rows(name, audited, self.pool.samples, self.run.domain.source.ids)


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

    base, test = (scores_apart(name, told, retrained) for name in KEPT)
    return Kept(base, test, Mean(*welch(np.array(unseen), np.array(whole))))
