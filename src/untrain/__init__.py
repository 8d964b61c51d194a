"""Make a trained vision model forget samples, a class or a concept, and show how far it did."""

from untrain.api import Result, fisher_diagonal, unlearn
from untrain.concepts import Concept, ConceptImages
from untrain.errors import UntrainError
from untrain.evaluating import evaluate
from untrain.evaluation.concepts import ConceptEvaluation
from untrain.evaluation.detectors import image_classifier
from untrain.evaluation.evaluate import Evaluation
from untrain.evaluation.generation import GenerationEvaluation
from untrain.evaluation.nudity import nudenet
from untrain.methods import methods
from untrain.methods.base import Method, Optimizer
from untrain.saliency import saliency_mask
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion import ClassDiffusion
from untrain.tasks.classification import Classification
from untrain.tasks.text_to_image import TextToImage
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
