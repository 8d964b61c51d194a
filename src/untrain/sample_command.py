"""`untrain sample`: images that a generator makes of its classes, or a text-to-image pipeline of prompts in a table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import torch
import yaml
from torch import nn

from untrain.diffusion.denoisers import load_denoiser, local_folder, read_object
from untrain.diffusion.images import Decode, ImageSet, write_folder, write_grid, write_npz
from untrain.diffusion.latents import decode, load_vae
from untrain.diffusion.pipelines import hush, labels_of, load_pipeline, schedule_of
from untrain.diffusion.text import SUPPORTED
from untrain.engine import Engine, Precision, generator_of
from untrain.errors import CheckpointError, SettingError, UnknownName, unknown
from untrain.models.checkpoints import state_hash
from untrain.sampling import Sampler, Spacing
from untrain.settings import words as said
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.text_to_image.prompts import PromptSampler, read_prompts, sample_prompts

Form = Literal["grid", "folder", "npz"]
_ENDINGS: dict[str, str] = {"grid": ".png", "folder": "", "npz": ".npz"}
TEXT, ORIGINAL = "text-to-image", "original"
INDEX = "model_index.json"
"""In every folder that holds a whole pipeline."""
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
        usage="untrain sample SOURCE [--prompts FILE.csv] [--flag value …]",
        description="Makes images of a generator's classes, or with --prompts a text-to-image pipeline's of prompts. "
        "The same seed gives the same images; what was made before by the same command is not made again.",
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
    found = re.search(r'key "(\w+)":(?:.|\n)*(?:Got|Given) value: (.*)', message)
    if found and found[1] in hints:
        wanted = said(hints[found[1]]).removesuffix(" or null")
        return f"--{found[1].replace('_', '-')} must be {wanted}, not {found[2]!r}."
    return message.strip().rstrip(".") + "."


def sample(
    source: str,
    prompts: str | None = None,
    model: str | None = None,
    classes: str = "all",
    count: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    eta: float | None = None,
    spacing: Spacing | None = None,
    guidance_scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    batch_size: int | None = None,
    form: Form | None = None,
    out: str | None = None,
    config: str | None = None,
    device: str | None = None,
    precision: Precision = "no",
) -> Path:
    """Images of a generator's classes, or of prompts; what is there already of the same command is left.

    Args:
        source: run folder of task class-diffusion or text-to-image; or folder (or hub id) of what diffusers saved: a
            UNet2DModel, DDPMPipeline, DiTTransformer2DModel or DiTPipeline, and with --prompts a
            StableDiffusionPipeline or StableDiffusionXLPipeline, or one file with its weights.
        prompts: CSV file of prompts for a text-to-image pipeline, with the columns of I2P: prompt, case_number,
            evaluation_seed, evaluation_guidance, sd_image_width, sd_image_height; only prompt is required.
        model: which model of a run folder: original, retrained, or a method's entry; null: the unlearned one.
        classes: numbers or names, with commas between them; all: every class. Not with --prompts.
        count: images of each class or prompt; null: 16 of a class, 1 of a prompt.
        seed: of the noise that images are made of; it gives image i of a class or prompt the same noise in every
            model. A prompt's evaluation_seed goes before.
        steps: timesteps that are visited; at most as many as the diffusion has (mostly 1000). Null, as for the next
            three: what the run samples with, and 50 steps of DDIM without guidance for others. With --prompts these
            are steps of the pipeline's own scheduler.
        eta: noise that is put back at each step, η in [0, 1]; 0: DDIM, 1: DDPM. Not with --prompts.
        spacing: of the visited timesteps; quadratic: more of them near 0. Not with --prompts.
        guidance_scale: as diffusers counts it; 1: the condition alone. Null: what the run samples with; for others
            none, and with --prompts 7.5. A prompt's
            evaluation_guidance goes before.
        width: of a prompt's image in pixels, where the table does not say; null: what the pipeline was trained at.
        height: likewise.
        batch_size: images at a time: 64 over all processes; with --prompts 4 in each process.
        form: grid: one PNG with a row for each class; folder: a PNG for each image in a folder for each class; npz:
            one file for public evaluators, arr_0 = images (uint8, N × height × width × 3), arr_1 = classes. Null: grid;
            with --prompts always a folder, of CASE_NUMBER.png.
        out: file or folder to write; null: samples/MODEL in a run folder, else samples/SOURCE here.
        config: where configuration and tokenizer are, for a pipeline in one file; a folder or hub id.
        device: cpu, cuda, cuda:1, …; null: a CUDA device where there is one, else the CPU.
        precision: no: as the weights are; bf16 and fp16: the model's passes at reduced precision.

    Returns:
        What was written.

    Raises:
        UntrainError: what is wrong with the source, the classes, the prompts, the sampler, or the place to write to.
    """
    for name, value in {"count": count, "batch-size": batch_size}.items():
        if value is not None and value < 1:
            raise SettingError(f"--{name} must be at least 1, not {value}.")
    chosen: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale}
    place = Path(source)
    if prompts is None:
        _refuse({"width": width, "height": height, "config": config}, "goes with --prompts alone")
        chosen |= {"eta": eta, "spacing": spacing}
        opening = _Opening(place, model, out, device, precision)
        return _of_classes(opening, classes, count or 16, seed, chosen, batch_size or 64, form or "grid")
    other = {"classes": None if classes == "all" else classes, "eta": eta, "spacing": spacing}
    _refuse({**other, "form": None if form == "folder" else form}, "does not go with --prompts")
    chosen |= {"width": width, "height": height, "seed": seed}
    opening = _Opening(place, model, out, device, precision)
    return _of_prompts(opening, Path(prompts), config, count or 1, chosen, batch_size or 4)


def _refuse(given: Mapping[str, Any], why: str) -> None:
    """Raises for the first flag that is given and would not be looked at."""
    for name, value in given.items():
        if value is not None:
            raise SettingError(f"--{name} {why}. Leave it out.")


class _Opening(NamedTuple):
    """What is opened, where, and where its images go."""

    source: Path
    model: str | None
    out: str | None
    device: str | None
    precision: Precision


def _of_classes(
    opening: _Opening, classes: str, count: int, seed: int, chosen: Mapping[str, Any], batch_size: int, form: Form
) -> Path:
    """Images of a generator's classes."""
    source, model, out, device, precision = opening
    sampler = _sampler(source, **chosen)
    engine = Engine.start(device, precision)
    path = _place(source, model, form, out)
    opened = _opened(source, model, engine)
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
    _say(path, made, len(numbers) * count, engine)
    return path


