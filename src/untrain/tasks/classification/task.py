"""Image classification: cross-entropy on logits [B, C]."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor, nn

from untrain.data.keys import RECORDS, input_key, keys_by_name, rename
from untrain.engine import generator_of
from untrain.errors import DataError, ModelError, SettingError, convert_errors
from untrain.models.kinds import forward_names
from untrain.models.once_per_batch import OncePerBatch
from untrain.models.precision import fit, widen
from untrain.models.recognition import Recognition, describe_result
from untrain.settings import Seed, check_arguments
from untrain.tasks.classification.labels import class_numbers
from untrain.types import Batch, Role, Variant


@check_arguments
@dataclass(frozen=True)
class Classification(Recognition):
    """Image classification with cross-entropy.

    What a user passes in is used as it is: images are normalised only where `mean` and `std` are given, and
    augmented only where `pad`, `flip` or `rotate` are.
    """

    name: ClassVar[str] = "classification"
    variants: ClassVar[tuple[Variant, ...]] = ("redirect",)

    pad: Annotated[int, Ge(0)] = 0
    """Pixels of zero padding before a random crop back to the image's size, in training (0: no crop)."""
    flip: bool = False
    """Whether images are mirrored at random in training."""
    rotate: Annotated[float, Interval(ge=0, le=180)] = 0.0
    """Degrees that an image is turned by in training at most, to either side."""
    names: dict[str, str] = field(default_factory=dict)
    """The data's name → ours ("input", "label"), such as {"spectrum": "input", "speaker": "label"}."""
    seed: Seed = 0
    """Chooses the other label of each sample when a batch is redirected."""
    input: str | None = None
    """Name of a batch's input, under which batches with another are brought; `prepare` finds it."""
    passed: Sequence[str] = ()
    """Names in the batch that the model's `forward` has too, and is given by name; `prepare` finds them."""

    def prepare(self, model: nn.Module, batch: Batch) -> "Classification":
        """The task with the number of classes that the model has, and with what of the batch the model is given.

        The input is what is called so, else what the model's `forward` asks for first, else the first of the names
        that people have for it. Whatever else `forward` asks for by name is passed by name; labels never are. What
        nothing uses is warned of.

        Raises:
            ModelError: if the model cannot run on the batch, or gives no logits [B, C]: other shapes, probabilities.
            DataError: if there is no input or no label, or a label lies outside the model's outputs.
        """
        asked = forward_names(model)
        input = input_key(batch, asked)
        if input is None or "label" not in batch:
            key = "input" if input is None else "label"
            raise DataError(
                f"the data has no {key!r}, only {sorted(batch)}: map its names with "
                f"Classification(names={{'theirs': '{key}'}})."
            )
        task = replace(self, input=input, passed=keys_by_name(batch, input, asked))
        logits = task._try(model, batch, batch[input])
        if self.num_classes not in (None, logits.shape[1]):
            raise ModelError(f"the model has {logits.shape[1]} outputs, but num_classes is {self.num_classes}.")
        unused = sorted(set(batch) - {input, "label", *task.passed, *RECORDS})
        if unused:
            warnings.warn(
                f"{', '.join(map(repr, unused))} of the data is used by nothing: the model's forward has no argument "
                "of that name.",
                stacklevel=2,
            )
        return replace(task, num_classes=logits.shape[1])

    def _try(self, model: nn.Module, batch: Batch, inputs: Tensor) -> Tensor:
        """The model's logits of a batch, which must be [B, C]."""
        shape, rows = tuple(inputs.shape), len(inputs)
        with torch.no_grad(), convert_errors(ModelError, f"the model cannot run on a batch of shape {shape}"):
            once = OncePerBatch(model)
            logits = self.outputs(once, batch)
        result: Any = None if once.last is None else once.last[1]
        if isinstance(result, tuple | list) and not hasattr(result, "logits"):
            warnings.warn(
                f"the model returns {describe_result(result)}: its one entry [B, classes] is taken for logits.",
                stacklevel=3,
            )
        if logits.ndim != 2 or len(logits) != rows or not logits.is_floating_point():
            raise ModelError(
                f"the model gives outputs of shape {tuple(logits.shape)} and type {logits.dtype} for {rows} samples; "
                "classification needs logits [B, classes]."
            )
        _check_logits(logits)
        return logits

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """Whatever the model gives for the input, and for what else it asks for by name."""
        key = self.input or "input"
        named = {each: fit(batch[each], model) for each in self.passed if each in batch}
        return model(**named) if key in named else model(fit(batch[key], model), **named)

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """Names mapped, images augmented (not for Fisher or evaluation) and normalised, labels checked."""
        batch = rename(batch, self.names)
        if "label" in batch:
            batch["label"] = class_numbers(batch, self.num_classes)
        key = self.input if self.input in batch else input_key(batch)
        if key is not None and self.input is not None:
            batch = {(self.input if name == key else name): value for name, value in batch.items()}
            key = self.input
        if key is not None:
            batch[key] = widen(batch[key])
        if self.mean is None or key is None:
            return batch
        images = batch[key]
        if role in ("train", "forget", "retain") and (self.pad or self.flip or self.rotate):
            images = augment(images, self.pad, self.flip, generator)
            if self.rotate:
                degrees = self.rotate * (2 * torch.rand(len(images), generator=generator, dtype=torch.float64) - 1)
                images = turn(images, degrees)
        return {**batch, key: self.normalize(images)}

    def variant(self, batch: Batch, kind: Variant) -> Batch:
        """The batch with other labels ("redirect"), drawn evenly; a sample keeps its other label whenever it comes."""
        if kind not in self.variants:
            raise SettingError(f"classification has no {kind!r} variant of a batch, only 'redirect'.")
        if self.num_classes is None or self.num_classes < 2:
            raise SettingError("a redirected label needs a task that knows at least two classes (call prepare).")
        draws = [
            torch.randint(1, self.num_classes, (), generator=generator_of(self.seed, "redirect", i))
            for i in batch["index"].tolist()
        ]
        other = (batch["label"] + torch.stack(draws).to(batch["label"].device)) % self.num_classes
        return {**batch, "label": other}


