"""How a task's results are presented: its measures, what counts as near or forgotten, and the words for it.

A domain has one `Presentation`; tables, figures, verdicts and pages are made from it and the results, and know no task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """One measure: how it is called, what it means and what it should be, in words for a reader new to the field."""

    key: str
    name: str
    title: str
    unit: str
    meaning: str
    aim: str
    digits: int = 2
    compared: bool = False
    """Whether the difference to the model that values are held against is shown under the value."""
    main: bool = True
    """Whether it stands in the first table of a comparison; all others stand in a second one."""
    shown: Literal["always", "known", "named", "noted"] = "always"
    """"known": only where a model has a value; "named": only where a model has it, if only as missing; "noted": only
    where a model has a value, and where all miss it, a line under the table says why."""


@dataclass(frozen=True)
class Distance:
    """The one number that says how far a model is from the retrained one: the mean of |value − retrained value|.

    Attributes:
        key: what it is called in results, "AvgD".
        parts: keys of the measures that it averages.
        name: in a sentence: "average distance".
        unit: of it: "points".
    """

    key: str
    parts: Sequence[str]
    name: str = "average distance"
    unit: str = "points"


class Presentation:
    """How the results of one task are shown; a task's own one is derived from this.

    Attributes:
        measures: in the order of the tables.
        distance: to the retrained model; None: models are not judged by it.
    """

    measures: Sequence[Measure] = ()
    distance: Distance | None = None


class LossPresentation(Presentation):
    """Of tasks that say nothing of their own: the mean loss of every set, held against the retrained model's."""

    measures = tuple(
        Measure(
            f"{name}_loss", f"{letter}L", f"{title} loss", "",
            f"The mean loss over the {what}, in the task's own unit.",
            "The retrained model's value.",
            digits=3, compared=True, shown="known",
        )
        for name, letter, title, what in (
            ("forget", "F", "Forget", "samples to be forgotten"),
            ("retain", "R", "Retain", "samples to be kept"),
            ("test", "T", "Test", "samples that were never trained on"),
        )
    ) + (
        Measure(
            "AvgD", "Avg.D", "Average distance", "", "The mean of the differences to the retrained model in these losses.",
            "Zero, or the noise floor where that is known.", digits=3,
        ),
        Measure(
            "seconds", "Time", "Run time", "s",
            "How long it took to make the model, the look at the data before the first step (Fisher) included and "
            "evaluation left out. Under it: how that compares with retraining.",
            "A small share of the retraining time; otherwise one could retrain.",
        ),
    )  # fmt: skip
    distance = Distance("AvgD", ("forget_loss", "retain_loss"), unit="")


LOSSES = LossPresentation()
