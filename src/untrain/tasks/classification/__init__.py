"""Image classification."""

from untrain.registry import Entry
from untrain.tasks.classification.sections import ClassificationSections

ENTRY = Entry(
    "Image classification with cross-entropy.",
    ClassificationSections,
    "untrain.tasks.classification.domain:ClassificationDomain",
    listing={"models": "untrain.models.classifiers:MODELS"},
    sampler="",
)
