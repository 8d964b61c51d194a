"""Kinds of models: what a recipe's stages need to know of a task beyond its per-sample functions. One file a task."""

from untrain.config import Recipe
from untrain.engine import Engine
from untrain.errors import lookup
from untrain.kinds.base import Kind, Load
from untrain.kinds.classifiers import Classifiers
from untrain.kinds.generators import Generators
from untrain.kinds.text import TextGenerators

KINDS: dict[str, type[Kind]] = {
    "classification": Classifiers,
    "class-diffusion": Generators,
    "text-to-image": TextGenerators,
}
"""Task name → kind."""


def kind_of(recipe: Recipe, engine: Engine, load: Load) -> Kind:
    """The kind of the recipe's task, on its training and test images, which `load` loads."""
    return lookup("task", KINDS, recipe.task).open(recipe, engine, load)


__all__ = ["KINDS", "Kind", "kind_of"]
