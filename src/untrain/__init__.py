"""Make a trained vision model forget samples, a class or a concept, and show how far it did."""

from untrain.api import Result, fisher_diagonal, unlearn
from untrain.diffusion.quality import GenerationEvaluation
from untrain.errors import UntrainError
from untrain.evaluating import evaluate
from untrain.methods import methods
from untrain.methods.base import Method, Optimizer
from untrain.saliency import saliency_mask
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.classification.evaluate import Evaluation
from untrain.tasks.classification.task import Classification
from untrain.tasks.text_to_image.concepts import Concept, ConceptImages
from untrain.tasks.text_to_image.detectors import image_classifier
from untrain.tasks.text_to_image.evaluate import ConceptEvaluation
from untrain.tasks.text_to_image.nudity import nudenet
from untrain.tasks.text_to_image.task import TextToImage
from untrain.types import Task

__all__ = [
    "ClassDiffusion",
    "Classification",
    "Concept",
    "ConceptEvaluation",
    "ConceptImages",
    "Evaluation",
    "GenerationEvaluation",
    "Method",
    "Optimizer",
    "Result",
    "Sampler",
    "Task",
    "TextToImage",
    "UntrainError",
    "evaluate",
    "fisher_diagonal",
    "image_classifier",
    "methods",
    "nudenet",
    "saliency_mask",
    "unlearn",
]
