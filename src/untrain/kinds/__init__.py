"""Kinds of models: what a recipe's stages need to know of a task beyond its per-sample functions. One file a task."""

from untrain.config import Recipe
from untrain.data.samples import Source
from untrain.engine import Engine
from untrain.errors import lookup
from untrain.kinds.base import Kind
from untrain.kinds.classifiers import Classifiers
from untrain.kinds.generators import Generators

KINDS: dict[str, type[Kind]] = {"classification": Classifiers, "class-diffusion": Generators}
"""Task name → kind."""


def kind_of(recipe: Recipe, engine: Engine, source: Source, test: Source) -> Kind:
    """The kind of the recipe's task, on its training and test images."""
    return lookup("task", KINDS, recipe.task)(recipe, engine, source, test)


__all__ = ["KINDS", "Kind", "kind_of"]
