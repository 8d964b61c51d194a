"""Twins: originals that are trained on purpose, with what each method makes of them, and which samples they see.

A twin is an ordinary run folder with a split of its own: it trains on the base and on the samples that its coins give
it, and every method is told to forget these. What the coins do not give it is given to nobody. Models that are
retrained on the base alone never saw any sample of the pool, so a few of them serve all twins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from untrain.audit.coins import Coins, draw_coins, hash_coins
from untrain.audit.score import FEWEST_SAMPLES, FEWEST_TWINS
from untrain.compare.plan import Cell
from untrain.compare.pool import Cache
from untrain.data.splits import Split
from untrain.domain import Division, Domain
from untrain.engine import seed_of
from untrain.errors import DataError, SettingError, UnknownName, unknown
from untrain.io import hash_json
from untrain.runs import stages
from untrain.runs.names import ORIGINAL, RETRAINED, SPLIT, numbered
from untrain.runs.recipe import Comparison, Recipe
from untrain.runs.stages import Experiment

AUDIT, BASE, TWINS, SIGNALS_OF = "audit", "base", "twins", "signals"
"""Folders of an audit, in a run folder."""
MOST_FORGOTTEN = 1000
"""Samples of the run's forget set that go into the pool, at most."""


@dataclass(frozen=True)
class AuditPlan:
    """What an audit of a run makes.

    Attributes:
        recipe: the run's.
        methods: entries of the recipe that are audited.
        twins: K.
        references: R, models retrained on the base.
        seed: of pool, coins, and whatever is random in twins.
        keep: keep the weights of twins once their signals are known.
    """

    recipe: Recipe
    methods: tuple[str, ...]
    twins: int = 16
    references: int = 4
    seed: int = 0
    keep: bool = False

    @property
    def folder(self) -> Path:
        """Where the audit is kept."""
        return self.recipe.folder / AUDIT

    def twin(self, k: int) -> str:
        """Returns the group of a twin, "twins/twin-03"."""
        return f"{TWINS}/twin-{k:02d}"

    @property
    def groups(self) -> list[str]:
        """Every run folder of the audit: that of the base, and the twins'."""
        return [BASE, *map(self.twin, range(self.twins))]

    def models(self, group: str) -> list[str]:
        """Returns the models of a group."""
        return numbered(RETRAINED, self.references) if group == BASE else [ORIGINAL, *self.methods]

    def cells(self) -> list[Cell]:
        """Returns every cell, in the order in which they should be begun."""
        groups = [group for group in self.groups if self.models(group)]
        cells = [Cell(group, name) for group in groups for name in self.models(group) if group == BASE]
        for group in groups[-self.twins :]:
            start = f"{group}/{ORIGINAL}"
            cells.append(Cell(group, ORIGINAL))
            cells += [Cell(group, entry, (start,)) for entry in self.methods]
        ends = [Cell(g, SIGNALS_OF, tuple(f"{g}/{name}" for name in self.models(g))) for g in groups]
        return sorted([*cells, *ends], key=lambda cell: groups.index(cell.group))


def plan_of(
    recipe: Recipe,
    methods: Sequence[str] | None = None,
    *,
    twins: int = 16,
    references: int = 4,
    seed: int = 0,
    keep: bool = False,
) -> AuditPlan:
    """Plans the audit of a run.

    Args:
        recipe: the run's.
        methods: entries of its recipe; None: all.
        twins: as of `AuditPlan`, like the others.
        references: R.
        seed: of everything random.
        keep: keep the weights of twins.

    Raises:
        SettingError: if its originals cannot be trained anew, or twins are too few.
        UnknownName: if a method is none of the recipe's.
    """
    chosen = tuple(recipe.methods if methods is None else methods)
    strange = [name for name in chosen if name not in recipe.methods]
    if strange:
        raise UnknownName(unknown("method of the run", strange[0], recipe.methods))
    if not chosen:
        raise SettingError(f"{recipe.folder} has no method to audit.")
    if twins < FEWEST_TWINS:
        raise SettingError(
            f"an audit takes at least {FEWEST_TWINS} twins, not {twins}: with fewer, chance looks like a trace."
        )
    if recipe.domain.checkpoint_of(recipe.sections) is not None:
        raise SettingError(
            f"{recipe.folder} began from a checkpoint, and how that was trained is not known, so no twin of it can be "
            "trained. Audit a run whose recipe trains its original, on these data and with this architecture."
        )
    return AuditPlan(recipe, chosen, twins, references, seed, keep)


