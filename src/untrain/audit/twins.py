"""Twins: originals that are trained on purpose, with what each method makes of them, and models without the forgotten.

A twin is an ordinary run folder with a split of its own, in which every method of the run is told to forget what the
twin is to forget. Retrained models lie together in a folder of their own, the base.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from untrain.audit.design import SIGNALS_OF, Design, ReadTold
from untrain.audit.statistics import welch
from untrain.audit.traces import Mean
from untrain.compare.plan import Cell
from untrain.domain import Division, Domain, Told
from untrain.engine import seed_of
from untrain.errors import SettingError, spell
from untrain.runs import stages
from untrain.runs.names import ORIGINAL, RETRAINED, SPLIT, numbered
from untrain.runs.recipe import Comparison, Recipe
from untrain.runs.stages import Experiment

BASE, TWINS = "base", "twins"
"""Folders of an audit by twins."""
KEPT = ("base", "test")
"""Accuracies that models tell: on what all twins keep, and on test data."""
RELEARNING = 0.1
"""Of the original's peak learning rate, for relearning."""


class TwinDesign(Design):
    """A design that trains K originals, lets every method work on each, and retrains R models without the forgotten."""

    @abstractmethod
    def division_of(self, domain: Domain, k: int | None) -> Division:
        """Divides the samples as twin k sees them; None: as the base does."""

    def making_of(self, name: str) -> list[Any]:
        """Returns what of the recipe decides a model besides its data."""
        recipe = self.plan.recipe
        plain = recipe.plain()
        inputs = {key: plain[key] for key in ("task", "train", "batch_size", "precision", "parts", "seed")}
        return [inputs, str(recipe.methods.get(name))]

    def told_of(self, read: ReadTold, name: str) -> list[Told]:
        """Returns what the twins' models of a name told."""
        return [read(self.twin(k), name) for k in range(self.plan.twins)]

    def twin(self, k: int) -> str:
        """Returns the group of a twin, "twins/twin-03"."""
        return f"{TWINS}/twin-{k:02d}"

    @property
    def groups(self) -> list[str]:
        """Every run folder of the audit: that of the base, and the twins'."""
        return [BASE, *map(self.twin, range(self.plan.twins))]

    def models(self, group: str) -> list[str]:
        """Returns the models of a group."""
        return numbered(RETRAINED, self.plan.references) if group == BASE else [ORIGINAL, *self.plan.methods]

    def cells(self) -> list[Cell]:
        """Returns every cell: models, and what asks them, twin by twin, after the base."""
        found = []
        for group in self.groups:
            models = self.models(group)
            needs = () if group == BASE else (f"{group}/{ORIGINAL}",)
            found += [Cell(group, name, () if name == ORIGINAL else needs) for name in models]
            found += [Cell(group, SIGNALS_OF, tuple(f"{group}/{name}" for name in models))] if models else []
        return found

    def open(self, group: str) -> Experiment:
        """Opens the run folder of a twin or of the base; recipe and split are written where they are not there."""
        plan = self.plan
        k = number_of(group)
        recipe = replace(
            plan.recipe,
            seed=seed_of(plan.seed, "twin", BASE if k is None else k),
            methods={} if k is None else {name: plan.recipe.methods[name] for name in plan.methods},
            references=plan.references if k is None else 0,
            evaluate_every=0,
            compare=Comparison(),
            store="delta",
            out=str(plan.folder / group),
        )
        there = (recipe.folder / SPLIT).exists()
        experiment = stages.open_experiment(
            recipe,
            fresh=False,
            write=not there,
            cache=self.cache,
            divide=lambda domain: self.division_of(domain, k),
            data_seed=plan.recipe.seed,
        )
        experiment.folder.command = f"untrain audit {plan.recipe.folder} --resume"
        if there:
            stages.check_split(experiment)
        return experiment

    def load(self, experiment: Experiment, group: str, names: list[str]) -> Mapping[str, nn.Module]:
        """Returns models of a twin or of the base; those that are not there are made."""
        if group == BASE:
            return stages.train_references(experiment, names)
        start = stages.prepare_original(experiment)
        models = stages.unlearn_methods(experiment, start, [name for name in names if name != ORIGINAL])
        return {ORIGINAL: start, **models} if ORIGINAL in names else models

    def finish(self, experiment: Experiment) -> None:
        """Removes a group's weights, unless they are to be kept."""
        if not self.plan.keep:
            for path in experiment.folder.path.glob("*.safetensors"):
                path.unlink()


def scores_apart(name: str, told: Sequence[Told], retrained: Sequence[Told]) -> Mean:
    """Computes how far models' scores lie from those of retrained ones; NaN where one was not told."""
    one, other = (np.array([each.scores.get(name, np.nan) for each in side]) for side in (told, retrained))
    return Mean(*welch(one, other))


def relearning_rate(peak: float | None) -> float | None:
    """Returns the learning rate at which a copy of a model is trained a little.

    Args:
        peak: the highest of the original training; None: not known, and so is what is returned.
    """
    return None if peak is None else RELEARNING * peak


def number_of(group: str) -> int | None:
    """Returns a twin's number; None of the base."""
    return None if group == BASE else int(group.rpartition("-")[2])


def check_trained(recipe: Recipe) -> None:
    """Refuses a run whose originals cannot be trained anew.

    Raises:
        SettingError: says so.
    """
    if recipe.domain.checkpoint_of(recipe.sections) is not None:
        raise SettingError(
            f"{recipe.folder} began from a checkpoint, and how that was trained is not known, so no twin of it can be "
            "trained. Audit a run whose recipe trains its original, on these data and with this architecture; or, for "
            f"what can be said of this one model alone, audit it without twins: {spell('--twins 0', 'twins=0')}."
        )
