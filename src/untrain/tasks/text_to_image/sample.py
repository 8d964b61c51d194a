"""`untrain sample` for text-to-image pipelines: images of the prompts of a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from untrain.diffusion.denoisers import denoiser_of
from untrain.diffusion.folders import INDEX
from untrain.diffusion.pipelines import hush, load_pipeline, with_denoiser
from untrain.engine import Engine, Precision
from untrain.errors import SettingError
from untrain.models.lora import FILE, PEFT_FILE, apply_lora
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
from untrain.runs.names import ORIGINAL
from untrain.runs.python import read_python_run
from untrain.runs.recipe import read
from untrain.tasks.text_to_image.prompts import PromptSampler, read_prompts, sample_prompts

if TYPE_CHECKING:
    from untrain.tasks.text_to_image.domain import TextToImageDomain
    from untrain.tasks.text_to_image.sections import TextToImageSections


def sample_table(
    source: str,
    prompts: str,
    model: str | None = None,
    count: int = 1,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    batch_size: int = 4,
    out: str | None = None,
    config: str | None = None,
    device: str | None = None,
    precision: Precision = "no",
    permissions: Permissions = NONE,
) -> Path:
    """Makes images of a table's prompts, CASE_NUMBER.png; what is there already of the same command is left.

    Args:
        source: run folder; or a supported pipeline (`untrain list`): folder, hub id, or of Stable Diffusion one file.
        prompts: CSV file with the columns of I2P: prompt, case_number, evaluation_seed, evaluation_guidance,
            sd_image_width, sd_image_height; only prompt is required.
        model: which model of a run folder: original, or a method's entry; null: the unlearned one.
        count: images of each prompt.
        seed: of the noise that images are made of; it gives image i of a prompt the same noise in every model. A
            prompt's evaluation_seed goes before.
        steps: of the pipeline's own scheduler; null: as the run samples, and 50 for others.
        guidance_scale: as diffusers counts it; null: as the run samples, and 7.5 for others. A prompt's
            evaluation_guidance goes before.
        width: of an image in pixels, where the table does not say; null: what the pipeline was trained at.
        height: likewise.
        batch_size: images at a time, in each process.
        out: folder to write; null: samples/MODEL in a run folder, else samples/SOURCE here.
        config: where configuration and tokenizer are, for a pipeline in one file; a folder or hub id.
        device: cpu, cuda, cuda:1, …; null: a CUDA device where there is one, else the CPU.
        precision: no: as the weights are; bf16 and fp16: the model's passes at reduced precision.
        permissions: what the person at the keyboard allows, such as code that the run's recipe names.

    Returns:
        What was written.

    Raises:
        UntrainError: what is wrong with the source, the prompts, or the place to write to.
    """
    for name, value in {"count": count, "batch-size": batch_size}.items():
        if value < 1:
            raise SettingError(f"--{name} must be at least 1, not {value}.")
    place, table = Path(source), read_prompts(prompts)
    given: dict[str, Any] = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "width": width,
        "height": height,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    origin: str | Path = place
    chosen = None
    adapted: set[str] = set()
    bare: set[str] = set()
    if is_run(place):
        recipe = None if read_python_run(place) is not None else read(place, permissions=permissions)
        adapted, whole = kept_folders(place, FILE) | kept_folders(place, PEFT_FILE), kept_folders(place, INDEX)
        bare = set() if recipe is None else kept_weights(place) & {*recipe.methods} - whole - adapted
        chosen = choose_model(place, model, among=whole | adapted | bare | {ORIGINAL})
        origin = checked_folder(place, chosen)
        if recipe is not None:
            sections: TextToImageSections = recipe.sections
            known = sections.generation.sampler
            given = {"steps": known.steps, "guidance_scale": known.guidance_scale} | given
            if chosen == ORIGINAL or chosen in adapted:
                origin, config = str(sections.model.checkpoint), config or sections.model.config
        elif chosen == ORIGINAL or chosen in adapted:
            more = "" if chosen == ORIGINAL else f", and of {chosen} adapters alone: load {origin} into that pipeline"
            raise SettingError(f"{place} is of a run made in Python, which keeps no original{more}.")
    elif model is not None:
        raise SettingError(f"--model chooses a model of a run folder, but {source} is none. Leave --model out.")
    sampler, engine = PromptSampler(**given), Engine.start(device, precision)
    path = sample_place(place, chosen, "", out)
    hush()
    pipeline = _of_run(place, str(chosen), permissions) if chosen in bare else load_pipeline(origin, config=config)
    pipeline = pipeline.to(engine.device)
    if chosen in adapted:
        own = place / str(chosen)
        apply_lora(denoiser_of(pipeline), own / (FILE if (own / FILE).is_file() else PEFT_FILE))
    made = sample_prompts(pipeline, table, path, sampler, engine=engine, count=count, batch_size=batch_size)
    wanted = len(table) * count
    if engine.is_main:
        print(f"{path}: {made} images made" + (f", {wanted - made} were there." if wanted > made else "."))
    return path


def _of_run(folder: Path, name: str, permissions: Permissions) -> Any:
    """The pipeline of a run's model that has no folder of its own: the recipe's, with the model's network."""
    opened, module = open_model(folder, name, permissions)
    domain: TextToImageDomain = opened  # type: ignore[assignment]
    return with_denoiser(domain.pipeline, module)
