"""The design by references: originals and retrained models of many seeds on one split, of whole classes and any set.

Where a class is forgotten whole, no sample of it is left that could have been kept, so there are no coins. Here models
are exchanged, not samples: K originals are trained on all data, every method forgets from each of them, and R models
are trained without what is forgotten. Were unlearning perfect, an unlearned model would be one more retrained one, so
whatever is computed of each, the labels "unlearned" and "retrained" can be exchanged: an exact test.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import nn

from untrain.audit.design import ReadTold
from untrain.audit.finding import Audit, Finding
from untrain.audit.plan import AuditPlan
from untrain.audit.refs_card import number_rows, sizes_below
from untrain.audit.refs_score import TOLERATED_REMOVED, ModelTraces, find_numbers
from untrain.audit.refs_verdict import judge_numbers
from untrain.audit.twins import BASE, KEPT, TwinDesign, check_trained, relearning_rate, scores_apart
from untrain.audit.verdict import TOLERATED_POINTS
from untrain.domain import Division, Domain, Inquiry, Told
from untrain.engine import on_device
from untrain.errors import SettingError
from untrain.io import hash_json
from untrain.runs import stages
from untrain.runs.names import ORIGINAL
from untrain.runs.recipe import Recipe
from untrain.runs.stages import Experiment

FEWEST_MODELS = 5
"""Of either kind: with fewer no p, adjusted for five numbers, falls under 5 %."""
NOT_TRIED = (
    "attacks that know the originals' weights",
    "attacks on weights that no input reaches",
    "relearning from many images or by many steps",
)


class RefsDesign(TwinDesign):
    """Originals and retrained models on the run's own split."""

    name = "refs"
    fixed = ("design", "seed", "split", "options")

    @classmethod
    def sizes(cls, recipe: Recipe, twins: int | None, references: int | None) -> tuple[int, int]:
        """Returns K and R; as many retrained models as originals where nobody says it."""
        count = recipe.domain.audit_twins if twins is None else twins
        return count, count if references is None else references

    @classmethod
    def check_plan(cls, plan: AuditPlan) -> None:
        """Refuses too few models, and a run whose originals cannot be trained anew."""
        if min(plan.twins, plan.references) < FEWEST_MODELS:
            raise SettingError(
                f"an audit by references takes at least {FEWEST_MODELS} twins and {FEWEST_MODELS} references, not "
                f"{plan.twins} and {plan.references}: of fewer models nothing can be found, whatever they tell."
            )
        check_trained(plan.recipe)

    @property
    def division(self) -> Division:
        """The run's own."""
        return self.run.division

    @cached_property
    def split_hash(self) -> str:
        """The hash of the run's split."""
        return self.division.split.hash

    def division_of(self, domain: Domain, k: int | None) -> Division:
        """Divides the samples as the run does, whatever the twin."""
        return self.division

    def ask(self, experiment: Experiment, group: str, name: str, module: nn.Module) -> Told:
        """Asks a model what the domain's numbers are made from."""
        rate = relearning_rate(stages.peak_lr(experiment))
        trained = stages.train_helpers(self.run)
        inquiry = Inquiry(experiment.division, rate, self.plan.seed, self.plan.options, trained)
        with on_device(experiment.engine.device, *trained.values()):
            return experiment.domain.ask_whole(module, inquiry)

    def prepare(self) -> None:
        """Makes the run's helpers, such as its judge, where it has none."""
        stages.train_helpers(self.run)

    def mark_of(self, group: str, name: str) -> str:
        """Fingerprints all that decides a model's training, and what it is asked."""
        asked = [self.plan.seed, self.plan.plain_options(), self.run.domain.evaluation_facts()]
        return hash_json([*self.making_of(name), self.name, self.split_hash, asked, group, name])

    def facts(self) -> Mapping[str, Any]:
        """Says which models there are; refuses a run whose models cannot be asked."""
        plan, split = self.plan, self.division.split
        self.run.domain.check_whole(self.division)
        size = len(split.forget) + len(split.retain)
        return {
            **self.heading(),
            "options": plan.plain_options(),
            "twins": plan.twins,
            "references": plan.references,
            "split": self.split_hash,
            "forget": {"size": len(split.forget)},
            "base": {"size": len(split.retain)},
            "train_size": {"run": size, "twins": size},
        }

    def score(self, read: ReadTold) -> Audit:
        """Judges every method by what its models told."""
        plan, facts = self.plan, self.facts()
        before = self.told_of(read, ORIGINAL)
        retrained = [read(BASE, name) for name in self.models(BASE)]
        first = self._find(before, before, retrained)
        findings, notes = {}, {note for told in (*before, *retrained) for note in told.notes}
        for name in plan.methods:
            told = self.told_of(read, name)
            found = self._find(before, told, retrained)
            verdict = judge_numbers(name, found, plan.twins)
            figures = self.run.domain.audit_figures(plan.folder, name, before, told, retrained)
            rows, below = tuple(number_rows(found, first)), (sizes_below(facts, found),)
            findings[name] = Finding(found, verdict, rows, below, figures)
            notes |= {note for each in told for note in each.notes}
        more = {
            "tolerance": {"removed": list(TOLERATED_REMOVED), "points": TOLERATED_POINTS},
            "not_tried": list(NOT_TRIED),
            "notes": sorted(notes),
        }
        return Audit({**facts, **more}, first, findings)

    def _find(self, original: list[Told], told: list[Told], retrained: list[Told]) -> ModelTraces:
        numbers = self.run.domain.audit_numbers(original, told, retrained, self.plan.seed, options=self.plan.options)
        there = [name for name in KEPT if all(name in each.scores for each in (*told, *retrained))]
        kept = {name: scores_apart(name, told, retrained) for name in there}
        return ModelTraces(find_numbers(numbers, self.plan.seed), kept)
