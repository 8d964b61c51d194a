"""Real and generated images, and what a network sees in them: the features that distances between them rest on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from untrain.engine import preserve_modes
from untrain.errors import CheckpointError, DataError, ModelError, SettingError

CHANNELS = 7
"""So many channels of a feature map make the spatial features. Source: Nash et al. 2021, sFID."""

Origin = Literal["real", "generated"]


@dataclass(frozen=True, eq=False)
class Real:
    """Images of a data set: uint8 [N, C, H, W], gray or RGB, and their labels [N]."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Checks types and shapes."""
        _check("real", self.images, "labels", self.labels)


@dataclass(frozen=True, eq=False)
class Generated:
    """Images that a model made: uint8 [N, C, H, W], gray or RGB, and the classes they were conditioned on [N]."""

    images: Tensor
    conditions: Tensor

    def __post_init__(self) -> None:
        """Checks types and shapes."""
        _check("generated", self.images, "conditions", self.conditions)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network sees in images, which remember whether they were real or generated.

    Attributes:
        origin: what the images were.
        labels: of real images, or conditions of generated ones, [N].
        pooled: what its last linear layer gets, [N, D].
        spatial: some channels of its last feature map, [N, D']; None where it has no feature map.
        logits: [N, C].
        network: its name.
        inception: whether it is Inception-v3, so that distances of its features are comparable with published ones.
    """

    origin: Origin
    labels: Tensor
    pooled: Tensor
    spatial: Tensor | None
    logits: Tensor
    network: str
    inception: bool = False

    def where(self, chosen: Tensor) -> "Seen":
        """The images where `chosen`, bool [N] (or their positions), holds."""
        spatial = None if self.spatial is None else self.spatial[chosen]
        parts = (self.labels[chosen], self.pooled[chosen], spatial, self.logits[chosen])
        return Seen(self.origin, *parts, self.network, self.inception)

    def of(self, classes: list[int]) -> "Seen":
        """The images of these classes."""
        return self.where(torch.isin(self.labels, torch.tensor(classes, dtype=self.labels.dtype)))


View = dict[str, Tensor]
"""What a network sees in a batch: "pooled", "logits", and "spatial" where there is a feature map, [B, …] each."""


@dataclass(frozen=True)
class Features:
    """A network to look at images with.

    Attributes:
        name: as tables show it.
        network: the module; it is looked through in evaluation mode, on the device that it is on.
        view: what it sees in a batch of uint8 images on its device.
        inception: whether it is Inception-v3 with the weights that published distances are measured with.
    """

    name: str
    network: nn.Module
    view: Callable[[Tensor], View]
    inception: bool = False

    def look(self, images: Real | Generated, batch_size: int = 256) -> Seen:
        """What it sees in images, batch by batch; on the CPU, float32.

        Raises:
            DataError: if there is no image, or what it sees is not finite.
            ModelError: if the network does not give what is expected of it.
        """
        if not isinstance(images, Real | Generated):
            raise DataError(f"images to look at must be Real(…) or Generated(…), not {type(images).__name__}.")
        origin: Origin = "real" if isinstance(images, Real) else "generated"
        labels = images.labels if isinstance(images, Real) else images.conditions
        if not len(labels):
            raise DataError(f"there are no {origin} images to look at.")
        place = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        with torch.no_grad(), preserve_modes(self.network):
            self.network.eval()
            views = [self.view(batch.to(place)) for batch in images.images.split(batch_size)]
        pooled, logits = (self._joined([view[part] for view in views]) for part in ("pooled", "logits"))
        spatial = (
            self._joined([view["spatial"] for view in views]) if all("spatial" in view for view in views) else None
        )
        return Seen(origin, labels.cpu(), pooled, spatial, logits, self.name, self.inception)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        joined = torch.cat([part.float().cpu() for part in parts])
        if not joined.isfinite().all():
            raise DataError(f"{self.name} gives features that are not finite. Use another feature network.")
        return joined


# ── networks ────────────────────────────────────────────────────────────────────────────────────────────────────


def classifier_features(module: nn.Module, prepare: Callable[[Tensor], Tensor], name: str) -> Features:
    """Any classifier as feature network.

    Pooled features are what its last linear layer gets; spatial ones the first 7 channels of the last feature map
    before it that is larger than one pixel.

    Args:
        module: gives logits [B, C], or an object with `.logits`.
        prepare: uint8 images [B, C, H, W] → its input, on the same device.
        name: as tables show it.
    """
    return Features(name, module, partial(_through, module, prepare, name))


def inception_features(weights: str | Path | None = None) -> Features:
    """Inception-v3 as torch-fidelity has it: the network of FID, sFID and the Inception Score.

    Args:
        weights: the `.pth` file of torch-fidelity's release; None: it is downloaded.

    Raises:
        SettingError: if torch-fidelity is not installed or cannot be imported.
        CheckpointError: if there is no such file.

    Source: pooled features and unbiased logits as in torch-fidelity; spatial features: mixed_6/conv of the original
    graph, 7 × 17 × 17, as in Nash et al. 2021.
    """
    if weights is not None and not os.path.isfile(weights):
        raise CheckpointError(f"there are no Inception weights at {weights}. Give torch-fidelity's .pth file.")
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except ImportError as error:
        raise SettingError(
            f"features of Inception-v3 need torch-fidelity, which needs torchvision ({error}): pip install "
            "torch-fidelity with a torchvision that fits your torch, or take a classifier as feature network."
        ) from error
    path = None if weights is None else str(weights)
    network = FeatureExtractorInceptionV3("inception-v3", ["2048", "logits_unbiased"], path)
    return Features("Inception-v3", network, partial(_through_inception, network), inception=True)


def _through(module: nn.Module, prepare: Callable[[Tensor], Tensor], name: str, images: Tensor) -> View:
    with _watched(module) as seen:
        result = module(prepare(images))
    if "pooled" not in seen:
        raise ModelError(f"{name} has no nn.Linear that it uses, and features are what the last one gets.")
    seen["logits"] = getattr(result, "logits", result)
    for what, given in (("its last nn.Linear gets", seen["pooled"]), ("it gives", seen["logits"])):
        if not isinstance(given, Tensor) or given.ndim != 2 or len(given) != len(images):
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ModelError(f"{name}: {what} {shape} for {len(images)} images, and a classifier has [B, …] there.")
    return seen


@contextmanager
def _watched(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While the module runs: what the last linear layer called so far got, and the feature map before it."""
    seen: dict[str, Tensor] = {}
    maps: list[Tensor] = []

    def keep_map(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            maps[:] = [output]

    def keep_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["pooled"] = args[0] if args else kwargs["input"]
        if maps:
            seen["spatial"] = maps[0][:, :CHANNELS].flatten(1)

    hooks = [layer.register_forward_hook(keep_map) for layer in module.modules()]
    hooks += [
        layer.register_forward_pre_hook(keep_input, with_kwargs=True)
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _through_inception(network: nn.Module, images: Tensor) -> View:
    kept: list[Tensor] = []
    layer = network.get_submodule("Mixed_6d.branch1x1")  # mixed_6/conv of the original graph
    hook = layer.register_forward_hook(lambda _, __, output: kept.append(output[:, :CHANNELS].flatten(1)))
    try:
        pooled, logits = network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
    finally:
        hook.remove()
    return {"pooled": pooled, "spatial": kept[0], "logits": logits}


def _check(what: str, images: Tensor, name: str, labels: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"{what} images must be uint8 [N, 1 or 3, H, W], not {images.dtype} {tuple(images.shape)}. "
            "Images in [−1, 1] become so by untrain.diffusion.images.to_uint8."
        )
    if labels.ndim != 1 or len(labels) != len(images) or labels.is_floating_point():
        raise DataError(
            f"{what} images need {name} [{len(images)}], whole numbers, not {labels.dtype} {tuple(labels.shape)}."
        )
