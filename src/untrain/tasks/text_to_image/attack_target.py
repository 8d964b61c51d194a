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
from untrain.tasks.text_to_image.glyphs import draw_glyph

PLACEBO, OTHER = "placebo", "other"
"""What the small network tells apart."""
SIZE, STEPS, BATCH, RATE = 32, 300, 64, 2e-3
"""Of that network: pixels of its inputs, steps, images a step, Adam's rate."""
SHOWN = 400
"""Rendered images that it learns from, of the glyph and of others; as many are held out."""


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


def train_glyph_detector(
    glyph: int, others: Tensor, engine: Engine, seed: int, given: Tensor | None = None
) -> tuple[Detector, float, float]:
    """Trains a small network to tell a placebo's images from other glyphs, and from what the original draws.

    Args:
        glyph: seed of the glyph.
        others: images that the original makes, uint8 [N, 3, H, W].
        engine: where.
        seed: of all else that is random.
        given: a user's images instead of the glyph's, uint8 [M, 3, H, W]; a quarter of them is held out.

    Returns:
        The detector, and of held-out images the shares that it is right on: of the placebo's, and of others.
    """
    held = max(1, len(given) // 4) if given is not None and len(given) > 1 else 0
    if given is None:
        yes = draw_glyph(glyph).render(2 * SHOWN, SIZE, seed)
        strange = torch.cat([draw_glyph(glyph + 1 + i).render(2, SIZE, seed) for i in range(SHOWN)])
        held = SHOWN
    else:
        yes, strange = _small(given), torch.empty(0, 3, SIZE, SIZE, dtype=torch.uint8)
    no = torch.cat([strange, _small(others)])
    no = no[torch.randperm(len(no), generator=generator_of(seed, "placebo", "order"))]
    apart = max(1, len(no) // 4)
    module = _trained(yes[held:], no[apart:], engine, seed)
    detector = image_classifier(
        module, (PLACEBO, OTHER), lambda images: _normalised(_small(images).to(engine.device)), name="placebo's own"
    )
    right = [_share(detector, images, label) for images, label in ((yes[:held], PLACEBO), (no[:apart], OTHER))]
    return detector, right[0], right[1]


def _share(detector: Detector, images: Tensor, label: str) -> float:
    seen = [sighting.seen for sighting in detector.look(images, [label] * len(images))]
    return sum(seen) / max(1, len(seen))


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


def _small(images: Tensor) -> Tensor:
    """Images of any size as uint8 [N, 3, 32, 32]."""
    resized = nn.functional.interpolate(images.float(), (SIZE, SIZE), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _normalised(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1
