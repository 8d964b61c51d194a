"""Weights divided among processes: torch's `fully_shard` (FSDP2) on a copy of a module, and whole modules from it.

Zhao et al. 2023, *PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel*, and Rajbhandari et al. 2020,
*ZeRO*, stage 3. Each process holds a part of every parameter, by its first dimension; a group of layers has its
weights whole only while it computes, and its gradients only until they are summed over the processes.

accelerate's plugin for FSDP2 is not what does it: accelerate 1.15 leaves the plugin aside on a CPU, where the tests
run; it wants to prepare optimisers, of which methods have several; and gradients are sums here, not means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from untrain.engine import Engine, can_move, is_divided, preserve_state
from untrain.errors import ModelError, SettingError
from untrain.lazy import nn, torch
from untrain.models.copies import shallow_copy
from untrain.models.saving import has_adapters

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

LEAST = 256
"""A layer is gathered on its own from this part of all weights on: far smaller than a block of a deep network, so that
what is gathered at a time stays small, and far larger than a bias, each message of which would cost more than it
saves."""


@dataclass(eq=False)
class DividedModule:
    """A module whose weights are divided, beside the whole one that it was made of.

    Attributes:
        whole: keeps the weights that it had, until `finish` gives it those of now.
        module: a copy of it, of whose parameters this process has a part.
        called: names of the layers that may be gathered on their own, when they are called.
        mesh: of the processes.
    """

    whole: nn.Module
    module: nn.Module
    called: Collection[str]
    mesh: DeviceMesh

    @classmethod
    def of(cls, whole: nn.Module, losses: Callable[[nn.Module], Tensor], engine: Engine) -> DividedModule:
        """Divides a copy of a module; the module itself stays as it is.

        Args:
            whole: the same in every process.
            losses: of a few samples, the same in every process; the divided module must have them too.
            engine: of several processes.

        Raises:
            ModelError: if its weights cannot be divided, or it computes something else then.
        """
        _check_divisible(whole)
        called, expected = _called_layers(whole, losses)
        mesh = torch.distributed.device_mesh.init_device_mesh(engine.device.type, (engine.num_processes,))
        made = cls(whole, shallow_copy(whole), called, mesh)
        made.divide_(made.module)
        try:
            with torch.no_grad():
                found = _in_evaluation(made.module, losses)
        except ModelError as error:
            raise ModelError(f"{_LOOKED_AT}: {error}. {_REMEDY}") from error
        if not torch.allclose(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max())):
            raise ModelError(f"{_LOOKED_AT}: with fsdp its losses differ. {_REMEDY}")
        return made

    def divide_(self, module: nn.Module) -> nn.Module:
        """Divides the weights of a module of the same architecture, such as a frozen copy, in place."""
        from torch.distributed.fsdp import fully_shard

        for parameter in module.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP knows no other layout
        for layer in (*layers_gathered(module, self.called), module):
            layer.register_forward_hook(_clone_views)
            fully_shard(layer, mesh=self.mesh, reshard_after_forward=True)
            layer.set_gradient_divide_factor(1.0)  # type: ignore[operator]  # sums, as everywhere
            layer.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # gloo knows no other
        return module

    def part_of(self, tensor: Tensor) -> Tensor:
        """This process's part of a tensor of a parameter's shape, the same in every process, laid out as its weights.

        Parts are cut by the first dimension, so the process that has the first rows of a weight has those of its mask.
        """
        from torch.distributed.tensor import Shard, distribute_tensor

        return distribute_tensor(tensor.to(self.mesh.device_type), self.mesh, [Shard(0)], src_data_rank=None)

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """The whole module with the weights of now, for the block; every process takes part."""
        before = [parameter.data for parameter in self.whole.parameters()]
        try:
            self.finish()
            yield self.whole
        finally:
            for parameter, data in zip(self.whole.parameters(), before, strict=True):
                parameter.data = data

    def finish(self) -> nn.Module:
        """Gives the whole module weights, buffers and mode of now; every process takes part."""
        pairs = zip(self.whole.parameters(), self.module.parameters(), strict=True)
        for parameter, divided in pairs:
            parameter.data = whole_tensor(divided.detach())
        with torch.no_grad():
            for buffer, now in zip(self.whole.buffers(), self.module.buffers(), strict=True):
                buffer.copy_(now)
        for layer, divided_layer in zip(self.whole.modules(), self.module.modules(), strict=True):
            layer.training = divided_layer.training
        return self.whole


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor whose parts the processes have, whole; every process takes part. Others as they are."""
    return tensor.full_tensor() if is_divided(tensor) else tensor  # type: ignore[attr-defined]


def gather_tree(tree: Any, *, keep: bool) -> Any:
    """A tree of dicts and lists with whole tensors on the CPU in the place of divided ones, one after the other.

    Args:
        tree: such as a state of optimisers; the same keys in every process, all of which take part.
        keep: whether this process wants them; else None stands there.
    """
    if isinstance(tree, dict):
        return {key: gather_tree(value, keep=keep) for key, value in tree.items()}
    if isinstance(tree, list):
        return [gather_tree(value, keep=keep) for value in tree]
    if not is_divided(tree):
        return tree
    whole = whole_tensor(tree.detach())
    return whole.cpu() if keep else None


