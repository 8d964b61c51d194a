"""What a method changed, as a LoRA: W′ − W ≈ B A for every matrix, in the files that other libraries load.

Hu et al.: *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022. The best B A of rank r is the truncated
singular value decomposition of W′ − W; where the change is of rank r or less, it is all of the change.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from untrain.errors import CheckpointError, ModelError, SettingError
from untrain.io import hash_tensors, write_text
from untrain.lazy import nn, torch
from untrain.models import checkpoints
from untrain.models.copies import copy_module
from untrain.models.kinds import plain_module
from untrain.models.precision import widen
from untrain.settings import check_arguments

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["diffusers", "kohya", "peft"]
"""Names of weights in a file: those of diffusers' `load_lora_weights`, those of kohya's trainer, which most interfaces
load, and those of peft's `PeftModel.from_pretrained`."""
FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file in a folder."""
PEFT_FILE = "adapter_model.safetensors"
"""What peft calls it."""
NOISE = 4.0
"""A singular value counts as none up to so many times what rounding W′ alone gives: ε max|W′| (√out + √in)."""
ROUNDING = 16
"""Steps of rounding, for each term of a sum, by which a library's own product of two factors may differ from ours."""
_CARRIED = ("Linear", "NonDynamicallyQuantizableLinear", "Conv2d", "Conv1D")
"""Classes of layers whose weight a LoRA carries; Conv1D is GPT-2's linear layer, whose weight is [in, out]."""
_LOADERS = {
    "UNet2DConditionModel": "StableDiffusionLoraLoaderMixin",
    "SD3Transformer2DModel": "SD3LoraLoaderMixin",
    "FluxTransformer2DModel": "FluxLoraLoaderMixin",
    "SanaTransformer2DModel": "SanaLoraLoaderMixin",
}
"""Network of a pipeline → the class of diffusers by which its pipelines load a LoRA."""


@dataclass(frozen=True, eq=False)
class LoRA:
    """A change of weights in factors.

    Attributes:
        factors: layer → (B, A), [out, r] and [r, in], of a convolution [out, r, 1, 1] and [r, in, kh, kw].
        rank: r, the same for each layer.
        kept: share of ‖W′ − W‖² over all that changed that the factors hold, in [0, 1].
        exact: whether each matrix's change is of rank r or less, up to the rounding of W′.
        lost: names of changed weights that no LoRA can carry, such as biases and normalisation.
        base: a hash of the weights that it was made for.
        transposed: whether all layers keep their weights as [in, out], which peft must be told.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    rank: int
    kept: float
    exact: bool
    lost: tuple[str, ...]
    base: str
    transposed: bool = False

    def __str__(self) -> str:
        """One line, for the person who waits."""
        how = "all of the change" if self.exact and not self.lost else f"{100 * self.kept:.2f} % of the squared change"
        text = f"LoRA of rank {self.rank} for {len(self.factors)} layers: {how}"
        if self.lost:
            text += f"; without {len(self.lost)} weights that no LoRA can carry, such as {self.lost[0]}"
        return text


@check_arguments
def extract_lora(before: nn.Module, after: nn.Module, *, rank: int = 16) -> LoRA:
    """Finds the best LoRA of what changed between two modules of one architecture.

    Args:
        before: the base.
        after: the changed module.
        rank: at most this; less where the change of every matrix is of less.

    Raises:
        SettingError: if the rank is below 1. ModelError: if nothing changed that a LoRA can carry.
    """
    if rank < 1:
        raise SettingError(f"rank must be at least 1, not {rank}.")
    before, after = plain_module(before), plain_module(after)
    old = before.state_dict()
    changed = {name: t for name, t in after.state_dict().items() if not torch.equal(t, old[name].to(t.device))}
    layers = dict(after.named_modules())
    carried = {name for name in changed if _is_carried(name, layers)}
    if not carried:
        what = (
            f"{next(iter(changed))} and the like changed, which no LoRA can carry" if changed else "no weight changed"
        )
        raise ModelError(f"there is nothing to write a LoRA of: {what}.")
    whole = sum(float((changed[n].double().cpu() - old[n].double().cpu()).square().sum()) for n in changed)
    found, ranks, kept = {}, [], 0.0
    for name in sorted(carried):
        layer = layers[name.rpartition(".")[0]]
        change, floor = _matrix(layer, changed[name], old[name])
        up, down, full = _factors(change, rank, floor)
        found[name.rpartition(".")[0]] = up, down
        ranks.append(full)
        kept += float((up @ down).square().sum())
    width = min(rank, max(ranks))
    factors = {name: shaped(layers[name], *padded(*pair, width)) for name, pair in found.items()}
    lost = tuple(sorted(set(changed) - carried))
    transposed = all(is_transposed(layers[name]) for name in factors)
    return LoRA(factors, width, min(1.0, kept / whole), max(ranks) <= rank, lost, base_hash(before), transposed)


def base_hash(module: nn.Module) -> str:
    """A hash of a module's weights, half precision brought to float32: of a base in either it is the same.

    Of a module without values, on the meta device, names, types and shapes alone.
    """
    state, half = plain_module(module).state_dict(), (torch.float16, torch.bfloat16)
    if any(tensor.is_meta for tensor in state.values()):
        return checkpoints.state_hash(module)
    return hash_tensors(state, lambda tensor: tensor.float() if tensor.dtype in half else tensor)


def form_of(module: nn.Module, part: str, *, kohya: bool = False) -> Form:
    """Whose names a LoRA of a module has: those of diffusers where its pipelines load one, else peft's.

    Args:
        module: what was changed.
        part: what a pipeline calls it; "": it is no part of one.
        kohya: whether kohya's names are asked for.

    Raises:
        SettingError: if kohya has none for it.
    """
    names = {kind.__name__ for kind in type(plain_module(module)).__mro__}
    if kohya and not part:
        raise SettingError("kohya's names are for pipelines of diffusers: leave kohya out.")
    if kohya and "UNet2DConditionModel" not in names:
        raise SettingError(
            f"kohya's names are those of a UNet's layers, and this is a {type(plain_module(module)).__name__}: leave "
            "kohya out."
        )
    if kohya:
        return "kohya"
    return "diffusers" if part and names & set(_LOADERS) else "peft"


def can_carry(layer: Any) -> bool:
    """Whether a LoRA can hold a change of a layer's weight."""
    return type(layer).__name__ in _CARRIED and getattr(layer, "groups", 1) == 1


