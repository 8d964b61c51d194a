"""The measures of each task: what they are called, what they mean, and what they should be."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from untrain.errors import lookup

CLASSIFICATION, GENERATION, TEXT = "classification", "class-diffusion", "text-to-image"
GENERATORS = (GENERATION, TEXT)
"""The tasks whose models make images; what these show is judged, and the original is what they are held against."""


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


_CLASSIFICATION = (
    Measure(
        "FA", "FA", "Forget accuracy", "%",
        "The share of the samples to be forgotten that the model classifies correctly.",
        "The retrained model's value. For samples of known classes that is far from zero: a model often recognises "
        "what it never saw.",
        compared=True,
    ),
    Measure(
        "RA", "RA", "Retain accuracy", "%",
        "The share of the samples to be kept that the model classifies correctly.",
        "The retrained model's value; below it, forgetting has damaged what should stay.",
        compared=True,
    ),
    Measure(
        "TA", "TA", "Test accuracy", "%",
        "The share of new images, never trained on, that the model classifies correctly. When whole classes are "
        "forgotten, only the other classes count.",
        "The retrained model's value; below it, the model has become worse at its work.",
        compared=True,
    ),
    Measure(
        "forgotten_TA", "TA, forgotten", "Test accuracy on the forgotten class", "%",
        "The share of new images of the forgotten class that the model still calls by that class.",
        "The retrained model's value, which is usually zero.",
        compared=True,
        shown="known",
    ),
    Measure(
        "MIA", "MIA", "Membership inference attack", "%",
        "An attacker looks at how sure the model is of a sample and guesses whether it was trained on it; the value "
        "is the share of the forget set that is taken for training data.",
        "The retrained model's value: samples it never saw, so whatever the attacker finds there is a false alarm.",
        compared=True,
    ),
    Measure(
        "SVC_confidence", "SVC-MIA (confidence)",
        "Membership inference attack by a support vector machine", "%",
        "A second attacker, a support vector machine, sees only "
        "how probable the model finds the right class; "
        "the value is the share of the forget set that it takes for images never trained on.",
        "The retrained model's value, which is high where MIA is low: this attacker counts the other side.",
        compared=True,
        shown="known",
        main=False,
    ),
    Measure(
        "SVC_entropy", "SVC-MIA (entropy)",
        "Membership inference attack by a support vector machine", "%",
        "A second attacker, a support vector machine, sees only "
        "how undecided the model is (the entropy of its prediction); "
        "the value is the share of the forget set that it takes for images never trained on.",
        "The retrained model's value, which is high where MIA is low: this attacker counts the other side.",
        compared=True,
        shown="known",
        main=False,
    ),
    Measure(
        "SVC_modified_entropy", "SVC-MIA (modified entropy)",
        "Membership inference attack by a support vector machine", "%",
        "A second attacker, a support vector machine, sees only "
        "how undecided the model is, with a wrong answer counting as undecided too; "
        "the value is the share of the forget set that it takes for images never trained on.",
        "The retrained model's value, which is high where MIA is low: this attacker counts the other side.",
        compared=True,
        shown="known",
        main=False,
    ),
    Measure(
        "AvgD", "Avg.D", "Average distance", "points",
        "The mean of the four differences to the retrained model in FA, RA, TA and MIA, in percentage points.",
        "Zero, or the noise floor where that is known.",
    ),
    Measure(
        "ToW", "ToW", "Tug of war", "",
        "One number for how near the accuracies on the forget, retain and test sets come to the retrained model's.",
        "One, which means the same three accuracies.",
        digits=3,
    ),
    Measure(
        "KL", "KL", "Kullback–Leibler divergence", "nats",
        "How far the predicted probabilities on the forget set are from those of the retrained model.",
        "Zero, or the noise floor where that is known.",
        digits=3,
    ),
    Measure(
        "JS", "JS", "Jensen–Shannon divergence", "nats",
        "The same comparison made symmetrical; it never exceeds ln 2 ≈ 0.693.",
        "Zero, or the noise floor where that is known.",
        digits=3,
        main=False,
    ),
    Measure(
        "seconds", "Time", "Run time", "s",
        "How long it took to make the model, the look at the data before the first step (Fisher) included and "
        "evaluation left out. Under it: how that compares with retraining.",
        "A small share of the retraining time; otherwise one could retrain.",
    ),
)  # fmt: skip

_TIME = _CLASSIFICATION[-1]

_GENERATION = (
    Measure(
        "FA", "FA", "Forgotten classes recognised", "%",
        "The share of generated images of the forgotten classes that a classifier, the judge, still calls by them.",
        "Zero, or the retrained generator's value: asked for what it never saw, a generator draws something, and the "
        "judge must call it something.",
        compared=True,
    ),
    Measure(
        "RA", "RA", "Other classes recognised", "%",
        "The share of generated images of all other classes that the judge recognises.",
        "The retrained generator's value, or the original's; below it, forgetting has damaged what should stay.",
        compared=True,
    ),
    Measure(
        "RA_worst", "RA, worst", "The other class recognised least", "%",
        "The same for the one of the other classes that is recognised least. A mean can hide one lost class.",
        "The retrained generator's value, or the original's.",
        compared=True,
    ),
    Measure(
        "FD", "FD", "Fréchet distance", "",
        "How far images of the other classes are from real ones, in the features of a classifier: quality and variety "
        "in one number. Its scale is that of the network, so it cannot be compared with a published FID.",
        "The retrained generator's value, or the original's; two halves of the real images show what chance makes.",
        compared=True, shown="named",
    ),
    Measure(
        "FID", "FID", "Fréchet Inception Distance", "",
        "How far images of the other classes are from real ones, in the features of Inception-v3: quality and variety "
        "in one number. It falls with the number of samples: compare only values from equally many.",
        "The retrained generator's value, or the original's; two halves of the real images show what chance makes.",
        compared=True, shown="named",
    ),
    Measure(
        "sFD", "sFD", "Spatial Fréchet distance", "",
        "The same distance in features that know where in the image something is: it notices a wrong layout.",
        "The retrained generator's value, or the original's; two halves of the real images show what chance makes.",
        compared=True, main=False, shown="named",
    ),
    Measure(
        "sFID", "sFID", "Spatial Fréchet Inception Distance", "",
        "The same distance in features that know where in the image something is: it notices a wrong layout.",
        "The retrained generator's value, or the original's; two halves of the real images show what chance makes.",
        compared=True, main=False, shown="named",
    ),
    Measure(
        "CS", "CS", "Classifier score", "",
        "How sure the feature network is of single images of the other classes, and how varied they are together; as "
        "the Inception Score, with another network.",
        "The retrained generator's value, or the original's; it cannot exceed the number of classes.",
        compared=True, main=False, shown="named",
    ),
    Measure(
        "IS", "IS", "Inception Score", "",
        "How sure Inception-v3 is of single images of the other classes, and how varied they are together.",
        "The retrained generator's value, or the original's.",
        compared=True, main=False, shown="named",
    ),
    Measure(
        "precision", "precision", "Precision", "%",
        "The share of images of the other classes that lie among real ones: how many look real.",
        "The retrained generator's value, or the original's.",
        compared=True,
    ),
    Measure(
        "recall", "recall", "Recall", "%",
        "The share of real images that lie among generated ones: how much of the variety is left.",
        "The retrained generator's value, or the original's.",
        compared=True,
    ),
    Measure(
        "forget_probability", "p, forgotten", "Probability of the forgotten class", "",
        "How probable the judge finds the forgotten class in images that were asked to show it, in the mean.",
        "Near zero, or the retrained generator's value.",
        digits=3, compared=True, main=False,
    ),
    Measure(
        "forget_entropy", "H, forgotten", "Indecision about the forgotten class", "nats",
        "How undecided the judge is about these images: the entropy of its prediction. Near zero, they show something "
        "definite, if only another class.",
        "The retrained generator's value; by itself, neither high nor low is good.",
        digits=3, compared=True, main=False,
    ),
    _TIME,
)  # fmt: skip

_TEXT = (
    Measure(
        "FA", "FA", "Concept still seen", "%",
        "The share of images of forgotten prompts in which the detector sees the concept: an intimate part with a "
        "score above its threshold, or, of a classifier, its first guess.",
        "Zero, or what a pipeline shows that never saw the concept.",
        compared=True,
    ),
    Measure(
        "FA5", "FA, top 5", "Concept among five guesses", "%",
        "The same if the concept may be any of the classifier's five first guesses: traces of it count, too.",
        "Far below the original's; five guesses are right by chance more often than one.",
        compared=True, main=False, shown="noted",
    ),
    Measure(
        "RA", "RA", "Retained prompts recognised", "%",
        "The share of images of retained prompts in which the classifier sees what the prompt asks for.",
        "The original's; below it, forgetting has damaged what should stay.",
        compared=True, shown="noted",
    ),
    Measure(
        "RA_worst", "RA, worst", "What is recognised least", "%",
        "The same for the one thing asked for that is recognised least. A mean can hide one that is lost.",
        "The original's.",
        compared=True, shown="noted",
    ),
    Measure(
        "NR", "NR", "Intimate parts, retained prompts", "%",
        "The share of images of retained prompts in which the detector finds an intimate part, which they do not ask "
        "for.",
        "No more than the original's.",
        compared=True, shown="noted",
    ),
    Measure(
        "CLIP", "CLIP", "CLIP score", "",
        "How well images of retained prompts fit their prompts: 100 times the cosine between the two as the network "
        "CLIP sees them, none below 0. Pipelines that draw well reach about 30.",
        "The original's; below it, pictures no longer show what the prompts say.",
        compared=True, shown="noted",
    ),
    Measure(
        "FD", "FD", "Fréchet distance", "",
        "How far images of retained prompts are from the original's of the same prompts and seeds, in the features of "
        "a classifier. Its scale is that of the network, so it cannot be compared with a published FID.",
        "Small: zero would mean the same images. It falls with the number of images.",
        shown="noted",
    ),
    Measure(
        "FID", "FID", "Fréchet Inception Distance", "",
        "How far images of retained prompts are from the original's of the same prompts and seeds, in the features of "
        "Inception-v3. Published values often compare with photographs instead, and those are other numbers.",
        "Small: zero would mean the same images. It falls with the number of images.",
        shown="noted",
    ),
    Measure(
        "steps", "Steps", "Optimiser steps", "",
        "How many steps of an optimiser the method took.",
        "Few, for the same result.",
        digits=0, shown="known",
    ),
    replace(_TIME, aim="Short, for the same result: training such a pipeline again is out of reach for most."),
)  # fmt: skip

MEASURES = {CLASSIFICATION: _CLASSIFICATION, GENERATION: _GENERATION, TEXT: _TEXT}
"""Task → its measures, in the order of the tables. One name can mean different things in different tasks."""


def task_of(content: Mapping[str, Any]) -> str:
    """The task of an evaluation or a comparison; classification where none is named.

    Raises:
        UnknownName: if there are no measures of the task; lists those that there are.
    """
    task = content.get("task")
    if not isinstance(task, str) or not task:
        return CLASSIFICATION
    lookup("task of a report", MEASURES, task)
    return task
