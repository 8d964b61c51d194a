"""What of a model is trained: all of it, the attention to texts, the rest, or what patterns of names match."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from untrain.errors import SettingError, UnknownName, unknown
from untrain.lazy import nn

PARTS = ("full", "xattn", "noxattn", "selfattn", "notime", "xlayer", "selflayer")
"""Parts of a UNet or transformer by the names of Gandikota et al. 2023: all of it; cross-attention alone; all but
cross-attention, the embedding of time and the output; self-attention alone; all but the embedding of time and the
output; and two layers each of Stable Diffusion's cross- and self-attention. Where image and text are attended to at
once, as in Stable Diffusion 3 and FLUX, what is of the text counts as cross-attention."""

_LAYERS = {
    "xlayer": ("up_blocks.2.attentions.0.", "up_blocks.2.attentions.2."),
    "selflayer": ("down_blocks.1.attentions.0.", "down_blocks.2.attentions.0."),
}
"""Those layers; in the layout that the names were made for, output_blocks 6 and 8, and input_blocks 4 and 7."""

_OUTER = (
    "time_embedding.",
    "conv_norm_out.",
    "conv_out.",
    "time_text_embed.",
    "time_embed.",
    "adaln_single.",
    "norm_out.",
    "proj_out.",
    "scale_shift_table",
)
"""The embedding of time and the output, of UNets and of transformers; in the layout that the names were made for,
`time_embed` and `out`."""

_OF_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k")
"""What of a joint attention is of the text."""
_CONTEXT = "context_embedder."
"""What brings texts to the width of a transformer with joint attention."""
_SINGLE = ("single_transformer_blocks.", ("to_k", "to_v"))
"""FLUX's later blocks, which see image and text as one sequence; and what there is taken of both."""


def train_parts(module: nn.Module, parts: str | Sequence[str] | None) -> tuple[str, ...]:
    """Sets which parameters are trained; Fisher, mask and every step then cover exactly these.

    Args:
        module: a UNet or transformer of diffusers; of other modules only "full" and patterns.
        parts: one of `PARTS`; or patterns of parameter names with * and ?, each of which must match; None: those
            that require a gradient already, as adapters' do, are left to.

    Returns:
        The names of the trained parameters, in the module's order.

    Raises:
        UnknownName: a name is neither a part nor a pattern.
        SettingError: a pattern matches nothing, or nothing is left.
    """
    names = [name for name, p in module.named_parameters() if p.is_floating_point()]
    if parts is None:
        chosen = {name for name, p in module.named_parameters() if p.requires_grad}
    elif isinstance(parts, str) and parts in PARTS:
        chosen = _part(module, parts, names)
    else:
        chosen = _matching([parts] if isinstance(parts, str) else parts, names)
    if not chosen:
        raise SettingError(
            f"{type(module).__name__} has no parameter to train under parts={parts!r}: choose one of "
            f"{', '.join(PARTS)}, or patterns such as '*.attn2.*'."
        )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in chosen)
    return tuple(name for name in names if name in chosen)


def _part(module: nn.Module, part: str, names: Sequence[str]) -> set[str]:
    if part == "full":
        return set(names)
    cross, itself = (_attention(module, names, crosses) for crosses in (True, False))
    if part in ("xattn", "selfattn"):
        return cross if part == "xattn" else itself
    if part in _LAYERS:
        return {name for name in (cross if part == "xlayer" else itself) if name.startswith(_LAYERS[part])}
    inner = {name for name in names if not name.startswith(_OUTER)}
    return inner - cross if part == "noxattn" else inner


def _attention(module: nn.Module, names: Sequence[str], crosses: bool) -> set[str]:
    """Parameters of attention layers that look at the text, or at the image itself, whatever these are called."""
    layers = dict(module.named_modules())
    own = tuple(f"{name}." for name, layer in layers.items() if getattr(layer, "is_cross_attention", None) is crosses)
    joint = [name for name, layer in layers.items() if getattr(layer, "add_k_proj", None) is not None]
    single = [name for name, layer in layers.items() if name.startswith(_SINGLE[0]) and hasattr(layer, "to_k")]
    if not joint:
        return {name for name in names if own and name.startswith(own)}
    of_text = [f"{name}.{leaf}." for name in joint for leaf in _OF_TEXT] + [_CONTEXT]
    of_text += [f"{name}.{leaf}." for name in single for leaf in _SINGLE[1]]
    cross = {name for name in names if name.startswith(tuple(of_text))}
    if crosses:
        return cross
    whole = tuple(f"{name}." for name in (*joint, *single))
    return {name for name in names if name.startswith((*own, *whole))} - cross


def _matching(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found and not set(pattern) & set("*?[."):
            raise UnknownName(unknown("part", pattern, PARTS))
        if not found:
            first = f"the first of {len(names)} is {names[0]!r}" if names else "there is none to train"
            raise SettingError(f"no parameter is called {pattern!r}; {first}.")
        chosen.update(found)
    return chosen


@contextmanager
def trained(module: nn.Module, parts: str | Sequence[str] | None) -> Iterator[tuple[str, ...]]:
    """Inside the block these parts are trained; afterwards every parameter requires a gradient as it did before."""
    before = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    kept = tuple(name for name, requires in before.items() if requires)
    try:
        yield kept if parts is None else train_parts(module, parts)
    finally:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(before[name])