def is_transposed(layer: Any) -> bool:
    """Whether a layer keeps its weight as [in, out]."""
    return type(layer).__name__ == "Conv1D"


def with_change(layer: Any, up: Tensor, down: Tensor, weight: Tensor) -> Tensor:
    """W + B A, in the shape, the type and on the device of W.

    The sum over the rank is taken term by term in float64, each operation by itself: it is the same to the last bit on
    every machine, so that weights can be kept as what they began from and the two factors.

    Args:
        layer: whose weight it is.
        up: B, [out, r] or [out, r, 1, 1].
        down: A, [r, in] or [r, in, kh, kw].
        weight: W, as the layer keeps it.
    """
    rows, columns = up.detach().cpu().double().flatten(1), down.detach().cpu().double().flatten(1)
    change = torch.zeros(len(rows), columns.shape[1], dtype=torch.float64)
    for k in range(len(columns)):
        change += rows[:, k, None] * columns[k]
    change = change.T if is_transposed(layer) else change
    return (weight.detach().cpu().double() + change.reshape(weight.shape)).to(weight)


def add_factors_(module: nn.Module, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Adds B A to the weight of every layer that is named, in place; one of fewer bits than float32 becomes float32."""
    with torch.no_grad():
        for name, (up, down) in factors.items():
            layer: Any = module.get_submodule(name)
            layer.weight.data = with_change(layer, up, down, widen(layer.weight.data))


def _is_carried(name: str, layers: Mapping[str, nn.Module]) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf == "weight" and can_carry(layers.get(owner))


def _matrix(layer: nn.Module, after: Tensor, before: Tensor) -> tuple[Tensor, float]:
    """W′ − W as a matrix [out, in], float64, and a bound of the singular values that rounding W′ gives."""
    change = (after.double() - before.to(after.device).double()).cpu()
    matrix = change.T if is_transposed(layer) else change.flatten(1)
    spread = sum(size**0.5 for size in matrix.shape)
    return matrix, NOISE * torch.finfo(after.dtype).eps / 2 * float(after.abs().max()) * spread


def _factors(change: Tensor, rank: int, floor: float) -> tuple[Tensor, Tensor, int]:
    """B [out, r] and A [r, in] of the truncated decomposition, both with the roots of its values; and the full rank."""
    wide = change.shape[0] <= change.shape[1]
    gram = change @ change.T if wide else change.T @ change
    squares, vectors = torch.linalg.eigh(gram)
    values = squares.flip(0).clamp_min(0).sqrt()
    full = max(1, int((values > floor).sum()))
    count = min(rank, full)
    basis, roots = vectors.flip(1)[:, :count], values[:count].clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    if wide:
        return basis * roots, (basis.T @ change) / roots[:, None], full
    return (change @ basis) / roots, roots[:, None] * basis.T, full


def padded(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors with zeros up to a rank: loaders take one rank and one scale for all layers."""
    more = rank - up.shape[1]
    return torch.nn.functional.pad(up, (0, more)).float(), torch.nn.functional.pad(down, (0, 0, 0, more)).float()


def shaped(layer: Any, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The factors as a layer's own kind has them: of a convolution [out, r, 1, 1] and [r, in, kh, kw]."""
    if type(layer).__name__ != "Conv2d":
        return up.contiguous(), down.contiguous()
    return up[:, :, None, None].contiguous(), down.reshape(len(down), *layer.weight.shape[1:]).contiguous()


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def save_lora(lora: LoRA, path: str | Path, *, form: Form = "diffusers", part: str = "unet") -> Path:
    """Writes a LoRA for a library to load, with the base's hash in its metadata; returns the file.

    Args:
        lora: as `extract_lora` gives it.
        path: a .safetensors file; or a folder, in which diffusers and peft look for a name of their own.
        form: whose names it has.
        part: of a pipeline, the name of what it changes.

    Raises:
        SettingError: if peft's form is to be one file. FolderError: if it cannot be written.
    """
    path = Path(path)
    is_file = path.suffix == ".safetensors"
    if form == "peft":
        if is_file:
            raise SettingError(
                f"peft loads a folder, with its configuration beside the weights: {path.with_suffix('')}"
            )
        return _save_for_peft(lora, path)
    target = path if is_file else path / FILE
    checkpoints.save(_named(lora, form, part), target, _facts(lora, part))
    return target


def check_loaded(lora: LoRA, base: nn.Module, path: Path, form: Form, part: str) -> None:
    """Has the library that a file is for load it, into a copy of the base, and compares every layer's change.

    The copy shares the base's weights, and nothing of the base changes.

    Args:
        lora: what was written.
        base: the module that it is for.
        path: the file, as `save_lora` returned it.
        form: whose names it has.
        part: of a pipeline, the name of what it changes.

    Raises:
        CheckpointError: if the library finds other layers in the file, or other changes.
    """
    base = plain_module(base)
    flags = {parameter: parameter.requires_grad for parameter in base.parameters()}
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about themselves
            loaded = _load_by_library(copy_module(base, base.parameters()), path, form, part)
    finally:
        for parameter, requires in flags.items():
            parameter.requires_grad_(requires)
    found = {name: layer for name, layer in loaded.named_modules() if hasattr(layer, "get_delta_weight")}
    wrong = sorted(found.keys() ^ lora.factors.keys())
    for name in found.keys() & lora.factors.keys():
        layer: Any = found[name]
        up, down = (factor.flatten(1) for factor in lora.factors[name])
        change = sum(layer.get_delta_weight(each) for each in layer.active_adapters)
        expected = (up @ down).T if is_transposed(layer.get_base_layer()) else up @ down
        room = ROUNDING * torch.finfo(change.dtype).eps * lora.rank * float(up.abs().max() * down.abs().max())
        if float((change.detach().cpu().float().reshape(expected.shape) - expected).abs().max()) > room:
            wrong.append(name)
    if wrong:
        library = "peft" if form == "peft" else "diffusers"
        raise CheckpointError(
            f"{path} is not what it should be: {library} loads something else of {wrong[0]} than was learned"
            f"{f', and of {len(wrong) - 1} more layers' if len(wrong) > 1 else ''}. Save by another form, or the whole "
            "model."
        )


def _load_by_library(module: Any, path: Path, form: Form, part: str) -> nn.Module:
    """The module with a file's adapters in it, by peft or by diffusers."""
    if form == "peft":
        from peft import PeftModel

        made: Any = PeftModel.from_pretrained(module, str(path.parent))
        return made.get_base_model()
    import diffusers.loaders

    names = {kind.__name__ for kind in type(module).__mro__}
    loader = getattr(diffusers.loaders, next(_LOADERS[name] for name in _LOADERS if name in names))
    told = logging.getLogger("diffusers")
    level = told.level
    told.setLevel(logging.ERROR)  # it warns of text encoders without a LoRA; layers are compared below
    parts = {part: module, "text_encoder": None, "text_encoder_2": None}
    loading = type("_Loading", (loader,), {"components": parts, "hf_device_map": None, **parts})()
    try:
        loading.load_lora_weights(str(path))
    finally:
        told.setLevel(level)
    return module


def write_factors(lora: LoRA, path: Path, part: str, facts: Mapping[str, Any]) -> None:
    """Writes the factors as one file with more facts in its metadata; diffusers loads it too, where it loads any."""
    checkpoints.save(_named(lora, "diffusers" if part else "peft", part), path, {**facts, **_facts(lora, part)})


def read_factors(state: Mapping[str, Tensor], facts: Mapping[str, Any], module: nn.Module) -> LoRA:
    """The LoRA that a file holds, as `checkpoints.load_state` reads it, for the layers of a module.

    Raises:
        CheckpointError: if it holds factors of layers that the module does not have.
    """
    part, left = facts["lora"]["part"], dict(state)
    factors = {}
    for name, layer in module.named_modules():
        for stem in (f"{part}.{name}", f"base_model.model.{name}", f"lora_{part}_{name.replace('.', '_')}"):
            down = left.pop(f"{stem}.lora_A.weight", left.pop(f"{stem}.lora_down.weight", None))
            up = left.pop(f"{stem}.lora_B.weight", left.pop(f"{stem}.lora_up.weight", None))
            left.pop(f"{stem}.alpha", None)
            if up is not None and down is not None and can_carry(layer):
                factors[name] = up, down
    if left:
        raise CheckpointError(
            f"it holds {len(left)} weights of layers that the model does not have: {next(iter(left))}."
        )
    known = facts["lora"]
    transposed = all(is_transposed(module.get_submodule(name)) for name in factors)
    exact = bool(known.get("exact", False))
    return LoRA(factors, known["rank"], known["kept"], exact, tuple(known["lost"]), facts["base"], transposed)


def _facts(lora: LoRA, part: str) -> dict[str, Any]:
    return {
        "lora": {"rank": lora.rank, "part": part, "kept": lora.kept, "exact": lora.exact, "lost": list(lora.lost)},
        "base": lora.base,
    }


def _named(lora: LoRA, form: Form, part: str) -> dict[str, Tensor]:
    """The file's tensors by name."""
    found: dict[str, Tensor] = {}
    for layer, (up, down) in lora.factors.items():
        if form == "kohya":
            stem = f"lora_{part}_{layer.replace('.', '_')}"
            found |= {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
            found[f"{stem}.alpha"] = torch.tensor(float(lora.rank))
        else:
            stem = f"base_model.model.{layer}" if form == "peft" else f"{part}.{layer}"
            found |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    return found


def _save_for_peft(lora: LoRA, folder: Path) -> Path:
    from peft import LoraConfig

    target = folder / PEFT_FILE
    checkpoints.save(_named(lora, "peft", ""), target, _facts(lora, ""))
    made = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank,
        target_modules=sorted(lora.factors),
        fan_in_fan_out=lora.transposed,
        inference_mode=True,
    )
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in made.to_dict().items()}
    write_text(folder / "adapter_config.json", json.dumps(plain, indent=2, default=str))
    return target


def apply_lora(module: nn.Module, path: str | Path) -> nn.Module:
    """Adds a LoRA that `save_lora` wrote to the weights of its base, in place; returns the module.

    Args:
        module: the base.
        path: the file, in any of the three forms.

    Raises:
        CheckpointError: if it was made for other weights, or is no LoRA of ours.
    """
    state, facts = checkpoints.load_state(path)
    if "lora" not in facts or "base" not in facts:
        raise CheckpointError(f"{path} does not say which weights it was made for: load it by diffusers or peft.")
    plain = plain_module(module)
    if base_hash(plain) != facts["base"]:
        raise CheckpointError(
            f"{path} was made for other weights than those of this {type(plain).__name__}: added to them, it would "
            "change something else. Take the model that it was made for."
        )
    try:
        lora = read_factors(state, facts, plain)
    except CheckpointError as error:
        raise CheckpointError(f"{path} does not fit this {type(plain).__name__}: {error}") from error
    with torch.no_grad():
        for name, (up, down) in lora.factors.items():
            layer: Any = plain.get_submodule(name)
            layer.weight.copy_(with_change(layer, up, down, layer.weight))
    return module
