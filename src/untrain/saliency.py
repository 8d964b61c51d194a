"""Which weights matter to the forget set: a mask from two Fisher diagonals, its density, its file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge
from safetensors import SafetensorError, safe_open

from untrain.errors import DataError, SettingError, StaleFile
from untrain.io import write_bytes
from untrain.lazy import torch
from untrain.sealed import NOTES, read_notes, sealed_notes
from untrain.settings import check_arguments
from untrain.types import Params

if TYPE_CHECKING:
    from torch import Tensor

_KIND = "saliency mask"


@check_arguments
def saliency_mask(
    forget_fisher: Mapping[str, torch.Tensor],
    retain_fisher: Mapping[str, torch.Tensor],
    *,
    gamma: Annotated[float, Ge(0)] = 1.0,
    eps: Annotated[float, Ge(0)] = 0.0,
) -> Params:
    """The salient weights: those with F_f + ε ≥ γ (F_r + ε) and F_f + ε > 0.

    Args:
        forget_fisher: F_f, Fisher diagonal on the forget set, by parameter name.
        retain_fisher: F_r on the retain set; the same names and shapes.
        gamma: γ ≥ 0; the larger, the fewer weights are kept.
        eps: ε ≥ 0, in units of the Fisher diagonal; 0 leaves out weights with no gradient at all.

    Returns:
        Parameter name → bool tensor of its shape, true where the weight may be moved.

    Raises:
        SettingError: if γ or ε is negative or not finite.
        DataError: if names or shapes differ, or values are negative or not finite.

    Source: Huang et al. 2024, eq. for the saliency matrix; ε as in their code, which has 1e-15.
    """
    _check_alike(forget_fisher, retain_fisher)
    return mask_above(forget_fisher, retain_fisher, gamma, eps)


def mask_above(
    forget_fisher: Mapping[str, Tensor], retain_fisher: Mapping[str, Tensor], gamma: float, eps: float
) -> Params:
    """The mask of `saliency_mask`, of Fisher diagonals that were computed here and need no look."""
    mask = {}
    for name, forget in forget_fisher.items():
        above = forget + eps
        mask[name] = (above >= gamma * (retain_fisher[name].to(forget.device) + eps)) & (above > 0)
    return mask


def _check_alike(forget: Mapping[str, Tensor], retain: Mapping[str, Tensor]) -> None:
    remedy = "Compute both with the same model."
    if alone := sorted(forget.keys() ^ retain.keys()):
        raise DataError(f"only one of the two Fisher diagonals has {', '.join(map(repr, alone[:5]))}. {remedy}")
    for name in forget:
        for fisher in (forget[name], retain[name]):
            if fisher.is_complex() or fisher.layout != torch.strided or fisher.is_meta:
                raise DataError(f"the Fisher diagonal of {name!r} must be a plain tensor of real numbers. {remedy}")
        if forget[name].shape != retain[name].shape:
            shapes = f"{tuple(forget[name].shape)} on the forget and {tuple(retain[name].shape)} on the retain set"
            raise DataError(f"the Fisher diagonal of {name!r} has shape {shapes}. {remedy}")
        for kind, fisher in (("forget", forget[name]), ("retain", retain[name])):
            if not bool((fisher.isfinite() & (fisher >= 0)).all()):
                raise DataError(
                    f"the {kind} set's Fisher diagonal of {name!r} holds values that are negative or not finite. "
                    "Compute it anew from finite weights and data."
                )


def largest_mask(values: Mapping[str, Tensor], fraction: float) -> Params:
    """The share of all weights with the largest |value|; among equals, those that come first.

    Args:
        values: parameter name → tensor of its shape, such as a gradient.
        fraction: in (0, 1].

    Returns:
        Parameter name → bool tensor of its shape; round(fraction · weights) are true over all tensors, at least one.

    Raises:
        SettingError: if the fraction is out of range.
        DataError: if a value is not finite.

    Source: Fan et al. 2024 (there of the mean forget gradient).
    """
    if not 0 < fraction <= 1:
        raise SettingError(f"fraction must be in (0, 1], not {fraction!r}.")
    plain = {name: value.detach() for name, value in values.items()}
    if not all(bool(value.isfinite().all()) for value in plain.values()):
        raise DataError("the values that a mask is to be made of are not finite. Check the model's weights.")
    keep = max(1, round(fraction * sum(value.numel() for value in plain.values())))
    threshold = _nth_largest(list(plain.values()), keep)
    mask = {name: (value.abs().double() > threshold).contiguous() for name, value in plain.items()}
    left = keep - sum(int(chosen.count_nonzero()) for chosen in mask.values())
    for name, chosen in mask.items():
        equal = (plain[name].abs().double() == threshold).flatten().nonzero().squeeze(1)[:left]
        chosen.view(-1)[equal] = True
        left -= len(equal)
    return mask


def _nth_largest(values: Sequence[Tensor], n: int) -> float:
    """The n-th largest |value| of all, n ≥ 1; values are finite.

    By bisection over the bit patterns of floats, which are ordered as the floats are: sorting would need several copies
    of all weights at once.
    """
    wide = any(value.dtype == torch.float64 for value in values)
    bits, floats = (torch.int64, torch.float64) if wide else (torch.int32, torch.float32)
    low, high = 0, int(torch.tensor(math.inf, dtype=floats).view(bits))  # at least n are ≥ the one, fewer the other
    while high - low > 1:
        middle = (low + high) // 2
        bound = float(torch.tensor(middle, dtype=bits).view(floats))
        counts = [(value.to(floats).abs() >= bound).count_nonzero() for value in values]
        if int(torch.stack(counts).sum()) >= n:
            low = middle
        else:
            high = middle
    return float(torch.tensor(low, dtype=bits).view(floats))


def density(mask: Mapping[str, Tensor]) -> tuple[float, dict[str, float]]:
    """The share of weights that a mask keeps, 0 … 1: overall and by parameter; 0 where there is no weight."""
    kept = {name: int(tensor.count_nonzero()) for name, tensor in mask.items()}
    sizes = {name: tensor.numel() for name, tensor in mask.items()}
    overall = sum(kept.values()) / max(1, sum(sizes.values()))
    return overall, {name: kept[name] / max(1, sizes[name]) for name in mask}


def save_mask(mask: Mapping[str, Tensor], path: str | Path, *, weights_hash: str, **facts: Any) -> None:
    """Writes a mask as safetensors, whole or not at all.

    Args:
        mask: parameter name → bool tensor.
        path: the file.
        weights_hash: `io.hash_tensors` of the weights that the mask was made for.
        facts: whatever else should be known of it (γ, data hashes, …), as JSON values.

    Raises:
        FolderError: if the file cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().to("cpu", torch.bool).contiguous().clone() for name, tensor in mask.items()}
    about = {**facts, "kind": _KIND, "weights_hash": weights_hash}
    write_bytes(path, save(tensors, metadata=sealed_notes(about, tensors)))


def load_mask(path: str | Path, *, weights_hash: str) -> Params:
    """Reads a mask that was made for the weights with this hash; the tensors are on the CPU.

    Raises:
        DataError: if the file cannot be read or is no mask.
        StaleFile: if it was made for other weights.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about = read_notes(notes, tensors) if NOTES in notes else {}
    except (OSError, SafetensorError, ValueError, MemoryError) as error:
        raise DataError(f"the mask {path} cannot be read: {error}. Check the path, or make the mask again.") from error
    if about.get("kind") != _KIND:
        raise DataError(f"{path} is not a saliency mask. Give a file that save_mask() wrote.")
    if about.get("weights_hash") != weights_hash:
        raise StaleFile(
            f"the mask {path} was made for weights with hash {str(about.get('weights_hash'))[:12]}…, but the model's "
            f"have {weights_hash[:12]}…. Make the mask again from this model."
        )
    return tensors
