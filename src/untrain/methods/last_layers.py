"""The last k layers alone, made fresh (EU-k) or as they are (CF-k), trained on the retain set; the rest is frozen.

Goel, Prabhu, Sanyal, Lim, Torr, Kumaraguru: *Towards Adversarial Evaluations for Inexact Machine Unlearning*, 2022.
What the frozen layers know of the forget set stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import Choice, Problem, Range, Spaces, check_above_zero
from untrain.methods.repair import Repair, fresh_weights, mix

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LastLayers(Repair):
    """What EU-k and CF-k share."""

    anew: ClassVar[bool]
    """Whether the last layers begin from new weights."""
    space: ClassVar[Spaces] = {"layers": Choice((1, 2, 3)), "optimizer.lr": Range(0.02, 0.2, log=True)}

    layers: int = 2
    """k: so many of the last layers with a weight matrix or kernel, each with its normalisation, in the order in which
    the model registers them."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_above_zero(layers=self.layers)

    def erase(self, problem: Problem, engine: Engine) -> None:
        """Makes the last layers fresh, where the method does, and freezes all before them; the loop thaws it.

        Raises:
            SettingError: if the model has no more than k such layers.
        """
        last = set(last_parameters(problem.subject.module, self.layers))
        if self.anew:
            fresh = fresh_weights(problem)
            mix(problem.subject.module, {name: value for name, value in fresh.items() if name in last}, 0.0)
        for name, parameter in problem.subject.module.named_parameters():
            if name not in last:
                parameter.requires_grad_(False)


def last_parameters(module: nn.Module, layers: int) -> list[str]:
    """Names of the trained parameters from the last so many layers on.

    A layer is what has a trained parameter of two or more dimensions of its own; what is registered after it, such as
    its normalisation, goes with it.

    Raises:
        SettingError: if there are not more than so many layers.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    owners = list(dict.fromkeys(name.rpartition(".")[0] for name, p in named if p.ndim > 1))
    if len(owners) <= layers:
        raise SettingError(
            f"layers={layers} is not fewer than the {len(owners)} layers of the model that are trained: nothing would "
            "be left to freeze. Give fewer, or choose shrink-perturb or finetune."
        )
    first = next(i for i, (name, _) in enumerate(named) if name.rpartition(".")[0] == owners[-layers])
    return [name for name, _ in named[first:]]
