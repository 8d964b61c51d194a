"""Relearning: a copy of a network takes a few steps of ordinary training on images of the concept."""

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import nn

from untrain.engine import generator_of
from untrain.tasks.text_to_image.attack_bench import AttackBench, chosen_rows
from untrain.tasks.text_to_image.attack_target import AttackTarget


def relearn(
    bench: AttackBench,
    unet: nn.Module,
    target: AttackTarget,
    *,
    stops: Sequence[int],
    rate: float,
    batch_size: int,
    seed: int,
    label: str,
) -> Iterator[tuple[int, nn.Module]]:
    """Trains a copy of a network, all weights, by Adam on the pipeline's own loss of the target's images and prompts.

    Args:
        bench: where.
        unet: is left as it is.
        target: with images.
        stops: steps after which the copy is handed out, ascending.
        rate: Adam's.
        batch_size: images a step.
        seed: of the order of images, of timesteps and noise.
        label: of the progress bar.

    Yields:
        Steps taken, and the copy as it then is; it is trained on once it is given back.
    """
    copy = deepcopy(unet)
    weights = [weight.requires_grad_() for weight in copy.parameters() if weight.is_floating_point()]
    optimizer, generator = torch.optim.Adam(weights, lr=rate), generator_of(seed, "relearning")
    prompts = bench.embed(target.prompts)
    taken = 0
    for stop in stops:
        with bench.progress(f"{label}, to step {stop}", stop - taken) as bar:
            while taken < stop:
                chosen = torch.randperm(len(target.images), generator=generator)[:batch_size].tolist()
                places = [target.shown[i] for i in chosen]
                rows = bench.rows(target, chosen, chosen_rows(prompts, places))
                drawn = bench.task.draw(rows, generator, "forget")
                bench.descend(bench.losses(copy, drawn), weights, mean=True)
                optimizer.step()
                taken += 1
                bar.advance()
        optimizer.zero_grad(set_to_none=True)
        yield stop, copy
