"""Accuracies in percent."""

from collections.abc import Sequence

import torch
from torch import Tensor


def accuracy(correct: Tensor) -> float:
    """Share of samples that are classified rightly, in %; `correct` is bool [N]."""
    return 100 * correct.double().mean().item()


def accuracy_by_class(correct: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy in % of each class that has samples; `correct` bool [N], `labels` [N]."""
    present = labels.unique().tolist()
    return {classes[c]: accuracy(correct[labels == c]) for c in present}


def tug_of_war(accuracies: Sequence[float], targets: Sequence[float]) -> float:
    """ToW = Π (1 − |acc − acc_retrained| / 100) over forget, retain and test set; 1 is the best.

    Source: Zhao et al., *What makes unlearning hard and what to do about it*, NeurIPS 2024.
    """
    gaps = torch.tensor(accuracies, dtype=torch.float64) - torch.tensor(targets, dtype=torch.float64)
    return (1 - gaps.abs() / 100).prod().item()