@dataclass(frozen=True, eq=False)
class MemberPool:
    """Samples whose membership is decided by coins, and those that all twins keep.

    Attributes:
        samples: positions in the source, in an order that mixes forgotten and matched ones, int64 [N].
        base: positions of what all twins are trained on and keep, ascending.
        coins: bool [K, N].
        forget: how many of the run's forget set are in the pool.
        division: the run's own.
    """

    samples: np.ndarray
    base: np.ndarray
    coins: Coins
    forget: int
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
        return {
            "size": len(self.samples),
            "forget": self.forget,
            "matched": len(self.samples) - self.forget,
            "hash": hash_json(self.samples.tolist()),
        }


def make_pool(domain: Domain, division: Division, plan: AuditPlan) -> MemberPool:
    """Chooses the pool: samples that the run was asked to forget, and as many retained ones, class by class.

    Raises:
        DataError: if there are too few, or a class has too few retained samples beside those that are forgotten.
    """
    rng = np.random.default_rng([plan.seed, 1])
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
                "with. A class that is forgotten whole, or nearly, cannot be audited by coins."
            )
        matched.append(_some(rng, same, count))
    samples = rng.permutation(np.concatenate([forget, *matched]))
    if len(samples) < FEWEST_SAMPLES:
        raise DataError(
            f"the pool has {len(samples)} samples, twice as many as are forgotten: fewer than {FEWEST_SAMPLES} tell "
            "nothing. Audit a run that forgets more, of the same kind."
        )
    base = np.setdiff1d(retain, samples)
    coins = draw_coins(plan.seed, plan.twins, len(samples))
    return MemberPool(samples, base, coins, len(forget), division)


def _some(rng: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    return np.sort(rng.permutation(values)[:count])


def open_run(plan: AuditPlan, cache: Cache | None = None) -> Experiment:
    """Opens the run that is audited; nothing is written."""
    experiment = stages.open_experiment(plan.recipe, fresh=False, write=False, cache=cache)
    stages.check_split(experiment)
    return experiment


def open_twin(plan: AuditPlan, pool: MemberPool, group: str, cache: Cache | None = None) -> Experiment:
    """Opens the run folder of a twin or of the base; recipe and split are written where they are not there."""
    k = None if group == BASE else int(group.rpartition("-")[2])
    recipe = replace(
        plan.recipe,
        seed=seed_of(plan.seed, "twin", BASE if k is None else k),
        methods={} if k is None else {name: plan.recipe.methods[name] for name in plan.methods},
        references=plan.references if k is None else 0,
        evaluate_every=0,
        compare=Comparison(),
        out=str(plan.folder / group),
    )
    there = (recipe.folder / SPLIT).exists()
    experiment = stages.open_experiment(
        recipe,
        fresh=False,
        write=not there,
        cache=cache,
        divide=lambda domain: pool.division_of(k, plan.seed),
        data_seed=plan.recipe.seed,
    )
    experiment.folder.command = f"untrain audit {plan.recipe.folder} --resume"
    if there:
        stages.check_split(experiment)
    return experiment


def facts_of(plan: AuditPlan, pool: MemberPool) -> Mapping[str, Any]:
    """Says what decides every number of an audit but its models, before anything is trained."""
    return {
        "version": 1,
        "design": "coins",
        "run": str(plan.recipe.folder),
        "seed": plan.seed,
        "twins": plan.twins,
        "references": plan.references,
        "coins_sha256": hash_coins(pool.coins),
        "pool": pool.facts(),
        "base": {"size": len(pool.base)},
        "train_size": {
            "run": len(pool.division.split.forget) + len(pool.division.split.retain),
            "twins": len(pool.base) + len(pool.samples) // 2,
        },
    }
