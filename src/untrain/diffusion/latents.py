"""Images as a VAE's latents, encoded once, and back.

Rombach et al.: *High-Resolution Image Synthesis with Latent Diffusion Models*, CVPR 2022. What is kept of an image is
the posterior, its mean and standard deviation, so that training still draws another latent every time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from untrain.data.keys import rename, with_input
from untrain.data.samples import Arrays, Source
from untrain.data.streams import Stream
from untrain.diffusion.folders import local_folder
from untrain.engine import Engine, preserve_modes
from untrain.errors import CheckpointError, DataError, ModelError
from untrain.io import hash_json
from untrain.models.checkpoints import state_hash
from untrain.models.precision import widen_
from untrain.models.pretrained import check_folder, read_object
from untrain.types import Batch, Task

POSTERIOR = ("latent_mean", "latent_std")
"""What a batch holds of every image's posterior, [B, C, h, w] each, times the VAE's scaling factor."""

MIRRORED = ("mirrored_mean", "mirrored_std")
"""The same of its mirror image."""


class Latents(Source, Dataset[Batch]):
    """A source of latents in memory: batches have "latent_mean" and "latent_std", and of mirror images likewise.

    An image of 256 × 256 pixels takes 32 KiB, with its mirror image 64 KiB.

    Args:
        posterior: [N, 2 or 4, C, h, w], in the order of `POSTERIOR` and `MIRRORED`.
        labels: class numbers, [N].
        classes: names of the classes, or None.
        ids: a unique name for every sample, or None.
        numbers: what "index" says of every sample, int64 [N]; None numbers them from 0.
        origin: a hash of what they were made of; None takes one of their content.
    """

    in_memory = True

    def __init__(
        self,
        posterior: Tensor,
        labels: Tensor,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        *,
        numbers: Tensor | None = None,
        origin: str | None = None,
    ) -> None:
        if posterior.ndim != 5 or posterior.shape[1] not in (2, 4):
            raise DataError(f"latents must be [N, 2 or 4, C, h, w]; they are {list(posterior.shape)}.")
        self._arrays = Arrays(posterior, labels, classes, ids)
        self._numbers = torch.arange(len(self._arrays)) if numbers is None else numbers.cpu()
        self._origin = origin
        self._moved: dict[torch.device, Latents] = {}
        self.labels, self.classes, self.ids = self._arrays.labels, self._arrays.classes, self._arrays.ids
        self.shape = tuple(posterior.shape[2:])

    @property
    def mirrored(self) -> bool:
        """Whether mirror images are here too."""
        return self._arrays.shape[0] == 4

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._arrays)

    def __getitem__(self, i: int) -> Batch:
        """Sample i, without the first dimension of `batch`."""
        return {name: tensor[0] for name, tensor in self.batch(torch.tensor([range(len(self))[i]])).items()}

    def batch(self, indices: Tensor) -> Batch:
        """Samples at these positions, gathered on the device."""
        gathered = self._arrays.batch(indices)
        named = zip((*POSTERIOR, *MIRRORED), gathered["input"].unbind(1))
        number = self._numbers[indices.cpu()].to(gathered["label"].device)
        return {**dict(named), "label": gathered["label"], "index": number}

    def select(self, indices: Tensor) -> "Latents":
        """A copy of these samples, numbered from 0."""
        chosen = self._arrays.select(indices)
        origin = None if self._origin is None else hash_json([self._origin, indices.tolist()])
        return Latents(chosen.input, chosen.labels, chosen.classes, chosen.ids, origin=origin)

    def to(self, device: torch.device | str) -> "Latents":
        """The same samples on another device; asked twice, the same copy is given."""
        arrays = self._arrays.to(device)
        if arrays is self._arrays:
            return self
        if arrays.device not in self._moved:
            moved = Latents.__new__(Latents)
            moved.__dict__.update(self.__dict__, _arrays=arrays, _moved={self._arrays.device: self})
            self._moved[arrays.device] = moved
        return self._moved[arrays.device]

    def fingerprint(self) -> str:
        """A hash of the images and of the VAE that they were made by; of the latents where these are not known."""
        return self._arrays.fingerprint() if self._origin is None else self._origin


def load_vae(path: str | Path | None, *, required: bool = False) -> Any:
    """The VAE of a pipeline, or one that was saved alone, in evaluation mode and frozen; None where there is none.

    Args:
        path: a folder or hub id; None: nothing.
        required: whether it is an error that there is none.

    Raises:
        CheckpointError: if it cannot be read, or is not there and required. ModelError: if it is not one to use.
    """
    if path is None:
        return None
    folder = local_folder(path)
    found = [place for place in (folder / "vae", folder) if _is_vae(place / "config.json")]
    if not found:
        if required:
            raise CheckpointError(f"{path} holds no AutoencoderKL: give the folder of one, or of a pipeline with one.")
        return None
    from diffusers import AutoencoderKL

    check_folder(found[0])
    try:
        vae, keys = AutoencoderKL.from_pretrained(found[0], output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the VAE in {found[0]} cannot be read: {error}") from error
    if keys["missing_keys"] or keys["mismatched_keys"]:
        raise CheckpointError(
            f"the weights in {found[0]} were made for another configuration than beside them: {keys}."
        )
    _usable(vae)
    return vae.eval().requires_grad_(False)


def _is_vae(config: Path) -> bool:
    return config.is_file() and read_object(config).get("_class_name") == "AutoencoderKL"


def latent_shape(vae: Any, shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, h, w) of the latent of an image of a shape (C, H, W).

    Raises:
        DataError: if such images do not fit the VAE. ModelError: if it is not one to use.
    """
    channels, factor = _check(vae, shape)
    return channels, shape[1] // factor, shape[2] // factor