def _of_prompts(
    opening: _Opening, prompts: Path, config: str | None, count: int, chosen: Mapping[str, Any], batch_size: int
) -> Path:
    """Images of a table's prompts."""
    source, model, out, device, precision = opening
    table = read_prompts(prompts)
    given = {name: value for name, value in chosen.items() if value is not None}
    origin: str | Path = source
    if _is_run(source):
        origin, config, known = _pipeline_of_run(source, model or _unlearned(source), config)
        given = {"steps": known.steps, "guidance_scale": known.guidance_scale} | given
    elif model is not None:
        raise _no_run(source)
    sampler = PromptSampler(**given)
    engine = Engine.start(device, precision)
    path = _place(source, model, "folder", out)
    hush()
    pipeline = load_pipeline(origin, config=config).to(engine.device)
    made = sample_prompts(pipeline, table, path, sampler, engine=engine, count=count, batch_size=batch_size)
    _say(path, made, len(table) * count, engine)
    return path


def _pipeline_of_run(folder: Path, name: str, config: str | None) -> tuple[str | Path, str | None, Sampler]:
    """Where a run of task text-to-image has a model's pipeline, its configuration, and what the run samples with."""
    from untrain.runs.recipe import read

    recipe = read(folder)
    if recipe.task != TEXT:
        raise SettingError(f"{folder} is a run of task {recipe.task}, which knows no prompts. Leave --prompts out.")
    if name == ORIGINAL:
        return recipe.model.checkpoint or _trained(folder), config or recipe.model.config, recipe.generation.sampler
    there = {path.parent.name for path in folder.glob(f"*/{INDEX}")} | {ORIGINAL}
    if name not in there:
        raise UnknownName(unknown(f"model of {folder}", name, there))
    return folder / name, config, recipe.generation.sampler


