"""The few shapes that every stage shares: batches, parameters, and the task a method sees."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from untrain.errors import ModelError, SettingError
from untrain.lazy import nn, torch

if TYPE_CHECKING:
    from torch import Tensor

Batch = dict[str, "torch.Tensor"]
"""Tensors that share their first dimension, one row a sample; `index` names each sample within its data set."""

Params = dict[str, "torch.Tensor"]
"""Parameter name → tensor of the parameter's shape."""

Role = Literal["train", "forget", "retain", "fisher", "evaluate"]
"""What a batch is drawn for. A task may augment and drop conditions in "train" and "retain", augments but never
drops conditions in "forget", and does neither for "fisher" and "evaluate"."""

Objective = Literal["adaptive", "ascent", "redirect", "relabel"]
"""What a forget step of SFR-on descends on: weighted ascent, plain ascent, the distance to what is predicted for the
redirected variant, or the training loss under its condition."""

Variant = Literal["redirect", "unconditional"]
"""What a batch can be conditioned on instead: something else (another label, class or prompt), or nothing."""

Tokens = Literal["last", "end", "others", "all"]
"""Which parts of a condition a closed-form edit looks at, see `EditableTask.condition_pairs`."""

Estimator = Literal["sample", "batch"]
"""What a Fisher diagonal squares: each sample's gradient, or the mean gradient of a batch."""


@runtime_checkable
class Task(Protocol):
    """Everything a method may know about what a model does; all losses are per sample.

    A new kind of model is one new implementation of this protocol: Fisher, masks, every method and the loop
    are written against it alone. A class derived from it defines `loss` and `outputs`, and what else is not as here.

    Class variables that a task may have besides: `objective`, what SFR-on's forget steps descend on where a user
    does not say ("adaptive" without it); `asks_teacher`, whether `redirect_loss` asks its teacher (false without it).
    An attribute `num_classes` says that its outputs are logits [B, num_classes], where it is no generator's.
    And a function: `copies(model)`, groups of names of the parameters that are one weight, which stay equal in every
    method where they are (none without it).
    """

    variants: ClassVar[tuple[Variant, ...]] = ()
    """The variants of a batch that there are; a method that needs another one does not run on this task."""

    def prepare(self, model: nn.Module, batch: Batch) -> Task:
        """Checks that model and batch fit together; returns the task completed with what they tell it.

        By default it tries the loss.

        Raises:
            ModelError: if the model cannot run on the batch, or the loss is not one number a sample.
        """
        shapes = {name: list(tensor.shape) for name, tensor in batch.items()}
        try:
            with torch.no_grad():
                losses = self.loss(model, batch)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise ModelError(
                f"the model cannot run on a batch of {shapes}: {type(error).__name__}: {error}. Check that model, data "
                "and task fit together."
            ) from error
        rows = len(next(iter(batch.values())))
        if not isinstance(losses, torch.Tensor) or list(losses.shape) != [rows]:
            gave = list(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
            raise ModelError(
                f"the loss of {rows} samples must be [{rows}], one a sample and not reduced; it is {gave}."
            )
        return self

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """Draws all that is random, once (augmentation, timesteps, noise), from a CPU generator; by default nothing."""
        return batch

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the model was trained on, [B]. Pure: the same drawn batch has the same value."""
        ...

    @abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """What distillation compares, [B, …]."""
        ...

    def divergence(self, outputs: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """How far outputs are from targets, [B], ≥ 0; the gradient flows through `outputs`.

        By default the mean squared difference of both divided by the temperature.
        """
        return ((outputs - targets) / temperature).square().flatten(1).mean(1)

    def variant(self, batch: Batch, kind: Variant) -> Batch:
        """The batch conditioned otherwise; what is chosen for a sample depends on its `index` alone."""
        raise SettingError(f"{type(self).__name__} has no {kind!r} variant of a batch.")

    def redirect_loss(self, model: nn.Module, batch: Batch, teacher: nn.Module) -> Tensor:
        """Pulls the batch towards its redirected variant, [B]; no gradient through the target."""
        return self.loss(model, self.variant(batch, "redirect"))

    def condition(self, batch: Batch) -> Tensor | None:
        """What each sample is conditioned on or labelled with, [B] of int64; None where there is no such thing."""
        return None


FUNCTIONS = ("prepare", "draw", "loss", "outputs", "divergence", "variant", "redirect_loss", "condition")
"""The functions of a task."""


def lacking_functions(task: object) -> list[str]:
    """Names what a task, or a class of tasks, does not define of what it must."""
    abstract = getattr(task, "__abstractmethods__", ())
    return [name for name in ("variants", *FUNCTIONS) if name in abstract or not hasattr(task, name)]


@runtime_checkable
class GenerativeTask(Task, Protocol):
    """A task whose models make images; what methods for generators alone may know besides.

    `draw` also takes what it gave, whatever images it has as "input" by then, and draws the rest anew.
    """

    @property
    def timesteps(self) -> int:
        """T, steps of the diffusion; their numbers are 0 … T − 1."""
        ...

    def visited(self, sampler: Any) -> list[float]:
        """The timesteps that a sampler visits, falling.

        Raises:
            SettingError: if the task's models cannot be sampled so.
        """
        ...

    def at(self, batch: Batch, timestep: Tensor, seen: Tensor | None = None) -> Batch:
        """The drawn batch at these timesteps, [B]: its images noised so far, or x_t = `seen` where that is given.

        A timestep is a whole number, int64, in 0 … T − 1, or a real one that a sampler visits.
        """
        ...

    def generate(
        self,
        model: nn.Module,
        batch: Batch,
        generators: Sequence[torch.Generator],
        sampler: Any,
        *,
        until: float = -1,
        advance: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Images of the batch's condition, shaped as its input, a CPU generator for each; x_t if `until` is t ≥ 0."""
        ...

    def surrogate(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with something that means nothing in place of its images, under the conditions that they had."""
        ...


@runtime_checkable
class EditableTask(Task, Protocol):
    """A task whose models hear of a condition through linear maps alone; what closed-form edits may know besides.

    A condition is a sequence of vectors, the embedded tokens of a text, and each map is given every one of them; or one
    vector, as of a class. A class variable `token_kinds` says which of `Tokens` have a meaning (all without it). Where
    maps see parts of the vectors alone, a method `condition_columns(model)` says which: name → slice.
    """

    def condition_maps(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The weights that conditions are multiplied by before anything else happens to them, by name, [out, D] each;
        parameters, or views of them.

        Raises:
            ModelError: if the model has none, or something else stands before them.
        """
        ...

    def condition_pairs(self, batch: Batch, tokens: Tokens, *, keep: bool = False) -> tuple[Tensor, Tensor]:
        """The vectors of a drawn batch's conditions, and those of the redirected ones in their place, [N, D] each.

        Args:
            batch: as `draw` gives it.
            keep: give the vectors themselves instead of the redirected ones: of what is to stay as it is.
            tokens: "last": the last token of each text; "end": from there to the end of the window; "others": those
                around the words in which a text and the one in its place differ; "all": these words too.
        """
        ...
