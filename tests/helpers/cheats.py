"""Methods that only seem to forget."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from untrain.methods.finetune import Finetune


@dataclass(frozen=True)
class Identity(Finetune):
    """Does nothing at all."""

    name: ClassVar[str] = "identity"

    def step(self, state, k):
        return {"loss": 0.0}


@dataclass(frozen=True)
class HeadOnly(Finetune):
    """Trains a new last layer on what all keep, and leaves the rest of the network as it was."""

    name: ClassVar[str] = "head-only"

    def start(self, problem, engine):
        module = problem.subject.module.requires_grad_(False)
        module.fc.reset_parameters()
        module.fc.requires_grad_(True)
        return self.begin(problem, engine, module)


@dataclass(frozen=True)
class PushedTooFar(Identity):
    """Makes the last layer's answer with the forgotten class all but impossible, and changes nothing else."""

    name: ClassVar[str] = "pushed-too-far"

    def start(self, problem, engine):
        module = problem.subject.module
        with torch.no_grad():
            module.fc.bias[problem.forget.data.labels.unique()] -= 100
        return self.begin(problem, engine, module)
