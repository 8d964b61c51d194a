"""Telling classes of images apart: the loss and the inputs of a classifier, of what kind soever its task is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from untrain.data.streams import Stream
from untrain.engine import Engine, preserve_modes
from untrain.errors import ModelError, SettingError
from untrain.models.precision import fit, widen
from untrain.rows import count_rows
from untrain.types import Batch, Role, Variant


def read_logits(result: Any, rows: int) -> Tensor:
    """The logits in what a classifier returned.

    Args:
        result: a tensor; an object with `.logits` or a mapping with "logits", as those of transformers; or a tuple or
            list in which one entry alone is a tensor of numbers [B, C].
        rows: B.

    Raises:
        ModelError: if it is something else, or two entries could be the logits: says what a model must return.
    """
    if isinstance(result, Tensor):
        return result
    named = result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
    if isinstance(named, Tensor):
        return named
    entries = result if isinstance(result, tuple | list) else ()
    found = [each for each in entries if isinstance(each, Tensor) and each.is_floating_point()]
    found = [each for each in found if each.ndim == 2 and len(each) == rows]
    if len(found) == 1:
        return found[0]
    raise ModelError(
        f"the model returns {describe_result(result)}, in which "
        f"{'more than one entry' if found else 'nothing'} could be the logits. Return a tensor of logits [B, classes], "
        "or a dict with the entry 'logits': in an nn.Module around the model, whose forward picks them out, in "
        "training mode too."
    )


def describe_result(result: Any) -> str:
    """Says what a model returned."""
    if isinstance(result, Tensor):
        return f"a tensor {list(result.shape)}"
    if isinstance(result, Mapping):
        return f"a {type(result).__name__} of {', '.join(map(repr, list(result)[:5])) or 'nothing'}"
    if isinstance(result, tuple | list):
        inner = ", ".join(f"{list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__ for x in result[:5])
        return f"a {type(result).__name__} of {inner or 'nothing'}"
    return "None" if result is None else f"a {type(result).__name__}"


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
        """Logits [B, C] that the model gives, also under the name "logits"; see `read_logits`. In float32 or wider."""
        return widen(read_logits(self.call(model, batch), count_rows(batch)))

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """Whatever the model gives for the batch's input."""
        return model(fit(batch["input"], model))

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
