"""What makes images of a task's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from untrain.diffusion.images import Conditions, Decode, ImageMaker
from untrain.engine import Engine, preserve_modes
from untrain.errors import DataError, SettingError
from untrain.lazy import nn, torch
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion

if TYPE_CHECKING:
    from torch import Tensor


def image_maker(
    task: ClassDiffusion,
    shape: Sequence[int],
    sampler: Sampler,
    engine: Engine,
    *,
    seed: int = 0,
    batch_size: int = 64,
    decode: Decode | None = None,
) -> ImageMaker:
    """Returns what makes images of a task's classes; arguments as of `ImageMaker`.

    Raises:
        SettingError: if the task cannot be guided, or not be sampled in so many steps.
    """
    if sampler.is_guided and task.null_class is None:
        raise SettingError(
            "guidance needs a model that was trained with dropped classes; this one has no class that stands for "
            "“no class”. Leave guidance_scale at 1."
        )

    def blank(labels: Tensor, shape: Sequence[int]) -> dict[str, Tensor]:
        unknown = [c for c in labels.tolist() if c < 0 or (task.num_classes is not None and c >= task.num_classes)]
        if unknown:
            raise DataError(f"there is no class {unknown[0]}: the model has {task.num_classes}, numbered from 0.")
        return task.blank(labels, shape)

    conditions = Conditions(blank, lambda c: c)
    return ImageMaker(task, conditions, tuple(shape), sampler, engine, seed, batch_size, decode)


def prepare_generator(
    task: ClassDiffusion, module: nn.Module, shape: Sequence[int], labels: Tensor, engine: Engine
) -> ClassDiffusion:
    """Completes a task by looking at a module, on a batch without images."""
    blank = {"input": torch.zeros(len(labels), *shape), "label": labels}
    with preserve_modes(module):
        drawn = task.draw(blank, torch.Generator(), "evaluate")
        return task.prepare(module.eval(), engine.to_device(drawn))
