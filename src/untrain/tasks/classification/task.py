"""Image classification: cross-entropy on logits [B, C]."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untrain.engine import generator_of
from untrain.errors import DataError, ModelError, SettingError
from untrain.types import Batch, Role, Variant


@dataclass(frozen=True)
class Classification:
    """Image classification with cross-entropy.

    What a user passes in is used as it is: images are normalised only where `mean` and `std` are given, and
    augmented only where `pad` or `flip` are.
    """

    variants: ClassVar[tuple[Variant, ...]] = ("redirect",)

    num_classes: int | None = None
    """Outputs of the model; None: read off its first batch."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel in [0, 1]; subtracted from uint8 images scaled to [0, 1]."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel in [0, 1]."""
    pad: int = 0
    """Pixels of zero padding before a random crop back to the image's size, in training (0: no crop)."""
    flip: bool = False
    """Whether images are mirrored at random in training."""
    names: dict[str, str] = field(default_factory=dict)
    """The data's name → ours ("input", "label"), such as {"pixel_values": "input", "labels": "label"}."""
    seed: int = 0
    """Chooses the other label of each sample when a batch is redirected."""

    def __post_init__(self) -> None:
        """Checks that mean and std go together."""
        if (self.mean is None) != (self.std is None):
            raise SettingError("mean and std of a classification task go together: give both or neither.")
        if self.std is not None and min(self.std) <= 0:
            raise SettingError(f"std must be above 0 in every channel, not {self.std}.")

    def prepare(self, model: nn.Module, batch: Batch) -> "Classification":
        """The task with the number of classes that the model has; the model must give [B, C] for this batch.

        Raises:
            ModelError: if the model cannot run on the batch or does not give logits [B, C].
            DataError: if a label lies outside the model's outputs.
        """
        for key in ("input", "label"):
            if key not in batch:
                raise DataError(
                    f"the data has no {key!r}, only {sorted(batch)}: map its names with "
                    f"Classification(names={{'theirs': '{key}'}})."
                )
        try:
            with torch.no_grad():
                logits = self.outputs(model, batch)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shape = tuple(batch["input"].shape)
            raise ModelError(f"the model cannot run on a batch of shape {shape}: {error}") from error
        if logits.ndim != 2 or len(logits) != len(batch["input"]):
            raise ModelError(
                f"the model gives outputs of shape {tuple(logits.shape)} for {len(batch['input'])} samples; "
                "classification needs logits [B, classes]."
            )
        if self.num_classes not in (None, logits.shape[1]):
            raise ModelError(f"the model has {logits.shape[1]} outputs, but num_classes is {self.num_classes}.")
        return replace(self, num_classes=logits.shape[1])

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """Names mapped, images augmented (not for Fisher or evaluation) and normalised, labels checked."""
        batch = {self.names.get(key, key): value for key, value in batch.items()}
        if "label" in batch:
            batch["label"] = self._checked(batch["label"], batch)
        if self.mean is None or self.std is None or "input" not in batch:
            return batch
        images = batch["input"]
        if role in ("train", "forget", "retain") and (self.pad or self.flip):
            images = augment(images, self.pad, self.flip, generator)
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        images = images.to(torch.get_default_dtype()).sub(mean * scale).div_(std * scale)
        return {**batch, "input": images.contiguous(memory_format=torch.channels_last)}

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

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits [B, C]; of a Hugging Face model, its `.logits`."""
        result: Any = model(batch["input"])
        return getattr(result, "logits", result)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy −log p_y in nats, [B]."""
        return F.cross_entropy(self.outputs(model, batch), batch["label"], reduction="none")

    def divergence(self, outputs: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """KL(softmax(targets / T) ‖ softmax(outputs / T)) in nats, [B], not multiplied by T²."""
        log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (targets, outputs))
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)

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

    def redirect_loss(self, model: nn.Module, batch: Batch, teacher: nn.Module) -> Tensor:
        """Cross-entropy to another label, [B]; a label needs no teacher."""
        return self.loss(model, self.variant(batch, "redirect"))

    def condition(self, batch: Batch) -> Tensor:
        """The labels, [B]."""
        return batch["label"]


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
