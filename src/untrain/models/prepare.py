"""Tasks completed by looking at a model, and modules checked before they are trained."""

from collections.abc import Mapping

import torch
from torch import nn

from untrain.data.streams import Stream
from untrain.engine import preserve_modes, preserve_state
from untrain.errors import ModelError, convert_errors
from untrain.models.modes import set_training
from untrain.rows import cut
from untrain.types import Batch, Task

ROWS = 2
"""Samples that a model is tried on."""


def prepare_task(task: Task, module: nn.Module, streams: Mapping[str, Stream], *, training: bool = False) -> Task:
    """Completes a task by looking at the model and at a few samples of the first set; nothing is changed.

    Args:
        task: as it was given.
        module: on the device of the sets.
        streams: at least one, with a sample.
        training: whether the module will be trained: it is then tried in training mode too, in which many give
            something else.

    Raises:
        ModelError: if the model cannot run, or gives what the task cannot use; says so where that is in training alone.
    """
    stream = next(iter(streams.values()))
    batch = next(iter(stream.once(task, "evaluate", limit=ROWS, batch_size=ROWS)))
    few = cut(batch, slice(ROWS))
    with preserve_modes(module), convert_errors(ModelError, "the model cannot run on a batch"):
        ready = task.prepare(module.eval(), few)
    if training:
        _try_training(ready, module, few)
    return ready


def _try_training(task: Task, module: nn.Module, few: Batch) -> None:
    """Runs the task once in training mode; statistics and random states are put back."""
    rows = len(next(iter(few.values())))
    if rows == 1:  # batch normalisation needs two
        few = {key: torch.cat([value, value]) for key, value in few.items()}
    with preserve_state(module):
        try:
            set_training(module)
            with convert_errors(ModelError, "the model cannot run on a batch"):
                task.prepare(module, few)
        except ModelError as error:
            raise ModelError(f"in training mode, and not in evaluation mode, {error}") from error.__cause__ or error


def check_weights(module: nn.Module, name: str = "model") -> nn.Module:
    """Returns a module whose weights can be computed with.

    Args:
        module: as it was given.
        name: what it is called in messages.

    Raises:
        ModelError: names the first weight that has no value yet, or one that is NaN or infinite; or if the weights lie
            on several devices.
    """
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"{key} of the {name} has no shape yet: run the {name} once on a batch of its data.")
        if tensor.is_meta:
            raise ModelError(f"{key} of the {name} is on the meta device, without values: load its weights first.")
    devices = sorted({str(parameter.device) for parameter in module.parameters()})
    if len(devices) > 1:
        raise ModelError(f"the {name} lies on several devices, {', '.join(devices)}: move it to one by .to(device).")
    for key, parameter in module.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            raise ModelError(f"{key} of the {name} holds NaN or infinity: give weights that are finite.")
    return module


def check_trainable(module: nn.Module) -> None:
    """Refuses weights that an optimiser would ruin.

    Raises:
        ModelError: if nothing is trained, or a trained parameter is complex.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError(
            "the model has no parameter with requires_grad: there is nothing to change. Unfreeze it by "
            'requires_grad_(True), or say what to train: parts="full".'
        )
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.is_complex():
            raise ModelError(
                f"{name} is complex: only real weights are trained here. Freeze it: requires_grad_(False)."
            )
