"""Names of weights: what training scripts put before them, and what other code calls the same networks' layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from untrain.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_COMPILED = "_orig_mod."  # what torch.compile puts into names
_PARALLEL = "module."  # what DataParallel and DistributedDataParallel put before names
_COUNTER = "n_averaged"  # what torch.optim.swa_utils.AveragedModel keeps beside the weights

_ALIASES: dict[str, tuple[tuple[str, str], ...]] = {
    "the ResNets of pytorch-cifar": ((r"\bshortcut\.", "downsample."), (r"(?<![^.])linear\.", "fc.")),
}
"""Code bases whose networks differ from ours in names alone: (theirs, ours), as patterns."""
_KNOWN = {
    "temb_cemb_proj": "They are of the conditional DDPM of Unlearn-Saliency and SFR-on, which joins time and class in "
    "every block (38.6 million weights for CIFAR-10). No network here is built so: wrap the authors' own module in "
    "Python, for untrain.unlearn.",
}
"""Part of a name → whose weights these are, for those that no model here fits."""


def plain_name(name: str) -> str:
    """The name without what torch.compile puts into it."""
    return name.replace(_COMPILED, "")


def without_wrapping(state: Mapping[str, T]) -> dict[str, T]:
    """A state under the names of the module that was compiled or run in parallel."""
    found = {plain_name(name): tensor for name, tensor in state.items()}
    while found and all(name.startswith(_PARALLEL) for name in found):
        found = {name.removeprefix(_PARALLEL): tensor for name, tensor in found.items()}
    return found


def fit_names(state: Mapping[str, Tensor], own: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """A state under the names of a module, where what stands before them, or their spelling, is all that differs.

    Args:
        state: as the file has it.
        own: the module's names.

    Returns:
        The state, as it was where nothing makes it fit; and what was changed, as sentences.

    Raises:
        CheckpointError: if several parts of the file fit.
    """
    wanted, plain = set(own), {plain_name(name): tensor for name, tensor in state.items()}
    if set(plain) == wanted:
        return plain, []
    longer = {_PARALLEL + name: tensor for name, tensor in plain.items()}
    if set(longer) == wanted:
        return longer, []
    found = _inner(plain, wanted)
    if found is not None:
        return found
    for whose, renames in _ALIASES.items():
        renamed = {_renamed(name, renames): tensor for name, tensor in plain.items()}
        fitted = (renamed, []) if set(renamed) == wanted else _inner(renamed, wanted)
        if fitted is not None and len(renamed) == len(plain):
            return fitted[0], [*fitted[1], f"weights have the names of {whose}"]
    return plain, []


def _renamed(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for theirs, ours in renames:
        name = re.sub(theirs, ours, name)
    return name


def _inner(state: dict[str, Tensor], wanted: set[str]) -> tuple[dict[str, Tensor], list[str]] | None:
    """The part of a state that is the whole module under a prefix; None where there is none."""
    first = min(wanted, key=len, default="")
    starts = {name.removesuffix(first) for name in state if name.endswith(f".{first}")}
    whole = sorted(start for start in starts if all(start + name in state for name in wanted))
    if not whole:
        return None
    if len(whole) > 1:
        raise CheckpointError(
            f"it holds the model {len(whole)} times, under {' and '.join(whole)}. Put the one that is meant into a "
            "file of its own."
        )
    start = whole[0]
    rest = [name for name in state if not name.startswith(start) and name != _COUNTER]
    inside = [name for name in state if name.startswith(start) and name.removeprefix(start) not in wanted]
    if inside:
        return None
    notes = [f"names in the file begin with {start}"]
    notes += [f"entries of the file beside the model were left out: {name_some(rest)}"] if rest else []
    return {name: state[start + name] for name in wanted}, notes


def name_some(names: Iterable[str]) -> str:
    """How many there are, and at most three of them."""
    listed = list(names)
    shown = ", ".join(listed[:3])
    return shown if len(listed) <= 3 else f"{len(listed)}, such as {shown}"


def recognise(names: Iterable[str]) -> str:
    """Says whose weights these are, where they are known and no model here has them; empty elsewhere."""
    listed = list(names)
    return next((said for part, said in _KNOWN.items() if any(part in name for name in listed)), "")
