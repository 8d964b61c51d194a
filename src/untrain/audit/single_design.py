"""The design without twins: the run's own models, asked for what they forgot and for what nobody ever gave them.

It costs no training, and it is all that there is where the original's training is not known. What it can say is little:
see `untrain.audit.one_model_card.NOT_SAYABLE`.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import nn

from untrain.audit.design import SIGNALS_OF, Design, ReadTold
from untrain.audit.finding import Audit
from untrain.audit.mixed import MixedSamples, mix_samples
from untrain.audit.model import BATCH, MOST_REFERENCES
from untrain.audit.plan import AuditPlan
from untrain.audit.run_models import RUN, load_finished
from untrain.audit.single import SINGLE, ask_mixed, judge_told
from untrain.audit.twins import relearning_rate
from untrain.compare.plan import Cell
from untrain.data.splits import Subset
from untrain.data.streams import Stream
from untrain.domain import Told
from untrain.errors import DataError, SettingError
from untrain.io import hash_json
from untrain.runs import stages
from untrain.runs.names import ORIGINAL
from untrain.runs.recipe import Recipe
from untrain.runs.stages import Experiment


class SingleDesign(Design):
    """No twins: the run's original, its methods, and its retrained models, which saw neither kind of sample."""

    name = SINGLE
    takes = ("exchangeable",)
    fixed = ("design", "seed", "exchangeable", "split")

    @classmethod
    def sizes(cls, recipe: Recipe, twins: int | None, references: int | None) -> tuple[int, int]:
        """Returns no twins, and as many retrained models as the run has, up to four."""
        there = min(recipe.references, MOST_REFERENCES)
        return twins or 0, there if references is None else min(references, there)

    @classmethod
    def check_plan(cls, plan: AuditPlan) -> None:
        """Refuses twins."""
        if plan.twins:
            raise SettingError(f"the design {SINGLE} has no twins, not {plan.twins}: leave them out, or the design.")

    @property
    def groups(self) -> list[str]:
        """The run alone."""
        return [RUN]

    def models(self, group: str) -> list[str]:
        """Returns original, methods, and as many retrained models as the run has, up to four."""
        references = stages.reference_names(self.plan.recipe)[: self.plan.references]
        return [ORIGINAL, *self.plan.methods, *references]

    def cells(self) -> list[Cell]:
        """Returns the one cell that asks them."""
        return [Cell(RUN, SIGNALS_OF)]

    def open(self, group: str) -> Experiment:
        """Opens the run itself; nothing is written."""
        return self.run

    def load(self, experiment: Experiment, group: str, names: list[str]) -> Mapping[str, nn.Module]:
        """Reads models of the run."""
        return load_finished(experiment, names)

    def ask(self, experiment: Experiment, group: str, name: str, module: nn.Module) -> Told:
        """Asks a model for its signals of forgotten and unseen samples."""
        domain, rate = experiment.domain, relearning_rate(stages.peak_lr(experiment))
        kept = Stream(Subset(domain.data, experiment.division.split.retain), "retain", experiment.engine, BATCH)
        return ask_mixed(type(domain), module, domain.task, self.mixed, kept, rate)

    @cached_property
    def mixed(self) -> MixedSamples:
        """The run's forget set and what no model of the run was given."""
        run, split = self.run, self.run.division.split
        unseen = Subset(run.domain.data, split.unseen) if len(split.unseen) else run.division.test
        if not len(unseen):
            raise DataError(
                f"{run.folder.path} has no samples that its models never saw: no test data, and no audit holdout. Make "
                "the run anew with --forget.audit_holdout 0.1."
            )
        sets = {"forget": Subset(run.domain.data, split.forget), "unseen": unseen}
        streams = {name: Stream(data, name, run.engine) for name, data in sets.items()}
        return mix_samples(streams["forget"], streams["unseen"], run.domain.task, self.plan.seed)

    @property
    def exchangeable(self) -> bool:
        """Whether forgotten and unseen samples are of one source at random: by how they were drawn, or as was said."""
        return self.plan.exchangeable or self.run.division.split.is_random

    def finish(self, experiment: Experiment) -> None:
        """Leaves the run as it is."""

    def mark_of(self, group: str, name: str) -> str:
        """Fingerprints a model of the run and the samples that it is asked for."""
        facts = self.run.folder.facts.get(name, {})
        return hash_json([facts.get("hash"), self.run.division.split.hash, self.plan.seed, group, name])

    def facts(self) -> Mapping[str, Any]:
        """Says which samples are compared."""
        split = self.run.division.split
        return {
            **self.heading(),
            "twins": 0,
            "unseen_from": "audit holdout" if len(split.unseen) else "test data",
            "exchangeable": self.exchangeable,
            "split": split.hash,
        }

    def score(self, read: ReadTold) -> Audit:
        """Judges every method by what the run's own models told."""
        told = {name: read(RUN, name) for name in self.models(RUN)}
        audit = judge_told(told, self.mixed, exchangeable=self.exchangeable, seed=self.plan.seed)
        return Audit({**audit.facts, **self.facts()}, audit.original, audit.findings)
