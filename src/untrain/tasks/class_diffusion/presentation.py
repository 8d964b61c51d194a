"""How reports speak of generators of classes."""

import math
from collections.abc import Mapping
from typing import ClassVar

from untrain.diffusion.presentation import DISTANCE, Case, GeneratorPresentation, make_share_measure
from untrain.report.presentation import TIME, Floor, Measure, Tile
from untrain.report.results import Entry, ForgetSet, Results, Stat, as_mapping, as_number, as_numbers
from untrain.report.words import capitalize, join_words, show, uncapitalize

RETRAINED = "The retrained generator's value"
OR_ORIGINAL = f"{RETRAINED}, or the original's"
HALVES = "real images, two halves"


def _feature_measures(*, inception: bool) -> tuple[Measure, ...]:
    """Makes the measures that are taken in the features of a network: of Inception-v3, or of the judge."""
    network = "Inception-v3" if inception else "a classifier"
    scale = (
        "It falls with the number of samples: compare only values from equally many."
        if inception
        else "Its scale is that of the network, so it cannot be compared with a published FID."
    )
    distance = "Fréchet Inception Distance" if inception else "Fréchet distance"
    score = "IS" if inception else "CS"
    sure = (
        f"How sure {'Inception-v3' if inception else 'the feature network'} is of single images of the other classes, "
    )
    sure += "and how varied they are together" + (
        "." if inception else "; as the Inception Score, with another network."
    )
    aim = f"{OR_ORIGINAL}; two halves of the real images show what chance makes."
    most = "." if inception else "; it cannot exceed the number of classes."
    fd = "FID" if inception else "FD"
    return (
        Measure(
            fd, fd, distance, "",
            f"How far images of the other classes are from real ones, in the features of {network}: quality and "
            f"variety in one number. {scale}",
            aim, compared=True, shown="named", bounds=(0.0, math.inf),
        ),
        Measure(
            f"s{fd}", f"s{fd}", f"Spatial {distance}", "",
            "The same distance in features that know where in the image something is: it notices a wrong layout.",
            aim, compared=True, main=False, shown="named", bounds=(0.0, math.inf),
        ),
        Measure(
            score, score, "Inception Score" if inception else "Classifier score", "", sure, f"{OR_ORIGINAL}{most}",
            compared=True, main=False, shown="named",
        ),
    )  # fmt: skip


_JUDGED, _INCEPTION = _feature_measures(inception=False), _feature_measures(inception=True)


