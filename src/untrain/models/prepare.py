"""Tasks completed by looking at a model, and modules checked before they are trained."""

from collections.abc import Mapping

import torch
from torch import nn

from untrain.data.streams import Stream
from untrain.engine import preserve_modes
from untrain.errors import ModelError
from untrain.types import Task


def prepare_task(task: Task, module: nn.Module, streams: Mapping[str, Stream]) -> Task:
    """Completes a task by looking at the model and at a few samples of the first set; nothing is changed."""
    stream = next(iter(streams.values()))
    batch = next(iter(stream.once(task, "evaluate", limit=2, batch_size=2)))
    few = {key: value[:2] for key, value in batch.items()}
    with preserve_modes(module):
        return task.prepare(module.eval(), few)


def check_trainable(module: nn.Module) -> None:
    """Refuses weights that an optimiser would ruin.

    Raises:
        ModelError: if a trained parameter is in half precision.
    """
    half = [name for name, p in module.named_parameters() if p.requires_grad and p.dtype == torch.float16]
    if half:
        raise ModelError(
            f"{len(half)} parameters are in float16, such as {half[0]}: small steps vanish in it and large ones "
            'overflow. Load the model in float32, and save memory by precision="fp16" or "bf16".'
        )
