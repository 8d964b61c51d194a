"""How reports speak of classifiers: accuracies, attacks and distances beside a retrained model's."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from untrain.report import sections
from untrain.report.figures import Figure
from untrain.report.presentation import TIME, Distance, MakeSection, Measure, Presentation
from untrain.report.results import Entry, ForgetSet, Results
from untrain.report.sections import DRAWN, Part, Plot, Section, collect, make_section, name_left_out
from untrain.report.verdict import Verdict
from untrain.tasks.classification.figures import ROWS, draw_class_map, draw_classes
from untrain.tasks.classification.whole_class import forgets_whole_classes, judge_whole_class

SETS = {"FA": "forget", "RA": "retain", "TA": "test"}


def _accuracy(key: str, title: str, meaning: str, aim: str, **words: str) -> Measure:
    return Measure(key, words.pop("name", key), title, "%", meaning, aim, compared=True, **words)  # type: ignore[arg-type]


def _support_vector_attack(which: str, sees: str) -> Measure:
    return Measure(
        f"SVC_{which.replace(' ', '_')}", f"SVC-MIA ({which})",
        "Membership inference attack by a support vector machine", "%",
        f"A second attacker, a support vector machine, sees only {sees}; the value is the share of the forget set that "
        "it takes for images never trained on.",
        "The retrained model's value, which is high where MIA is low: this attacker counts the other side.",
        compared=True, shown="known", main=False,
    )  # fmt: skip


_MEASURES = (
    _accuracy(
        "FA", "Forget accuracy", "The share of the samples to be forgotten that the model classifies correctly.",
        "The retrained model's value. For samples of known classes that is far from zero: a model often recognises "
        "what it never saw.",
        phrase="accuracy on the forget set",
    ),
    _accuracy(
        "RA", "Retain accuracy", "The share of the samples to be kept that the model classifies correctly.",
        "The retrained model's value; below it, forgetting has damaged what should stay.",
    ),
    _accuracy(
        "TA", "Test accuracy",
        "The share of new images, never trained on, that the model classifies correctly. When whole classes are "
        "forgotten, only the other classes count.",
        "The retrained model's value; below it, the model has become worse at its work.",
        phrase="accuracy on new images",
    ),
    _accuracy(
        "forgotten_TA", "Test accuracy on the forgotten class",
        "The share of new images of the forgotten class that the model still calls by that class.",
        "The retrained model's value, which is usually zero.", name="TA, forgotten", shown="known",
    ),
    _accuracy(
        "MIA", "Membership inference attack",
        "An attacker looks at how sure the model is of a sample and guesses whether it was trained on it; the value "
        "is the share of the forget set that is taken for training data.",
        "The retrained model's value: samples it never saw, so whatever the attacker finds there is a false alarm.",
    ),
    _support_vector_attack("confidence", "how probable the model finds the right class"),
    _support_vector_attack("entropy", "how undecided the model is (the entropy of its prediction)"),
    _support_vector_attack(
        "modified entropy", "how undecided the model is, with a wrong answer counting as undecided too"
    ),
    Measure(
        "AvgD", "Avg.D", "Average distance", "points",
        "The mean of the four differences to the retrained model in FA, RA, TA and MIA, in percentage points.",
        "Zero, or the noise floor where that is known.",
    ),
    Measure(
        "ToW", "ToW", "Tug of war", "",
        "One number for how near the accuracies on the forget, retain and test sets come to the retrained model's.",
        "One, which means the same three accuracies.", digits=3, narrow=False, bounds=(0.0, 1.0),
    ),
    Measure(
        "KL", "KL", "Kullback–Leibler divergence", "nats",
        "How far the predicted probabilities on the forget set are from those of the retrained model.",
        "Zero, or the noise floor where that is known.", digits=3,
    ),
    Measure(
        "JS", "JS", "Jensen–Shannon divergence", "nats",
        "The same comparison made symmetrical; it never exceeds ln 2 ≈ 0.693.",
        "Zero, or the noise floor where that is known.", digits=3, main=False,
    ),
    TIME,
)  # fmt: skip

_BALANCE = {
    "RA": ("It recognises less of what should be kept than the retrained model does", ""),
    "TA": ("It is worse on new images than the retrained model", ""),
    "FA": (
        "It forgot more than retraining would, which can itself give the forgotten samples away",
        "It still recognises more of the forget set than the retrained model does",
    ),
}
"""What is said of a measure below and above the retrained model's value."""


