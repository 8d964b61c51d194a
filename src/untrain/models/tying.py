"""Parameters that are one weight, though a module holds a copy of it in several places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from untrain.lazy import nn, torch

Copies = Sequence[str]
"""Names of the parameters that hold one weight."""


@contextmanager
def tied(module: nn.Module, groups: Iterable[Copies]) -> Iterator[None]:
    """Makes one parameter of each group, the first of it, for as long as the block runs.

    Gradients of all places then add up in it, and Fisher, masks, clipping and optimisers see one weight, under the
    first name. Afterwards every place has its own parameter again, with the values of the first.

    Args:
        module: holds the parameters.
        groups: names; a group whose values differ, or of which only a part is trained, is left as it is.
    """
    places = [[_place(module, name) for name in group] for group in groups]
    apart = []
    for group in places:
        first, *others = group
        shared = first[0]._parameters[first[1]]
        for owner, leaf in others if _are_copies(group) else ():
            apart.append((owner, leaf, owner._parameters[leaf], first))
            owner._parameters[leaf] = shared
    try:
        yield
    finally:
        for owner, leaf, own, (source, name) in apart:
            shared = source._parameters[name]
            if own is not None and shared is not None:
                own.data = shared.detach().clone()  # where the module was moved, there too
            owner._parameters[leaf] = own


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return module.get_submodule(owner), leaf


def _are_copies(group: Sequence[tuple[nn.Module, str]]) -> bool:
    first, *others = (owner._parameters[leaf] for owner, leaf in group)
    return first is not None and all(
        each is not None and each.requires_grad == first.requires_grad and torch.equal(each, first) for each in others
    )