def encode(vae: Any, source: Source, engine: Engine, *, mirrored: bool = False, batch_size: int = 16) -> Latents:
    """The latents of every image of a source, in its order, each computed once; processes share the work.

    Args:
        vae: an AutoencoderKL of diffusers, or Sana's AutoencoderDC; its mode, type and device are as before afterwards.
        source: images, uint8 or in [−1, 1]; "index" stays what it is there.
        engine: where the VAE runs, without mixed precision: the VAEs of Stable Diffusion overflow in fp16.
        mirrored: whether to encode mirror images too, for training with `flip`.
        batch_size: images at once.

    Raises:
        DataError: if images do not fit the VAE, or their latents do not fit into memory.
        ModelError: if it is not a VAE that can be used.
    """
    channels, height, width = latent_shape(vae, source.shape)
    mine = engine.shard({"index": torch.arange(len(source))})["index"]
    posterior = _space(len(mine), 4 if mirrored else 2, channels, height, width, dtype=_wide(vae))
    numbers = torch.empty(len(mine), dtype=torch.int64)
    with _working(vae, engine.device):
        done = 0
        parts = mine.split(batch_size) if len(mine) else ()
        for positions in engine.track(parts, "encoding images", len(parts)):
            batch = source.batch(positions)
            rows = slice(done, done := done + len(positions))
            posterior[rows] = _encoded(vae, batch["input"], mirrored).cpu()
            numbers[rows] = batch["index"].cpu()
    origin = hash_json([source.fingerprint(), state_hash(vae), float(vae.config.scaling_factor), mirrored])
    return Latents(
        engine.gather(posterior),
        source.labels,
        source.classes,
        source.ids,
        numbers=engine.gather(numbers),
        origin=origin,
    )


def encode_data(
    vae: Any,
    data: Any,
    engine: Engine,
    *,
    mirrored: bool = False,
    batch_size: int = 16,
    names: Mapping[str, str] | None = None,
    name: str = "data",
) -> Any:
    """The latents of data as a user passes it in Python.

    Args:
        vae: see `encode`.
        data: a list of ready batches, or a map-style data set, of (x, y) or dicts; x is uint8 or in [−1, 1].
        engine: see `encode`.
        mirrored: see `encode`.
        batch_size: images at once, of a data set; ready batches are taken as they are.
        names: the data's name → "input" or "label", where it has others.
        name: what the set is called in messages.

    Returns:
        A list of ready batches for a list, else `Latents` whose "index" is the data's.

    Raises:
        DataError: if the data cannot be read, or does not fit the VAE.
    """
    if isinstance(data, Source):
        return encode(vae, data, engine, mirrored=mirrored, batch_size=batch_size)
    _usable(vae)
    stream = Stream(data, name, engine, batch_size=batch_size, alike=False)  # pixels of any type come to one range
    batches = []
    with _working(vae, engine.device):
        given = stream.once(cast(Task, _AsItIs()), "evaluate")
        for batch in engine.track(given, "encoding images", stream.passes()):
            batches.append(_encoded_batch(vae, with_input(rename(batch, names or {})), mirrored))
    if stream.ready:
        return batches
    joined = {key: torch.cat([batch[key].cpu() for batch in batches]) for key in batches[0]}
    posterior = torch.stack([joined[key] for key in (*POSTERIOR, *MIRRORED) if key in joined], 1)
    return Latents(posterior, joined["label"], numbers=joined["index"])


