"""Make a trained vision model forget samples, a class or a concept, and show how far it did."""

from untrain.api import Result, evaluate, fisher_diagonal, unlearn
from untrain.errors import UntrainError
from untrain.evaluation.evaluate import Evaluation
from untrain.evaluation.generation import GenerationEvaluation
from untrain.methods import methods
from untrain.methods.base import Method, Optimizer
from untrain.saliency import saliency_mask
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion import ClassDiffusion
from untrain.tasks.classification import Classification
from untrain.types import Task

__all__ = [
    "ClassDiffusion",
    "Classification",
    "Evaluation",
    "GenerationEvaluation",
    "Method",
    "Optimizer",
    "Result",
    "Sampler",
    "Task",
    "UntrainError",
    "evaluate",
    "fisher_diagonal",
    "methods",
    "saliency_mask",
    "unlearn",
]
