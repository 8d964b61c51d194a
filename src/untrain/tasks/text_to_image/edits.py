"""What closed-form edits look at: the maps that texts go through, and which of their tokens stand for each other."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from untrain.diffusion.architectures.base import EMBEDS, MASK, POOLED, Architecture, text_key
from untrain.diffusion.text import SEGMENT, TOKENS
from untrain.errors import DataError, ModelError
from untrain.types import Batch, Tokens

Places = tuple[list[int], list[int]]
"""Places in a text, and those in another one that stand for them."""


def text_maps(kind: Architecture, network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of the linear maps that texts go through before anything else, by name, [out, D].

    Raises:
        ModelError: if there is none.
    """
    layers = dict(network.named_modules())
    if not any(name.partition(".")[0] in layers for name in kind.maps):
        return cross_attention_maps(network)
    for name in kind.maps:
        if not isinstance(layers.get(name), nn.Linear):
            raise ModelError(
                f"{name} of {type(network).__name__} is a {type(layers.get(name)).__name__}, not a linear layer: a "
                "closed-form edit cannot change it. Take another method, such as sfron."
            )
    return {f"{name}.weight": cast(nn.Parameter, layers[name].weight) for name in kind.maps}


def text_columns(kind: Architecture, network: nn.Module) -> dict[str, slice]:
    """Which entries of the vectors of `text_pairs` each of those maps sees; none where all see the same."""
    if len(kind.edits) < 2:
        return {}
    width = dict.fromkeys(kind.edits, 0)
    maps = text_maps(kind, network)
    width |= {field: maps[f"{name}.weight"].shape[1] for name, field in kind.maps.items()}
    ends = {field: sum(width[each] for each in kind.edits[: i + 1]) for i, field in enumerate(kind.edits)}
    return {f"{name}.weight": slice(ends[field] - width[field], ends[field]) for name, field in kind.maps.items()}


