"""What happens to each parameter in one forward pass: which layers use it, and whether anything else does.

Hooks keep the inputs of known layers and hand over the gradients of their outputs. The autograd graph then tells
whether those layers are all that uses a parameter: as many operations take it as there are recorded uses.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from untrain.errors import InexactFisher
from untrain.fisher import layers
from untrain.fisher.broadcast import Broadcast, Layout, broadcasts_of


@dataclass(eq=False)
class Use:
    """One call of a layer: what its parameters' per-sample gradients need besides the output's gradient.

    Attributes:
        name: the module's name in the model.
        call: which call of the module in this pass, from 0.
        keys: the layer's own parameters that are wanted, as name in the module → name in the model.
        input: the layer's input, outside the graph.
        shape: the output's shape.
        edge: where the output's gradient arrives.
    """

    name: str
    call: int
    module: nn.Module
    gradient: layers.Gradient
    keys: dict[str, str]
    input: Tensor
    version: int
    shape: torch.Size
    edge: GradientEdge

    def layout(self, samples: int) -> Layout | None:
        """How the rows seem to belong to samples, None if their number is no multiple of the samples'."""
        rows = self.shape[0]
        if rows == 0 or rows % samples or self.input.shape[0] != rows:
            return None
        return (self.name, self.call, len(self.shape), rows // samples)

    def rows(self, samples: int) -> Tensor:
        """The input as [B, k, …], checked to be what the layer saw."""
        if "weight" in self.keys and self.input._version != self.version:
            raise InexactFisher(
                f"the input of {self.name!r} was overwritten in place after the layer had used it, so the gradient of "
                f"{self.keys['weight']!r} is lost. Replace the in-place operation by one that returns a new tensor."
            )
        return self.input.unflatten(0, (samples, -1))


Arrival = Callable[[Use, Tensor | None], None]
Owned = dict[str, tuple[str, Tensor]]
"""Name in the layer → name in the model, and the parameter itself."""


@dataclass(eq=False)
class Recorder:
    """Records the uses of one forward pass at a time."""

    uses: list[Use] | None = None
    calls: Counter[str] = field(default_factory=Counter)
    arrival: Arrival | None = None

    @contextmanager
    def forward(self, uses: list[Use]) -> Iterator[None]:
        """Adds to `uses` while the block runs; not during backward, where checkpointing calls modules again."""
        self.uses, self.calls = uses, Counter()
        try:
            yield
        finally:
            self.uses = None

    def called(self, name: str, own: Owned, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """The forward hook."""
        if self.uses is None or not isinstance(output, Tensor) or not output.requires_grad:
            return
        input = args[0] if args else next(iter(kwargs.values()))
        gradient = layers.gradient_of(module)
        # Hooks may have put another tensor, made of the parameter, where the layer's forward looks for it.
        keys = {n: key for n, (key, parameter) in own.items() if getattr(module, n, None) is parameter}
        if gradient is None or not keys or not layers.takes(module, input):
            return
        kept = input.detach()
        edge = get_gradient_edge(output)
        use = Use(name, self.calls[name], module, gradient, keys, kept, kept._version, output.shape, edge)
        self.calls[name] += 1
        self.uses.append(use)
        output.register_hook(partial(self._arrived, use))

    def _arrived(self, use: Use, grad: Tensor | None) -> None:
        if self.arrival is not None:
            self.arrival(use, grad)

    def backward(
        self,
        losses: Tensor,
        seed: Tensor,
        roots: Sequence[Use],
        arrival: Arrival,
        *,
        also: Sequence[GradientEdge | Tensor] = (),
        retain: bool,
    ) -> list[Tensor | None]:
        """Sends the gradients of Σ seed·losses to `arrival`, use by use, computing no other weight's than those asked.

        Returns:
            The gradients of `also`, places in the graph or tensors; None stands for zeros.
        """
        edges: list[Any] = [*(use.edge for use in roots), *also]
        if not edges:
            return []
        self.arrival = arrival
        try:
            with torch.autocast("cpu" if losses.is_meta else losses.device.type, enabled=False):
                found = torch.autograd.grad(losses, edges, seed, retain_graph=retain, allow_unused=True)
        finally:
            self.arrival = None
        return list(found[len(roots) :])


def release(uses: list[Use]) -> None:
    """Breaks the cycle use → graph → hook → use, which no garbage collector sees."""
    for use in uses:
        del use.edge, use.input
    uses.clear()


@contextmanager
def recorder(model: nn.Module, wanted: Mapping[int, str]) -> Iterator[Recorder]:
    """A recorder whose hooks stay on the model as long as the block runs.

    Args:
        model: the model.
        wanted: id of a parameter → its name in the model.
    """
    record = Recorder()
    handles = []
    # Hooks set for all modules at once run before ours and may change outputs; then nothing is recorded.
    tampered = bool(torch.nn.modules.module._global_forward_hooks)
    for name, module in model.named_modules():
        own = {
            n: (wanted[id(p)], p) for n, p in module._parameters.items() if p is not None and _is_plain(n, p, wanted)
        }
        if own and not tampered and layers.gradient_of(module) is not None:
            hook = partial(record.called, name, own)
            handles.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _is_plain(name: str, parameter: Tensor, wanted: Mapping[int, str]) -> bool:
    """Whether a wanted parameter is what the forward of a known layer itself computes with.

    What other parameters a layer has (weight_orig of pruning, weight_g and weight_v of weight normalisation) become its
    weight by hooks. A hook on the parameter itself changes the gradient after the layer has given it.
    """
    return name in layers.USED and id(parameter) in wanted and not parameter._backward_hooks


@dataclass(frozen=True)
class Graph:
    """What the autograd graph of a batch says.

    Attributes:
        operations: id of a parameter → how many operations compute with it.
        uses: the recorded uses on which the losses depend.
        roots: those of them below which there is no other.
        opaque: whether there are custom autograd functions, which may hide parameters.
        leaves: id of a parameter → the node that its gradient ends in.
        parents: node → the nodes that compute with its result.
    """

    operations: Mapping[int, int]
    uses: list[Use]
    roots: list[Use]
    opaque: bool
    leaves: Mapping[int, Node]
    parents: Mapping[Node, list[Node]]

    def broadcasts(self, name: str, parameter: Tensor, samples: int) -> list[Broadcast] | None:
        """The places where a parameter is broadcast over samples, if these are all that it is used in; else None."""
        leaf = self.leaves.get(id(parameter))
        hooked = bool(parameter._backward_hooks)  # these change the gradient after it is summed
        return None if leaf is None or hooked else broadcasts_of(name, leaf, self.parents, samples)


def inspect(losses: Tensor, uses: list[Use]) -> Graph:
    """Walks the graph from the losses to its leaves.

    Raises:
        InexactFisher: if the graph has parts that autograd cannot enter (reentrant checkpointing).
    """
    if losses.grad_fn is None:
        raise InexactFisher(
            "the losses have no gradient although parameters require one. The task's loss or the model detaches the "
            "outputs or computes them under torch.no_grad(); remove that."
        )
    here = {use.edge.node for use in uses}
    parents: dict[Node, list[Node]] = {}
    below: dict[Node, bool] = {}
    stack: list[tuple[Node, bool]] = [(losses.grad_fn, False)]
    while stack:
        node, children_done = stack.pop()
        children = [child for child, _ in node.next_functions if child is not None]
        if children_done:
            below[node] = any(child in here or below[child] for child in children)
        elif node not in below:
            below[node] = False
            stack.append((node, True))
            for child in children:
                parents.setdefault(child, []).append(node)
                stack.append((child, False))
    leaves = {id(node.variable): node for node in below if hasattr(node, "variable")}
    opaque = [node for node in below if _is_opaque(node)]
    reached = [use for use in uses if use.edge.node in below]
    return Graph(
        {key: _operations(leaf, parents, here) for key, leaf in leaves.items()},
        reached,
        [use for use in reached if not below[use.edge.node]],
        bool(opaque),
        leaves,
        parents,
    )


def _operations(node: Node, parents: Mapping[Node, list[Node]], here: set[Node]) -> int:
    """How many operations take a tensor as input, seen through what merely transposes, casts or maps it.

    A weight's transpose can be shared, so that one edge into the leaf stands for several uses of it.
    """
    count = 0
    for parent in parents.get(node, []):
        unary = len(parent.next_functions) == 1 and parent not in here
        count += _operations(parent, parents, here) if unary and parent in parents else 1
    return count


def _is_opaque(node: Node) -> bool:
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return False
    if "CheckpointFunction" in type(node).__name__:
        raise InexactFisher(
            "the model uses reentrant gradient checkpointing, which hides parameters from autograd. "
            "Switch it off, or use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
        )
    return True
