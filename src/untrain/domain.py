"""What a recipe's stages ask of a kind of model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from untrain.data.samples import Source
from untrain.data.splits import Split
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import CheckpointError
from untrain.methods.base import Method, Problem
from untrain.models import checkpoints
from untrain.runs.recipe import Recipe
from untrain.types import Task

Load = Callable[[], tuple[Source, Source]]
"""Loads the recipe's training and test data."""

Make = Callable[[str, Method, Problem], nn.Module]
"""Name, method, problem → the model that the method makes; kept in the run folder and read from there next time."""


class Kind(ABC):
    """A recipe's kind of model, with its data at hand.

    Attributes:
        recipe: the experiment.
        engine: where it runs.
        images: the training images, labelled with the model's numbers.
        test: the test images, likewise.
        task: its per-sample functions; prepared on the model once the stages have tried it.
        holds_out: whether held-out data tell its methods how far to forget.
    """

    task: Task
    holds_out = True

    def __init__(self, recipe: Recipe, engine: Engine, source: Source, test: Source) -> None:
        self.recipe = recipe
        self.engine = engine
        self.images = source
        self.test = test

    @classmethod
    def open(cls, recipe: Recipe, engine: Engine, load: Load) -> "Kind":
        """The kind on the recipe's data, which `load` loads where they are needed."""
        return cls(recipe, engine, *load())

    @property
    def title(self) -> str:
        """What the data are called."""
        return self.recipe.data.name

    @property
    def checkpoint(self) -> str | None:
        """Where the original's weights come from; None where the recipe's stages train it."""
        return self.recipe.model.checkpoint

    @property
    def data(self) -> Source:
        """The training samples as the model sees them, in the order of the images."""
        return self.images

    def few(self) -> Source:
        """A few of them, to try a model on."""
        return self.data

    @abstractmethod
    def module(self, seed: int) -> nn.Module:
        """The recipe's architecture with new weights, on the engine's device."""

    def original(self, seed: int) -> tuple[nn.Module, dict[str, Any]]:
        """The model of the checkpoint, and what else that tells."""
        module = self.module(seed)
        return module, self.read(module, str(self.checkpoint))

    def read(self, module: nn.Module, path: str) -> dict[str, Any]:
        """Reads a user's checkpoint into a module; returns what else it tells."""
        state, facts = checkpoints.load_state(path)
        try:
            checkpoints.load_into(module, self.renamed(state, module))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return facts

    def numbered(self, classes: Sequence[str | int]) -> list[str | int]:
        """Classes as the recipe gives them, by number or by a name that the source knows."""
        return list(classes)

    def renamed(self, state: checkpoints.State, module: nn.Module) -> checkpoints.State:
        """A checkpoint's weights under the module's names, where another code base calls them otherwise."""
        return state

    def check(self, split: Split) -> None:  # noqa: B027, most kinds have nothing to say
        """Raises what is wrong with the recipe for this kind of model, before anything is made."""

    @abstractmethod
    def measure(
        self,
        models: Mapping[str, nn.Module],
        split: Split,
        sets: Mapping[str, Stream],
        references: Sequence[str],
        make: Make,
        samples: int | None = None,
    ) -> dict[str, Any]:
        """Every measure of every model.

        Args:
            models: name → module.
            split: what was to be forgotten and kept.
            sets: the "forget", "retain" and "test" set.
            references: names of the retrained models among them, the target first.
            make: makes further models that measuring needs.
            samples: of a generator: judge by so many images of each class, made of other noise than a run's are, and
                keep none; None: as the recipe says.

        Returns:
            What evaluation.json holds of this kind: "models", name → measure → value, "noise_floor", and more.
        """

    def measured(self) -> Any:
        """The settings of the recipe that decide what is measured, as JSON."""
        return None

    def every(self, method: Method) -> int:
        """Steps between two looks at a model that is being made; 0: none."""
        return self.recipe.evaluate_every

    @abstractmethod
    def watch(self, name: str, module: nn.Module, step: int, sets: Mapping[str, Stream]) -> dict[str, float]:
        """A look at a model that is being made, after so many steps; returns what to log."""

    def keep(self, name: str, module: nn.Module) -> None:  # noqa: B027, weights are enough for most
        """Writes what users of this kind of model expect beside the weights that the run folder holds."""

    def told(self, content: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]]) -> None:  # noqa: B027
        """Hears what was measured, and what is known of how each model was made, once all of it is."""

    def close(self) -> None:  # noqa: B027, most compute nothing that must not stay
        """Removes what was computed for the run alone; called when it came to its good end."""
