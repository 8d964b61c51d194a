"""Low-rank adapters (LoRA) trained in the place of weights: y = W x + s B A x, with W frozen.

Hu et al.: *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022. `attach` puts them into a module, every
method then trains them as it would train weights, and `Attached.merge` takes them out again: the module has its own
layers and names as before, with W + s B A in the place of W.
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from untrain.engine import generator_of
from untrain.errors import ModelError, SettingError, UnknownName, unknown
from untrain.lazy import nn, torch
from untrain.models.copies import copy_module
from untrain.models.kinds import plain_module
from untrain.models.lora import LoRA, add_factors_, base_hash, can_carry, is_transposed, padded, shaped
from untrain.models.parts import PARTS, part_names
from untrain.models.precision import is_narrow
from untrain.models.saving import has_adapters, tuners
from untrain.settings import check_arguments

if TYPE_CHECKING:
    from torch import Tensor

NAME = "untrain"
"""What peft calls these adapters while they are trained."""
_TYPES = {"bf16": "bfloat16", "fp16": "float16"}


@check_arguments
@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters (LoRA) that a method trains in the place of weights."""

    rank: Annotated[int, Ge(1)] = 8
    """r: each layer's change is of this rank at most."""
    targets: str | list[str] | None = None
    """Layers that have one: xattn, selfattn or another of `parts`, or names or patterns of layers, such as to_q or
    ["*.attn2.*"]; null: the attention to texts where the model has one, else every linear layer and convolution."""
    alpha: Annotated[float, Gt(0)] | None = None
    """Numerator of the scale s = alpha / rank; null: s is 1."""
    base: Literal["bf16", "fp16"] | None = None
    """Numbers that the frozen weights are kept in during training, in half the memory; adapters are in float32, and
    what they learned is added to the weights as they came. Null: as the model has them."""


