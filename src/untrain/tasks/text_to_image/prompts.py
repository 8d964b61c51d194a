"""Prompts from a table, and the images that a pipeline makes of them: any number each, seeded, resumed, in a folder.

Tables have the columns of I2P: prompt, case_number, evaluation_seed, evaluation_guidance, sd_image_width,
sd_image_height, or come close to them. Only prompt is required. Schramowski et al.: *Safe Latent Diffusion*, CVPR 2023.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from untrain.data.text_tables import check_cells, csv_rows, match_columns
from untrain.diffusion.architectures import SUPPORTED, SUPPORTED_LIST
from untrain.diffusion.images import RECORD, claimed, is_picture, missing_of, png
from untrain.diffusion.text import architecture_of
from untrain.engine import Engine, seed_of
from untrain.errors import DataError, EmptySet, ModelError, SettingError
from untrain.io import hash_json, write_bytes
from untrain.lazy import Image, nn, np, torch
from untrain.models.checkpoints import state_hash
from untrain.reading import read_text

COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("prompt",),
    "case": ("case_number",),
    "seed": ("evaluation_seed", "sd_seed"),
    "guidance_scale": ("evaluation_guidance", "sd_guidance_scale"),
    "width": ("sd_image_width",),
    "height": ("sd_image_height",),
}
"""What a column may be called, the first that is there counts: published evaluations have the first names, I2P itself
the second. Other columns are not looked at."""
OTHERS: dict[str, tuple[str, ...]] = {
    "seed": ("seed",),
    "guidance_scale": ("guidance", "guidance_scale"),
    "width": ("image_width", "width"),
    "height": ("image_height", "height"),
}
"""What P4D and others call them."""

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Prompt:
    """A prompt and what a table says of its images.

    Attributes:
        text: the prompt.
        case: its number, which names its images.
        seed: of its first image; None: derived from the run's.
        guidance_scale: as diffusers counts it; None: the run's.
        width: of an image in pixels, a multiple of 8; None: the run's.
        height: likewise.
        line: where it stands in the file, from 1.
    """

    text: str
    case: int
    seed: int | None = None
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None
    line: int = 0


def read_prompts(path: str | Path) -> tuple[Prompt, ...]:
    """The prompts of a CSV file in UTF-8, in order.

    A byte-order mark, columns without a name, commas behind the last column and blank lines do no harm. Prompts
    without a case_number are numbered from 0. Whole numbers may be written as 7.0, as spreadsheets do. A warning names
    columns that are taken for one of `COLUMNS`, such as Seed, and ones that look like one and are not read.

    Raises:
        DataError: names the file, the line and what is wrong there. EmptySet: if there is no prompt.
    """
    path = Path(path)
    rows = csv_rows(path, read_text(path))
    line, names = next(rows, (1, []))
    places = _places(path, line, names)
    prompts = tuple(_prompt(path, line, row, places, len(names), n) for n, (line, row) in enumerate(rows))
    if not prompts:
        raise EmptySet(f"{path} holds no prompt: write one in each line below the names of the columns.")
    _check_cases(path, prompts)
    return prompts


def _places(path: Path, line: int, names: Sequence[str]) -> dict[str, int]:
    """Field of a prompt → its column."""
    present = [name.strip() for name in names]
    words = ("prompt", "seed", "guidance", "width", "height")
    found = match_columns(f"{path}, line {line}", present, COLUMNS, OTHERS, words=words)
    if "text" not in found:
        said = ", ".join(name for name in present if name)[:200] or "none"
        raise DataError(
            f"{path}, line {line}: there is no column called prompt. The first line must name the columns, with commas "
            f"between them; it names: {said}."
        )
    return {field: present.index(column) for field, column in found.items()}


def _prompt(path: Path, line: int, row: list[str], places: Mapping[str, int], columns: int, number: int) -> Prompt:
    place = f"{path}, line {line}"
    check_cells(place, row, columns)
    cells = {field: row[column].strip() if column < len(row) else "" for field, column in places.items()}
    if not cells["text"]:
        raise DataError(f"{place}: the prompt is empty. Fill it in or remove the line.")
    case = _whole(place, "case_number", cells.get("case", ""), 0)
    if case is None and "case" in places:
        raise DataError(f"{place}: case_number is empty. Number every prompt, or leave the column out.")
    return Prompt(
        cells["text"],
        number if case is None else case,
        _whole(place, "evaluation_seed", cells.get("seed", ""), 0),
        _real(place, "evaluation_guidance", cells.get("guidance_scale", "")),
        _whole(place, "sd_image_width", cells.get("width", ""), 8, 8),
        _whole(place, "sd_image_height", cells.get("height", ""), 8, 8),
        line,
    )


def _whole(place: str, name: str, cell: str, least: int, multiple: int = 1) -> int | None:
    if not cell:
        return None
    try:
        value = int(cell) if "." not in cell and "e" not in cell.lower() else _exact(float(cell))
    except ValueError:
        value = None
    if value is None or not least <= value <= LARGEST_SEED or value % multiple:
        of = f"a multiple of {multiple}" if multiple > 1 else f"a whole number from {least}"
        raise DataError(f"{place}: {name} must be {of}, not {cell[:80]!r}.")
    return value


def _exact(value: float) -> int | None:
    """A float as a whole number; None where it is none, or too large to be exact."""
    return int(value) if math.isfinite(value) and value == int(value) and abs(value) <= 2**53 else None


def _real(place: str, name: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise DataError(f"{place}: {name} must be a number ≥ 0, not {cell[:80]!r}.")
    return value


def _check_cases(path: Path, prompts: Sequence[Prompt]) -> None:
    first: dict[int, int] = {}
    for prompt in prompts:
        if prompt.case in first:
            raise DataError(
                f"{path}, line {prompt.line}: case_number {prompt.case} is already that of line {first[prompt.case]}. "
                "It names the images: make every one different."
            )
        first[prompt.case] = prompt.line


# ── sampling ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class PromptSampler:
    """How a pipeline makes images of prompts, where the table does not say otherwise."""

    steps: int = 50
    """Steps of the pipeline's own scheduler."""
    guidance_scale: float = 7.5
    """As diffusers counts it: 1 is the prompt alone."""
    width: int | None = None
    """Of an image in pixels, a multiple of 8; null: what the pipeline was trained at."""
    height: int | None = None
    """Likewise."""
    seed: int = 0
    """With a prompt's case and the number of its image it decides the noise, where the table gives no seed."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.steps < 1 or not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise SettingError(
                f"sampling needs steps ≥ 1 and guidance_scale ≥ 0, not {self.steps} and {self.guidance_scale}."
            )
        for name in ("width", "height"):
            value = getattr(self, name)
            if value is not None and (value < 8 or value % 8):
                raise SettingError(f"{name} must be a multiple of 8 pixels, not {value}.")


class Shot(NamedTuple):
    """One image to make."""

    prompt: Prompt
    number: int
    seed: int
    guidance_scale: float
    width: int | None
    height: int | None

    @property
    def name(self) -> str:
        """CASE_NUMBER.png, as public evaluators read it."""
        return f"{self.prompt.case}_{self.number}.png"


def shots(prompts: Sequence[Prompt], sampler: PromptSampler, count: int = 1) -> list[Shot]:
    """All images of prompts, prompt after prompt.

    The first image of a prompt whose table gives a seed is what the pipeline makes with
    `generator=torch.Generator().manual_seed(seed)`; every other image has a seed of its own, so that it can be made
    alone and in a batch of any size.
    """
    if count < 1:
        raise SettingError(f"there must be at least 1 image of a prompt, not {count}.")
    return [_shot(prompt, number, sampler) for prompt in prompts for number in range(count)]


def _shot(prompt: Prompt, number: int, sampler: PromptSampler) -> Shot:
    if prompt.seed is None:
        seed = seed_of(sampler.seed, "prompt", prompt.case, number)
    else:
        seed = prompt.seed if number == 0 else seed_of(prompt.seed, "prompt", number)
    scale = sampler.guidance_scale if prompt.guidance_scale is None else prompt.guidance_scale
    return Shot(prompt, number, seed, scale, prompt.width or sampler.width, prompt.height or sampler.height)


def sample_prompts(
    pipeline: Any,
    prompts: Sequence[Prompt],
    folder: str | Path,
    sampler: PromptSampler,
    *,
    engine: Engine,
    count: int = 1,
    batch_size: int = 4,
) -> int:
    """Writes CASE_NUMBER.png for each image of each prompt; those that are there and whole are left.

    More images of the same prompts may be asked for later. The safety checker of a pipeline is left out: it would
    blacken what is to be looked at.

    Args:
        pipeline: a text-to-image pipeline of diffusers, on the engine's device; beside the supported ones, others that
            are called with the same words work too.
        prompts: as `read_prompts` gives them.
        folder: is made if it is missing.
        sampler: steps, guidance, size, seed.
        engine: device, precision, processes; each process makes a share of the images.
        count: images of each prompt.
        batch_size: images at a time, in each process.

    Returns:
        How many images were made, in all processes.

    Raises:
        FolderError: if the folder holds something else, or images from other weights, prompts or settings, or if it
            cannot be written; what was made so far stays, and the same call goes on.
        ModelError: if the pipeline does not make images of prompts, or makes ones that are not finite.
        SettingError: if a number is out of range. EmptySet: if there is no prompt.
    """
    if not prompts:
        raise EmptySet("there is no prompt to make images of.")
    if batch_size < 1:
        raise SettingError(f"the batch size must be at least 1, not {batch_size}.")
    folder, wanted = Path(folder), shots(prompts, sampler, count)
    caller = _Caller.of(pipeline, sampler.steps)
    with claimed(folder, folder / RECORD, _facts(pipeline, prompts, sampler, engine), engine):
        if engine.is_main:
            _warn_of_long(pipeline, prompts)
        engine.wait()
        missing = missing_of(lambda: [is_picture(folder / shot.name) for shot in wanted], len(wanted), engine)
        batches = _batches([wanted[i] for i in missing.tolist()], batch_size)
        mine = batches[engine.process :: engine.num_processes]
        with engine.progress("sampling", sum(map(len, mine))) as bar:
            for batch in mine:
                with engine.autocast():
                    pictures = caller(batch)
                for shot, picture in zip(batch, pictures, strict=True):
                    write_bytes(folder / shot.name, png(picture))
                bar.advance(by=len(batch))
        engine.wait()
        return len(missing)


def _batches(wanted: Sequence[Shot], size: int) -> list[list[Shot]]:
    """Images that can be made together: of one guidance and size."""
    alike: dict[tuple[Any, ...], list[Shot]] = {}
    for shot in wanted:
        alike.setdefault((shot.guidance_scale, shot.width, shot.height), []).append(shot)
    return [group[i : i + size] for group in alike.values() for i in range(0, len(group), size)]


@dataclass(frozen=True, eq=False)
class _Caller:
    """A pipeline, called with what it takes."""

    pipeline: Callable[..., Any]
    takes: frozenset[str]
    steps: int

    @classmethod
    def of(cls, pipeline: Any, steps: int) -> _Caller:
        takes = frozenset(inspect.signature(type(pipeline).__call__).parameters)
        needed = ("prompt", "generator", "num_inference_steps", "output_type")
        lacking = [name for name in needed if name not in takes]
        if lacking or "image" in takes:
            what = f"it does not take {', '.join(lacking)}" if lacking else "it takes an image beside the prompt"
            raise ModelError(
                f"{type(pipeline).__name__} does not make images of prompts: {what}. Supported are {SUPPORTED_LIST}."
            )
        return cls(_unchecked(pipeline), takes, steps)

    def __call__(self, batch: Sequence[Shot]) -> list[Image.Image]:
        shot = batch[0]
        options: dict[str, Any] = {"guidance_scale": shot.guidance_scale, "width": shot.width, "height": shot.height}
        options["use_resolution_binning"] = False  # of PixArt and Sana: they would make another size and resize
        try:
            result = self.pipeline(
                prompt=[each.prompt.text for each in batch],
                num_inference_steps=self.steps,
                generator=[torch.Generator().manual_seed(each.seed) for each in batch],
                output_type="np",
                **{name: value for name, value in options.items() if value is not None and name in self.takes},
            )
        except ValueError as error:
            raise SettingError(
                f"{type(self.pipeline).__name__} refuses case {shot.prompt.case}: {error} Choose another size, or what "
                "else it names."
            ) from error
        images = np.asarray(result.images)
        if not np.isfinite(images).all():
            raise ModelError(
                f"the image of case {shot.prompt.case}, or one made with it, is not finite: the weights are damaged or "
                "overflow in fp16. Take precision no or bf16."
            )
        return [Image.fromarray(image) for image in (images * 255).round().astype(np.uint8)]


def _unchecked(pipeline: Any) -> Any:
    """The pipeline without its safety checker, quiet; the pipeline that was given keeps both as they are."""
    twin = copy.copy(pipeline)
    if getattr(pipeline, "safety_checker", None) is not None:
        twin.register_modules(safety_checker=None)
    bar = dict(getattr(pipeline, "_progress_bar_config", {}))
    twin.set_progress_bar_config(**bar | {"disable": True})
    return twin


def _facts(pipeline: Any, prompts: Sequence[Prompt], sampler: PromptSampler, engine: Engine) -> dict[str, Any]:
    """What decides each image, as JSON; how many there are of a prompt is no part of it."""
    weights = {
        name: state_hash(part)
        for name, part in sorted(pipeline.components.items())
        if isinstance(part, nn.Module) and name != "safety_checker"
    }
    scheduler = getattr(pipeline, "scheduler", None)
    settings = {} if scheduler is None else {str(k): str(v) for k, v in scheduler.config.items() if k[0] != "_"}
    return {
        "form": "prompts",
        "pipeline": type(pipeline).__name__,
        "weights": hash_json(weights),
        "scheduler": {"class": type(scheduler).__name__, **settings},
        "prompts": hash_json([{k: v for k, v in asdict(prompt).items() if k != "line"} for prompt in prompts]),
        "sampler": asdict(sampler),
        "precision": engine.precision,
    }


def too_long(pipeline: Any, prompts: Sequence[Prompt]) -> dict[int, int]:
    """Case → tokens of each prompt that is longer than a text encoder's window, its beginning and end included."""
    found: dict[int, int] = {}
    for tokenizer, window in _windows(pipeline):
        lengths = [len(tokens) for tokens in tokenizer([p.text for p in prompts], verbose=False).input_ids]
        for prompt, length in zip(prompts, lengths, strict=True):
            if length > window:
                found[prompt.case] = max(length, found.get(prompt.case, 0))
    return found


def _windows(pipeline: Any) -> list[tuple[Any, int]]:
    """The tokenizers of any pipeline, each with its window."""
    if {kind.__name__ for kind in type(pipeline).__mro__} & set(SUPPORTED):
        kind = architecture_of(pipeline)
        return [(pipeline.components[name], window) for name, window in kind.windows(pipeline).items()]
    found = [part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part]
    return [(tokenizer, int(tokenizer.model_max_length)) for tokenizer in found]


def _warn_of_long(pipeline: Any, prompts: Sequence[Prompt]) -> None:
    found = too_long(pipeline, prompts)
    if found:
        case, tokens = next(iter(found.items()))
        line = next((f", line {p.line}" for p in prompts if p.case == case and p.line), "")
        warnings.warn(
            f"{len(found)} of {len(prompts)} prompts are longer than the text encoder's window and are cut by the "
            f"pipeline, the first is case {case}{line}: {tokens} tokens.",
            stacklevel=3,
        )
