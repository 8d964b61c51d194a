"""Methods that only seem to forget."""

from dataclasses import dataclass
from typing import ClassVar

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