def _trained(folder: Path) -> str:
    """The folder of the pipeline that a run has trained, as its manifest tells."""
    path = folder / "manifest.json"
    source = read_object(path)["models"].get(ORIGINAL, {}).get("source") if path.is_file() else None
    if source is None:
        raise CheckpointError(f"{folder} does not tell where its original pipeline is: give that folder as SOURCE.")
    return str(source)


def _say(path: Path, made: int, wanted: int, engine: Engine) -> None:
    if engine.is_main:
        print(f"{path}: {made} images made" + (f", {wanted - made} were there." if wanted > made else "."))


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
    whole = source.resolve()
    return Path("samples") / f"{whole.stem if whole.is_file() else whole.name}{ending}"


def _sampler(source: Path, **given: Any) -> Sampler:
    """What is given over what the run samples with."""
    known = Sampler()
    if _is_run(source):
        from untrain.runs.recipe import read

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
        raise _no_run(source)
    folder = local_folder(source)
    if any((folder / name).is_file() for name in ("config.json", "model_index.json")):
        return _of_diffusers(folder, engine)
    raise CheckpointError(
        f"{source} is neither a run folder nor one that diffusers saved. Give the folder of a run of task "
        "class-diffusion (with config.yaml in it), or one with the config.json or model_index.json of a UNet2DModel, "
        "DDPMPipeline, DiTTransformer2DModel or DiTPipeline."
    )


def _no_run(source: Path) -> SettingError:
    return SettingError(f"--model chooses a model of a run folder, but {source} is none. Leave --model out.")


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
    kept = ("{}.safetensors", f"{{}}/{INDEX}")  # of a text-to-image run, there are whole pipelines alone
    there = [entry for entry in entries if any((folder / name.format(entry)).exists() for name in kept)]
    if len(there) == 1:
        return there[0]
    said = f"several unlearned models ({', '.join(there)})" if there else "no unlearned model yet"
    raise SettingError(f"{folder} holds {said}: choose one with --model, such as --model {(*there, 'original')[0]}.")


def _of_run(folder: Path, name: str, engine: Engine) -> _Opened:
    """A model of a run folder, with the classes and the task of its recipe."""
    from untrain.runs.recipe import read

    if read(folder).task == TEXT:
        raise SettingError(f"{folder} is a run of task {TEXT}: say what to make images of, with --prompts FILE.csv.")
    from untrain.runs.stages import JUDGE, open_generator

    there = {path.stem for path in folder.glob("*.safetensors") if not path.stem.endswith(".mask")} | {"original"}
    if name not in there - {JUDGE}:
        raise UnknownName(unknown(f"model of {folder}", name, there - {JUDGE}))
    model, task, shape, names, decode = open_generator(folder, name)
    return _Opened(model.to(engine.device), task, tuple(shape), names, decode, None)


def _of_diffusers(folder: Path, engine: Engine) -> _Opened:
    """A model that diffusers saved, with its schedule, the names of its classes, and the VAE of a pipeline."""
    index = folder / INDEX
    kind = read_object(index).get("_class_name") if index.is_file() else None
    if kind in SUPPORTED:
        raise SettingError(f"{folder} holds a {kind}: say what to make images of, with --prompts FILE.csv.")
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
    from untrain.tasks.class_diffusion.domain import class_number

    try:
        return class_number(names, word)
    except UnknownName as error:
        if len(names) > _LISTED:
            raise
        known = ", ".join(name if name == str(c) else f"{c} {name}" for c, name in enumerate(names))
        raise UnknownName(f"{error} Known: {known}.") from error