def _called_layers(module: nn.Module, losses: Callable[[nn.Module], Tensor]) -> tuple[set[str], Tensor]:
    """Names of the layers that can be gathered on their own, and the losses.

    That are those that are called as modules: others' weights are looked at from outside, as those of the projections
    of torch's attention are. None of which a layer within is called while it is not: DiT asks its first block for an
    embedding before it calls the block. And none that returns a view, as a linear layer on rows of rows does: of its
    own weights it would show what is freed, and where a view is written into, FSDP is not called back in the backward
    pass.
    """
    called: set[str] = set()
    unfit: set[str] = set()
    active: list[str] = []

    def enter(name: str, layer: nn.Module, given: Any) -> None:
        steps = name.split(".")
        around = {".".join(steps[:count]) for count in range(1, len(steps))}
        unfit.update(around.difference(active))
        active.append(name)

    def leave(name: str, layer: nn.Module, given: Any, output: Any) -> None:
        active.remove(name)
        called.add(name)
        if any(map(_is_view, torch.utils._pytree.tree_leaves(output))):
            unfit.add(name)

    hooks = []
    for name, layer in module.named_modules():
        hooks.append(layer.register_forward_pre_hook(partial(enter, name)))
        hooks.append(layer.register_forward_hook(partial(leave, name)))
    try:
        with torch.enable_grad():  # some layers, attention among them, go other ways with gradients and without
            _in_evaluation(module, losses)
        with torch.no_grad():
            expected = _in_evaluation(module, losses)
    finally:
        for hook in hooks:
            hook.remove()
    if "" not in called:
        raise ModelError(
            "fsdp gathers weights when the model is called, and the task never calls it, only parts of it. Leave fsdp "
            "out."
        )
    return called - unfit, expected


def _is_view(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value._is_view()


def _clone_views(module: nn.Module, given: Any, output: Any) -> Any:
    """A forward hook: what a module returns, in memory of its own, see `_called_layers`."""
    return torch.utils._pytree.tree_map(lambda value: value.clone() if _is_view(value) else value, output)


def _in_evaluation(module: nn.Module, losses: Callable[[nn.Module], Tensor]) -> Tensor:
    """Losses in evaluation mode; the module is left as it was."""
    with preserve_state(module):
        return losses(module.eval())


_LOOKED_AT = "fsdp cannot divide this model, which looks at the weights of a layer from outside the layer"
_REMEDY = "Let it call the layer, or leave fsdp out."


def layers_gathered(module: nn.Module, called: Collection[str]) -> list[nn.Module]:
    """The layers that are gathered on their own, inner ones first: the smallest with enough weights of their own.

    Args:
        module: its root is gathered too, with what no layer holds.
        called: the names that can be chosen.
    """
    held = _occurrences(module)
    least = sum(parameter.numel() for parameter in module.parameters()) / LEAST
    chosen: list[nn.Module] = []
    seen: set[int] = set()

    def left(name: str, layer: nn.Module) -> int:
        """Weights below a layer that no chosen layer holds; chooses it where they are enough."""
        if id(layer) in seen:
            return 0
        seen.add(id(layer))
        own = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        own += sum(left(f"{name}.{child}" if name else child, each) for child, each in layer.named_children())
        tied = any(count < held[key] for key, count in _occurrences(layer).items())
        if not name or name not in called or own < least or tied:
            return own
        chosen.append(layer)
        return 0

    left("", module)
    return chosen


def _occurrences(module: nn.Module) -> Counter[int]:
    """Id of a parameter → how many layers hold it."""
    return Counter(id(p) for layer in module.modules() for p in layer._parameters.values() if p is not None)


def _check_divisible(module: nn.Module) -> None:
    """Weights must be plain tensors of at least one dimension, those that are trained of one type."""
    if has_adapters(module):
        raise SettingError("fsdp divides the weights that are trained, and adapters are small: leave one of them out.")
    named = dict(module.named_parameters())
    strange = next((name for name, p in named.items() if type(p) is not nn.Parameter), None)
    if strange is not None or not can_move(module):
        raise ModelError(
            f"fsdp cannot divide {strange or 'the model'}, which is quantised, offloaded or of a type of its own. Load "
            "the model with plain weights, or leave fsdp out."
        )
    scalar = next((name for name, p in named.items() if p.ndim == 0), None)
    if scalar is not None:
        raise ModelError(
            f"fsdp cannot divide {scalar!r}, a single number. Give it the shape [1] in the model, or leave fsdp out."
        )
    types = sorted({str(p.dtype) for p in named.values() if p.requires_grad})
    if len(types) > 1:
        raise ModelError(
            f"fsdp cannot divide weights of several types ({', '.join(types)}) that are trained together. Bring the "
            "model to one, or leave fsdp out."
        )
