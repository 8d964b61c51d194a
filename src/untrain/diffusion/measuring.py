"""What it takes to measure a generator, for a plan of a run: drawing its images."""

from collections.abc import Callable

from torch import Tensor, nn

from untrain.diffusion.process import DiffusionProcess
from untrain.diffusion.sections import Generation
from untrain.types import Batch


def sampling_passes(images: int, generation: Generation) -> int:
    """Counts steps of sampling so many images: each is a pass of a batch, with and without its condition if guided."""
    return -(-images // generation.batch_size) * generation.sampler.steps


def sample_once(
    task: DiffusionProcess, module: nn.Module, draw: Callable[[int], Batch], generation: Generation
) -> Tensor:
    """Takes one step of sampling a batch, as large as images are made in; gives what is walked along, [B, C, H, W].

    Args:
        task: prepared.
        module: in evaluation mode.
        draw: gives a batch of so many samples.
        generation: how images are made.
    """
    batch = draw(generation.batch_size)
    batch["seen"] = batch["input"]
    return task.guided(module, batch, generation.sampler.guidance_scale)
