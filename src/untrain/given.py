"""What a user hands over in Python, taken apart: a module or a pipeline, a task, and sets."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from untrain.data.splits import Subset
from untrain.data.streams import Stream
from untrain.diffusion.denoisers import denoiser_of
from untrain.diffusion.latents import encode_data
from untrain.diffusion.pipelines import schedule_of, with_denoiser
from untrain.engine import Engine, preserve_modes
from untrain.errors import DataError, ModelError, SettingError
from untrain.tasks import resolve
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.text_to_image.concepts import CACHE, Concept, ConceptImages, concept_data, text_task, until_done
from untrain.tasks.text_to_image.task import TextToImage
from untrain.types import Task


@dataclass(frozen=True)
class Given:
    """What a user hands over, taken apart.

    Attributes:
        model: as it was given.
        module: what is trained.
        task: its task object.
        vae: encodes images into latents; None where the module sees the images themselves.
    """

    model: Any
    module: nn.Module
    task: Task
    vae: Any = None

    @classmethod
    def of(cls, model: Any, task: str | Task) -> "Given":
        """A module, or a pipeline of diffusers with its schedule and VAE.

        Raises:
            ModelError: if it is neither. SettingError: if there is no such task.
        """
        if isinstance(model, nn.Module) or not hasattr(model, "components"):
            return cls(model, check_model(model), resolve(task))
        vae = model.components.get("vae")
        chosen = resolve(task)
        if isinstance(chosen, TextToImage):
            own = {key: getattr(chosen, key) for key in ("draws", "drop", "reduction", "names")}
            return cls(model, model.components["unet"], text_task(model, **own), vae)
        if isinstance(chosen, ClassDiffusion):
            known = {} if not isinstance(task, str) else schedule_of(model)
            chosen = replace(chosen, clip_samples=vae is None, **known)
        return cls(model, denoiser_of(model), chosen, vae)

    @contextmanager
    def sets(
        self, asked: Mapping[str, Any], engine: Engine, folder: Path | None, images: ConceptImages | None, seed: int
    ) -> Iterator[dict[str, Any]]:
        """The sets as the module sees them; what had to be made for them is removed at a good end.

        Concepts become latents and embedded prompts; images become latents, each computed once, where there is a VAE.

        Raises:
            DataError: if concepts are asked for where they cannot be had, or something else where they are needed.
        """
        if isinstance(self.task, TextToImage) and self.model is not self.module:
            with until_done(None if folder is None else folder / CACHE, engine) as place:
                yield self._concepts(asked, engine, place, images, seed)
            return
        for name, data in asked.items():
            if isinstance(data, Concept) or (isinstance(data, Sequence) and any(isinstance(d, Concept) for d in data)):
                raise DataError(f"the {name} set is concepts: these need task='text-to-image' and a whole pipeline.")
        if images is not None:
            raise SettingError("images= says how a text-to-image pipeline makes images of concepts: leave it out.")
        yield {name: self._seen(data, engine, name) for name, data in asked.items()}

    def _concepts(
        self, asked: Mapping[str, Any], engine: Engine, place: Path, images: ConceptImages | None, seed: int
    ) -> dict[str, Any]:
        if "holdout" in asked:
            raise SettingError("held-out data tell a classifier how far to forget: leave holdout out for a pipeline.")
        task = cast(TextToImage, self.task)
        how = images or ConceptImages()
        data, rows = concept_data(self.model, asked, engine, place, task=task, how=how, seed=seed)
        return {name: Subset(data, positions) for name, positions in rows.items()}

    def batch_size(self, sets: Mapping[str, Any]) -> int:
        """Samples a batch where the user does not say; for 64 × 64 latents the published 2."""
        if not isinstance(self.task, TextToImage) or self.model is self.module:
            return 128
        _, height, width = sets["forget"].shape
        return max(2, min(32, 2 * 64 * 64 // (height * width)))

    def _seen(self, data: Any, engine: Engine, name: str) -> Any:
        """A set as the module sees it: latents of the images, each computed once, where there is a VAE."""
        if self.vae is None or not isinstance(self.task, ClassDiffusion):
            return data
        task = self.task
        return encode_data(self.vae, data, engine, mirrored=task.flip, names=task.names, name=name)

    def whole(self, module: nn.Module) -> Any:
        """The unlearned module as the user's type."""
        if self.model is self.module:
            return module
        return self.model if module is self.module else with_denoiser(self.model, module)


def prepared(task: str | Task, module: nn.Module, streams: Mapping[str, Stream]) -> Task:
    """The task, completed by looking at the model and at a few samples of the first set; nothing is changed."""
    ready = resolve(task)
    stream = next(iter(streams.values()))
    batch = next(iter(stream.once(ready, "evaluate", limit=2, batch_size=2)))
    few = {key: value[:2] for key, value in batch.items()}
    with preserve_modes(module):
        return ready.prepare(module.eval(), few)


def check_model(model: Any, name: str = "model") -> nn.Module:
    """The model, if it is one.

    Raises:
        ModelError: if it is something else.
    """
    if hasattr(model, "model") and hasattr(model, "history"):
        raise ModelError(f"{name} is a Result: pass its .model.")
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} must be a torch.nn.Module, not {type(model).__name__}.")
    return model


def check_trainable(module: nn.Module) -> None:
    """Refuses weights that an optimiser would ruin.

    Raises:
        ModelError: if a trained parameter is in half precision.
    """
    half = [name for name, p in module.named_parameters() if p.requires_grad and p.dtype == torch.float16]
    if half:
        raise ModelError(
            f"{len(half)} parameters are in float16, such as {half[0]}: small steps vanish in it and large ones "
            'overflow. Load the model in float32, and save memory by precision="fp16" or "bf16".'
        )
