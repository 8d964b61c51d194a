"""A model that answers what it was given, and sets of row numbers for it."""

import torch
from torch import nn


class Table(nn.Module):
    """Answers each row number with its stored logits; counts its calls."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)
        self.calls = 0

    def forward(self, rows):
        self.calls += 1
        assert not self.training
        return self.logits[rows]


def logits_for(answers, classes=3, margin=4.0):
    return margin * torch.nn.functional.one_hot(torch.tensor(answers), classes).double()


LABELS = {"forget": [0, 1, 2, 0], "retain": [0, 1, 2, 0, 1, 2], "test": [0, 1, 2, 1]}


def batches(labels=LABELS):
    sets, first = {}, 0
    for name, values in labels.items():
        sets[name] = [(torch.arange(first, first + len(values)), torch.tensor(values))]
        first += len(values)
    return sets