class ClassDiffusionPresentation(GeneratorPresentation):
    """Presents generators of classes, judged by a classifier and by the distance of their images to real ones."""

    limit = 1.0
    allowed: ClassVar[Mapping[str, float]] = {"RA": 3.0, "RA_worst": 8.0, DISTANCE: 0.15}
    by_class = (
        "Class", "class", "Recognised by class",
        "The share of generated images of each class that the judge calls by that class.",
    )  # fmt: skip
    measures = (
        make_share_measure(
            "FA", "Forgotten classes recognised",
            "The share of generated images of the forgotten classes that a classifier, the judge, still calls by them.",
            f"Zero, or {uncapitalize(RETRAINED)}: asked for what it never saw, a generator draws something, and the "
            "judge must call it something.",
        ),
        make_share_measure(
            "RA", "Other classes recognised",
            "The share of generated images of all other classes that the judge recognises.",
            f"{OR_ORIGINAL}; below it, forgetting has damaged what should stay.",
        ),
        make_share_measure(
            "RA_worst", "The other class recognised least",
            "The same for the one of the other classes that is recognised least. A mean can hide one lost class.",
            f"{OR_ORIGINAL}.", name="RA, worst",
        ),
        *(measure for pair in zip(_JUDGED, _INCEPTION) for measure in pair),
        make_share_measure(
            "precision", "Precision",
            "The share of images of the other classes that lie among real ones: how many look real.", f"{OR_ORIGINAL}.",
        ),
        make_share_measure(
            "recall", "Recall",
            "The share of real images that lie among generated ones: how much of the variety is left.",
            f"{OR_ORIGINAL}.",
        ),
        Measure(
            "forget_probability", "p, forgotten", "Probability of the forgotten class", "",
            "How probable the judge finds the forgotten class in images that were asked to show it, in the mean.",
            f"Near zero, or {uncapitalize(RETRAINED)}.", digits=3, compared=True, main=False, bounds=(0.0, 1.0),
        ),
        Measure(
            "forget_entropy", "H, forgotten", "Indecision about the forgotten class", "nats",
            "How undecided the judge is about these images: the entropy of its prediction. Near zero, they show "
            "something definite, if only another class.",
            f"{RETRAINED}; by itself, neither high nor low is good.", digits=3, compared=True, main=False,
        ),
        TIME,
    )  # fmt: skip

    def floors(self, one: ForgetSet, results: Results) -> list[Floor]:
        """Adds the distances between two halves of the real images."""
        note = (
            f"{capitalize(HALVES)}: how far the two are from each other. A smaller distance to real images "
            "would mean nothing; from fewer images than the models are measured with, it is larger by chance alone."
        )
        stats = {key: Stat.of_value(value) for key, value in as_numbers(results.facts.get("real")).items()}
        return [*super().floors(one, results), *([Floor(HALVES, stats, note)] if stats else [])]

    def measured_with(self, results: Results) -> Mapping[str, object]:
        """Returns judge, network of features and sampler."""
        return {key: value for key, value in super().measured_with(results).items() if key != "real"}

    def tiles(self, one: ForgetSet, method: Entry, results: Results) -> list[Tile]:
        """Returns what is recognised, how good the rest is, and the time."""
        key = Case(one, self).distance
        halves = ("two real halves", as_number(as_mapping(results.facts.get("real")).get(key)))
        return [
            self.tile(one, method, self.measure("FA")),
            self.tile(one, method, self.measure("RA")),
            self.tile(one, method, self.measure(key), halves, f"{key} to real images"),
            self.time_tile(one, method),
        ]

    def forgotten(self, results: Results) -> list[str]:
        """Names the classes."""
        return [f"class {name}" for name in super().forgotten(results)]

    def own_limits(self, results: Results) -> list[str]:
        """Says what no judge shows."""
        return ["What the judge cannot see. It calls every image something, and can be wrong: look at the pictures."]

    def sentence(self, case: Case, method: Entry) -> str:
        """Tells what the judge recognises before and after, and how far the other classes are from real images."""
        told = (
            f"Of the images of {_name_classes(case)} that the generator makes after {method.label}, the judge still "
            f"recognises {case.tell_share(method)}"
        )
        if kept := case.tell_share(method, "RA", retrained=False):
            told += f", and of the other classes' images {kept}"
        far, far_before = method.mean(case.distance), case.one.before(case.distance)
        if far is not None and far_before is not None:
            told += f"; the distance of these to real ones went from {show(far_before)} to {show(far)}"
        return told

    def hardly(self, case: Case) -> str:
        """Begins a sentence about an original that hardly makes the forgotten classes."""
        return f"The original already made hardly any recognisable image of {_name_classes(case)}"

    def remark(self, case: Case, method: Entry, results: Results) -> list[str]:
        """Says what the other classes lost, what chance makes, and how good the judge is."""
        others, judge = case.tell_others(), as_mapping(results.facts.get("judge"))
        remarks = [*self._damage(case, method), *case.tell_retrained(("FA", "RA", case.distance))]
        if (chance := as_number(as_mapping(results.facts.get("real")).get(case.distance))) is not None:
            remarks.append(
                f"Two halves of the real images are {show(chance)} from each other: no generator needs to come closer."
            )
        if others:
            remarks.append(f"Recognised of forgotten and other classes after other methods: {others}.")
        if (right := as_number(judge.get("test_accuracy"))) is not None:
            name = judge.get("name") or ""
            remarks.append(f"The judge {name} itself is right on {show(right)} % of real test images.")
        return remarks

    def _damage(self, case: Case, method: Entry) -> list[str]:
        """Says what the other classes lost beyond what is allowed."""
        losses, fallen = dict.fromkeys(self.allowed, 0.0) | case.losses_of(method), case.falls_of(method)
        which = f", {max(fallen, key=lambda c: fallen[c])}," if fallen else ""
        words = {
            "RA": f"The other classes are recognised {show(losses['RA'], 1)} points less in the mean.",
            "RA_worst": f"The class that lost most{which} fell by {show(losses['RA_worst'], 1)} points.",
            DISTANCE: "The distance of the other classes to real images is "
            f"{show(1 + losses[DISTANCE])} times the original's.",
        }
        return [words[key] for key, most in self.allowed.items() if losses[key] > most]


def _name_classes(case: Case) -> str:
    names = case.one.forgotten
    if not 0 < len(names) <= 4:
        return "the forgotten classes"
    return f"{'class' if len(names) == 1 else 'classes'} {join_words(sorted(names))}"
