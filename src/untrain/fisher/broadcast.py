"""Per-sample gradients of parameters that are only broadcast over samples: position embeddings, class tokens and such.

Where x [B, …] + p meets a parameter p without samples, ∂ℓ_n/∂p is what arrives at the sum for sample n, summed over the
other dimensions that p was broadcast along. The autograd graph shows where that is; views and casts of p in between are
linear, and their nodes map the gradient back to p's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

Layout = tuple[str, int, int, int]
"""(module's name, which of its calls, dimensions of its output, rows a sample); of a parameter likewise."""


@dataclass(frozen=True, eq=False)
class Broadcast:
    """A place where a parameter, or a view of it, is broadcast over samples.

    Attributes:
        name: the parameter's name in the model.
        number: which of its places, from 0.
        edge: where the gradient of the result arrives, [B·k, …].
        shape: of the result.
        folds: k, rows a sample.
        operand: the shape of what is broadcast, without samples.
        scale: maps the result's gradient to the operand's before it is summed.
        views: the nodes from the operand back to the parameter.
        target: the parameter's shape.
    """

    name: str
    number: int
    edge: GradientEdge
    shape: torch.Size
    folds: int
    operand: torch.Size
    scale: Callable[[Tensor], Tensor]
    views: tuple[Any, ...]
    target: torch.Size

    @property
    def layout(self) -> Layout:
        """How its rows seem to belong to samples."""
        return (f"{self.name} broadcast", self.number, len(self.shape), self.folds)

    def rows(self, grad: Tensor) -> Tensor:
        """The gradient that arrives, [B·k, …], as that of what was broadcast, [B, k, …]."""
        return self.scale(grad).unflatten(0, (-1, self.folds))

    def gradients(self, rows: Tensor) -> Tensor:
        """∂ℓ_n/∂p, [b, *parameter.shape], of the rows [b, k, …] of some samples; it may share memory with them."""
        kept = (1,) * (len(self.shape) - len(self.operand)) + tuple(self.operand)
        summed = [1, *(d + 1 for d in range(1, len(kept)) if kept[d] == 1 and self.shape[d] != 1)]
        found = rows.sum(summed).reshape(len(rows), *self.operand)
        return torch.stack([self._back(row) for row in found.unbind(0)]) if self.views else found.view(-1, *self.target)

    def _back(self, grad: Tensor) -> Tensor:
        for node in self.views:
            grad = node(grad)
        return grad.to_dense() if grad.is_sparse else grad


def broadcasts_of(name: str, leaf: Node, parents: Mapping[Node, list[Node]], samples: int) -> list[Broadcast] | None:
    """All places where a parameter is used, if it is broadcast over samples in each of them; else None.

    Args:
        name: the parameter's.
        leaf: the node that its gradient ends in.
        parents: node → the nodes of the operations that compute with its result.
        samples: B.
    """
    target: torch.Size = leaf.variable.shape  # type: ignore[attr-defined]
    found: list[Broadcast] = []
    waiting: list[tuple[Node, torch.Size, tuple[Node, ...]]] = [(leaf, target, ())]
    while waiting:
        node, operand, views = waiting.pop()
        for parent in parents.get(node, []):
            slots = [i for i, (child, _) in enumerate(parent.next_functions) if child is node]
            if len(slots) != 1:
                return None
            kind, shape = type(parent).__name__, _shape_of(parent)
            if kind in _VIEWS:
                waiting.append((parent, shape, (parent, *views)))
                continue
            scale = _scale_of(kind, parent, slots[0])
            if scale is None or not _over_samples(operand, shape, samples):
                return None
            edge = GradientEdge(parent, 0)
            found.append(Broadcast(name, len(found), edge, shape, shape[0] // samples, operand, scale, views, target))
    return found or None


def _shape_of(node: Node) -> torch.Size:
    """The shape of what an operation gave."""
    about: Any = node._input_metadata  # no public name
    return torch.Size(about[0].shape)


def _over_samples(operand: torch.Size, shape: torch.Size, samples: int) -> bool:
    """Whether an operand has no dimension of samples, and the result has."""
    if not shape or not shape[0] or shape[0] % samples or len(operand) > len(shape):
        return False
    return len(operand) < len(shape) or operand[0] == 1


_VIEWS = {
    *("UnsqueezeBackward0", "SqueezeBackward0", "SqueezeBackward1", "ViewBackward0", "UnsafeViewBackward0"),
    *("ReshapeAliasBackward0", "SliceBackward0", "SelectBackward0", "PermuteBackward0", "TransposeBackward0"),
    *("TBackward0", "AliasBackward0", "CloneBackward0", "ToCopyBackward0", "IndexBackward0", "EmbeddingBackward0"),
}
"""Nodes of linear operations on a tensor alone; rows that are looked up are the same for all samples."""


def _scale_of(kind: str, node: Any, slot: int) -> Callable[[Tensor], Tensor] | None:
    """What maps the gradient of a result to that of the operand in this place, None if the operation is not known."""
    if kind == "ExpandBackward0" or (kind in ("AddBackward0", "SubBackward0") and slot == 0):
        return _same
    if kind in ("AddBackward0", "SubBackward0"):
        alpha = node._saved_alpha if kind == "AddBackward0" else -node._saved_alpha
        return _same if alpha == 1 else lambda grad: grad * alpha
    if kind == "WhereBackward0":
        condition = node._saved_condition
        return lambda grad: grad * (condition if slot == 0 else ~condition)
    return None


def _same(grad: Tensor) -> Tensor:
    return grad
