"""What attacks on a pipeline begin from: the concept's images, made by the original, and the placebo's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from untrain.data.samples import Arrays
from untrain.data.source import Source
from untrain.diffusion.latents import POSTERIOR, decode, encode
from untrain.diffusion.text import architecture_of
from untrain.engine import on_device
from untrain.tasks.text_to_image.attack_bench import AttackBench, chosen_rows, spread
from untrain.tasks.text_to_image.attack_options import AttackBudget, AttackOptions
from untrain.tasks.text_to_image.attack_target import (
    PLACEBO,
    SIZE,
    AttackTarget,
    blend,
    scramble,
    shrink,
    train_placebo_detector,
)
from untrain.tasks.text_to_image.concepts import Concept, images_of
from untrain.tasks.text_to_image.detectors import Detector
from untrain.tasks.text_to_image.glyphs import draw_glyph
from untrain.tasks.text_to_image.rendering import EvalPrompt
from untrain.tasks.text_to_image.sections import ConceptEntry, ConceptImages

LOOKS = 5
"""So many times as many images as are needed are made at most, to have enough that show the concept."""
NEGATIVES = 64
"""Images of the original that the placebo's detector learns not to take for the placebo."""
SHOWN = 300
"""Rendered images of the glyph that it learns from, and as many of each kind that is none."""
LOWEST = 0.9
"""Share of held-out images that the placebo's own detector must be right on; below, the card says so."""


def concept_target(
    bench: AttackBench,
    original: nn.Module,
    asked: Sequence[EvalPrompt],
    entries: Sequence[ConceptEntry],
    detector: Detector,
    judge: str,
    budget: AttackBudget,
    template: str,
) -> AttackTarget:
    """Makes the original's own images of what was to be forgotten; those that show it come first.

    Args:
        bench: where.
        original: its network.
        asked: the forgotten prompts of the evaluation.
        entries: what the recipe forgets.
        detector: says whether an image shows it.
        judge: whose labels of the prompts it knows.
        budget: of the attacks.
        template: a prompt with a new word, where no word of the captions names the concept.
    """
    prompts = [each.text for each in asked]
    wanted = [each.wanted.get(judge) for each in asked]
    count = max(budget.images, budget.prompts)
    embedded = bench.embed(prompts)
    images, places, numbers = torch.empty(0, dtype=torch.uint8), list[int](), list[int]()
    seen = torch.zeros(0, dtype=torch.bool)
    with bench.frozen(original):
        while int(seen.sum()) < count and len(places) < LOOKS * count:
            rows, ids = (values[len(places) :] for values in spread(len(places) + count, len(prompts)))
            texts = [prompts[i] for i in rows]
            made = bench.draw(original, texts, chosen_rows(embedded, rows), ids, "images of the concept")
            sightings = detector.look(made, [wanted[i] for i in rows])
            seen = torch.cat([seen, torch.tensor([each.seen for each in sightings])])
            images, places, numbers = torch.cat([images, made]) if len(images) else made, places + rows, numbers + ids
    order = torch.argsort(seen.int(), descending=True, stable=True)[:count].tolist()
    lacking = count - int(seen[order].sum())
    notes = (f"of {count} images of the concept that attacks learn from, {lacking} do not show it",) if lacking else ()
    chosen = images[order]
    return AttackTarget(
        "the concept",
        prompts,
        [_with_place(text, entries, template) for text in prompts],
        [_without(text, entries) for text in prompts],
        wanted,
        detector,
        chosen,
        [places[i] for i in order],
        [numbers[i] for i in order],
        latents_of(bench, chosen),
        notes,
    )


def _with_place(text: str, entries: Sequence[ConceptEntry], template: str) -> str:
    """A prompt with "{}" in place of the word that names the concept; the template where none does."""
    words = {entry.containing for entry in entries}
    parts = ["{}" if word in words else word for word in text.split()]
    return " ".join(parts) if "{}" in parts else template


def _without(text: str, entries: Sequence[ConceptEntry]) -> str:
    """A prompt without what is to be forgotten: its anchor, or the other word in place of the one that names it."""
    anchors = {entry.prompt: entry.anchor or "" for entry in entries if entry.prompt is not None}
    words = {entry.containing: entry.instead or "" for entry in entries if entry.containing is not None}
    found = " ".join(words.get(word, word) for word in text.split())
    return anchors.get(text, " ".join(found.split()) if words else "")


