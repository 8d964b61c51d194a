"""How a task's results are presented: its measures, what counts as near or forgotten, and the words for it.

A domain has one `Presentation`; tables, figures, verdicts and pages are made from it and the results, and know no task.
A presentation that gives `measures` and `distance` alone has all of them; every function is there to be overridden.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

from untrain.report import introduction, sections, trace_left, verdict
from untrain.report.measures import AUDITED, TIME, Distance, Measure
from untrain.report.results import TARGET, Entry, ForgetSet, Results, Stat
from untrain.report.sections import Section
from untrain.report.verdict import Verdict
from untrain.report.words import show, show_duration, show_share

UNTAUGHT = 10.0
"""By how much a retrained model may be worse for each sample missing, over all samples, in units of the measure."""

__all__ = [
    "LOSSES",
    "TIME",
    "Distance",
    "Floor",
    "MakeSection",
    "Measure",
    "Presentation",
    "Section",
    "Tile",
    "Verdict",
]

MakeSection = Callable[[Results], Section | None]
"""Makes a section of a page; None where it does not apply."""


@dataclass(frozen=True)
class Tile:
    """One number that a verdict rests on, as shown: its value after, and before where that is known."""

    title: str
    value: str
    unit: str = ""
    before: str = ""
    under: str = ""


@dataclass(frozen=True)
class Floor:
    """How far things are from each other that should be the same: a row of the table, and the note under it."""

    name: str
    stats: Mapping[str, Stat]
    note: str


class Presentation:
    """How the results of one task are shown; a task's own one is derived from this.

    Attributes:
        measures: in the order of the tables.
        distance: to the retrained model; None: models are not judged by it.
        higher: measures beside the retrained model that rank methods and have a noise floor → whether more is better;
            by default the distance alone.
        finer: measures among these whose ranks stand under the values → what is said where their order is another.
        axes: the two measures that forgetting trades off, forgetting first; by default the first and the last part of
            the distance.
        ends: what a low and a high value of the first of them mean: ("forgot more", "forgot less"); None: not said.
        watched: measures that a run records while it goes on, in their order → the set that they are measured on.
        watched_as: what these measures are together, and their unit.
        loss_unit: of the losses.
        samples: what is said of them in "600 of 6,000 training samples were to be forgotten".
        unseen: what averages do not show, as a sentence among what the page does not show.
        audited: what an audit of such models asks, as in "whether … is what an audit shows"; empty: there is none.
        quality: measures of how good a model is at its work, more being better → by how much a retrained model may be
            worse than the original before it is too weak to be a target.
        counted_on: of these, shares in percent → the set whose samples were counted.
    """

    measures: Sequence[Measure] = ()
    distance: Distance | None = None
    finer: ClassVar[Mapping[str, str]] = {}
    ends: tuple[str, str] | None = None
    watched: ClassVar[Mapping[str, str]] = {}
    watched_as: tuple[str, str] = ("accuracy", "%")
    loss_unit: str = ""
    samples: str = "training samples were to be forgotten"
    unseen: str = (
        "What a single record left behind. All values are averages over many samples; one of them may still be "
        "remembered."
    )
    audited: str = ""
    quality: ClassVar[Mapping[str, float]] = {}
    counted_on: ClassVar[Mapping[str, str]] = {}

    @property
    def higher(self) -> Mapping[str, bool]:
        """Measures that rank methods → whether more is better."""
        return {} if self.distance is None else {self.distance.key: False}

    @property
    def axes(self) -> tuple[str, ...]:
        """The measures of forgetting and of what it costs; fewer where the distance has fewer parts."""
        return self.parts if len(self.parts) < 2 else (self.parts[0], self.parts[-1])

    @property
    def parts(self) -> tuple[str, ...]:
        """The measures that the distance averages."""
        return () if self.distance is None else tuple(self.distance.parts)

    @property
    def gap(self) -> Measure:
        """The distance as a measure; one without a name where there is none."""
        return self.measure("" if self.distance is None else self.distance.key)

    def measure(self, key: str) -> Measure:
        """Returns a measure by its key; of an unknown one all that is known is the key."""
        return self._known.get(key) or Measure(key, key, key, "", "", "", digits=3, main=False)

    @cached_property
    def _known(self) -> dict[str, Measure]:
        return {measure.key: measure for measure in (*AUDITED, *self.measures)}

    # What models are held against.

    def gauge(self, one: ForgetSet) -> Entry | None:
        """Returns the model that values are held against; None: they mean nothing beside another model's."""
        return one.target

    def order(self, one: ForgetSet) -> list[Entry]:
        """Returns the methods, the best first: by rank, then closest to the retrained model; unknown last."""
        if self.distance is None:
            return list(one.methods)
        key, infinite = self.distance.key, float("inf")

        def place(entry: Entry) -> tuple[bool, float, float]:
            rank, mean = entry.ranks.get(key), entry.mean(key)
            return rank is None, rank.rank if rank else infinite, infinite if mean is None else mean

        return sorted(one.methods, key=place)

    def entries(self, one: ForgetSet) -> list[Entry]:
        """Returns all models: as they were, as they should be, then what methods made, the best first."""
        return [*one.of_role("original"), *one.of_role("target"), *one.of_role("reference"), *self.order(one)]

    def find_closest(self, one: ForgetSet, *, ranked: bool) -> list[Entry]:
        """Returns the methods closest to the retrained model, several if they tie; none where no distance is known.

        Args:
            one: the forget set.
            ranked: whether those of rank 1 are, which the noise floor cannot tell apart; else exact ties alone.
        """
        if self.distance is None:
            return []
        key = self.distance.key
        if ranked:
            return [e for e in self.order(one) if (rank := e.ranks.get(key)) is not None and rank.rank == 1]
        known = {entry.name: mean for entry in one.methods if (mean := entry.mean(key)) is not None}
        return [entry for entry in one.methods if entry.name in known and known[entry.name] == min(known.values())]

    def floors(self, one: ForgetSet, results: Results) -> list[Floor]:
        """Returns what is known of chance: rows of the table."""
        note = "Noise floor: how far models that were retrained with other seeds are from each other."
        compared = "Methods that it cannot tell apart share a rank, marked by =."
        alone = "No method can be told from retraining below it."
        return (
            [Floor("noise floor", one.floor, f"{note} {compared if results.compared else alone}")] if one.floor else []
        )

    # What is said.

    def lede(self, results: Results) -> str:
        """Says what stands above the table: how its values are to be read."""
        if results.sets[0].target is None:
            where = "comparison" if results.compared else "run"
            return f"There is no retrained model in this {where}, which would be the target."
        relative = "" if self.distance is None else "No value here is good by itself. "
        return (
            f"{relative}The retrained model never saw what was to be forgotten, so its row is "
            f"the target{'.' if results.compared else '; the small numbers are the differences to it.'}"
        )

    def curves_lede(self) -> str:
        """Says what stands above the losses over the steps."""
        return (
            "Forget steps should raise the loss on the forget set, and the retain steps after each of them keep the "
            "loss on the rest low."
        )

    def verdict(self, one: ForgetSet, results: Results) -> Verdict:
        """Says what the numbers of a forget set mean; by default by the distance to the retrained model."""
        return verdict.judge_distances(one, results, self)

    def remarks(self, one: ForgetSet, method: Entry) -> list[str]:
        """Says of a run's best method where it is still away from the retrained model."""
        gaps = {}
        for key in self.parts:
            value, aim = method.mean(key), one.aim(key)
            if value is not None and aim is not None:
                gaps[key] = abs(value - aim), value, aim
        if not gaps:
            return []
        measure = self.measure(max(gaps, key=lambda key: gaps[key][0]))
        _, value, aim = gaps[measure.key]
        return [f"Furthest from the retrained model is its {measure.words}: {measure.amount(value)}, against "
                f"{measure.amount(aim)}."]  # fmt: skip

    def tiles(self, one: ForgetSet, method: Entry, results: Results) -> list[Tile]:
        """Returns the numbers that the verdict on a method rests on: distance, both sides of the trade-off, time."""
        found = []
        if self.distance is not None:
            key = self.distance.key
            found.append(self.tile(one, method, self.measure(key), ("noise floor", one.noise(key))))
        found += [self.tile(one, method, self.measure(key)) for key in self.axes]
        return [*found, self.time_tile(one, method)]

    def tile(
        self, one: ForgetSet, method: Entry, measure: Measure, beside: tuple[str, float | None] | None = None,
        title: str = "",
    ) -> Tile:  # fmt: skip
        """Makes the tile of a measure before and after.

        Args:
            one: the forget set.
            method: the model that the verdict is about.
            measure: what the tile shows.
            beside: name and value of what stands under it; None: the retrained model, if there is one.
            title: above it; empty: the measure's.
        """
        if beside is None and one.target is not None:
            beside = TARGET, one.aim(measure.key)
        before, after = one.before(measure.key), method.mean(measure.key)
        return Tile(
            title or measure.heading, measure.show(after) if after is not None else "—",
            measure.unit if after is not None else "", measure.show(before) if before is not None else "",
            f"{beside[0]} {measure.show(beside[1]) if beside[1] is not None else 'unknown'}" if beside else "",
        )  # fmt: skip

    def time_tile(self, one: ForgetSet, method: Entry) -> Tile:
        """Makes the tile of the time, and its share of the retraining time."""
        spent, whole = method.mean("seconds"), one.aim("seconds")
        if spent is None:
            return Tile("Time", "—", under="retraining time unknown")
        under = f"{show_share(spent, whole)} of retraining, {show_duration(whole)}" if whole else ""
        return Tile("Time", show_duration(spent), under=under or "retraining time unknown")

    def describe_request(self, results: Results) -> list[str]:
        """Says in sentences, under the title, what was asked and done: of what, by which methods, when, how long."""
        return introduction.describe_request(results, self)

    def weakness(self, one: ForgetSet) -> str:
        """Says why the retrained model is no target, being worse at its work than the original; "" where it is one.

        It may be worse by what `quality` allows, by twice the noise floor, by what the samples that it was not shown
        may have taught, 10 units for all of them, and by two standard errors of a share that was counted.
        """
        missing = one.sizes.get("forget", 0) / max(1, one.sizes.get("forget", 0) + one.sizes.get("retain", 0))
        for key, allowed in self.quality.items():
            measure, before, aim = self.measure(key), one.before(key), one.aim(key)
            if before is None or aim is None:
                continue
            chance = 2 * self._counting_error(one, key, aim)
            if before - aim > max(allowed + UNTAUGHT * missing, 2 * (one.noise(key) or 0.0), chance):
                apart = f"{measure.show(before - aim)} {measure.gap_unit}".rstrip()
                return (
                    f"the retrained model is weak: its {measure.words} is {apart} below the original's "
                    f"({measure.amount(aim)}, against {measure.amount(before)}), more than its missing samples explain."
                    " Train it as long as the original was; until then, distances to it mean little."
                )
        return ""

    def _counting_error(self, one: ForgetSet, key: str, percent: float) -> float:
        """Standard error of the difference of two shares in percent; 0 where the samples' number is not known."""
        count = one.sizes.get(self.counted_on.get(key, ""), 0)
        return math.sqrt(2 * percent * (100 - percent) / count) if count and 0 < percent < 100 else 0.0

    def without_target(self, one: ForgetSet) -> str:
        """Says what is not shown where no model was retrained."""
        return "What a model does that never saw the forget set. None was trained, so most values have no target."

    def own_limits(self, results: Results) -> list[str]:
        """Says what else the page of this task does not show, in sentences."""
        return []

    def forgotten(self, results: Results) -> list[str]:
        """Names what a run was to forget, as a reader would; empty where it has no names."""
        return list(results.sets[0].forgotten)

    def measured_with(self, results: Results) -> Mapping[str, object]:
        """Returns what of a run's facts stands among the settings: by default all, as no section shows them."""
        return {key: value for key, value in results.facts.items() if value}

    # What is shown.

    def sections(self, results: Results) -> Sequence[MakeSection]:
        """Returns the sections of the page of a run or of a comparison, in order."""
        makers: list[Any]
        if results.compared:
            makers = [*_FIRST, sections.show_table, sections.show_failures, sections.show_measures]
            if self.distance is not None:
                makers += [sections.TRADE_OFF, trace_left.show_trace_left] if len(self.axes) == 2 else []
                makers += [sections.DISTANCE, sections.TIME_QUALITY]
            makers += [sections.show_trials, sections.show_settings]
        elif results.measured:
            makers = [*_FIRST, sections.show_table, sections.show_measures, *_RECORDED]
        else:
            makers = [*_FIRST, *_RECORDED]
        return [partial(make, presentation=self) for make in makers]


