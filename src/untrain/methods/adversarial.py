"""The nearest inputs that a classifier takes for another class, by projected gradients in L2 (Madry et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from untrain.errors import SettingError
from untrain.lazy import nn, torch
from untrain.methods.forgetting import labels_of
from untrain.types import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor

DOUBLINGS = 24
"""ε is doubled so many times at most: from a hundredth of an input's norm to more than any input."""
FIRST = 0.01
"""ε to begin with, in norms of the input."""
STRIDE = 0.1
"""Length of a step in units of ε, as in the paper's code."""


def nearest_adversarial(module: nn.Module, task: Task, batch: Batch, *, steps: int = 50) -> tuple[Batch, Tensor]:
    """For each sample the adversarial input of the smallest ε that has one, ε doubled from 0.01 of the input's norm.

    Args:
        module: a classifier in evaluation mode.
        task: gives its logits and the samples' classes.
        batch: drawn; nothing in it changes.
        steps: of projected gradient ascent on the loss, for each ε.

    Returns:
        The batch with these inputs, and the classes that the module takes them for, [B]; where no ε leads to another
        class, the input as it was and its own class.

    Raises:
        SettingError: if inputs are not floating point: what is not a number has no gradient.
    """
    key = getattr(task, "input", None) or "input"
    inputs = batch[key]
    if not inputs.is_floating_point():
        raise SettingError(
            f"amun moves inputs along gradients, and {key!r} is of {inputs.dtype}: it takes floating point "
            "inputs, such as normalised images."
        )
    labels = labels_of(task, batch)
    found, taken, radius = inputs.clone(), labels.clone(), FIRST * _norms(inputs)
    for _ in range(DOUBLINGS):
        left = (taken == labels).nonzero()[:, 0]
        if not len(left):
            break
        rows = {name: value[left] for name, value in batch.items()}
        moved = _ascend(module, task, rows, key, radius[left], steps)
        with torch.no_grad():
            classes = task.outputs(module, {**rows, key: moved}).argmax(1)
        over = classes != labels[left]
        found[left[over]], taken[left[over]] = moved[over], classes[over]
        radius = 2 * radius
    return {**batch, key: found}, taken


def _ascend(module: nn.Module, task: Task, batch: Batch, key: str, radius: Tensor, steps: int) -> Tensor:
    """Returns x + δ with the loss as high as steps of length ε / 10 along its gradient take it, ‖δ‖ ≤ ε."""
    start = batch[key]
    delta = torch.zeros_like(start)
    for _ in range(steps):
        moved = (start + delta).requires_grad_(True)
        losses = task.loss(module, {**batch, key: moved})
        (gradient,) = torch.autograd.grad(losses.sum(), moved)
        length = _like(STRIDE * radius / _norms(gradient).clamp_min(1e-30), gradient)
        delta = delta + length * gradient
        delta = delta * _like((radius / _norms(delta).clamp_min(1e-30)).clamp(max=1), delta)
    return (start + delta).detach()


def _norms(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


def _like(factors: Tensor, values: Tensor) -> Tensor:
    return factors.view(-1, *(1,) * (values.ndim - 1))