@dataclass(eq=False)
class Attached:
    """Adapters within a module.

    Attributes:
        module: holds them.
        adapters: their settings.
        layers: names of the layers that have one.
        base: a hash of the weights without them, as of `base_hash`.
        trained: names of the parameters that required a gradient without them.
        kept: frozen weights as they came, of those that were narrowed.
    """

    module: nn.Module
    adapters: Adapters
    layers: Sequence[str]
    base: str
    trained: frozenset[str] = frozenset()
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer → s B and A, [out, r] and [r, in], of a convolution [out, r, 1, 1] and [r, in, kh, kw]; on the CPU."""
        found = {}
        for name in self.layers:
            layer: Any = self.module.get_submodule(name)
            up, down = (part[NAME].weight.detach() for part in (layer.lora_B, layer.lora_A))
            found[name] = (up * layer.scaling[NAME]).float().cpu(), down.float().cpu()
        return found

    def merge(self) -> LoRA:
        """Takes the adapters out and adds what they learned to the weights, in place; returns it.

        A weight of fewer bits than float32 is float32 afterwards, or the change would be rounded away.
        """
        factors = self.factors()
        for name in self.layers:
            _replace(self.module, name, getattr(self.module.get_submodule(name), "base_layer"))  # noqa: B009, untyped
        self.module.__dict__.pop("peft_config", None)
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            if name in self.kept:
                tensor.data = self.kept[name].to(tensor.device)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in self.trained)
        add_factors_(self.module, factors)
        transposed = all(is_transposed(self.module.get_submodule(name)) for name in factors)
        return LoRA(factors, self.adapters.rank, 1.0, True, (), self.base, transposed)


def attach(
    module: nn.Module, adapters: Adapters, seed: int, *, left_out: Collection[str] = (), shared: bool = False
) -> Attached:
    """Puts adapters into a module, in place, and freezes all else; the module does what it did before.

    A is drawn uniformly from ± 1/√(inputs), as peft draws it, from the seed; B is 0.

    Args:
        module: without adapters.
        adapters: their settings.
        seed: of A.
        left_out: names of layers that get none, such as those of which the module holds several copies.
        shared: whether the weights lie in the memory of another module's, so that none is freed by keeping them on the
            CPU where they are narrowed.

    Raises:
        ModelError: as of `check_adapters`. SettingError: likewise.
    """
    from peft import LoraConfig, inject_adapter_in_model

    module = plain_module(module)
    layers = check_adapters(module, adapters, left_out)
    digest = base_hash(module)
    trained = frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad)
    kept = {} if adapters.base is None else _narrow_(module, getattr(torch, _TYPES[adapters.base]), shared)
    transposed = {is_transposed(layer) for layer in layers.values()}
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.rank if adapters.alpha is None else adapters.alpha,  # type: ignore[arg-type]
        target_modules="|".join(map(re.escape, layers)),
        fan_in_fan_out=transposed == {True},
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # said of linear layers beside those of GPT-2; it does what is right for each
        warnings.filterwarnings("ignore", ".*fan_in_fan_out.*")
        inject_adapter_in_model(config, module, NAME)
    module.requires_grad_(False)
    generator = generator_of(seed, "adapters")
    for name in layers:
        layer: Any = module.get_submodule(name)
        for part in (layer.lora_A[NAME], layer.lora_B[NAME]):
            part.to(torch.float32 if is_narrow(part.weight) else part.weight.dtype).requires_grad_(True)
        down = layer.lora_A[NAME].weight
        drawn = torch.rand(down.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            down.copy_((2 * drawn - 1) / down[0].numel() ** 0.5)
            layer.lora_B[NAME].weight.zero_()
    return Attached(module, adapters, [*layers], digest, trained, kept)


def check_adapters(module: nn.Module, adapters: Adapters, left_out: Collection[str] = ()) -> dict[str, nn.Module]:
    """Looks at a module before adapters are put into it; returns the layers that have one, by name.

    Raises:
        ModelError: if the module has adapters, or a layer is pruned or not used. SettingError: if nothing is matched,
            or the rank is above a layer's.
    """
    if has_adapters(module):
        raise ModelError(
            "the model has adapters already, and these are trained: leave adapters out, or take them into its weights "
            "before (merge_and_unload of peft; fuse_lora and unload_lora_weights of diffusers)."
        )
    fused = next((n for n, layer in module.named_modules() if getattr(layer, "fused_projections", False)), None)
    if fused is not None:
        raise ModelError(
            f"{fused} has fused projections, beside which its to_q, to_k and to_v are not used any more: adapters of "
            "these would do nothing. Take the fusion back before: pipeline.unfuse_qkv_projections()."
        )
    layers = _target_layers(module, adapters.targets, left_out)
    for name, layer in layers.items():
        matrix = layer.weight.detach().flatten(1)  # type: ignore[operator]
        if adapters.rank > min(matrix.shape):
            raise SettingError(
                f"adapters.rank is {adapters.rank}, and {name} is a matrix of {matrix.shape[0]} × {matrix.shape[1]}, "
                f"whose rank is {min(matrix.shape)} at most: give no more than that, or other adapters.targets."
            )
    return layers


def count_parameters(module: nn.Module, adapters: Adapters) -> tuple[int, int]:
    """How many parameters adapters of a module have, and on how many layers."""
    layers = check_adapters(module, adapters).values()
    shapes = [layer.weight.flatten(1).shape for layer in layers]  # type: ignore[operator]
    return sum(adapters.rank * (rows + columns) for rows, columns in shapes), len(shapes)


def _target_layers(
    module: nn.Module, targets: str | Sequence[str] | None, left_out: Collection[str]
) -> dict[str, nn.Module]:
    """The layers that are named, of those that can have an adapter."""
    layers = {name: layer for name, layer in _plain_layers(module).items() if name and name not in left_out}
    if targets is None:
        crossing = {name.rpartition(".")[0] for name in part_names(module, "xattn")}
        chosen = {*layers} & crossing or {*layers}
    elif isinstance(targets, str) and targets in PARTS:
        chosen = {*layers} & {name.rpartition(".")[0] for name in part_names(module, targets)}
    else:
        chosen = set()
        for pattern in [targets] if isinstance(targets, str) else targets:
            chosen |= _matched(pattern, [*layers])
    if not chosen:
        raise SettingError(
            f"adapters.targets={targets!r} matches no linear layer or convolution of this {type(module).__name__} that "
            f"can have an adapter{_some(layers)}."
        )
    for name in sorted(chosen):
        if "weight" not in layers[name]._parameters:
            raise ModelError(
                f"{name} is pruned, or its weight is made of others in another way, and an adapter cannot be added to "
                "that: make the pruning final before (torch.nn.utils.prune.remove), or leave adapters out."
            )
    return {name: layer for name, layer in layers.items() if name in chosen}


def _plain_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Layers that can have an adapter: of their kinds, called as layers, and with a weight that no other layer has."""
    owners: dict[int, int] = {}
    inner: set[int] = set()
    for layer in module.modules():
        for parameter in layer._parameters.values():
            if parameter is not None:
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        if isinstance(layer, nn.MultiheadAttention):  # which reads the weights of its layers and does not call them
            inner |= {id(each) for each in layer.modules()}
    return {
        name: layer
        for name, layer in module.named_modules()
        if can_carry(layer) and id(layer) not in inner and owners.get(id(layer._parameters.get("weight")), 1) == 1
    }


