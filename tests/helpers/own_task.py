"""A task that nobody installed, as a person at the keyboard has one in a module of their own: `regression`."""

MODULE = "own_regression"
TASK = f"{MODULE}:RegressionDomain"
METHOD = f"{MODULE}:Pause"
TEXT = '''\
"""Predicts a number from three."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from untrain.data.samples import Arrays
from untrain.data.sections import Forget
from untrain.domain import Domain
from untrain.methods.finetune import Finetune
from untrain.report.presentation import LOSSES
from untrain.types import Task


class Regression(Task):
    """Squared error."""

    def loss(self, model, batch):
        return (model(batch["input"])[:, 0] - batch["input"].sum(1)).square()

    def outputs(self, model, batch):
        return model(batch["input"])


@dataclass(frozen=True)
class Sections:
    """What a recipe on regression says."""

    forget: Forget = Forget()
    width: int = 8
    """Hidden units."""


class RegressionDomain(Domain):
    """Regression of a sum."""

    name = "regression"
    task_class = Regression
    Sections = Sections
    presentation = LOSSES

    def load(self):
        generator = torch.Generator().manual_seed(0)
        draw = lambda count: Arrays(torch.randn(count, 3, generator=generator), torch.zeros(count, dtype=torch.int64))
        return draw(200), draw(50)

    def make_task(self):
        return Regression()

    def build(self, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            width = self.sections.width
            layers = nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1)
            return nn.Sequential(*layers).to(self.context.engine.device)


@dataclass(frozen=True)
class Pause(Finetune):
    """Finetunes a little."""

    name: ClassVar[str] = "pause"
    title: ClassVar[str] = "finetunes a little"
    steps: int | None = 2
'''
RECIPE = """\
name: own
forget: {fraction: 0.1, holdout: 0.1}
width: 6
train: {epochs: 2}
methods:
  finetune: {epochs: 1}
batch_size: 32
device: cpu
"""
