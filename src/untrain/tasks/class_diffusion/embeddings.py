"""Embeddings of classes in generators: where they are, and a vector in the place of one class's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from untrain.lazy import nn, torch

if TYPE_CHECKING:
    from torch import Tensor


def class_embeddings(model: nn.Module) -> list[nn.Embedding]:
    """Finds a model's embeddings of classes; empty where none is known.

    Of diffusers: UNet2DModel's `class_embedding`, and DiTTransformer2DModel's label embeddings, one in every block.
    """
    found: list[Any] = []
    for name, module in model.named_modules():
        if type(module).__name__ == "LabelEmbedding":
            found.append(module.embedding_table)
        elif name.rpartition(".")[2] == "class_embedding" and isinstance(module, nn.Embedding):
            found.append(module)
    return found


def embedded_classes(model: nn.Module) -> int | None:
    """Rows of the model's embedding of classes, "no class" included; None where none is known."""
    found = class_embeddings(model)
    return found[0].num_embeddings if found else None


def shared_embeddings(model: nn.Module) -> list[list[nn.Embedding]]:
    """Groups a model's embeddings of classes: those of equal weights are one.

    In the original DiT all blocks share one embedding; as diffusers builds it, every block has a copy.
    """
    groups: list[list[nn.Embedding]] = []
    for table in class_embeddings(model):
        same = next((group for group in groups if torch.equal(group[0].weight, table.weight)), None)
        if same is None:
            groups.append([table])
        else:
            same.append(table)
    return groups


@contextmanager
def replace_class(groups: Sequence[Sequence[nn.Embedding]], label: int, vectors: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block a class is embedded as these vectors, not as the model's own rows for it.

    Args:
        groups: the model's embeddings, as `shared_embeddings` gives them.
        label: number of the class.
        vectors: one for each group, [D] each; gradients flow into them.
    """

    def put(vector: Tensor) -> Any:
        def hook(table: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            return torch.where((arguments[0] == label)[..., None], vector.to(output.dtype), output)

        return hook

    handles = [
        table.register_forward_hook(put(vector))
        for group, vector in zip(groups, vectors, strict=True)
        for table in group
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