def cross_attention_maps(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of keys and values of cross-attention, by name, [out, D]: all that a UNet sees of embedded tokens.

    Raises:
        ModelError: if there is none, if layers are fused, or if something stands between the text encoder and them.
    """
    if getattr(unet, "encoder_hid_proj", None) is not None:
        raise ModelError(
            "the UNet projects embedded texts before its cross-attention sees them (encoder_hid_proj): a closed-form "
            "edit is of keys and values alone. Take another method, such as sfron."
        )
    found: dict[str, nn.Parameter] = {}
    for name, layer in unet.named_modules():
        if getattr(layer, "is_cross_attention", None) is not True:
            continue
        if getattr(layer, "fused_projections", False):
            raise ModelError(f"keys and values of {name} are fused: undo it by unet.unfuse_qkv_projections().")
        for leaf in ("to_k", "to_v"):
            part: Any = getattr(layer, leaf, None)
            if not isinstance(part, nn.Linear):
                raise ModelError(f"{name}.{leaf} is a {type(part).__name__}, not a linear layer: it cannot be edited.")
            found[f"{name}.{leaf}.weight"] = cast(nn.Parameter, part.weight)
    if not found:
        raise ModelError(
            f"{type(unet).__name__} has no cross-attention, whose keys and values a closed-form edit is of. Take "
            "another method, such as sfron."
        )
    return found


def text_pairs(batch: Batch, tokens: Tokens, *, keep: bool, fields: Sequence[str] = (EMBEDS,)) -> tuple[Tensor, Tensor]:
    """Embedded tokens of a batch's texts, and those of their anchors to be taken for them, [N, D] each.

    Tokens that the network is told not to count are left out. With the pooled text [B, P] as a further field, vectors
    are [N, D + P]: tokens with zeros behind them, and pooled texts, a row each, with zeros before.

    Args:
        batch: has "prompt", "anchor" [B, L, D] and their tokens [B, L]; and may have their masks [B, L].
        tokens: which; see `places_of`.
        keep: take the texts themselves for their anchors: of what is to stay as it is.
        fields: what of a text goes through maps.

    Raises:
        DataError: if the batch does not hold the tokens.
    """
    anchor = "prompt" if keep else "anchor"
    missing = [key for key in (f"prompt{TOKENS}", f"{anchor}{TOKENS}") if key not in batch]
    if missing:
        raise DataError(
            f"a closed-form edit must know which token is where, and the batches lack {missing}: give concepts and the "
            "whole pipeline, or batches of encode_prompts(...).rows(...)."
        )
    given, wanted = [], []
    for row in range(len(batch["prompt"])):
        here, there = _row_places(batch[f"prompt{TOKENS}"][row], batch[f"{anchor}{TOKENS}"][row], tokens)
        if text_key("prompt", MASK) in batch:
            counts = [batch[text_key(text, MASK)][row].bool() for text in ("prompt", anchor)]
            both = [(i, j) for i, j in zip(here, there, strict=True) if counts[0][i] and counts[1][j]]
            here, there = [i for i, _ in both], [j for _, j in both]
        given.append(batch["prompt"][row, here])
        wanted.append(batch[anchor][row, there])
    if POOLED not in fields:
        return torch.cat(given), torch.cat(wanted)
    pooled = [batch[text_key(text, POOLED)] for text in ("prompt", anchor)]
    return _side_by_side(torch.cat(given), pooled[0]), _side_by_side(torch.cat(wanted), pooled[1])


def _row_places(text: Tensor, anchor: Tensor, tokens: Tokens) -> Places:
    """Which places of a text stand for which of its anchor's; each tokenizer's by themselves."""
    here, there = list[int](), list[int]()
    owners = torch.where(text >= 0, text // SEGMENT, -1 - text)
    for number in owners.unique().tolist():
        places = (owners == number).nonzero().flatten().tolist()
        ids = [[i for i in row[places].tolist() if i >= 0] for row in (text, anchor)]
        if ids[0]:
            found = places_of(ids[0], ids[1], window=len(places), tokens=tokens)
            here += [places[0] + i for i in found[0]]
            there += [places[0] + i for i in found[1]]
    return here, there


def _side_by_side(tokens: Tensor, pooled: Tensor) -> Tensor:
    """Vectors [N, D] and [B, P] as [N + B, D + P], each with zeros in the place of the other."""
    pad = nn.functional.pad
    return torch.cat([pad(tokens, (0, pooled.shape[1])), pad(pooled.to(tokens), (tokens.shape[1], 0))])


def places_of(text: Sequence[int], anchor: Sequence[int], *, window: int, tokens: Tokens) -> Places:
    """Which places of a text stand for which of its anchor's, as many of each.

    Args:
        text: its tokens, beginning and end included, padding left out.
        anchor: likewise.
        window: places there are, padding included; the embedding of padding, too, knows what the text said.
        tokens: "last": the last token before the end, as UCE's code has it (of the empty text, the beginning);
            "end": from there to the end of the window, as its first version had it; "others": what both texts begin
            and end with, and the padding, as MACE's refinement has it; "all": the words in which they differ too,
            paired from the last one on, further ones of the text with the anchor's first.
    """
    longest = max(len(text), len(anchor))
    if tokens == "last":
        return [max(0, len(text) - 2)], [max(0, len(anchor) - 2)]
    if tokens == "end":
        first = [max(0, len(each) - 2) for each in (text, anchor)]
        count = window - max(first)
        return [*range(first[0], first[0] + count)], [*range(first[1], first[1] + count)]
    before = _common(text, anchor)
    after = _common(text[before:][::-1], anchor[before:][::-1])
    ends = [range(len(each) - after, len(each) + window - longest) for each in (text, anchor)]
    here, there = [*range(before), *ends[0]], [*range(before), *ends[1]]
    if tokens == "all":
        own = range(before, len(text) - after)
        last = len(anchor) - after - 1
        least = min(before, last)
        here += own
        there += [max(least, last - (own[-1] - place)) for place in own]
    return here, there


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)