def _matched(pattern: str, names: Sequence[str]) -> set[str]:
    """Names, last parts of names, or patterns of layers or of their weights."""
    if set(pattern) & set("*?["):
        return {
            name
            for name in names
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(f"{name}.weight", pattern)
        }
    found = {name for name in names if name == pattern or name.endswith(f".{pattern}")}
    if not found and pattern.isidentifier():
        last = {name.rpartition(".")[2] for name in names}
        raise UnknownName(unknown("adapters.targets", pattern, sorted({*PARTS, *last})))
    return found


def _some(layers: Mapping[str, Any]) -> str:
    names = list(layers)
    return f"; there are {len(names)} of these, the first is {names[0]!r}" if names else "; there is none of these"


def _narrow_(module: nn.Module, kind: torch.dtype, shared: bool) -> dict[str, Tensor]:
    """Gives what is of more bits other data, rounded to a type; returns those it had, on the CPU unless shared."""
    kept = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and tensor.element_size() > kind.itemsize:
            kept[name] = tensor.detach() if shared else tensor.detach().cpu()
            tensor.data = tensor.data.to(kind)
    return kept


def lora_of(module: nn.Module) -> LoRA:
    """What adapters that a module came with do to its weights; several of one layer as one.

    Raises:
        ModelError: if some of them are no B A added to a weight, which no LoRA can hold.
    """
    root = _root(module)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in root.named_modules():
        if not hasattr(layer, "base_layer"):
            continue
        parts = [*_factors_of(layer)]
        if len(parts) < len(layer.active_adapters):
            raise ModelError(
                f"the adapter of {name} is no B A that is added to its weight, so no LoRA holds it: save it by the "
                "library that it is of (save_pretrained of peft)."
            )
        scales = [layer.scaling[each] for each in layer.active_adapters]
        ups = [up.detach().flatten(1) * scale for (_, _, up), scale in zip(parts, scales, strict=True)]
        downs = [down.detach().flatten(1) for _, down, _ in parts]
        found[name] = torch.cat(ups, 1).float().cpu(), torch.cat(downs).float().cpu()
    if not found:
        raise ModelError("the model has no adapters.")
    bare = without_adapters(root)
    rank = max(up.shape[1] for up, _ in found.values())
    factors = {name: shaped(bare.get_submodule(name), *padded(*pair, rank)) for name, pair in found.items()}
    trained = {name for name, p in root.named_parameters() if p.requires_grad}
    lost = tuple(sorted(name for name in trained if ".lora_A." not in name and ".lora_B." not in name))
    transposed = all(is_transposed(bare.get_submodule(name)) for name in factors)
    return LoRA(factors, rank, 1.0, not lost, lost, base_hash(bare), transposed)


def merged_copy(module: nn.Module) -> nn.Module:
    """A copy whose adapters are in its weights; the module itself where it has none.

    Raises:
        ModelError: as of `lora_of`.
    """
    if not has_adapters(module):
        return module
    factors = lora_of(module).factors
    made = copy_module(without_adapters(module))
    add_factors_(made, factors)
    return made


def without_adapters(module: nn.Module) -> nn.Module:
    """A copy that has the same weights, shared, and no adapters."""
    root = _root(module)
    made = copy_module(root, root.parameters())
    for name, layer in [*made.named_modules()]:
        if hasattr(layer, "base_layer"):
            _replace(made, name, layer.base_layer)
    made.__dict__.pop("peft_config", None)
    return made


def count_base(module: nn.Module) -> int:
    """How many parameters a module has below its adapters."""
    root = _root(module)
    layers = [layer for layer in root.modules() if hasattr(layer, "base_layer")]
    added = {p for layer in layers for name, p in layer.named_parameters() if not name.startswith("base_layer.")}
    return sum(p.numel() for p in root.parameters() if p not in added)


def _root(module: nn.Module) -> nn.Module:
    """The module itself, without what peft and torch.compile put around it."""
    plain: Any = plain_module(module)
    return plain.get_base_model() if hasattr(plain, "get_base_model") else plain


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, layer)


