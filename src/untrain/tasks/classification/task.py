"""Image classification: cross-entropy on logits [B, C]."""

import warnings
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from untrain.engine import generator_of
from untrain.errors import DataError, ModelError, SettingError, convert_errors
from untrain.models.once_per_batch import OncePerBatch
from untrain.models.precision import widen
from untrain.models.recognition import Recognition, describe_result
from untrain.settings import Seed, check_arguments
from untrain.types import Batch, Role, Variant


@check_arguments
@dataclass(frozen=True)
class Classification(Recognition):
    """Image classification with cross-entropy.

    What a user passes in is used as it is: images are normalised only where `mean` and `std` are given, and
    augmented only where `pad` or `flip` are.
    """

    name: ClassVar[str] = "classification"
    variants: ClassVar[tuple[Variant, ...]] = ("redirect",)

    pad: Annotated[int, Ge(0)] = 0
    """Pixels of zero padding before a random crop back to the image's size, in training (0: no crop)."""
    flip: bool = False
    """Whether images are mirrored at random in training."""
    names: dict[str, str] = field(default_factory=dict)
    """The data's name → ours ("input", "label"), such as {"pixel_values": "input", "labels": "label"}."""
    seed: Seed = 0
    """Chooses the other label of each sample when a batch is redirected."""

    def prepare(self, model: nn.Module, batch: Batch) -> "Classification":
        """The task with the number of classes that the model has; the model must give [B, C] for this batch.

        Raises:
            ModelError: if the model cannot run on the batch, or gives no logits [B, C]: other shapes, probabilities.
            DataError: if a label lies outside the model's outputs.
        """
        for key in ("input", "label"):
            if key not in batch:
                raise DataError(
                    f"the data has no {key!r}, only {sorted(batch)}: map its names with "
                    f"Classification(names={{'theirs': '{key}'}})."
                )
        shape = tuple(batch["input"].shape)
        with torch.no_grad(), convert_errors(ModelError, f"the model cannot run on a batch of shape {shape}"):
            once = OncePerBatch(model)
            logits = self.outputs(once, batch)
        result: Any = None if once.last is None else once.last[1]
        if isinstance(result, tuple | list) and not hasattr(result, "logits"):
            warnings.warn(
                f"the model returns {describe_result(result)}: its one entry [B, classes] is taken for logits.",
                stacklevel=2,
            )
        if logits.ndim != 2 or len(logits) != len(batch["input"]) or not logits.is_floating_point():
            raise ModelError(
                f"the model gives outputs of shape {tuple(logits.shape)} and type {logits.dtype} for "
                f"{len(batch['input'])} samples; classification needs logits [B, classes]."
            )
        _check_logits(logits)
        if self.num_classes not in (None, logits.shape[1]):
            raise ModelError(f"the model has {logits.shape[1]} outputs, but num_classes is {self.num_classes}.")
        return replace(self, num_classes=logits.shape[1])

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """Names mapped, images augmented (not for Fisher or evaluation) and normalised, labels checked."""
        batch = {self.names.get(key, key): value for key, value in batch.items()}
        if "label" in batch:
            batch["label"] = self._checked(batch["label"], batch)
        if "input" in batch:
            batch["input"] = widen(batch["input"])
        if self.mean is None or "input" not in batch:
            return batch
        images = batch["input"]
        if role in ("train", "forget", "retain") and (self.pad or self.flip):
            images = augment(images, self.pad, self.flip, generator)
        return {**batch, "input": self.normalize(images)}

    def _checked(self, labels: Tensor, batch: Batch) -> Tensor:
        if labels.ndim != 1 or labels.is_floating_point():
            raise DataError(f"labels must be whole numbers [B], not {labels.dtype} {list(labels.shape)}.")
        if self.num_classes is not None and len(labels):
            bad = (labels < 0) | (labels >= self.num_classes)
            if bad.any():
                at = int(bad.nonzero()[0, 0])
                where = f" (first: index {int(batch['index'][at])})" if "index" in batch else ""
                raise DataError(
                    f"label {int(labels[at])}{where} lies outside the model's outputs: it has {self.num_classes}, "
                    f"numbered 0 to {self.num_classes - 1}. Correct the labels or the model's last layer."
                )
        return labels.long()

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
