"""Generators, judged by samples that start from the same noise in each of them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from untrain.diffusion.features import Features, Generated, Seen
from untrain.diffusion.images import Conditions, Decode, generate_images, to_uint8
from untrain.diffusion.quality import GenerationEvaluation, evaluate_samples
from untrain.engine import Engine
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.text_to_image.task import TextToImage


def samples_of(
    module: nn.Module,
    task: ClassDiffusion | TextToImage,
    engine: Engine,
    classes: Sequence[int],
    count: int,
    *,
    shape: Sequence[int],
    sampler: Sampler,
    seed: int = 0,
    batch_size: int = 256,
    decode: Decode | None = None,
    label: str | None = None,
    conditions: Conditions | None = None,
) -> tuple[Tensor, Tensor]:
    """So many images of each class: uint8 [N, C, H, W], and their classes, [N], both on the CPU.

    Args:
        module: predicts noise; on the engine's device.
        task: its task, prepared.
        engine: device, precision, processes.
        classes: numbers of the classes.
        count: images of each.
        shape: (C, H, W) of an image or latent.
        sampler: steps, η, guidance.
        seed: with class and number it decides an image's noise.
        batch_size: images at a time.
        decode: makes images of latents.
        label: of the progress bar; None: no bar.
        conditions: what the numbers stand for; None: the task's classes.
    """
    counts = dict.fromkeys(classes, count)
    made = generate_images(
        module,
        task,
        counts,
        shape,
        sampler=sampler,
        seed=seed,
        batch_size=batch_size,
        engine=engine,
        decode=decode,
        label=label,
        conditions=conditions,
    )
    parts = [(to_uint8(part.images).cpu(), part.labels) for part in made]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def evaluate_generators(
    models: Mapping[str, nn.Module],
    sample: Callable[[nn.Module, str], tuple[Tensor, Tensor]],
    *,
    real: Seen,
    forgotten: Sequence[int],
    classes: Sequence[str],
    judge: Features,
    features: Features,
    batch_size: int = 256,
    setting: str = "samples",
    look: Callable[[str, Tensor, Tensor], None] = lambda name, images, labels: None,
) -> dict[str, GenerationEvaluation]:
    """Evaluates generators beside the same real images.

    Args:
        models: name → module.
        sample: (module, what the progress bar is called) → images and classes, as `samples_of` gives them.
        real: what the feature network sees in real images of the retained classes.
        forgotten: numbers of the forgotten classes.
        classes: the classes' names.
        judge: the classifier that says what a sample shows.
        features: the network that distances are measured in.
        batch_size: images that a network looks at at once.
        setting: what is to be raised where there are too few samples.
        look: is shown each model's name, images and classes.
    """
    found = {}
    for name, module in models.items():
        images, labels = sample(module, f"samples of {name}")
        look(name, images, labels)
        found[name] = evaluate_samples(
            generated=Generated(images, labels),
            real=real,
            forgotten=forgotten,
            classes=classes,
            judge=judge,
            features=features,
            batch_size=batch_size,
            setting=setting,
        )
    return found