# ── saliency ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Space:
    """Where saliency is measured: of adapters, at the weights that they are added to.

    Attributes:
        trained: names of what is trained, in the module's order.
        pairs: of each adapter the names of the weight, of A and of B, and whether the weight is [in, out].
        shapes: name of a parameter → its shape.
    """

    trained: Sequence[str]
    pairs: Sequence[tuple[str, str, str, bool]]
    shapes: Mapping[str, torch.Size]

    def fold_magnitudes(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `fold`, of gradients: of adapters the root mean square over what each of their entries stands for."""
        if not self.pairs:
            return dict(gradients)
        return {name: value.sqrt() for name, value in self.fold({n: g.square() for n, g in gradients.items()}).items()}

    def fold(self, squares: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Squares at the weights, brought to the trained parameters; those of what has no adapter stay.

        With B of independent entries of variance σ² and mean 0, E (∂ℓ/∂A_rj)² = s² σ² Σ_i (∂ℓ/∂W_ij)², and likewise of
        B with sums over j: A is judged by the inputs of W, B by its outputs, whatever the other factor happens to be.
        At B = 0, where training begins, the gradient of A itself is 0, and nothing of A would ever be salient. Means
        take the place of sums, so that both halves are in the units of one weight.

        Args:
            squares: name of a parameter that was open → squares of its shape, ≥ 0, such as a Fisher diagonal.

        Returns:
            Name of a trained parameter → tensor of its shape.
        """
        found = dict(squares)
        for name, down, up, transposed in self.pairs:
            value = squares[name].T if transposed else squares[name]
            inputs, outputs = value.mean(0), value.flatten(1).mean(1)
            found[down] = inputs.expand(self.shapes[down]).contiguous()
            found[up] = outputs.view(-1, *[1] * (len(self.shapes[up]) - 1)).expand(self.shapes[up]).contiguous()
        return {name: found[name] for name in self.trained}


@contextmanager
def saliency_space(module: nn.Module) -> Iterator[Space]:
    """Opens, for as long as the block runs, the weights below adapters in the place of these.

    Within it, gradients and Fisher diagonals are of the weights; `Space.fold` brings their squares to what is trained.
    A module without adapters is as it was, and `fold` gives what it is given. Adapters of kinds that are not B A added
    to a linear layer or convolution (DoRA, embeddings) are left as they are.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    pairs: list[tuple[str, str, str, bool]] = []
    turned: dict[str, nn.Parameter] = {}
    for layer in tuners(module):
        for weight, down, up in _factors_of(layer):
            if down.requires_grad and up.requires_grad and names[id(weight)] not in trained:
                keys = [names[id(parameter)] for parameter in (weight, down, up)]
                pairs.append((keys[0], keys[1], keys[2], is_transposed(layer.base_layer)))
                turned |= dict(zip(keys, (weight, down, up), strict=True))
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    try:
        for parameter in turned.values():
            parameter.requires_grad_(not parameter.requires_grad)
        yield Space(trained, pairs, shapes)
    finally:
        for parameter in turned.values():
            parameter.requires_grad_(not parameter.requires_grad)


def weights_of(module: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Parameters by name, with gradient; of a weight below adapters W + Σ s B A, what the layer computes with."""
    found: dict[str, Tensor] = {name: module.get_parameter(name) for name in names}
    called = {id(parameter): name for name, parameter in module.named_parameters() if name in found}
    for layer in tuners(module):
        for name, (weight, down, up) in zip(layer.active_adapters, _factors_of(layer), strict=False):
            if id(weight) in called:
                change = layer.scaling[name] * (up.flatten(1) @ down.flatten(1))
                change = change.T if is_transposed(layer.base_layer) else change
                found[called[id(weight)]] = found[called[id(weight)]] + change.view(weight.shape)
    return found


def _factors_of(layer: Any) -> Iterator[tuple[nn.Parameter, nn.Parameter, nn.Parameter]]:
    """W, A and B of a layer's active adapters, where its output is W x + s B A x."""
    base: Any = layer.get_base_layer()
    if not can_carry(base) or not hasattr(layer, "base_layer") or base is not layer.base_layer:
        return
    for name in layer.active_adapters:
        special = getattr(layer, "lora_variant", {}).get(name) or getattr(layer, "use_dora", {}).get(name)
        if not special and name in getattr(layer, "lora_A", ()):
            yield base.weight, layer.lora_A[name].weight, layer.lora_B[name].weight