_FIRST = (sections.show_verdict, sections.show_limits)
_RECORDED = (sections.show_curves, sections.show_mask, sections.show_times, sections.show_settings)


class LossPresentation(Presentation):
    """Presents tasks that say nothing of their own: the mean loss of every set, against the retrained model's."""

    measures = (
        *(
            Measure(
                f"{name}_loss", f"{letter}L", f"{title} loss", "",
                f"The mean loss over the {what}, in the task's own unit.", "The retrained model's value.",
                digits=3, compared=True, shown="known",
            )
            for name, letter, title, what in (
                ("forget", "F", "Forget", "samples to be forgotten"),
                ("retain", "R", "Retain", "samples to be kept"),
                ("test", "T", "Test", "samples that were never trained on"),
            )
        ),
        Measure(
            "AvgD", "Avg.D", "Average distance", "",
            "The mean of the differences to the retrained model in these losses.",
            "Zero, or the noise floor where that is known.", digits=3,
        ),
        TIME,
    )  # fmt: skip
    distance = Distance("AvgD", ("forget_loss", "retain_loss"), unit="")
    ends = ("forgot less", "forgot more")
    loss_unit = "the task's unit"

    def weakness(self, one: ForgetSet) -> str:
        """Says where the retrained model's loss on new samples is half as large again as the original's."""
        before, aim = one.before("test_loss"), one.aim("test_loss")
        if before is None or aim is None or aim <= 1.5 * before + 2 * (one.noise("test_loss") or 0.0):
            return ""
        return (
            f"the retrained model is weak: its loss on new samples is {show(aim, 3)}, the original's {show(before, 3)}."
            " Train it as long as the original was; until then, distances to it mean little."
        )


LOSSES = LossPresentation()
