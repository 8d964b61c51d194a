"""Attacks on a generator that forgot a class: a learned vector for the class, relearning, and losses by timestep.

Each takes one model and leaves it as it was. All that is random comes from the stream that it is given, or from the
seed, so that every model meets the same images, noises and timesteps.

Pham, Marshall, Cohen, Mittal, Hegde: *Circumventing Concept Erasure Methods for Text-to-Image Generative Models*, ICLR
2024, whose inversion of a concept is here that of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from untrain.engine import Engine, generator_of, preserve_modes, seed_of
from untrain.lazy import nn, torch
from untrain.models.copies import copy_module
from untrain.tasks.class_diffusion.embeddings import replace_class
from untrain.tasks.class_diffusion.task import ClassDiffusion

if TYPE_CHECKING:
    from torch import Tensor

    from untrain.data.streams import Stream

Advance = Callable[[], None]


def invert_class(
    model: nn.Module,
    task: ClassDiffusion,
    images: Stream,
    engine: Engine,
    *,
    groups: Sequence[Sequence[nn.Embedding]],
    label: int,
    retained: Sequence[int],
    steps: int,
    rate: float,
    advance: Advance = lambda: None,
) -> list[Tensor]:
    """Learns what stands for a class in frozen weights: argmin_v ‖ε − ε_θ(x_t, t, v)‖² over images of the class.

    Of a flow it is the error of its velocity.

    Args:
        model: predicts noise; on the engine's device. Looked at in evaluation mode.
        task: prepared.
        images: real images of the class, as many in each step as a batch of the stream has.
        engine: where it runs.
        groups: the model's embeddings of classes, as `shared_embeddings` gives them.
        label: number of the class.
        retained: numbers of the classes whose mean embedding is the start.
        steps: of Adam.
        rate: of Adam.
        advance: called after each step.

    Returns:
        A vector for each group, [D], without gradient; `replace_class` puts them in the class's place.
    """
    vectors = [nn.Parameter(group[0].weight[list(retained)].detach().mean(0)) for group in groups]
    optimizer = torch.optim.Adam(vectors, lr=rate)
    with preserve_modes(model), _frozen_weights(model), replace_class(groups, label, vectors):
        model.eval()
        for k in range(steps):
            optimizer.zero_grad()
            batch = engine.shard(images.batch(k, task, "forget"))
            with engine.autocast():
                loss = engine.mean(task.squared(task.outputs(model, batch), task.target(batch)))
            engine.backward(loss, vectors)
            engine.step(optimizer)
            advance()
    return [vector.detach() for vector in vectors]


@contextmanager
def _frozen_weights(model: nn.Module) -> Iterator[None]:
    """Inside the block no weight has a gradient, which saves the memory of what it is computed from."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def relearn_class(
    model: nn.Module,
    task: ClassDiffusion,
    forgotten: Stream,
    retained: Stream,
    engine: Engine,
    *,
    after: Sequence[int],
    rate: float,
    advance: Advance = lambda: None,
) -> Iterator[tuple[int, nn.Module]]:
    """Trains all weights of a copy on a few images of the class and as many retained ones, as the recipe trains.

    Args:
        model: on the engine's device.
        task: prepared.
        forgotten: images of the class, with their label.
        retained: as many of other classes; a step takes a batch of both.
        engine: where it runs.
        after: numbers of steps, ascending.
        rate: of Adam.
        advance: called after each step.

    Yields:
        Steps that were taken, and the copy, in evaluation mode; it goes on to change.
    """
    copied = copy_module(model).requires_grad_(True)
    weights = list(copied.parameters())
    optimizer = torch.optim.Adam(weights, lr=rate)
    for k in range(after[-1]):
        copied.train()
        optimizer.zero_grad()
        parts = [stream.batch(k, task, "train") for stream in (forgotten, retained)]
        batch = engine.shard({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        with engine.autocast(), engine.seeded(seed_of(forgotten.seed, "relearning", k)):
            loss = engine.mean(task.loss(copied, batch))
        engine.backward(loss, weights)
        engine.step(optimizer)
        advance()
        if k + 1 in after:
            yield k + 1, copied.eval()


def even_timesteps(count: int, total: int) -> list[int]:
    """Returns `count` timesteps in the middles of as many equal parts of 0 … `total` − 1, ascending."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def timestep_losses(
    model: nn.Module,
    task: ClassDiffusion,
    images: Stream,
    engine: Engine,
    *,
    timesteps: Sequence[int],
    noises: int,
    seed: int,
    advance: Advance = lambda: None,
) -> Tensor:
    """Computes ℓ_t(x) = ‖ε − ε_θ(x_t, t, c)‖²/D, the mean over fixed noises ε, for each image and timestep.

    Of a flow it is the error of its velocity.

    Args:
        model: on the engine's device. Looked at in evaluation mode.
        task: prepared.
        images: each once, in their order; their noises depend on name and number alone.
        engine: where it runs.
        timesteps: their numbers, in 0 … T − 1.
        noises: for each image and timestep.
        seed: of the noises.
        advance: called after each batch.

    Returns:
        [N, T], float64, on the CPU.
    """
    parts, first = [], 0
    with preserve_modes(model), torch.no_grad():
        model.eval()
        for batch in images.once(task, "evaluate"):
            rows, shape = len(batch["label"]), batch["input"].shape[1:]
            drawn = torch.stack(
                [
                    torch.randn(
                        len(timesteps),
                        noises,
                        *shape,
                        generator=generator_of(seed, "members", images.name, first + row),
                    )
                    for row in range(rows)
                ]
            )  # [B, T, noises, C, H, W]
            found = torch.empty(rows, len(timesteps), noises, dtype=torch.float64)
            for i, t in enumerate(timesteps):
                for j in range(noises):
                    noise = drawn[:, i, j].to(batch["input"])
                    at = {**task.at(batch, torch.full_like(batch["label"], t)), "noise": noise}
                    with engine.autocast():
                        errors = task.outputs(model, at) - task.target(at)
                    found[:, i, j] = errors.double().square().flatten(1).mean(1).cpu()
            parts.append(found.mean(2))
            first += rows
            advance()
    return torch.cat(parts)
