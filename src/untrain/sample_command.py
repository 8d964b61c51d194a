"""`untrain sample`: pictures, folders and arrays of images that a generator makes of its classes."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import torch
import yaml
from torch import nn

from untrain.engine import Engine, Precision, generator_of
from untrain.errors import CheckpointError, SettingError, UnknownName, unknown
from untrain.images import Decode, ImageSet, write_folder, write_grid, write_npz
from untrain.models.checkpoints import state_hash
from untrain.models.denoisers import load_denoiser, local_folder
from untrain.models.diffusers_pipelines import labels_of, schedule_of
from untrain.models.latents import decode, load_vae
from untrain.sampling import Sampler, Spacing
from untrain.settings import words as said
from untrain.tasks.class_diffusion import ClassDiffusion

Form = Literal["grid", "folder", "npz"]
_ENDINGS: dict[str, str] = {"grid": ".png", "folder": "", "npz": ".npz"}
_LISTED = 60
"""Of more classes than these, a message names only those whose names are like the unknown one."""


def sample_command(words: Sequence[str]) -> None:
    """Runs `untrain sample SOURCE [--flag value …]`.

    Raises:
        UntrainError: what is wrong with a flag, the source or the place to write to.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(
        prog="untrain sample",
        usage="untrain sample SOURCE [--flag value …]",
        description="Makes images of a generator's classes. The same seed gives the same images; what was made "
        "before by the same command is not made again.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_function_arguments(sample, as_group=False, as_positional=True)
    if any(word in ("-h", "--help") for word in words):
        print(parser.format_help().replace("--batch_size", "--batch-size"))
        return
    try:
        given = parser.parse_args([re.sub("^--batch-size", "--batch_size", word) for word in words])
    except ArgumentError as error:
        raise SettingError(f"{_flag_error(str(error), words)} See untrain sample --help.") from error
    sample(**vars(given))


def _flag_error(message: str, words: Sequence[str]) -> str:
    """What is wrong with a flag, in our own words where the parser's message tells which flag it is."""
    if "required" in message:
        return "give a SOURCE: the folder of a run, or of a model that diffusers saved."
    hints = get_type_hints(sample)
    flags = [f"--{name.replace('_', '-')}" for name in hints if name not in ("source", "return")]
    strange = [word.partition("=")[0] for word in words if word.startswith("--")]
    strange = [flag for flag in strange if flag.replace("_", "-") not in flags]
    if strange:
        return unknown("flag", strange[0], flags)
    found = re.search(r'key "(\w+)":(?:.|\n)*Got value: (.*)', message)
    if found and found[1] in hints:
        return f"--{found[1].replace('_', '-')} must be {said(hints[found[1]])}, not {found[2]!r}."
    return message.strip().rstrip(".") + "."


def sample(
    source: str,
    model: str | None = None,
    classes: str = "all",
    count: int = 16,
    seed: int = 0,
    steps: int | None = None,
    eta: float | None = None,
    spacing: Spacing | None = None,
    guidance: float | None = None,
    batch_size: int = 64,
    form: Form = "grid",
    out: str | None = None,
    device: str | None = None,
    precision: Precision = "no",
) -> Path:
    """Images of a generator's classes in a file or folder; what is there already of the same command is left.

    Args:
        source: run folder of task class-diffusion, or folder (or hub id) of what diffusers saved: a UNet2DModel,
            DDPMPipeline, DiTTransformer2DModel or DiTPipeline.
        model: which model of a run folder: original, retrained, or a method's entry; null: the unlearned one.
        classes: numbers or names, with commas between them; all: every class.
        count: images of each class.
        seed: of the noise that images are made of; it gives image i of a class the same noise in every model.
        steps: timesteps that are visited; at most as many as the diffusion has (mostly 1000). Null, as for the next
            three: what the run samples with, and 50 steps of DDIM without guidance for others.
        eta: noise that is put back at each step, η in [0, 1]; 0: DDIM, 1: DDPM.
        spacing: of the visited timesteps; quadratic: more of them near 0.
        guidance: s in (1 + s) ε(x, c) − s ε(x, ∅); 0: the condition alone.
        batch_size: images at a time, over all processes.
        form: grid: one PNG with a row for each class; folder: a PNG for each image in a folder for each class; npz:
            one file for public evaluators, arr_0 = images (uint8, N × height × width × 3), arr_1 = classes.
        out: file or folder to write; null: samples/MODEL in a run folder, else samples/SOURCE here.
        device: cpu, cuda, cuda:1, …; null: a CUDA device where there is one, else the CPU.
        precision: no: as the weights are; bf16 and fp16: the model's passes at reduced precision.

    Returns:
        What was written.

    Raises:
        UntrainError: what is wrong with the source, the classes, the sampler, or the place to write to.
    """
    for name, value in {"count": count, "batch-size": batch_size}.items():
        if value < 1:
            raise SettingError(f"--{name} must be at least 1, not {value}.")
    sampler = _sampler(Path(source), steps=steps, eta=eta, spacing=spacing, guidance=guidance)
    engine = Engine.start(device, precision)
    path = _place(Path(source), model, form, out)
    opened = _opened(Path(source), model, engine)
    numbers = _chosen(classes, opened.names)
    images = ImageSet(
        opened.model,
        opened.task,
        opened.shape,
        dict.fromkeys(numbers, count),
        sampler,
        seed,
        opened.names,
        opened.decode,
        opened.decoder,
    )
    made = _WRITERS[form](images, path, engine=engine, batch_size=batch_size)
    if engine.is_main:
        kept = len(numbers) * count - made
        print(f"{path}: {made} images made" + (f", {kept} were there." if kept else "."))
    return path


_WRITERS = {"grid": write_grid, "folder": write_folder, "npz": write_npz}


def _place(source: Path, model: str | None, form: str, out: str | None) -> Path:
    """Where to write; the ending says what is in a file."""
    ending = _ENDINGS[form]
    if out is not None:
        if ending and not out.endswith(ending):
            raise SettingError(f"--form {form} writes a file that ends in {ending}: --out {out}{ending}.")
        return Path(out)
    if _is_run(source):
        return source / "samples" / f"{model or _unlearned(source)}{ending}"
    return Path("samples") / f"{source.resolve().name}{ending}"


def _sampler(source: Path, **given: Any) -> Sampler:
    """What is given over what the run samples with."""
    known = Sampler()
    if _is_run(source):
        from untrain.config import read

        known = read(source).generation.sampler
    return replace(known, **{name: value for name, value in given.items() if value is not None})


class _Opened(NamedTuple):
    """A generator with all that sampling needs."""

    model: nn.Module
    task: ClassDiffusion
    shape: tuple[int, ...]
    names: Sequence[str]
    decode: Decode | None
    decoder: str | None


def _opened(source: Path, model: str | None, engine: Engine) -> _Opened:
    """The generator of a run folder, or of a folder that diffusers saved.

    Raises:
        CheckpointError: if the source is neither.
    """
    if _is_run(source):
        return _of_run(source, model or _unlearned(source), engine)
    if model is not None:
        raise SettingError(f"--model chooses a model of a run folder, but {source} is none. Leave --model out.")
    folder = local_folder(source)
    if any((folder / name).is_file() for name in ("config.json", "model_index.json")):
        return _of_diffusers(folder, engine)
    raise CheckpointError(
        f"{source} is neither a run folder nor one that diffusers saved. Give the folder of a run of task "
        "class-diffusion (with config.yaml in it), or one with the config.json or model_index.json of a UNet2DModel, "
        "DDPMPipeline, DiTTransformer2DModel or DiTPipeline."
    )


def _is_run(source: Path) -> bool:
    return (source / "config.yaml").is_file()


def _unlearned(folder: Path) -> str:
    """The entry of a run's one method.

    Raises:
        SettingError: if there are several, or none was run.
    """
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        entries = list(content["methods"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise CheckpointError(f"{folder}/config.yaml is not what a run writes: {error}. Give a run folder.") from error
    there = [entry for entry in entries if (folder / f"{entry}.safetensors").exists()]
    if len(there) == 1:
        return there[0]
    said = f"several unlearned models ({', '.join(there)})" if there else "no unlearned model yet"
    raise SettingError(f"{folder} holds {said}: choose one with --model, such as --model {(*there, 'original')[0]}.")


def _of_run(folder: Path, name: str, engine: Engine) -> _Opened:
    """A model of a run folder, with the classes and the task of its recipe."""
    from untrain.pipeline import JUDGE, open_generator

    there = {path.stem for path in folder.glob("*.safetensors") if not path.stem.endswith(".mask")} | {"original"}
    if name not in there - {JUDGE}:
        raise UnknownName(unknown(f"model of {folder}", name, there - {JUDGE}))
    model, task, shape, names, decode = open_generator(folder, name)
    return _Opened(model.to(engine.device), task, tuple(shape), names, decode, None)


def _of_diffusers(folder: Path, engine: Engine) -> _Opened:
    """A model that diffusers saved, with its schedule, the names of its classes, and the VAE of a pipeline."""
    model = load_denoiser(folder).to(engine.device)
    shape = _shape(model, folder)
    vae = load_vae(folder)
    vae = None if vae is None else vae.to(engine.device)
    task = ClassDiffusion(**{"clip_samples": vae is None, **schedule_of(folder)})
    blank = {"input": torch.zeros(1, *shape), "label": torch.zeros(1, dtype=torch.long)}
    drawn = task.draw(blank, generator_of(0, "sample"), "evaluate")
    task = task.prepare(model, engine.to_device(drawn))
    names = labels_of(folder) or tuple(str(c) for c in range(task.num_classes or 0))
    if vae is None:
        return _Opened(model, task, shape, names, None, None)
    return _Opened(model, task, shape, names, lambda latents: decode(vae, latents), state_hash(vae))


def _shape(model: nn.Module, folder: Path) -> tuple[int, ...]:
    """(C, H, W) of what the model denoises."""
    config: Any = model.config
    size = config.sample_size
    if size is None:
        raise CheckpointError(f"{folder}: the model's config.json has no sample_size. Write it in, in pixels.")
    return (config.in_channels, *(size if isinstance(size, (list, tuple)) else (size, size)))


def _chosen(text: str, names: Sequence[str]) -> list[int]:
    """The classes that a text lists by number or name, in its order.

    A class that has several names, with commas between them, is known by each of them and by all.
    """
    if text == "all" and "all" not in names:
        return list(range(len(names)))
    words = [text] if text in names else [word.strip() for word in text.split(",")]
    return list(dict.fromkeys(_class(word, names) for word in words))


def _class(word: str, names: Sequence[str]) -> int:
    from untrain.kinds.generators import class_number

    try:
        return class_number(names, word)
    except UnknownName as error:
        if len(names) > _LISTED:
            raise
        known = ", ".join(name if name == str(c) else f"{c} {name}" for c, name in enumerate(names))
        raise UnknownName(f"{error} Known: {known}.") from error
