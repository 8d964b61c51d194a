"""Telling classes of images apart: the loss and the inputs of a classifier, of what kind soever its task is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from untrain.data.streams import Stream
from untrain.engine import Engine, preserve_modes
from untrain.errors import SettingError
from untrain.types import Batch, Role, Variant


@dataclass(frozen=True)
class Recognition:
    """Cross-entropy on logits [B, C] of images that are normalised where `mean` and `std` are given."""

    variants: ClassVar[tuple[Variant, ...]] = ()

    num_classes: Annotated[int, Ge(1)] | None = None
    """Outputs of the model; None: read off its first batch."""
    mean: Sequence[float] | None = None
    """Mean of each channel in [0, 1]; subtracted from uint8 images scaled to [0, 1]."""
    std: Sequence[float] | None = None
    """Standard deviation of each channel in [0, 1]."""

    def __post_init__(self) -> None:
        """Checks that mean and std go together."""
        if (self.mean is None) != (self.std is None):
            raise SettingError("mean and std of a classification task go together: give both or neither.")
        if self.mean is not None and self.std is not None and not 0 < len(self.mean) == len(self.std):
            raise SettingError(f"mean and std need one entry a channel each, not {len(self.mean)} and {len(self.std)}.")
        if self.std is not None and min(self.std) <= 0:
            raise SettingError(f"std must be above 0 in every channel, not {self.std}.")

    def prepare(self, model: nn.Module, batch: Batch) -> "Recognition":
        """Returns the task itself: it is complete."""
        return self

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """Normalises the images; nothing is random."""
        return {**batch, "input": self.normalize(batch["input"])}

    def normalize(self, images: Tensor) -> Tensor:
        """Normalises images [B, C, H, W], bytes or in [0, 1]; as they are where there is no mean."""
        if self.mean is None or self.std is None:
            return images
        if len(self.mean) != images.shape[1]:
            raise SettingError(f"mean and std have {len(self.mean)} entries: images have {images.shape[1]} channels.")
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        images = images.to(torch.get_default_dtype()).sub(mean * scale).div_(std * scale)
        return images.contiguous(memory_format=torch.channels_last)

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
        """Refuses: a classifier's batch has no variant here."""
        raise SettingError(f"a batch of these images has no {kind!r} variant.")

    def redirect_loss(self, model: nn.Module, batch: Batch, teacher: nn.Module) -> Tensor:
        """Cross-entropy to another label, [B]; a label needs no teacher."""
        return self.loss(model, self.variant(batch, "redirect"))

    def condition(self, batch: Batch) -> Tensor:
        """The labels, [B]."""
        return batch["label"]


def measure_accuracy(
    module: nn.Module, task: Recognition, stream: Stream, engine: Engine, *, limit: int | None = None
) -> float:
    """Measures the share of samples that a classifier calls rightly, in %.

    Args:
        module: in any mode; looked at in evaluation mode and left as it was.
        task: draws the batches.
        stream: the samples.
        engine: each process takes its share of every batch.
        limit: take so many samples, chosen by the stream's seed; None: all.
    """
    right = []
    with preserve_modes(module), torch.no_grad():
        module.eval()
        for batch in stream.once(task, "evaluate", limit=limit):
            mine = engine.shard(batch)
            with engine.autocast():
                right.append(engine.gather(task.outputs(module, mine).argmax(dim=1) == task.condition(mine)).cpu())
    return 100 * torch.cat(right).double().mean().item()
