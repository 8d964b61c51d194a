"""How much a recipe asks for: told before it begins, and refused beyond limits, which only a flag lifts.

The limits are far beyond what one recipe of ours needs; they are there for a digit too many, and for files of others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from untrain.errors import SettingError
from untrain.methods.base import Method
from untrain.permissions import flag_of
from untrain.runs.recipe import Recipe

if TYPE_CHECKING:
    from untrain.data.splits import Split
    from untrain.domain import Division, Domain

MODELS, STEPS, IMAGES, CELLS = 200, 20_000_000, 20_000_000, 5_000
"""What one recipe may ask for: models of a run, steps of all its optimisers, images that its generators make, and cells
of a comparison. ImageNet's 90 epochs in batches of 128 are a million steps, the published evaluation of DiT makes
50,000 images of a model."""


@dataclass(frozen=True)
class Work:
    """An estimate.

    Attributes:
        models: that are trained from new weights.
        methods: that are run.
        steps: of all optimisers together, at most about so many.
        images: that generators make for previews and measures.
    """

    models: int
    methods: int
    steps: int
    images: int = 0

    def sentence(self, batch_size: int) -> str:
        """Says what it is."""
        parts = [_count(self.models, "model") + " to train"] if self.models else []
        parts += [_count(self.methods, "method")] if self.methods else []
        parts += [f"about {_rounded(self.steps)} steps of {batch_size} samples"] if self.steps else []
        parts += [f"about {_rounded(self.images)} images to make"] if self.images else []
        return f"work: {', '.join(parts) or 'nothing to train'}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _rounded(number: int) -> str:
    """A number with two digits that count."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return f"{round(number / unit) * unit:,}"


def work_of(recipe: Recipe, domain: Domain, division: Division) -> Work:
    """Estimates what a recipe's run will do, as if nothing of it were there.

    Args:
        recipe: what is asked for.
        domain: the task's, on the recipe's data.
        division: of the samples.
    """
    trained = recipe.references + (domain.checkpoint is None)
    images = domain.images_to_make(trained + len(recipe.methods) + (domain.checkpoint is not None))
    images += domain.samples_to_make() if looks_at_samples(recipe) else 0
    return estimate(recipe, samples_by_set(division.split), trained=trained, images=images)


def samples_by_set(split: Split) -> dict[str, int]:
    """Counts the samples that are trained on: "forget", "retain", and "train", both together."""
    forget, retain = len(split.forget), len(split.retain)
    return {"forget": forget, "retain": retain, "train": forget + retain}


def looks_at_samples(recipe: Recipe) -> bool:
    """Returns whether a recipe trains on samples, and not on their conditions alone."""
    return recipe.references > 0 or any(method.needs_samples for method in recipe.methods.values())


def estimate(recipe: Recipe, sizes: Mapping[str, int], *, trained: int, images: int) -> Work:
    """Estimates the work of one run.

    Args:
        recipe: what is asked for.
        sizes: samples of "train", "retain" and "forget".
        trained: models that are trained from new weights.
        images: that are made for previews and measures.
    """
    training = _steps(recipe.train, sizes.get("train", 0), recipe.batch_size)
    budgets = [getattr(method, "budget", None) for method in recipe.methods.values()]
    methods = [
        math.ceil(budget * training) if budget else _steps(method, sizes.get("retain", 0), recipe.batch_size)
        for method, budget in zip(recipe.methods.values(), budgets, strict=True)
    ]
    return Work(trained, len(methods), trained * training + sum(methods), images)


def _steps(method: Method, samples: int, batch_size: int) -> int:
    """Steps that a method takes, as far as its settings tell."""
    steps: Any = getattr(method, "steps", None)
    if steps is None:
        epochs: Any = getattr(method, "epochs", None)
        return 0 if epochs is None else math.ceil(epochs * math.ceil(samples / max(1, min(batch_size, samples))))
    return steps * (1 + (getattr(method, "retain_steps", None) or 0))


def check_work(work: Work, recipe: Recipe) -> None:
    """Refuses work beyond the limits, unless the person at the keyboard allows it.

    Raises:
        SettingError: says what is too much.
    """
    given = {
        "models and methods": (work.models + work.methods, MODELS),
        "steps": (work.steps, STEPS),
        "images to make": (work.images, IMAGES),
    }
    for what, (number, limit) in given.items():
        check_count(number, what, limit, recipe)


def check_count(number: int, what: str, limit: int, recipe: Recipe) -> None:
    """Refuses a number beyond its limit, unless the person at the keyboard allows it.

    Raises:
        SettingError: says what is too much.
    """
    if number > limit and not recipe.permissions.large:
        raise SettingError(
            f"this recipe asks for {number:,} {what}, more than {limit:,}. Ask for less, or add {flag_of('large')}."
        )


def cells_of(recipe: Recipe, sets: int, searched: int) -> int:
    """Counts the cells of a comparison.

    Args:
        recipe: as it will be run.
        sets: forget sets.
        searched: methods whose settings are searched.
    """
    each = 2 + recipe.references + len(recipe.methods)
    return len(recipe.compare.seeds) * sets * each + (sets * (1 + searched) if searched else 0)
