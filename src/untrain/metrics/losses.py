"""Losses of single samples, which every task has."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from untrain.data.streams import Stream
from untrain.engine import Engine, preserve_modes
from untrain.errors import DataError
from untrain.types import Batch, Task


def sample_values(
    model: nn.Module,
    task: Task,
    stream: Stream,
    engine: Engine,
    function: Callable[[nn.Module, Batch], Tensor],
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """Computes a number of every sample, [N], float64 on the CPU, in evaluation mode and on unaugmented data.

    Args:
        model: on the engine's device; modes are put back.
        task: draws for the role "evaluate"; prepared.
        stream: the set; each process takes its share of every batch.
        engine: where to run.
        function: (model, drawn batch) → [B], such as the task's `loss`, or a measure of one's own.
        advance: called after each batch.

    Raises:
        DataError: if a number is not finite.
    """
    parts = []
    with preserve_modes(model), torch.no_grad():
        model.eval()
        for batch in stream.once(task, "evaluate"):
            with engine.forward_pass():
                values = function(model, engine.shard(batch))
            parts.append(engine.gather(values).double().cpu())
            advance()
    found = torch.cat(parts)
    if not bool(torch.isfinite(found).all()):
        bad, called = int((~torch.isfinite(found)).sum()), getattr(function, "__name__", "measure")
        raise DataError(f"the model's {called} is not finite on {bad} samples of the {stream.name} set.")
    return found


def sample_losses(
    model: nn.Module, task: Task, stream: Stream, engine: Engine, advance: Callable[[], None] = lambda: None
) -> Tensor:
    """Computes every sample's loss, [N]; see `sample_values`."""
    return sample_values(model, task, stream, engine, task.loss, advance)


def mean_losses(model: nn.Module, task: Task, sets: Mapping[str, Stream], engine: Engine) -> dict[str, Any]:
    """Computes the mean loss of every set: "forget_loss", "retain_loss" and so on."""
    return {f"{name}_loss": sample_losses(model, task, stream, engine).mean().item() for name, stream in sets.items()}


def distance(values: Mapping[str, Any], target: Mapping[str, Any], parts: Sequence[str]) -> float | None:
    """Computes the mean of |value − target's| over the parts; None where one of them is missing."""
    gaps = [abs(values[key] - target[key]) for key in parts if _known(values, key) and _known(target, key)]
    return sum(gaps) / len(gaps) if parts and len(gaps) == len(parts) else None


def _known(values: Mapping[str, Any], key: str) -> bool:
    return values.get(key) is not None
