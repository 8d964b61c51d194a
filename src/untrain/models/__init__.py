"""Models: classifiers by name, their checkpoints, and the subject that methods change."""

from untrain.models.classifiers import MODELS, build

__all__ = ["MODELS", "build"]
