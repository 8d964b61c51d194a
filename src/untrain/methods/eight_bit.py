"""Adam with moments of 8 bits, by bitsandbytes.

Dettmers, Lewis, Shleifer, Zettlemoyer: *8-bit Optimizers via Block-wise Quantization*, ICLR 2022, arXiv 2110.02861.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from untrain.errors import SettingError, message_of

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 4096
"""Tensors of fewer numbers keep moments of 32 bits."""
BLOCK = 256
"""Numbers that share a scale."""


def build_8bit(name: str, parameters: Sequence[Tensor], *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Adam or AdamW of bitsandbytes.

    Args:
        name: "adam8bit" or "adamw8bit".
        parameters: on the meta device, an optimiser of states of these sizes is given that moves nothing.
        lr: learning rate.
        weight_decay: L2 penalty, or decoupled decay of adamw8bit.

    Raises:
        SettingError: if bitsandbytes is missing, or cannot run where they are or in their type.
    """
    device, dtype = parameters[0].device, parameters[0].dtype
    if device.type == "meta":
        return MomentSizes(parameters, lr=lr)
    plain = name.removesuffix("8bit")
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise SettingError(
            f"{name} needs bitsandbytes: pip install 'untrain[bitsandbytes]'. Or choose {plain}."
        ) from error
    kind = optim.Adam8bit if plain == "adam" else optim.AdamW8bit
    try:
        _take_step(kind, torch.zeros(SMALL, device=device, dtype=dtype))
    except Exception as error:  # each version lacks other devices and types, and says so at the first step
        raise SettingError(
            f"{name} cannot run on {device} in {str(dtype).removeprefix('torch.')} with this bitsandbytes: "
            f"{message_of(error)} Choose {plain}."
        ) from error
    return kind(parameters, lr=lr, weight_decay=weight_decay, min_8bit_size=SMALL)


def _take_step(kind: Callable[..., torch.optim.Optimizer], weights: Tensor) -> None:
    """One step on weights of no use, and a look that they moved."""
    weights = weights.requires_grad_()
    weights.grad = torch.ones_like(weights)
    kind([weights], lr=1.0, min_8bit_size=SMALL).step()
    if not bool((weights < 0).all()):
        raise RuntimeError("a step leaves the weights where they were.")


class MomentSizes(torch.optim.Optimizer):
    """States as large as those of 8-bit Adam, without values, to plan a run."""

    def __init__(self, parameters: Sequence[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Makes the states where they are not there yet."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or self.state[p]:
                    continue
                for moment in ("1", "2"):
                    if p.numel() < SMALL:
                        self.state[p][f"state{moment}"] = torch.empty_like(p, dtype=torch.float32)
                    else:
                        self.state[p][f"state{moment}"] = torch.empty_like(p, dtype=torch.uint8)
                        self.state[p][f"absmax{moment}"] = p.new_empty(-(-p.numel() // BLOCK), dtype=torch.float32)
