"""Kinds of models: what a recipe's stages need to know of a task beyond its per-sample functions. One file a task."""

from untrain.domain import Kind, Load
from untrain.engine import Engine
from untrain.errors import lookup
from untrain.runs.recipe import Recipe
from untrain.tasks.class_diffusion.domain import Generators
from untrain.tasks.classification.domain import Classifiers
from untrain.tasks.text_to_image.domain import TextGenerators

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
