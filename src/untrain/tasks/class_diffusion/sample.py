"""`untrain sample` for generators of classes: images of their classes, as a grid, a folder or an array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from untrain.data.classes import class_number
from untrain.diffusion.denoisers import load_denoiser
from untrain.diffusion.folders import INDEX, local_folder
from untrain.diffusion.images import ImageSet, write_folder, write_grid, write_npz
from untrain.diffusion.pipelines import diffusion_of, labels_of
from untrain.engine import Engine, Precision
from untrain.errors import CheckpointError, SettingError, UnknownName
from untrain.lazy import nn, torch
from untrain.models.checkpoints import state_hash
from untrain.permissions import NONE, Permissions
from untrain.runs.models import (
    checked_folder,
    choose_model,
    is_run,
    kept_folders,
    kept_weights,
    open_model,
    sample_place,
)
from untrain.runs.python import read_python_run
from untrain.sampling import Sampler, Spacing
from untrain.tasks.class_diffusion.making import image_maker, prepare_generator
from untrain.tasks.class_diffusion.task import ClassDiffusion

if TYPE_CHECKING:
    from untrain.diffusion.images import Decode
    from untrain.tasks.class_diffusion.domain import ClassDiffusionDomain

Form = Literal["grid", "folder", "npz"]
_ENDINGS: Mapping[str, str] = {"grid": ".png", "folder": "", "npz": ".npz"}
_WRITERS: Mapping[str, Callable[[ImageSet, Path], int]] = {"grid": write_grid, "folder": write_folder, "npz": write_npz}
_LISTED = 60
"""Of more classes than these, a message names only those whose names are like the unknown one."""
JUDGES = "judge"
"""A model of the run folder that generates nothing."""


def sample_classes(
    source: str,
    model: str | None = None,
    classes: str = "all",
    count: int = 16,
    seed: int = 0,
    steps: int | None = None,
    eta: float | None = None,
    spacing: Spacing | None = None,
    guidance_scale: float | None = None,
    batch_size: int = 64,
    form: Form = "grid",
    out: str | None = None,
    device: str | None = None,
    precision: Precision = "no",
    permissions: Permissions = NONE,
) -> Path:
    """Makes images of a generator's classes; what is there already of the same command is left.

    Args:
        source: run folder; or folder (or hub id) of what diffusers saved: a UNet2DModel, DDPMPipeline,
            DiTTransformer2DModel or DiTPipeline.
        model: which model of a run folder: original, retrained, or a method's entry; null: the unlearned one.
        classes: numbers or names, with commas between them; all: every class.
        count: images of each class.
        seed: of the noise that images are made of; it gives image i of a class the same noise in every model.
        steps: timesteps that are visited; at most as many as the diffusion has (mostly 1000). Null, as for the next
            three: what the run samples with, and 50 steps of DDIM without guidance for others.
        eta: noise that is put back at each step, η in [0, 1]; 0: DDIM, 1: DDPM.
        spacing: of the visited timesteps; quadratic: more of them near 0.
        guidance_scale: as diffusers counts it; 1: the condition alone.
        batch_size: images at a time, over all processes.
        form: grid: one PNG with a row for each class; folder: a PNG for each image in a folder for each class; npz:
            one file for public evaluators, arr_0 = images (uint8, N × height × width × 3), arr_1 = classes.
        out: file or folder to write; null: samples/MODEL in a run folder, else samples/SOURCE here.
        device: cpu, cuda, cuda:1, …; null: a CUDA device where there is one, else the CPU.
        precision: no: as the weights are; bf16 and fp16: the model's passes at reduced precision.
        permissions: what the person at the keyboard allows, such as code that the run's recipe names.

    Returns:
        What was written.

    Raises:
        UntrainError: what is wrong with the source, the classes, the sampler, or the place to write to.
    """
    for name, value in {"count": count, "batch-size": batch_size}.items():
        if value < 1:
            raise SettingError(f"--{name} must be at least 1, not {value}.")
    place, engine = Path(source), Engine.start(device, precision)
    chosen = _choose(place, model)
    path = sample_place(place, chosen, _ENDINGS[form], out, form)
    generator = _open(place, chosen, engine, permissions)
    given: dict[str, Any] = {"steps": steps, "eta": eta, "spacing": spacing, "guidance_scale": guidance_scale}
    sampler = replace(generator.sampler, **{name: value for name, value in given.items() if value is not None})
    numbers = _class_numbers(classes, generator.names)
    how: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "decode": generator.decode}
    maker = image_maker(generator.task, generator.shape, sampler, engine, **how)
    images = ImageSet(generator.model, maker, dict.fromkeys(numbers, count), generator.names, generator.decoder)
    made, wanted = _WRITERS[form](images, path), len(numbers) * count
    if engine.is_main:
        print(f"{path}: {made} images made" + (f", {wanted - made} were there." if wanted > made else "."))
    return path


class _Generator(NamedTuple):
    """A generator with all that sampling needs."""

    model: nn.Module
    task: ClassDiffusion
    shape: tuple[int, ...]
    names: Sequence[str]
    sampler: Sampler
    decode: Decode | None = None
    decoder: str | None = None


def _choose(source: Path, model: str | None) -> str | None:
    """Which model of a run folder; None where the source is none."""
    if is_run(source):
        return choose_model(source, model, among=kept_weights(source) - {JUDGES})
    if model is not None:
        raise SettingError(f"--model chooses a model of a run folder, but {source} is none. Leave --model out.")
    return None


def _open(source: Path, model: str | None, engine: Engine, permissions: Permissions) -> _Generator:
    """The generator of a run folder, or of a folder that diffusers saved.

    Raises:
        CheckpointError: if the source is neither.
    """
    if model is not None and read_python_run(source) is not None and model in _saved(source):
        return _of_diffusers(checked_folder(source, model), engine)
    if model is not None:
        return _of_run(source, model, engine, permissions)
    folder = local_folder(source)
    if any((folder / name).is_file() for name in ("config.json", INDEX)):
        return _of_diffusers(folder, engine)
    raise CheckpointError(
        f"{source} is neither a run folder nor one that diffusers saved. Give the folder of a run (with config.yaml in "
        "it), or one with the config.json or model_index.json of a UNet2DModel, DDPMPipeline, DiTTransformer2DModel or "
        "DiTPipeline."
    )


def _saved(folder: Path) -> set[str]:
    return kept_folders(folder, INDEX) | kept_folders(folder, "config.json")


def _of_run(folder: Path, name: str, engine: Engine, permissions: Permissions) -> _Generator:
    """A model of a run folder, with the classes and the task of its recipe."""
    opened, module = open_model(folder, name, permissions)
    domain: ClassDiffusionDomain = opened  # type: ignore[assignment]
    sampler = domain.sections.generation.sampler
    model = module.to(engine.device)
    return _Generator(model, domain.task, domain.shape, domain.source.classes, sampler, domain.decode)


def _of_diffusers(folder: Path, engine: Engine) -> _Generator:
    """A model that diffusers saved, with its schedule, the names of its classes, and the VAE of a pipeline."""
    from untrain.diffusion.latents import decode, load_vae

    model = load_denoiser(folder).to(engine.device)
    shape = _shape(model, folder)
    vae = load_vae(folder)
    vae = None if vae is None else vae.to(engine.device)
    task = ClassDiffusion(**{"clip_samples": vae is None, **diffusion_of(folder)})
    task = prepare_generator(task, model, shape, torch.zeros(1, dtype=torch.long), engine)
    names = labels_of(folder) or tuple(str(c) for c in range(task.num_classes or 0))
    if vae is None:
        return _Generator(model, task, shape, names, Sampler())
    return _Generator(model, task, shape, names, Sampler(), partial(decode, vae), state_hash(vae))


def _shape(model: nn.Module, folder: Path) -> tuple[int, ...]:
    """(C, H, W) of what the model denoises."""
    config: Any = model.config
    size = config.sample_size
    if size is None:
        raise CheckpointError(f"{folder}: the model's config.json has no sample_size. Write it in, in pixels.")
    return (config.in_channels, *(size if isinstance(size, (list, tuple)) else (size, size)))


def _class_numbers(text: str, names: Sequence[str]) -> list[int]:
    """The classes that a text lists by number or name, in its order.

    A class that has several names, with commas between them, is known by each of them and by all.
    """
    if text == "all" and "all" not in names:
        return list(range(len(names)))
    words = [text] if text in names else [word.strip() for word in text.split(",")]
    return list(dict.fromkeys(_class(word, names) for word in words))


def _class(word: str, names: Sequence[str]) -> int:
    try:
        return class_number(names, word)
    except UnknownName as error:
        if len(names) > _LISTED:
            raise
        known = ", ".join(name if name == str(c) else f"{c} {name}" for c, name in enumerate(names))
        raise UnknownName(f"{error} Known: {known}.") from error
