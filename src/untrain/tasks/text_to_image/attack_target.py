"""What attacks try to bring back: a concept, its prompts and images, and what says whether an image shows it.

The placebo is one too: something that the original never learned, to show what an attack teaches by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from untrain.engine import Engine, generator_of
from untrain.models.classifiers import build
from untrain.tasks.text_to_image.detectors import Detector, image_classifier

PLACEBO, OTHER = "placebo", "other"
"""What the small network tells apart."""
SIZE, STEPS, BATCH, RATE = 32, 300, 64, 2e-3
"""Of that network: pixels of its inputs, steps, images a step, Adam's rate."""
HELD = 4
"""One in so many images is held out of its training."""
TILES = 4
"""Of a scrambled image, a side."""


@dataclass(frozen=True, eq=False)
class AttackTarget:
    """Something that a pipeline is to draw.

    Attributes:
        name: of whose images it is: the concept's, or "placebo".
        prompts: that ask for it, [P].
        written: the same with a new word's place, "{}", where it is named, [P].
        without: the same without it, [P].
        wanted: what the detector is asked of images of each, [P].
        detector: says whether an image shows it.
        images: of it, uint8 [k, 3, H, W].
        shown: prompt of each image, as a place in `prompts`, [k].
        numbers: of the images among those of their prompts: with these they are made again, [k].
        posterior: mean and deviation of their latents, [k, 2, C, h, w].
        notes: what a reader must know.
    """

    name: str
    prompts: Sequence[str]
    written: Sequence[str]
    without: Sequence[str]
    wanted: Sequence[str | None]
    detector: Detector
    images: Tensor
    shown: Sequence[int]
    numbers: Sequence[int]
    posterior: Tensor
    notes: tuple[str, ...] = ()

    def sees(self, images: Tensor, places: Sequence[int]) -> Tensor:
        """Returns of every image whether the detector sees what its prompt, by place, asks for, bool [N]."""
        sightings = self.detector.look(images, [self.wanted[place] for place in places])
        return torch.tensor([sighting.seen for sighting in sightings], dtype=torch.bool)


def train_placebo_detector(yes: Tensor, no: Tensor, engine: Engine, seed: int) -> tuple[Detector, float, float]:
    """Trains a small network to tell a placebo's images from others.

    Args:
        yes: images of the placebo, uint8 [N, 3, H, W].
        no: others, uint8 [M, 3, H', W'].
        engine: where.
        seed: of what is held out, and of all else that is random.

    Returns:
        The detector, and of held-out images the shares that it is right on: of the placebo's, and of others.
    """
    yes, no = _shuffled(shrink(yes), seed), _shuffled(shrink(no), seed)
    held = [max(1, len(side) // HELD) for side in (yes, no)]
    module = _trained(yes[held[0] :], no[held[1] :], engine, seed)
    detector = image_classifier(
        module, (PLACEBO, OTHER), lambda images: _normalised(shrink(images).to(engine.device)), name="placebo's own"
    )
    return detector, _share(detector, yes[: held[0]], PLACEBO), _share(detector, no[: held[1]], OTHER)


def _shuffled(images: Tensor, seed: int) -> Tensor:
    return images[torch.randperm(len(images), generator=generator_of(seed, "placebo", "order"))]


def _share(detector: Detector, images: Tensor, label: str) -> float:
    seen = [sighting.seen for sighting in detector.look(images, [label] * len(images))]
    return sum(seen) / len(seen)


def _trained(yes: Tensor, no: Tensor, engine: Engine, seed: int) -> nn.Module:
    """A network that has learned from as many images of one side as of the other, shifted by up to two pixels."""
    module = build("small-cnn", num_classes=2, in_channels=3, image_size=SIZE, width=16, seed=seed).to(engine.device)
    optimizer, generator = torch.optim.Adam(module.parameters(), RATE), generator_of(seed, "placebo", "batches")
    labels = torch.tensor([0, 1]).repeat_interleave(BATCH // 2).to(engine.device)
    module.train()
    for _ in engine.track(range(STEPS), "detector of the placebo", STEPS):
        rows = [torch.randint(len(side), (BATCH // 2,), generator=generator) for side in (yes, no)]
        batch = torch.cat([yes[rows[0]], no[rows[1]]])
        down, along = torch.randint(-2, 3, (2,), generator=generator).tolist()
        logits = module(_normalised(batch.roll((down, along), (2, 3)).to(engine.device)))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    return module.eval()


def scramble(images: Tensor, seed: int) -> Tensor:
    """Images whose tiles are shuffled: the same colours and edges, but nothing that they showed."""
    generator = generator_of(seed, "placebo", "tiles")
    count, channels, height, width = images.shape
    down, along = height // TILES, width // TILES
    tiles = images[:, :, : down * TILES, : along * TILES].reshape(count, channels, TILES, down, TILES, along)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).reshape(count, TILES**2, channels, down, along)
    orders = [torch.randperm(TILES**2, generator=generator) for _ in range(count)]
    mixed = torch.stack([each[order] for each, order in zip(tiles, orders, strict=True)])
    mixed = mixed.reshape(count, TILES, TILES, channels, down, along).permute(0, 3, 1, 4, 2, 5)
    return mixed.reshape(count, channels, down * TILES, along * TILES)


def blend(images: Tensor, seed: int) -> Tensor:
    """Means of each image and two others: what a pipeline may draw that has learned nothing well."""
    generator = generator_of(seed, "placebo", "blends")
    others = [images[torch.randperm(len(images), generator=generator)].float() for _ in range(2)]
    return ((images.float() + others[0] + others[1]) / 3).round().to(torch.uint8)


def shrink(images: Tensor) -> Tensor:
    """Images of any size as uint8 [N, 3, 32, 32]."""
    resized = nn.functional.interpolate(images.float(), (SIZE, SIZE), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _normalised(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1
