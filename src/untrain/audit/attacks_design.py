"""The design by attacks: no twin is trained; what a run's models were to forget is brought back, as far as that goes.

Each attack is made on three models: the original, which shows how much can be brought back at all; each unlearned one;
and a floor, which never learned it: the run's retrained model, or where there is none the placebo, the original under
the same attack for something that it never learned. A cell is one attack on one model.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from untrain.audit.attacks_card import attack_lines, attack_rows, picture_figures
from untrain.audit.attacks_verdict import AttackFound, AttacksFound, judge_attacks
from untrain.audit.design import Design, ReadTold
from untrain.audit.finding import Audit, Finding
from untrain.audit.plan import AuditPlan
from untrain.audit.run_models import load_finished
from untrain.compare.plan import Cell
from untrain.domain import AttackNumber, Attempt, Told
from untrain.engine import seed_of
from untrain.errors import SettingError
from untrain.io import hash_json
from untrain.models import checkpoints
from untrain.runs import stages
from untrain.runs.names import ORIGINAL, RETRAINED, numbered
from untrain.runs.recipe import Recipe
from untrain.runs.stages import Experiment

MODELS, PLACEBO = "models", "placebo"
"""The folder of an audit by attacks that has one a model, and the model in place of a retrained one."""
PICTURES = "pictures"
"""The folder of what came back, beside it."""


class AttacksDesign(Design):
    """Attacks on the run's own models."""

    name = "attacks"
    fixed = ("design", "seed", "floor")

    @classmethod
    def sizes(cls, recipe: Recipe, twins: int | None, references: int | None) -> tuple[int, int]:
        """Returns what was asked for, which `check_plan` refuses, else none."""
        return twins or 0, references or 0

    @classmethod
    def check_plan(cls, plan: AuditPlan) -> None:
        """Refuses twins and references: there are none."""
        if plan.twins or plan.references:
            raise SettingError(
                "an audit by attacks trains no twins and no references: its models are the run's own. Leave --twins "
                "and --references out; a run with references: 1 is attacked beside its retrained model."
            )

    @property
    def floor(self) -> str:
        """The model that never learned what is forgotten: the run's first retrained one, or the placebo."""
        return numbered(RETRAINED, 1)[0] if self.plan.recipe.references else PLACEBO

    @property
    def groups(self) -> list[str]:
        """One a model: those that tell whether the audit can see anything come first."""
        return [f"{MODELS}/{name}" for name in (ORIGINAL, self.floor, *self.plan.methods)]

    @cached_property
    def numbers(self) -> Mapping[str, Mapping[str, AttackNumber]]:
        """Attack → what it tells."""
        return self.run.domain.attacks(self.plan.options)

    def models(self, group: str) -> list[str]:
        """Returns the attacks on the model of a group."""
        return [*self.numbers]

    def cells(self) -> list[Cell]:
        """Returns every cell: attack by attack, each on every model."""
        return [Cell(group, attack) for attack in self.numbers for group in self.groups]

    def asked_by(self, cell: Cell) -> list[str]:
        """Returns the one attack of a cell."""
        return [cell.name]

    def open(self, group: str) -> Experiment:
        """Returns the run itself, as it was left."""
        return self.run

    def load(self, experiment: Experiment, group: str, names: list[str]) -> Mapping[str, nn.Module]:
        """Returns the model of a group, once for every attack.

        Raises:
            SettingError: if the run has not made it.
        """
        name = model_of(group)
        own = ORIGINAL if name == PLACEBO else name
        return dict.fromkeys(names, load_finished(experiment, [own])[own])

    def ask(self, experiment: Experiment, group: str, name: str, module: nn.Module) -> Told:
        """Makes one attack on a model; a picture of what came back is written."""
        model = model_of(group)
        with stages.locked(self.plan.recipe, self.plan.folder, name="helpers", wait=True):  # another cell may need them
            helpers = stages.train_helpers(experiment)
        attempt = Attempt(
            self.plan.options,
            model,
            seed_of(self.plan.seed, "attacks"),
            helpers,
            self.plan.folder / PICTURES,
            placebo=model == PLACEBO,
        )
        return experiment.domain.attack(name, module, attempt)

    def finish(self, experiment: Experiment) -> None:
        """Leaves the run's models where they are."""

    def mark_of(self, group: str, name: str) -> str:
        """Fingerprints a model's weights, what detects, and what an attack may do."""
        facts = self.run.domain.evaluation_facts()
        rows = {key: [dict(number.budget), number.facts] for key, number in self.numbers[name].items()}
        return hash_json([self._hash_of(model_of(group)), facts, rows, self.plan.seed, group, name])

    def _hash_of(self, model: str) -> str:
        """A hash of a model's weights: as its file says, else of what was loaded."""
        if model not in self._hashes:
            path = self.run.folder.weights(ORIGINAL if model == PLACEBO else model)
            kept = checkpoints.load_state(path)[1].get("hash") if path.exists() else None
            self._hashes[model] = str(kept or checkpoints.state_hash(self.run.domain.original()[0]))
        return self._hashes[model]

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {}

    def facts(self) -> Mapping[str, Any]:
        """Says which models are attacked, and by what.

        Raises:
            SettingError: if the run lacks one of them.
        """
        plan = self.plan
        lacking = [name for name in (*plan.methods, self.floor) if name != PLACEBO and not self.run.folder.holds(name)]
        if lacking:
            raise SettingError(
                f"{plan.recipe.folder} does not hold the weights of {', '.join(lacking)}: untrain run makes them, with "
                "--resume."
            )
        return {
            **self.heading(),
            "floor": self.floor,
            "options": plan.plain_options(),
            "attacks_made": [*self.numbers],
        }

    def score(self, read: ReadTold) -> Audit:
        """Judges every method by what came back of its model."""
        told = {model_of(group): {name: read(group, name) for name in self.numbers} for group in self.groups}
        original, floor = (self._found(told[name], None) for name in (ORIGINAL, self.floor))
        first, findings = self._found(told[ORIGINAL], floor), {}
        for name in self.plan.methods:
            found = self._found(told[name], floor)
            verdict = judge_attacks(name, found, original)
            findings[name] = Finding(
                found,
                verdict,
                tuple(attack_rows(found, original)),
                tuple(attack_lines(found)),
                picture_figures(self.plan.folder, PICTURES, name, self.floor, self.numbers),
            )
        notes = {note for models in told.values() for each in models.values() for note in each.notes}
        facts = {"not_tried": list(self.run.domain.attacks_not_tried(self.plan.options)), "notes": sorted(notes)}
        return Audit({**self.facts(), **facts}, first, findings)

    def _found(self, told: Mapping[str, Told], floor: AttacksFound | None) -> AttacksFound:
        """Counts successes of one model; each beside that of the floor."""
        rows = {}
        for attack, numbers in self.numbers.items():
            for key, number in numbers.items():
                values = told[attack].signals[key]
                values = values[~np.isnan(values)]
                beside = None if floor is None else floor.attacks[key]
                rows[key] = AttackFound(number, int(np.sum(values)), len(values), beside)
        return AttacksFound(rows, self.floor)


def model_of(group: str) -> str:
    """Returns the model that a group is of."""
    return group.rpartition("/")[2]
