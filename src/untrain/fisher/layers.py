"""Per-sample gradients of the common layers, from a layer's input and the gradient of its output.

For a layer y = f(x, θ) and a loss that is a sum over samples, ∂ℓ_n/∂θ needs only the rows of x and ∂ℓ/∂y that belong
to sample n. Each function below takes a slice of samples, input [b, k, …] and output gradient [b, k, …] (k rows a
sample: k > 1 where a model folds windows or frames into the batch dimension), and returns [b, *parameter.shape].
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad as weight_gradients

Gradient = Callable[[Any, str, Tensor, Tensor], Tensor]
"""(module, parameter's name in it, input [b, k, …], output gradient [b, k, …]) → [b, *parameter.shape]."""


USED = ("weight", "bias")
"""The parameters that the forward of a known layer computes with; whatever else it holds is someone else's."""


def gradient_of(module: nn.Module) -> Gradient | None:
    """The rule for a module, None if it has none.

    Subclasses have none, since their forward may differ; nor have modules whose forward was replaced, in the object or
    in its class, nor settings under which the gradient that training sees is not the derivative (sparse or
    frequency-scaled embeddings).
    """
    kind = type(module)
    if _is_conv1d(kind):
        return None if "forward" in module.__dict__ else _transposed_linear
    rule = _RULES.get(kind)
    if rule is None or "forward" in module.__dict__ or kind.forward is not _FORWARDS[kind]:
        return None
    if isinstance(module, nn.Embedding):
        plain = not (module.sparse or module.scale_grad_by_freq) and module.max_norm is None
        return rule if plain else None
    if isinstance(module, _BATCH_NORMS):
        return rule if module.running_mean is not None and not module.training else None
    return rule


def _is_conv1d(kind: type) -> bool:
    """Whether modules of a class are linear layers as transformers writes those of GPT-2: y = x W + b, W [in, out]."""
    names = {(each.__module__, each.__qualname__) for each in (kind, cast(type[nn.Module], kind).forward)}
    return names == {("transformers.pytorch_utils", "Conv1D"), ("transformers.pytorch_utils", "Conv1D.forward")}


def takes(module: nn.Module, input: Tensor) -> bool:
    """Whether the input has a batch dimension in front of what one call of the module consumes."""
    if isinstance(module, _CONVOLUTIONS):
        return input.ndim == len(module.kernel_size) + 2
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return input.ndim > len(module.normalized_shape)
    return input.ndim >= (1 if isinstance(module, nn.Embedding) else 2)


def squares(module: nn.Module, name: str, input: Tensor, grad: Tensor) -> Tensor | None:
    """Σ_n (∂ℓ_n/∂θ)² in the parameter's shape where there is a faster way than through each ∂ℓ_n/∂θ, else None.

    A linear layer applied once a sample has ∂ℓ_n/∂W = g_n a_nᵀ, so Σ_n (g_n a_nᵀ)² = (g²)ᵀ(a²). An embedding's
    per-sample gradient is zero but for a few rows. On a CPU the matrix products of one sample after the other are
    squared and summed while they are in the cache, tile by tile.
    """
    if isinstance(module, nn.Embedding):
        return _embedding_squares(module, input, grad)
    if name != "weight":
        return None
    if isinstance(module, nn.Linear) and input.shape[1:-1].numel() == 1:
        return grad.flatten(0, -2).square().T @ input.flatten(0, -2).square()
    if grad.device.type != "cpu":
        return None
    if isinstance(module, _CONVOLUTIONS):
        return _convolution_squares(module, input, grad) if module.groups == 1 else None
    transposed, weight = _is_conv1d(type(module)), cast(Tensor, module.weight)
    large = weight.numel() * grad.element_size() > LARGE_BYTES
    if not large or not (transposed or isinstance(module, nn.Linear)):
        return None
    rows, columns = (input, grad) if transposed else (grad, input)
    total = grad.new_zeros(weight.shape)
    return _add_squared_products(total, rows.flatten(1, -2).transpose(1, 2), columns.flatten(1, -2))


LARGE_BYTES = 2**17
"""Size from which on a linear layer's products are made one sample after the other, not several samples at a time. With
65 rows a sample that takes 0.75 to 0.85 of the time at 192×768, as long at 192×192, and half as much again at 64×64."""

TILE_BYTES = 5 * 2**19
"""Size of the part of a weight that is summed at a time, as much as stays in a core's cache. On one core, the products
of 512×16 and 16×4,608 take 0.77 of the time untiled, with 1 MiB 0.9; those of 256×2,304 are best left whole."""

PATCH_BYTES = 4 * 2**20
"""Size of the patches laid out at a time, unless one sample's are larger."""


def _convolution_squares(module: Any, input: Tensor, grad: Tensor) -> Tensor:
    """The convolution as a matrix product over patches: ∂ℓ_n/∂W is g_nᵀ p_n, for g_n [L, O] and p_n [L, kernel·C].

    With channels last, a patch is a few rows of memory, whatever the layout of the module and its input.
    """
    outputs, channels = module.weight.shape[:2]
    left = grad.flatten(3).transpose(1, 2).flatten(2)
    total = grad.new_zeros(outputs, module.weight[0].numel())
    step = max(1, PATCH_BYTES // (left.shape[2] * total.shape[1] * grad.element_size()))
    for first in range(0, len(input), step):
        _add_squared_products(total, left[first : first + step], _patches(module, input[first : first + step]))
    return total.unflatten(1, (*module.kernel_size, channels)).movedim(-1, 1)


def _patches(module: Any, input: Tensor) -> Tensor:
    """What each position of the output is computed of, [b, k·L, kernel·C], of images [b, k, C, …]."""
    images, padding = _padded(module, input)
    kernel, channels, sizes = module.kernel_size, images.shape[1], images.shape[2:]
    zeros = padding if isinstance(padding, tuple) else (padding,) * len(kernel)
    if any(zeros):
        padded = images.new_zeros(len(images), *(n + 2 * p for n, p in zip(sizes, zeros, strict=True)), channels)
        padded[(slice(None), *(slice(p, p + n) for n, p in zip(sizes, zeros, strict=True)))] = images.movedim(1, -1)
    else:
        padded = images.movedim(1, -1).contiguous()
    whole, *steps, last = padded.stride()
    settings = list(zip(padded.shape[1:-1], kernel, module.stride, module.dilation, strict=True))
    positions = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in settings]
    strides = [t * s for t, s in zip(steps, module.stride, strict=True)]
    strides += [t * d for t, d in zip(steps, module.dilation, strict=True)]
    shape = (len(padded), *positions, *kernel, channels)
    windows = padded.as_strided(shape, (whole, *strides, last), padded.storage_offset())
    return windows.reshape(len(input), -1, module.weight[0].numel())


def _add_squared_products(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Adds Σ_n (left_n right_n)² to the total [O, K], tile by tile, for left [B, O, L] and right [B, L, K]."""
    height = max(1, min(len(total), TILE_BYTES // (total.shape[1] * total.element_size())))
    workspace = total.new_empty(height, total.shape[1])
    for first in range(0, len(total), height):
        tile = total[first : first + height]
        product = workspace[: len(tile)]
        for a, b in zip(left[:, first : first + height].unbind(0), right.unbind(0), strict=True):
            torch.mm(a, b, out=product)
            tile.addcmul_(product, product)
    return total


def _convolution(module: Any, name: str, input: Tensor, grad: Tensor) -> Tensor:
    """The weight gradients of b samples are those of one convolution with b times the groups."""
    if name == "bias":
        return _sum_but(grad, 2)
    samples, folds = input.shape[:2]
    images, padding = _padded(module, input)
    weight_gradient = _WEIGHT_GRADIENTS[len(module.kernel_size)]
    shape = (samples * module.weight.shape[0], *module.weight.shape[1:])
    grads = weight_gradient(
        _samples_as_groups(images.unflatten(0, (samples, folds))),
        shape,
        _samples_as_groups(grad),
        module.stride,
        padding,
        module.dilation,
        samples * module.groups,
    )
    return grads.unflatten(0, (samples, -1))


def _padded(module: Any, input: Tensor) -> tuple[Tensor, Any]:
    """The images [b·k, C, …] and the zero padding that is still to be added to them."""
    images = input.flatten(0, 1)
    if module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return images, module.padding
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(images, module._reversed_padding_repeated_twice, mode=mode), 0


def _samples_as_groups(rows: Tensor) -> Tensor:
    """[b, k, C, …] → [k, b·C, …]."""
    return rows.transpose(0, 1).flatten(1, 2)


def _linear(module: nn.Linear, name: str, input: Tensor, grad: Tensor) -> Tensor:
    grad = grad.flatten(1, -2)
    return grad.sum(1) if name == "bias" else torch.bmm(grad.transpose(1, 2), input.flatten(1, -2))


def _transposed_linear(module: nn.Module, name: str, input: Tensor, grad: Tensor) -> Tensor:
    grad = grad.flatten(1, -2)
    return grad.sum(1) if name == "bias" else torch.bmm(input.flatten(1, -2).transpose(1, 2), grad)


def _embedding(module: nn.Embedding, name: str, input: Tensor, grad: Tensor) -> Tensor:
    tokens = input.flatten(1)
    table = grad.new_zeros(len(tokens), *module.weight.shape)
    grad = grad.reshape(*tokens.shape, -1)
    if module.padding_idx is not None:
        grad = grad.masked_fill((tokens == module.padding_idx).unsqueeze(-1), 0)
    return table.scatter_add_(1, tokens.unsqueeze(-1).expand_as(grad), grad)


def _embedding_squares(module: nn.Embedding, input: Tensor, grad: Tensor) -> Tensor:
    """Gradients of equal tokens of one sample are summed before squaring."""
    tokens, grad = input.flatten(1), grad.reshape(input.numel(), -1)
    rows = module.num_embeddings
    sample = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
    pairs, position = torch.unique(sample * rows + tokens, return_inverse=True)
    summed = grad.new_zeros(len(pairs), grad.shape[1]).index_add_(0, position.flatten(), grad)
    squares = grad.new_zeros(module.weight.shape).index_add_(0, pairs % rows, summed.square_())
    if module.padding_idx is not None:
        squares[module.padding_idx] = 0
    return squares


def _batch_norm(module: Any, name: str, input: Tensor, grad: Tensor) -> Tensor:
    """In evaluation mode: x̂ = (x − running mean) / sqrt(running variance + eps), fixed for every sample."""
    if name == "bias":
        return _sum_but(grad, 2)
    shape = (-1,) + (1,) * (input.ndim - 3)
    centred = input - module.running_mean.to(input.dtype).view(shape)
    scale = torch.rsqrt(module.running_var.to(input.dtype) + module.eps)
    return _sum_but(centred.mul_(grad), 2).mul_(scale)


def _group_norm(module: nn.GroupNorm, name: str, input: Tensor, grad: Tensor) -> Tensor:
    if name == "bias":
        return _sum_but(grad, 2)
    normal = F.group_norm(input.flatten(0, 1), module.num_groups, eps=module.eps).view_as(input)
    return _sum_but(normal * grad, 2)


def _layer_norm(module: nn.LayerNorm, name: str, input: Tensor, grad: Tensor) -> Tensor:
    shape = module.normalized_shape
    if name == "weight":
        grad = F.layer_norm(input, shape, eps=module.eps) * grad
    return grad.flatten(1, -len(shape) - 1).sum(1)


def _rms_norm(module: nn.RMSNorm, name: str, input: Tensor, grad: Tensor) -> Tensor:
    shape = cast(tuple[int, ...], module.normalized_shape)
    normal = F.rms_norm(input, list(shape), eps=module.eps)
    return (normal * grad).flatten(1, -len(shape) - 1).sum(1)


def _sum_but(values: Tensor, channel: int) -> Tensor:
    """Sums over every dimension but the first and the channels'."""
    return values.sum([d for d in range(1, values.ndim) if d != channel])


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_WEIGHT_GRADIENTS: dict[int, Callable[..., Tensor]] = {
    1: weight_gradients.conv1d_weight,
    2: weight_gradients.conv2d_weight,
    3: weight_gradients.conv3d_weight,
}
_RULES: dict[type, Gradient] = {
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_BATCH_NORMS, _batch_norm),
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
}
_FORWARDS: dict[Any, Any] = {kind: getattr(kind, "forward") for kind in _RULES}  # noqa: B009, types have none