class ClassificationPresentation(Presentation):
    """Presents classifiers."""

    measures = _MEASURES
    distance = Distance("AvgD", ("FA", "RA", "TA", "MIA"))
    higher: ClassVar[Mapping[str, bool]] = {"AvgD": False, "KL": False, "JS": False, "ToW": True}
    finer: ClassVar[Mapping[str, str]] = {"KL": "Sample by sample the order differs: by the divergence KL"}
    axes = ("FA", "TA")
    ends = ("forgot more", "forgot less")
    watched = SETS
    loss_unit = "nats"
    audited = "whether what was forgotten can still be told from what was never seen"
    quality: ClassVar[Mapping[str, float]] = {"TA": 3.0}
    counted_on: ClassVar[Mapping[str, str]] = {"TA": "test"}

    def sections(self, results: Results) -> Sequence[MakeSection]:
        """Adds accuracies by class and losses of single samples."""
        usual = list(super().sections(results))
        if results.compared:
            own: list[MakeSection] = [partial(plot, presentation=self) for plot in (sections.HISTOGRAMS, _CLASSES)]
            return [*usual[:-2], *own, *usual[-2:]]
        if not results.measured:
            return usual
        return [*usual[:-3], self.show_classes, partial(sections.show_histograms, presentation=self), *usual[-3:]]

    def verdict(self, one: ForgetSet, results: Results) -> Verdict:
        """Says how close to the retrained model methods came; of a whole class, the target is known without one."""
        if (one.target is None or self.weakness(one)) and forgets_whole_classes(one):
            return judge_whole_class(one, results, self)
        return super().verdict(one, results)

    def lede(self, results: Results) -> str:
        """Says how the values are to be read."""
        told = super().lede(results)
        if results.sets[0].target is None and forgets_whole_classes(results.sets[0]):
            return f"{told} Of a forgotten class the target is known: 0 % of it should be recognised."
        return told

    def without_target(self, one: ForgetSet) -> str:
        """Says what is not shown where no model was retrained; of a whole class, the target of the rest alone."""
        if forgets_whole_classes(one):
            return (
                "What the other classes would have lost without the forgotten one. No model was retrained, so their "
                "values are held against the original's."
            )
        return super().without_target(one)

    def own_limits(self, results: Results) -> list[str]:
        """Says how weak the attack is."""
        return [
            "What a better attacker finds. The membership attack sees only how sure the model is of a sample; stronger "
            "ones exist, and their share can be higher."
        ]

    def remarks(self, one: ForgetSet, method: Entry) -> list[str]:
        """Says where one side pays for the other: damage to what should stay, forgetting too little or too much."""
        remarks = []
        for key, (below, above) in _BALANCE.items():
            value, aim = method.mean(key), one.aim(key)
            if value is None or aim is None:
                continue
            gap, allowed = value - aim, max(1.0, 2 * (one.noise(key) or 0.0))
            if said := below if gap < -allowed else above if gap > allowed else "":
                measure = self.measure(key)
                remarks.append(f"{said}: {key} is {measure.amount(value)}, against {measure.amount(aim)}.")
        value, aim = method.mean("forgotten_TA"), one.aim("forgotten_TA")
        if value is not None:
            measure = self.measure("forgotten_TA")
            beside = f", the retrained model {measure.amount(aim)}" if aim is not None else ""
            remarks.append(f"Of new images of the forgotten class it still recognises {measure.amount(value)}{beside}.")
        return remarks

    def show_classes(self, results: Results) -> Section:
        """Shows accuracies by class before and after, one figure a method."""
        one = results.sets[0]
        by_method = [(entry, found) for entry in self.order(one) if (found := _by_class(one, entry))]
        drawn: list[tuple[str, Figure]] = []
        notes: list[str] = []
        for place, (entry, accuracies) in enumerate(by_method[:DRAWN]):
            rows, total = _furthest(results.classes, accuracies)
            if total > len(rows) and not notes:
                gauge = "the retrained model" if one.target else "the original"
                notes = [
                    f"Shown are the {len(rows)} of {total:,} classes in which each method is furthest from {gauge}."
                ]
            drawn.append((entry.label, draw_classes(f"class-accuracies-{place}", entry.label, rows, accuracies)))
        notes += name_left_out([entry.label for entry, _ in by_method[DRAWN:]])
        missing = "The accuracies by class are not in evaluation.json, or no method has been run."
        lede = "Whether forgetting stayed where it was meant, or took something from other classes as well."
        return make_section("classes", "Accuracy by class", lede, Part.of_each(drawn, missing, notes))


