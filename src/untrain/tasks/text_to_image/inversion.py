"""Textual inversion: one new word is learned from images of the concept, with all weights as they are.

Gal et al.: *An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion*, ICLR 2023;
against unlearned pipelines: Pham et al.: *Circumventing Concept Erasure Methods for Text-to-Image Generative Models*,
2023.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from untrain.engine import generator_of
from untrain.tasks.text_to_image.attack_bench import AttackBench
from untrain.tasks.text_to_image.attack_target import AttackTarget
from untrain.tasks.text_to_image.new_words import NewWords, neutral_vectors


def invert(
    bench: AttackBench,
    unet: nn.Module,
    target: AttackTarget,
    word: NewWords,
    *,
    steps: int,
    rate: float,
    batch_size: int,
    start: str | None,
    seed: int,
    label: str,
) -> list[Tensor]:
    """Learns the vector of one new word, by Adam on the pipeline's own loss.

    Args:
        bench: where.
        unet: frozen, see `AttackBench.frozen`.
        target: what the word is to mean, with images.
        word: one.
        steps: how many.
        rate: Adam's.
        batch_size: images a step.
        start: a word whose vector it starts from; None: the vocabulary's mean.
        seed: of the order of images, of timesteps and noise.
        label: of the progress bar.

    Returns:
        The vector of each text encoder, [1, 1, D].
    """
    vectors = [vector.to(bench.engine.device).requires_grad_() for vector in neutral_vectors(bench.pipeline, start)]
    optimizer = torch.optim.Adam(vectors, lr=rate)
    generator = generator_of(seed, "inversion")
    with bench.progress(label, steps) as bar:
        for _ in range(steps):
            chosen = torch.randperm(len(target.images), generator=generator)[:batch_size].tolist()
            texts = write_with(word, [target.written[target.shown[i]] for i in chosen])
            drawn = bench.task.draw(bench.rows(target, chosen, word.embed(texts, vectors)), generator, "forget")
            bench.descend(bench.losses(unet, drawn), vectors, mean=True)
            optimizer.step()
            bar.advance()
    return [vector.detach() for vector in vectors]


def write_with(word: NewWords, written: Sequence[str]) -> list[str]:
    """Writes the new word into the place that each text has for it."""
    return [text.replace("{}", word.words[0]) for text in written]
