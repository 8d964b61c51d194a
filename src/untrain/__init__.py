"""Make a trained vision model forget samples, a class or a concept, and show how far it did."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from untrain.api import Result as Result
    from untrain.api import evaluate as evaluate
    from untrain.api import fisher_diagonal as fisher_diagonal
    from untrain.api import unlearn as unlearn
    from untrain.audit import audit as audit
    from untrain.audit.python import audit_scores as audit_scores
    from untrain.callbacks import Callback as Callback
    from untrain.callbacks import TrackerCallback as TrackerCallback
    from untrain.diffusion.paths import Flow as Flow
    from untrain.diffusion.quality import GenerationEvaluation as GenerationEvaluation
    from untrain.domain import Domain as Domain
    from untrain.errors import UntrainError as UntrainError
    from untrain.methods import methods as methods
    from untrain.methods.base import Method as Method
    from untrain.methods.base import Optimizer as Optimizer
    from untrain.report.presentation import Distance as Distance
    from untrain.report.presentation import Measure as Measure
    from untrain.report.presentation import Presentation as Presentation
    from untrain.saliency import saliency_mask as saliency_mask
    from untrain.sampling import Sampler as Sampler
    from untrain.tasks import tasks as tasks
    from untrain.tasks.class_diffusion.task import ClassDiffusion as ClassDiffusion
    from untrain.tasks.classification.evaluate import Evaluation as Evaluation
    from untrain.tasks.classification.task import Classification as Classification
    from untrain.tasks.text_to_image.concepts import Concept as Concept
    from untrain.tasks.text_to_image.concepts import ConceptImages as ConceptImages
    from untrain.tasks.text_to_image.detectors import image_classifier as image_classifier
    from untrain.tasks.text_to_image.evaluate import ConceptEvaluation as ConceptEvaluation
    from untrain.tasks.text_to_image.nudity import nudenet as nudenet
    from untrain.tasks.text_to_image.task import TextToImage as TextToImage
    from untrain.types import Task as Task

_HOME = {
    "Callback": "untrain.callbacks",
    "ClassDiffusion": "untrain.tasks.class_diffusion.task",
    "Classification": "untrain.tasks.classification.task",
    "Concept": "untrain.tasks.text_to_image.concepts",
    "ConceptEvaluation": "untrain.tasks.text_to_image.evaluate",
    "ConceptImages": "untrain.tasks.text_to_image.concepts",
    "Distance": "untrain.report.presentation",
    "Domain": "untrain.domain",
    "Evaluation": "untrain.tasks.classification.evaluate",
    "Flow": "untrain.diffusion.paths",
    "GenerationEvaluation": "untrain.diffusion.quality",
    "Measure": "untrain.report.presentation",
    "Method": "untrain.methods.base",
    "Optimizer": "untrain.methods.base",
    "Presentation": "untrain.report.presentation",
    "Result": "untrain.api",
    "Sampler": "untrain.sampling",
    "Task": "untrain.types",
    "TextToImage": "untrain.tasks.text_to_image.task",
    "TrackerCallback": "untrain.callbacks",
    "UntrainError": "untrain.errors",
    "audit": "untrain.audit",
    "audit_scores": "untrain.audit.python",
    "evaluate": "untrain.api",
    "fisher_diagonal": "untrain.api",
    "image_classifier": "untrain.tasks.text_to_image.detectors",
    "methods": "untrain.methods",
    "nudenet": "untrain.tasks.text_to_image.nudity",
    "saliency_mask": "untrain.saliency",
    "tasks": "untrain.tasks",
    "unlearn": "untrain.api",
}
"""Public name → the module that it is imported from when it is first asked for; the same as type checkers see above."""

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOME[name])
    is_home = module.__name__ == f"{__name__}.{name}"  # a package that is called as its function of the same name
    value = globals()[name] = module if is_home else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