def decode(
    vae: Any, latents: Tensor, *, batch_size: int | None = None, advance: Callable[[], None] = lambda: None
) -> Tensor:
    """Images of latents, uint8 [B, 3, H, W] on the CPU; computed where the VAE is, in evaluation mode, no gradient.

    Args:
        vae: an AutoencoderKL or AutoencoderDC of diffusers.
        latents: [B, C, h, w], as a noise predictor makes them.
        batch_size: images at once; None: 16, or as few as make a million pixels.
        advance: called after each batch.

    Raises:
        ModelError: if the latents are not this VAE's, or their images are not finite.
    """
    config = _usable(vae)
    channels = int(config.latent_channels)
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ModelError(f"the VAE decodes latents [B, {channels}, h, w], not {list(latents.shape)}.")
    scale, shift = _scaling(vae)
    factor = _factor(config)
    empty = (
        0,
        int(config.get("out_channels", config.in_channels)),
        factor * latents.shape[2],
        factor * latents.shape[3],
    )
    images = [torch.empty(empty, dtype=torch.uint8)]
    batch_size = batch_size or max(1, min(16, (1 << 20) // (empty[2] * empty[3])))
    with _working(vae, vae.device):
        for part in latents.split(batch_size) if len(latents) else ():
            pixels = vae.decode(part.to(vae.device, vae.dtype) / scale + shift).sample.float()
            if not bool(torch.isfinite(pixels).all()):
                raise ModelError("the VAE gives images that are not finite: the latents or its weights are damaged.")
            images.append(((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu())
            advance()
    return torch.cat(images)


class _AsItIs:
    """What a stream draws by where nothing is to be drawn."""

    def draw(self, batch: Batch, generator: torch.Generator, role: str) -> Batch:
        return batch


def _encoded_batch(vae: Any, batch: Batch, mirrored: bool) -> Batch:
    """A ready batch with latents in the place of its images, on the images' device."""
    if "input" not in batch or "label" not in batch:
        raise DataError(f"data to encode needs 'input' and 'label', not {sorted(batch)}: map names with names=….")
    images = batch["input"]
    _check(vae, images.shape[1:])
    parts = _encoded(vae, images, mirrored).to(images.device).unbind(1)
    rest = {key: value for key, value in batch.items() if key != "input"}
    return {**dict(zip((*POSTERIOR, *MIRRORED), parts)), **rest}


def _encoded(vae: Any, images: Tensor, mirrored: bool) -> Tensor:
    """The posterior of images [B, 3, H, W], [B, 2 or 4, C, h, w]."""
    if images.dtype == torch.uint8:
        x = images.to(vae.device).to(_wide(vae)) / 127.5 - 1
    else:
        x = images.to(vae.device)
        if x.numel() and float(x.abs().max()) > 1.001:  # some resizing overshoots by a rounding error
            raise DataError(
                f"images to encode must be uint8 or in [−1, 1]; these reach {float(x.abs().max()):.4g}. Rescale them."
            )
    scale, shift = _scaling(vae)
    found = []
    for image in (x, x.flip(-1)) if mirrored else (x,):
        mean, std = (each.to(_wide(vae)) for each in _posterior(vae.encode(image.to(vae.dtype))))
        found += [(mean - shift) * scale, std * scale]
    return torch.stack(found, 1)


def _posterior(encoded: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what a VAE gives; an AutoencoderDC gives the latent itself, which has none."""
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mean, encoded.latent_dist.std
    return encoded.latent, torch.zeros_like(encoded.latent)


def _check(vae: Any, shape: Sequence[int]) -> tuple[int, int]:
    """Channels of a latent, and by how much it is smaller than an image of shape (C, H, W), which must fit the VAE."""
    config = _usable(vae)
    factor = _factor(config)
    if len(shape) != 3 or shape[0] != config.in_channels:
        raise DataError(f"the VAE takes images of {config.in_channels} channels, not of shape {list(shape)}.")
    if shape[1] % factor or shape[2] % factor:
        raise DataError(
            f"images are {shape[2]}×{shape[1]} pixels, and the VAE makes them {factor} times smaller: height and width "
            f"must be multiples of {factor}. Set image_size to one."
        )
    return int(config.latent_channels), factor


def _usable(vae: Any) -> Any:
    """The VAE's configuration, or an error if it is not a VAE that can be used."""
    config = getattr(vae, "config", None)
    if config is None or not hasattr(config, "latent_channels") or not any(hasattr(config, key) for key in _BLOCKS):
        raise ModelError(f"{type(vae).__name__} is not a VAE of diffusers: give an AutoencoderKL.")
    if getattr(config, "latents_mean", None) is not None or getattr(config, "latents_std", None) is not None:
        raise ModelError("the VAE normalises latents channel by channel (latents_mean), which is not supported.")
    return config


def _factor(config: Any) -> int:
    """By how much a latent is smaller than its image, in height and width: a halving between every two blocks."""
    return 2 ** (next(len(config[key]) for key in _BLOCKS if key in config) - 1)


_BLOCKS = ("block_out_channels", "encoder_block_out_channels")
"""What the configurations of AutoencoderKL and AutoencoderDC call the encoder's blocks."""


def _scaling(vae: Any) -> tuple[float, float]:
    """Factor and shift between the VAE's latents and those that a noise predictor sees."""
    return float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0)


def _wide(vae: Any) -> torch.dtype:
    """The type that latents are kept in: float32, or the VAE's where that is wider."""
    return torch.promote_types(vae.dtype, torch.float32)


def _space(*shape: int, dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError as error:
        size = torch.Size(shape).numel() * dtype.itemsize / 2**30
        raise DataError(
            f"the latents of {shape[0]} images take {size:.1f} GiB, for which there is no memory. Use fewer images, or "
            "do without mirror images."
        ) from error


@contextmanager
def _working(vae: Any, device: torch.device) -> Iterator[None]:
    """The VAE on a device, in evaluation mode and float32 at least, without gradients; then it is as it was."""
    before, rounding = vae.device, widen_(vae)
    with torch.no_grad(), preserve_modes(vae):
        vae.eval().to(device)
        try:
            yield
        finally:
            rounding.restore_(vae)
            vae.to(before)
