"""The slow and obvious versions of what the package computes fast, and the folder of independent vectors."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

REFERENCE = Path(__file__).parents[1] / "reference"


def fisher_sample_by_sample(model: nn.Module, task: Any, batches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """F_j = mean_n (∂ℓ_n/∂θ_j)² by one backward pass a sample, each sample alone in its batch."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
    count = 0
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for batch in batches:
        for row in range(len(next(iter(batch.values())))):
            loss = task.loss(model, {key: value[row : row + 1] for key, value in batch.items()}).sum()
            grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, grad in zip(parameters, grads, strict=True):
                totals[name] += 0 if grad is None else grad.detach() ** 2
            count += 1
    for module, training in modes.items():
        module.training = training
    return {name: total / count for name, total in totals.items()}


def fisher_of_batch_means(model: nn.Module, task: Any, batches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean over batches of the squared gradient of the batch's mean loss."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    squares = []
    for batch in batches:
        loss = task.loss(model, batch).mean()
        squares.append([g**2 for g in torch.autograd.grad(loss, list(parameters.values()))])
    return {name: torch.stack(s).mean(0) for name, s in zip(parameters, zip(*squares, strict=True), strict=True)}