def _check_logits(logits: Tensor) -> None:
    """Refuses probabilities, whose cross-entropy is another loss: softmax of them is nearly uniform."""
    rows = logits.float()
    if rows.shape[1] < 2 or not len(rows) or bool((rows < 0).any()) or bool((rows > 1).any()):
        return
    tolerance = 1e-4 if logits.element_size() >= 4 else 2e-2
    if bool(((rows.sum(1) - 1).abs() < tolerance).all()):
        raise ModelError(
            "the model gives probabilities: every row lies in 0 … 1 and sums to 1. Cross-entropy is of logits: leave "
            "the softmax at the end of the model out, or let it be a log-softmax."
        )


def augment(images: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crops of the zero-padded images and random mirror images, for a whole batch at once.

    Args:
        images: [B, C, H, W].
        pad: zero pixels added on each side before the crop.
        flip: whether each image is mirrored with probability ½.
        generator: a CPU generator.

    Returns:
        [B, C, H, W], each image shifted by its own (−pad … pad) in both directions.
    """
    rows, _, height, width = images.shape
    if pad > min(height, width):
        raise SettingError(f"pad is {pad}, more than the images' {height}×{width} pixels: crops would show nothing.")
    top, left = torch.randint(0, 2 * pad + 1, (2, rows), generator=generator)
    y = top[:, None] + torch.arange(height)
    x = left[:, None] + torch.arange(width)
    if flip:
        mirrored = torch.rand(rows, generator=generator) < 0.5
        x = torch.where(mirrored[:, None], x.flip(1), x)
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    batch = torch.arange(rows, device=images.device)[:, None, None]
    cropped = padded[batch, y.to(images.device)[:, :, None], x.to(images.device)[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


def turn(images: Tensor, degrees: Tensor) -> Tensor:
    """Images turned about their centre, counter-clockwise; each pixel is its nearest one before, or 0 outside.

    Args:
        images: [B, C, H, W].
        degrees: of each image, float64 [B], on the CPU.

    Returns:
        [B, C, H, W].

    Source: as `PIL.Image.rotate` and torchvision's RandomRotation do it.
    """
    rows, _, height, width = images.shape
    angle = torch.deg2rad(degrees)[:, None, None]
    y = torch.arange(height, dtype=torch.float64)[None, :, None] + 0.5 - height / 2
    x = torch.arange(width, dtype=torch.float64)[None, None, :] + 0.5 - width / 2
    column = (angle.cos() * x - angle.sin() * y + width / 2).floor().long()
    row = (angle.sin() * x + angle.cos() * y + height / 2).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = row.clamp(0, height - 1).to(images.device), column.clamp(0, width - 1).to(images.device)
    batch = torch.arange(rows, device=images.device)[:, None, None]
    turned = images.permute(0, 2, 3, 1)[batch, row, column] * inside.to(images.device)[..., None]
    return turned.permute(0, 3, 1, 2)