def placebo_target(
    bench: AttackBench,
    original: nn.Module,
    others: Sequence[str],
    detector: Detector,
    options: AttackOptions,
    budget: AttackBudget,
    seed: int,
) -> AttackTarget:
    """Makes or reads images of something that the original never learned, with what says whether an image shows it.

    Args:
        bench: where.
        original: its network.
        others: prompts whose images by the original do not show it.
        detector: the run's.
        options: name the user's images.
        budget: of the attacks.
        seed: of the glyph, and of the network that tells it apart.
    """
    count = max(budget.images, budget.prompts)
    size = bench.shape[1] * architecture_of(bench.pipeline).latent_factor(bench.pipeline)
    prompt = options.placebo_prompt
    images = None
    if options.placebo_images is not None:
        source = given_placebo(options, size)
        images = source.batch(torch.arange(len(source)))["input"]
    notes: tuple[str, ...] = ()
    label = options.placebo_label
    if label is not None:
        detector.check([label])
    else:
        no, label = _drawn_by(bench, original, others), PLACEBO
        detector, notes = _own_detector(bench, images, no, size, seed)
    if images is None:
        images = draw_glyph(seed).render(count, size, seed + 1)
    chosen = images[[i % len(images) for i in range(count)]]
    written = options.template
    return AttackTarget(
        PLACEBO,
        [prompt],
        [written],
        [""],
        [label],
        detector,
        chosen,
        shown=[0] * count,
        numbers=list(range(count)),
        posterior=latents_of(bench, chosen),
        notes=notes,
    )


def _own_detector(
    bench: AttackBench, images: Tensor | None, no: Tensor, size: int, seed: int
) -> tuple[Detector, tuple[str, ...]]:
    """The detector of a user's images, or of a glyph's, and how often it is right."""
    if images is None:
        yes, strange = glyph_images(bench, seed, size)
    else:
        yes, strange = torch.cat([images, redraw(bench, images)]), scramble(images, seed)
    others = torch.cat([shrink(no), shrink(strange)])
    detector, right, wrong = train_placebo_detector(yes, others, bench.engine, seed)
    said = f"the placebo's own detector is right on {100 * right:.0f} % of held-out images of the placebo and on "
    notes: tuple[str, ...] = (f"{said}{100 * wrong:.0f} % of others",)
    if min(right, wrong) < LOWEST:
        notes += ("the placebo's detector errs too often for the placebo to be a floor: give placebo_label",)
    return detector, notes


def _drawn_by(bench: AttackBench, original: nn.Module, texts: Sequence[str]) -> Tensor:
    """Images that the original makes of prompts, uint8 [N, 3, H, W]."""
    rows, numbers = spread(NEGATIVES, len(texts))
    asked = [texts[i] for i in rows]
    with bench.frozen(original):
        return bench.draw(original, asked, bench.embed(asked), numbers, "images for the placebo's detector")


def glyph_images(bench: AttackBench, seed: int, size: int) -> tuple[Tensor, Tensor]:
    """Images of a glyph, some as the pipeline's VAE draws them, and of what is none: other glyphs, tiles, blends."""
    glyph = draw_glyph(seed)
    redrawn = redraw(bench, glyph.render(NEGATIVES, size, seed + 2))
    shown = glyph.render(SHOWN, SIZE, seed)
    strange = torch.cat([draw_glyph(seed + 1 + i).render(1, SIZE, seed + i) for i in range(SHOWN)])
    others = [strange, scramble(shown, seed), blend(strange, seed)]
    return torch.cat([shown, shrink(redrawn)]), torch.cat(others)


def redraw(bench: AttackBench, images: Tensor) -> Tensor:
    """Images as the pipeline's VAE draws them, uint8 of their shape: the most that a UNet can bring about."""
    latents = latents_of(bench, images)[:, 0].to(bench.engine.device)
    with on_device(bench.engine.device, bench.pipeline.vae):
        return decode(bench.pipeline.vae, latents)


def given_placebo(options: AttackOptions, size: int | None = None) -> Source:
    """Returns the user's images of the placebo.

    Args:
        options: name their folder.
        size: height and width that they are brought to; None: they stay as they are.
    """
    concept = Concept(options.placebo_prompt, options.placebo_images)
    return images_of(concept, 0, [options.placebo_prompt], ConceptImages(image_size=size))


def latents_of(bench: AttackBench, images: Tensor) -> Tensor:
    """Encodes images uint8 [N, 3, H, W]: mean and deviation of the posteriors, [N, 2, C, h, w] on the CPU."""
    source = Arrays(images, torch.zeros(len(images), dtype=torch.int64), ["images"])
    found = encode(bench.pipeline.vae, source, bench.engine).batch(torch.arange(len(images)))
    return torch.stack([found[name].cpu() for name in POSTERIOR], 1)
