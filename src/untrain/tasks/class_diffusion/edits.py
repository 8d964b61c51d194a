"""What closed-form edits look at in a generator of classes: its embeddings of classes, which are linear maps of one-hot
vectors. The vectors of two classes are orthogonal, so an edit moves the rows of forgotten classes alone, to what other
classes are embedded as.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from untrain.errors import ModelError
from untrain.lazy import nn, torch
from untrain.tasks.class_diffusion.embeddings import class_embeddings

if TYPE_CHECKING:
    from torch import Tensor


def class_maps(model: nn.Module, rows: int) -> dict[str, Tensor]:
    """The embeddings of classes as maps of one-hot vectors, by name: views [D, rows] of their weights.

    Args:
        model: any.
        rows: how many classes there are, "no class" included; the embeddings may have more.

    Raises:
        ModelError: if none is known.
    """
    tables = {id(table.weight): table.weight for table in class_embeddings(model)}  # copies can be one weight
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if not tables:
        raise ModelError(
            f"{type(model).__name__} has no embedding of classes that could be found, so there is nothing to edit in "
            "closed form. Take another method, such as sfron."
        )
    with torch.enable_grad():  # a view requires a gradient where its weight does
        return {names[key]: weight[:rows].t() for key, weight in tables.items()}


def class_pairs(classes: Tensor, instead: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """One-hot vectors of classes, and of those to be taken for them, float64 [B, rows] each."""
    given, wanted = (nn.functional.one_hot(each, rows).double() for each in (classes, instead))
    return given, wanted
