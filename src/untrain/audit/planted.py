"""Planted noise: copies of images with noise of their own, and whether a model's gradient remembers it.

Each twin is also trained on, and told to forget, copies of base images with Gaussian noise ξ that no other model gets.
If a model never saw ξ, then ⟨ξ, ∇ₓℓ⟩ / (σ‖∇ₓℓ‖) at the clean image is N(0, 1) exactly, whatever its gradient is. So the
mean over n of them has a known distribution without any twin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from untrain.audit.traces import PlantedNoise
from untrain.audit.verdict import ORIGINAL_P
from untrain.data.columns import Columns
from untrain.data.joined import JoinedSource
from untrain.data.source import Source
from untrain.data.splits import Split
from untrain.domain import Division
from untrain.engine import Engine, generator_of, preserve_modes
from untrain.errors import SettingError
from untrain.lazy import stats
from untrain.types import Task

DEVIATION = 0.2
"""σ in standard deviations of the images' pixels."""
LOOKED_AT = 500
"""Images whose pixels' deviation is measured."""
AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Planted:
    """The planted images of one twin.

    Attributes:
        positions: of the clean images in the source, int64 [P].
        noise: ξ in units of pixels, [P, C, H, W].
        sigma: σ in units of pixels.
    """

    positions: Tensor
    noise: Tensor
    sigma: float


def plant(source: Source, base: Tensor, count: int, seed: int, k: int) -> Planted:
    """Draws which images of the base a twin gets copies of, and their noise.

    Args:
        source: of images.
        base: positions of what all twins keep.
        count: P.
        seed: the audit's.
        k: the twin's number.

    Raises:
        SettingError: if these are no images, or there are fewer of them.
    """
    if len(source.shape) != 3:
        raise SettingError("noise is planted in images, and these samples are none: leave planted out.")
    if count > len(base):
        raise SettingError(f"{count} images are to be planted, and all twins keep {len(base)}: plant fewer.")
    looked = base[:: max(1, len(base) // LOOKED_AT)]
    sigma = DEVIATION * float(source.batch(looked)["input"].double().std())
    generator = generator_of(seed, "planted", k)
    chosen = base[torch.randperm(len(base), generator=generator)[:count].sort().values]
    noise = sigma * torch.randn((count, *source.shape), generator=generator, dtype=torch.float64)
    return Planted(chosen, noise, sigma)


def with_planted(source: Source, planted: Planted, division: Division) -> tuple[Source, Division]:
    """Returns the samples with the noisy copies behind them, and the division in which these are to be forgotten too.

    Copies are rounded and cut as the images are kept, which changes nothing about noise that a model never saw.
    """
    rows = source.batch(planted.positions)
    images = rows["input"].cpu()
    noisy = images.double() + planted.noise
    if not images.is_floating_point():
        limits = torch.iinfo(images.dtype)
        noisy = noisy.round().clamp(limits.min, limits.max)
    columns = {name: values.cpu() for name, values in rows.items() if name not in ("index", "input")}
    labels = source.labels[planted.positions]
    ids = None if source.ids is None else [f"planted-{i}" for i in range(len(labels))]
    copies = Columns({"input": noisy.to(images.dtype), **columns}, labels, source.classes, ids)
    joined, split = JoinedSource(source, copies), division.split
    forget = torch.cat([split.forget, len(source) + torch.arange(len(copies))])
    mine: Split = replace(split, forget=forget, data_hash=joined.fingerprint())
    return joined, replace(division, split=mine)


def remembered(module: nn.Module, task: Task, source: Source, planted: Planted, engine: Engine) -> np.ndarray:
    """Computes ⟨ξ, ∇ₓℓ⟩ / (σ‖∇ₓℓ‖) at the clean images, in units of pixels, [P]; NaN where a gradient vanishes.

    Args:
        module: on the engine's device.
        task: prepared; its `draw` is affine in each pixel when a model is evaluated.
        source: of the clean images.
        planted: which images, and their noise.
        engine: where it runs.
    """
    found = []
    with preserve_modes(module):
        module.eval()
        for part in torch.arange(len(planted.positions)).split(AT_ONCE):
            rows = engine.to_device(source.batch(planted.positions[part]))
            slope = _drawn(task, rows, torch.ones_like(rows["input"])) - _drawn(
                task, rows, torch.zeros_like(rows["input"])
            )
            batch = task.draw(dict(rows), generator_of(0, "planted"), "evaluate")
            inputs = batch["input"].detach().requires_grad_(True)
            with torch.enable_grad():
                losses = task.loss(module, {**batch, "input": inputs})
                (gradient,) = torch.autograd.grad(losses.sum(), inputs)
            steep = (gradient.double() * slope.double()).flatten(1).cpu()
            noise = planted.noise[part].flatten(1)
            found.append((noise * steep).sum(1) / (planted.sigma * steep.norm(dim=1)))
    return torch.cat(found).numpy()


def _drawn(task: Task, rows: dict[str, Tensor], images: Tensor) -> Tensor:
    return task.draw({**rows, "input": images}, generator_of(0, "planted"), "evaluate")["input"]


def find_planted(values: Sequence[np.ndarray], originals: Sequence[np.ndarray] | None = None) -> PlantedNoise | None:
    """Finds whether models remember planted noise: their mean over twins is N(0, 1/n) if they do not.

    Args:
        values: of each twin's model, [P].
        originals: of the twins' originals, whose mean says which sign memory has; None: these are the originals.
    """
    own, first = (np.concatenate(list(each)) for each in (values, values if originals is None else originals))
    own, first = own[np.isfinite(own)], first[np.isfinite(first)]
    if not len(own) or not len(first):
        return None
    sign = 1.0 if first.mean() >= 0 else -1.0
    half = float(stats.norm.ppf(0.975)) / math.sqrt(len(own))
    mean = sign * float(own.mean())
    return PlantedNoise(mean, (mean - half, mean + half), _p(own), len(own), _p(first) <= ORIGINAL_P)


def _p(values: np.ndarray) -> float:
    """Two-sided p of a mean of values that are N(0, 1)."""
    return float(2 * stats.norm.sf(abs(values.mean()) * math.sqrt(len(values))))
