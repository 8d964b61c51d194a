"""Memory layout of convolutional modules: channels last while they are trained on a CPU, afterwards as they came.

Whether a module is laid out so follows from its layers and the device, never from a clock: the two layouts add in
another order, and the same run must give the same numbers twice. The rule stands on the table in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from untrain.engine import Engine, preserve_state
from untrain.errors import message_of
from untrain.lazy import nn, torch
from untrain.models.modes import set_training
from untrain.rows import count_rows
from untrain.types import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS_LAST = "convolutions were computed with channels last, which is faster on a CPU; weights come back as they lay"


@dataclass(frozen=True, eq=False)
class Layout:
    """How a module's four-dimensional weights lay, to give them back so.

    Attributes:
        module: whose.
        before: name → the memory that the weight lay in.
    """

    module: nn.Module
    before: Mapping[str, Tensor]

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout that a module has now."""
        return cls(module, {name: p.data for name, p in module.named_parameters() if p.ndim == 4})

    def restore_(self, module: nn.Module) -> None:
        """Lays a module out as this one was; this one itself gets back the very memory, which others may look at."""
        for name, parameter in module.named_parameters():
            before = self.before.get(name)
            if before is not None and before.stride() != parameter.stride():
                home = before if module is self.module else torch.empty_like(before)
                parameter.data = home.copy_(parameter.data)


def prefers_channels_last(module: nn.Module, engine: Engine) -> bool:
    """Whether a module is trained faster with channels last: on a CPU, with several convolutions, none of them grouped.

    One convolution alone, as of a vision transformer, gains nothing, and networks with group normalisation, as those of
    diffusion are, lose. False for what is laid out so already.
    """
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    normalised = any(isinstance(layer, nn.GroupNorm) for layer in module.modules())
    return (
        engine.device.type == "cpu"
        and engine.precision == "no"
        and torch.backends.mkldnn.is_available()
        and len(convolutions) > 1
        and not normalised
        and all(layer.groups == 1 and layer.weight.dtype == torch.float32 for layer in convolutions)
        and not all(_is_channels_last(layer.weight) for layer in convolutions)
    )


def match_layout_(module: nn.Module, like: nn.Module) -> None:
    """Gives the weights of a module the layout of another one's of the same names."""
    own = dict(like.named_parameters())
    for name, parameter in module.named_parameters():
        if parameter.ndim == 4 and name in own and _is_channels_last(own[name]):
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def lay_channels_last_(module: nn.Module, task: Task, batch: Batch, engine: Engine) -> str:
    """Lays the convolutions of a module out with channels last, unless it then computes something else; says which.

    A module of a user's own may take a tensor for contiguous, as `view` does. So losses and gradients of a few samples
    are computed in both layouts, in evaluation mode, in which they must agree; in training mode it must run.

    Args:
        module: as it is given, on the CPU; states and random generators are left as they were.
        task: of the losses.
        batch: some samples, drawn for Fisher.
        engine: precision.

    Returns:
        A sentence for the notes.
    """
    rows = count_rows(batch)
    few = {key: torch.cat([value, value]) for key, value in batch.items()} if rows == 1 else batch
    layout = Layout.of(module)
    with preserve_state(module):
        expected = _gradients(module.eval(), task, few, engine)
        with torch.no_grad():
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    for parameter in layer.parameters(recurse=False):
                        if parameter.ndim == 4:
                            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        try:
            found = _gradients(module, task, few, engine)
            _gradients(set_training(module), task, few, engine)
        except Exception as error:  # the user's own code, which may raise anything
            layout.restore_(module)
            return f"{_REFUSED}: {message_of(error)}"
    if not _agree(found, expected):
        layout.restore_(module)
        return f"{_REFUSED}: its losses or gradients differ"
    return CHANNELS_LAST


_REFUSED = "weights stayed as they lay, for the model does not bear channels last, which is faster on a CPU"


def _gradients(module: nn.Module, task: Task, batch: Batch, engine: Engine) -> list[Tensor]:
    """Losses [B] of a batch, and the gradients of their sum."""
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.enable_grad(), engine.forward_pass():
        losses = task.loss(module, batch)
    if not losses.requires_grad:
        return [losses]
    found = torch.autograd.grad(losses.sum(), weights, allow_unused=True)
    return [
        losses.detach(),
        *(g if g is not None else torch.zeros_like(w) for g, w in zip(found, weights, strict=True)),
    ]


def _agree(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether losses, and gradients all together, are equal up to float32's rounding; NaN agrees with nothing."""
    losses = torch.allclose(found[0], expected[0], rtol=1e-3, atol=1e-5)
    apart = sum(float((a - b).square().sum()) for a, b in zip(found[1:], expected[1:], strict=True))
    whole = sum(float(b.square().sum()) for b in expected[1:])
    return losses and apart <= 1e-6 * whole


def _is_channels_last(weight: Tensor) -> bool:
    """Whether a convolution's weight lies so, where that differs from any other way."""
    return weight.is_contiguous(memory_format=torch.channels_last)