Accuracies = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Set → "original", "method", "retrained" → class → %."""


def _by_class(one: ForgetSet, method: Entry) -> Accuracies:
    """Returns the accuracies of a method and what it is held against; without the sets of which it has none."""
    models = {"original": one.original, "method": method, "retrained": one.target}
    found = {
        part: {role: entry.by_class.get(key, {}) if entry else {} for role, entry in models.items()}
        for key, part in SETS.items()
    }
    return {part: values for part, values in found.items() if values["method"]}


def _furthest(classes: Sequence[str], accuracies: Accuracies) -> tuple[list[str], int]:
    """Returns the classes to draw, in the data's order, or of many those furthest from the target; and their number."""
    present = {c: None for models in accuracies.values() for values in models.values() for c in values}
    known = list(dict.fromkeys([*(c for c in classes if c in present), *present]))

    def distance(name: str) -> float:
        gaps = [0.0]
        for models in accuracies.values():
            aim = models["retrained"].get(name, models["original"].get(name))
            if aim is not None and name in models["method"]:
                gaps.append(abs(models["method"][name] - aim))
        return max(gaps)

    return known if len(known) <= ROWS else sorted(known, key=distance, reverse=True)[:ROWS], len(known)


def _draw_classes(one: ForgetSet, results: Results, presentation: Presentation, name: str) -> Part:
    aim = one.target.by_class.get("TA", {}) if one.target else {}

    def gaps_of(entry: Entry) -> tuple[str, dict[str, float]] | None:
        found = entry.by_class.get("TA", {})
        return (entry.label, {c: value - aim[c] for c, value in found.items() if c in aim}) if found else None

    shown, notes = collect(presentation.order(one), gaps_of)
    shown = [*collect(one.of_role("original", "reference"), gaps_of)[0], *shown]
    known = {c for _, gaps in shown for c in gaps}
    classes = [c for c in dict.fromkeys([*results.classes, *aim]) if c in known]
    if not classes:
        return Part(["The accuracies by class are not known beside those of a retrained model."])
    values = np.array([[gaps.get(c, np.nan) for c in classes] for _, gaps in shown])
    if len(classes) > ROWS:
        words = f"Shown are the {ROWS} of {len(classes):,} classes in which methods are furthest from the target."
        notes = [words, *notes]
        largest = np.nan_to_num(np.abs(values)).max(0)
        kept = np.sort(np.argsort(-largest, kind="stable")[:ROWS])
        classes, values = [classes[i] for i in kept], values[:, kept]
    return Part(figures=[draw_class_map(name, [label for label, _ in shown], classes, values)], notes=notes)


_CLASSES = Plot(
    "classes", "Which classes pay", "Whether a method took something from classes that nobody asked it to touch.",
    _draw_classes,
)  # fmt: skip
