"""Per-sample gradients of any parameter, however the model uses it: `torch.func`, else one sample at a time."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from untrain.errors import InexactFisher, ModelError, convert_errors
from untrain.rows import count_rows, cut
from untrain.types import Batch, Task

CHUNK_BYTES = 64 * 2**20
"""How large the per-sample gradients of one chunk of samples may become, unless one sample's are larger."""


class Losses(nn.Module):
    """A task's losses as a module, so that `functional_call` can replace the model's parameters.

    Args:
        model: the model.
        task: what gives the losses.
        autocast: mixed precision around the forward pass.
    """

    def __init__(self, model: nn.Module, task: Task, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.autocast = autocast

    def forward(self, batch: Batch) -> Tensor:
        """The losses [B]; weights are cast anew at each use, which keeps uses apart in the graph."""
        cached = torch.is_autocast_cache_enabled()
        with self.autocast():
            torch.set_autocast_cache_enabled(False)
            try:
                with convert_errors(ModelError, "the model cannot run on a batch"):
                    return self.task.loss(self.model, batch)
            finally:
                torch.set_autocast_cache_enabled(cached)

    def coarse(self, device: torch.device) -> bool:
        """Whether some of the arithmetic has fewer bits than float32."""
        with self.autocast():
            narrow = torch.is_autocast_enabled(device.type)
        return narrow or any(p.is_floating_point() and p.element_size() < 4 for p in self.parameters())


@dataclass
class Fallback:
    """Gradients [b, *shape] of chosen parameters, sample by sample, by the fastest way that this model allows.

    Attributes:
        losses: the model's losses.
        warned: the parameters that the slow loop has been announced for.
        tested: parameters for which `torch.func` was compared with plain autograd.
    """

    losses: Losses
    loop: bool = False
    tested: set[str] = field(default_factory=set)
    warned: set[str] = field(default_factory=set)

    def gradients(self, parameters: Mapping[str, Tensor], batch: Batch) -> Iterator[dict[str, Tensor]]:
        """Yields the gradients of successive chunks of samples.

        Raises:
            InexactFisher: if not even a single sample's gradient can be computed.
        """
        samples = count_rows(batch)
        largest = sum(p.numel() * max(4, p.element_size()) for p in parameters.values())
        step = max(1, min(samples, CHUNK_BYTES // largest))
        for first in range(0, samples, step):
            part = cut(batch, slice(first, first + step))
            found = None if self.loop else self._mapped(parameters, part)
            if found is not None:
                yield found
            else:
                self.loop = True
                self._warn(parameters)
                for row in range(len(next(iter(part.values())))):
                    yield self._single(parameters, cut(part, slice(row, row + 1)))

    def _mapped(self, parameters: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor] | None:
        """vmap(grad) over samples; None if the model cannot run under it or it disagrees with autograd."""

        def loss(weights: dict[str, Tensor], sample: Batch) -> Tensor:
            one = {key: value.unsqueeze(0) for key, value in sample.items()}
            return functional_call(self.losses, {f"model.{k}": v for k, v in weights.items()}, (one,)).sum()

        weights = {key: parameter.detach() for key, parameter in parameters.items()}
        try:
            # The fused attention kernels have no batching rule: vmap would loop over samples, and warn of it.
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = vmap(grad(loss), in_dims=(None, 0), randomness="error")(weights, batch)
        except Exception:  # whatever torch.func cannot do with this model, the loop can, or raises the true error
            return None
        if not self.tested.issuperset(parameters):
            expected = self._single(parameters, cut(batch, slice(1)))
            if not all(close(found[key][:1], expected[key]) for key in parameters):
                return None
            self.tested.update(parameters)
        return found

    def _single(self, parameters: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Autograd on one sample alone."""
        try:
            found = torch.autograd.grad(self.losses(batch).sum(), list(parameters.values()), allow_unused=True)
        except (RuntimeError, ModelError) as error:
            raise InexactFisher(
                f"the gradient of {_some(parameters)} for a single sample cannot be computed: {error} "
                "Freeze these parameters (requires_grad_(False)) or change the model."
            ) from error
        return {
            key: (torch.zeros_like(p) if g is None else g.detach()).unsqueeze(0)
            for (key, p), g in zip(parameters.items(), found, strict=True)
        }

    def _warn(self, parameters: Mapping[str, Tensor]) -> None:
        if not self.warned.issuperset(parameters):
            self.warned.update(parameters)
            warnings.warn(
                f"torch.func cannot run this model, so the Fisher diagonal of {_some(parameters)} is computed one "
                "sample at a time: exact, but slow.",
                stacklevel=2,
            )


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal up to the precision's rounding; a false alarm only costs time."""
    tolerance = {torch.float64: 1e-8, torch.float32: 1e-3}.get(found.dtype, 5e-2)
    return bool((found - expected).norm() <= tolerance * expected.norm())


def _some(names: Mapping[str, Any]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
