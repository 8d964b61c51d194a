"""Whole pipelines of diffusers: loaded, saved with another noise predictor, what they say of classes and schedule."""

from __future__ import annotations

import copy
import math
import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from untrain.diffusion.architectures import SUPPORTED, SUPPORTED_LIST
from untrain.diffusion.denoisers import FREQUENCIES, denoiser_name
from untrain.diffusion.folders import INDEX, absent_parts, local_folder, part_class, parts_of
from untrain.diffusion.paths import Flow
from untrain.diffusion.process import DiffusionProcess
from untrain.diffusion.single_file import ENDINGS, load_single_file
from untrain.diffusion.text import check_pipeline
from untrain.errors import CheckpointError, ModelError, SettingError
from untrain.io import write_json, write_text
from untrain.lazy import nn, torch
from untrain.models.adapters import merged_copy
from untrain.models.kinds import plain_module
from untrain.models.model_folders import copy_inside, replace_folder
from untrain.models.pretrained import CONFIG, read_object, refusal_of


def hush() -> None:
    """From now on, the libraries load and save pipelines without bars of their own; downloads keep theirs."""
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils import enable_progress_bars

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    enable_progress_bars()


def load_pipeline(source: str | Path, *, config: str | Path | None = None) -> Any:
    """A text-to-image pipeline with its weights, in evaluation mode, on the CPU, in float32 whatever the file has.

    It comes without a safety checker, which is of no use here: it blackens the very images that show what is left of a
    concept. `save_diffusers` copies the checker that lies in the original's folder.

    Args:
        source: a folder that diffusers saved, a hub id, or a single file (see `load_single_file`).
        config: of a single file, where its configuration and tokenizer are.

    Raises:
        CheckpointError: if it is missing, damaged, not whole, or no pipeline.
        ModelError: if it is a pipeline of a class that is not supported; lists the supported ones.
        SettingError: if a configuration is given beside a folder, or must be given and is not.
    """
    path = Path(source)
    if os.path.isfile(path) or (path.suffix in ENDINGS and not os.path.isdir(path)):
        if not os.path.isfile(path):
            raise CheckpointError(f"{path} does not exist. Check the path.")
        return load_single_file(path, config)
    if config is not None:
        raise SettingError(f"config is for single files, and {source} has its own configuration: leave it out.")
    folder = local_folder(source)
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{source} holds no pipeline: it has no {INDEX}. Give the folder that has all parts.")
    index = read_object(folder / INDEX)
    kind = _supported(index, source)
    named = parts_of(index, folder / INDEX)
    classes = {name: part_class(folder, name, *entry) for name, entry in named.items() if name != "safety_checker"}
    parts = {name: _part(folder, name, classes[name]) for name in _WEIGHTED if classes.get(name)}
    parts |= absent_parts(index)
    if "safety_checker" in index:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        made = kind.from_pretrained(folder, trust_remote_code=False, **parts)
    except _UNREADABLE as error:
        raise CheckpointError(f"the pipeline in {source} cannot be read: {refusal_of(error)}") from error
    check_pipeline(made)
    return made


_WEIGHTED = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_UNREADABLE = (pickle.UnpicklingError, OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError)


def _supported(index: Mapping[str, Any], source: str | Path) -> Any:
    """The class of a pipeline by its name in model_index.json; others are refused before any weight is read."""
    import diffusers

    name = str(index.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if not {each.__name__ for each in getattr(kind, "__mro__", ())} & set(SUPPORTED):
        raise ModelError(f"{source} holds a {name}; supported are {SUPPORTED_LIST}.")
    return kind


def _part(folder: Path, name: str, kind: Any) -> Any:
    """A part with weights, all of which must be in its folder: the libraries draw missing ones at random."""
    import safetensors

    try:
        made, found = kind.from_pretrained(folder / name, output_loading_info=True)
    except (safetensors.SafetensorError, *_UNREADABLE) as error:
        raise CheckpointError(f"the {name} in {folder} cannot be read: {refusal_of(error)}") from error
    wrong = [str(key) for flaw in ("missing_keys", "mismatched_keys") for key in found.get(flaw) or ()]
    if wrong:
        raise CheckpointError(
            f"the {name} in {folder} lacks {len(wrong)} of its weights, or has them in another shape ({wrong[0]}): it "
            "is damaged, or was saved for another configuration than beside it. Get the folder again."
        )
    return made.float()


def with_denoiser(pipeline: Any, module: nn.Module) -> Any:
    """A pipeline of the same type around another noise predictor; it shares all other parts with the first.

    Raises:
        CheckpointError: if the pipeline holds nothing that predicts noise.
    """
    name = denoiser_name(pipeline.components, type(pipeline).__name__)
    twin = copy.copy(pipeline)  # not by its constructor: what is no part, such as labels, comes along too
    twin.register_modules(**{name: plain_module(module)})
    return twin


def save_diffusers(
    original: Any, module: nn.Module, target: str | Path, card: str | None = None, *, links: bool = False
) -> None:
    """Writes a folder that diffusers loads (`from_pretrained` of the pipeline's or the module's class), whole or not.

    Of a pipeline, everything but the noise predictor is the original's. Nothing else of the original's folder is
    copied: no other weights of the noise predictor (half precision, averages), which remember what was forgotten.

    Args:
        original: the folder or hub id of a pipeline or model, a pipeline, or a module or None for the module alone.
        module: the noise predictor with the new weights.
        target: the folder. A model in it is replaced.
        card: the text of README.md, as `model_card` writes it; None: there is none, the original's is not copied.
        links: whether to copy what links in the original's folder point at outside of it.

    Raises:
        FolderError: if the folder holds something else than a model, or cannot be written.
        ModelError: if the module is not one of diffusers. CheckpointError: if the original is not, a link leads out of
            its folder, or what was written is not the module.
        SettingError: if the target is the original's folder.
    """
    plain: Any = merged_copy(plain_module(module))
    if not hasattr(plain, "save_pretrained") or not hasattr(plain, "config"):
        raise ModelError(f"{type(plain).__name__} is not a model of diffusers: save its state_dict instead.")
    if plain.config.get(FREQUENCIES) == "original":
        warnings.warn(
            "diffusers encodes timesteps by slightly other sinusoids than the original DiT, with which this model was "
            "trained: its pipelines' samples will differ a little from the ones made here.",
            stacklevel=2,
        )
    if isinstance(original, str | Path) and os.path.isfile(original):
        raise CheckpointError(f"{original} is a single file: hand over the pipeline that was loaded from it.")
    source = local_folder(original) if isinstance(original, str | Path) else None
    if source is not None and source.resolve() == Path(target).resolve():
        raise SettingError(f"{target} holds the original, which would be lost: save to another folder.")
    with replace_folder(Path(target), (INDEX, CONFIG)) as folder:
        if source is not None and (source / INDEX).is_file():
            _save_around(source, plain, folder, links)
        elif source is not None or original is None or isinstance(original, nn.Module):
            plain.save_pretrained(folder)
        else:
            with_denoiser(original, plain).save_pretrained(folder)
            _keep_labels(original, folder)
        _check_written(folder, plain)
        if card is not None:
            write_text(folder / "README.md", card)


def _save_around(source: Path, module: Any, folder: Path, links: bool) -> None:
    """The parts of a pipeline's folder, with another noise predictor."""
    index = read_object(source / INDEX)
    parts = parts_of(index, source / INDEX)
    own = denoiser_name(parts, str(source / INDEX))
    for name in parts:
        if name == own:
            module.save_pretrained(folder / name)
        elif (source / name).is_dir():
            copy_inside(source / name, folder / name, source, links=links)
        else:
            raise CheckpointError(f"{source} is not whole: its {INDEX} names {name}, and there is no such folder.")
    for licence in source.glob("LICENSE*"):
        copy_inside(licence, folder / licence.name, source, links=links)
    write_json(folder / INDEX, index | {own: ["diffusers", type(module).__name__]})


def _check_written(folder: Path, module: nn.Module) -> None:
    """Reads the weights of a noise predictor once more, and compares them.

    Raises:
        CheckpointError: if a weight is not there, or another one is.
    """
    from safetensors import safe_open

    index = folder / INDEX
    place = folder / denoiser_name(read_object(index), str(index)) if index.is_file() else folder
    left = module.state_dict()
    for path in sorted(place.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it is not a mapping
                weight = left.pop(name, None)
                if weight is None or not torch.equal(file.get_tensor(name), weight.cpu()):
                    raise CheckpointError(f"{name} was not written as it is: {place} would hold another model.")
    if left:
        raise CheckpointError(f"{next(iter(left))} was not written: {place} would hold another model.")


def check_draws_classes(pipeline: Any) -> None:
    """Refuses pipelines that draw what a text says.

    Raises:
        ModelError: says what can be unlearned, and how.
    """
    found = [name for name in pipeline.components if name.startswith("text_encoder")]
    if found:
        raise ModelError(
            f"{type(pipeline).__name__} draws what a text says ({found[0]}), no classes. Of pipelines of texts, "
            f"{SUPPORTED_LIST} can be unlearned: give another task= for them."
        )


def _keep_labels(pipeline: Any, folder: Path) -> None:
    """Names of classes, which diffusers itself does not write with a pipeline."""
    labels = labels_of(pipeline)
    if labels is not None:
        index = read_object(folder / INDEX)
        write_json(folder / INDEX, index | {"id2label": {str(k): label for k, label in enumerate(labels)}})


# ── what a pipeline says ────────────────────────────────────────────────────────────────────────────────────────


def labels_of(source: Any) -> tuple[str, ...] | None:
    """The name of every class, by number; None where a folder or pipeline names none.

    Synonyms stand in one name, separated by commas, as in "tench, Tinca tinca".

    Args:
        source: a folder or hub id, or a pipeline.

    Raises:
        CheckpointError: if the folder's list of names cannot be read.
    """
    if isinstance(source, str | Path):
        numbered = _numbered(local_folder(source) / INDEX)
    else:  # what it was loaded from knows more: in memory, a synonym that two classes have is left to one of them
        place = getattr(source, "config", {}).get("_name_or_path")
        known = getattr(source, "labels", None) or {}
        numbered = (_numbered(Path(place) / INDEX) if known and place else {}) or _inverted(known)
    if not numbered:
        return None
    return tuple(numbered.get(number, str(number)) for number in range(max(numbered) + 1))


def _numbered(index: Path) -> dict[int, str]:
    named = (read_object(index).get("id2label") or {}) if index.is_file() else {}
    try:
        return {int(number): str(name) for number, name in named.items()}
    except (AttributeError, ValueError) as error:
        raise CheckpointError(f"id2label in {index} must name classes by number: {error}") from error


def _inverted(labels: Mapping[str, int]) -> dict[int, str]:
    numbered: dict[int, str] = {}
    for name, number in labels.items():
        numbered[number] = f"{numbered[number]}, {name}" if number in numbered else name
    return numbered


_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_PREDICTIONS = {"epsilon": "noise ('epsilon')", "v_prediction": "velocity ('v_prediction')"}


def schedule_of(source: Any, predictions: Sequence[str] = ("epsilon",)) -> dict[str, Any]:
    """The diffusion that a pipeline was trained on, as settings of the task.

    Args:
        source: a folder or hub id, or a pipeline.
        predictions: what the task lets a model predict, by the names of diffusers.

    Returns:
        {"timesteps": T, "schedule": how β grows, "beta_start": …, "beta_end": …}, and "prediction" where several are
        allowed; nothing where there is no scheduler, as beside a model that was saved alone.

    Raises:
        ModelError: if the scheduler belongs to another kind of diffusion. CheckpointError: if it cannot be read.
    """
    config = _scheduler_config(source)
    if config is None:
        return {}
    name = config.get("_class_name", "the scheduler")
    if "beta_schedule" not in config:
        raise ModelError(f"{name} has no schedule of β, on which such models are trained.")
    predicted = config.get("prediction_type", "epsilon")
    if predicted not in predictions:
        known = " and ".join(_PREDICTIONS[each] for each in predictions)
        raise ModelError(f"the model predicts {predicted!r}, as its scheduler says; only {known} can be.")
    odd = [key for key in ("trained_betas", "rescale_betas_zero_snr") if _given(config.get(key))]
    if odd or config["beta_schedule"] not in _SCHEDULES:
        what = f"{odd[0]} in its configuration" if odd else f"the schedule {config['beta_schedule']!r}"
        raise ModelError(f"{name} has {what}, which is not supported; known schedules are {', '.join(_SCHEDULES)}.")
    return {
        "timesteps": int(config["num_train_timesteps"]),
        "schedule": config["beta_schedule"],
        "beta_start": float(config["beta_start"]),
        "beta_end": float(config["beta_end"]),
    } | ({"prediction": predicted} if len(predictions) > 1 else {})


def diffusion_of(source: Any) -> dict[str, Any]:
    """The diffusion or the flow that a generator of classes was trained on: `flow_of` or `schedule_of`.

    Args:
        source: a folder or hub id, or a pipeline.

    Raises:
        ModelError: if the scheduler is of another kind. CheckpointError: if it cannot be read.
    """
    config = _scheduler_config(source)
    return flow_of(source) if config is not None and _is_flow(config) else schedule_of(source)


def _is_flow(config: Mapping[str, Any]) -> bool:
    return str(config["_class_name"]).startswith("FlowMatch") or _uses_flow_sigmas(config)


def _uses_flow_sigmas(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler that is made for schedules of β walks along a flow."""
    return config.get("prediction_type") == "flow_prediction" and bool(config.get("use_flow_sigmas"))


def flow_of(source: Any, tokens: int | None = None) -> dict[str, Any]:
    """The flow that a pipeline was trained on, as settings of the task.

    Args:
        source: a folder or hub id, or a pipeline.
        tokens: patches of an image, by whose number some schedulers shift; None: one that does is refused.

    Returns:
        {"timesteps": T, "flow": its shift, and what `save_schedule` wrote beside it}.

    Raises:
        ModelError: if the scheduler is of another kind, or does more than shift. CheckpointError: if it cannot be read.
    """
    config = _scheduler_config(source)
    if config is None:
        raise ModelError("a pipeline of flow matching is known by its scheduler, and there is none: load it whole.")
    name = str(config["_class_name"])
    timesteps = int(config["num_train_timesteps"])
    if _uses_flow_sigmas(config):
        return {"timesteps": timesteps, "flow": Flow(shift=float(config["flow_shift"]))}
    if not _is_flow(config):
        raise ModelError(f"{name} is no scheduler of flow matching, by which such pipelines are trained.")
    odd = [key for key in _FLOW_ODDITIES if _given(config.get(key))]
    if odd or (config.get("use_dynamic_shifting") and config.get("time_shift_type", "exponential") != "exponential"):
        raise ModelError(f"{name} has {odd[0] if odd else 'a linear shift'}, which is not supported.")
    if not config.get("use_dynamic_shifting"):
        told = {key: config[key] for key in _OUR_FLOW if key in config}
        try:
            return {"timesteps": timesteps, "flow": Flow(shift=float(config["shift"]), **told)}
        except SettingError as error:
            raise CheckpointError(f"the scheduler's configuration: {error}") from error
    if tokens is None:
        raise ModelError(f"{name} shifts by the size of images, which is not supported of generators of classes.")
    short, long = (float(config[key]) for key in ("base_image_seq_len", "max_image_seq_len"))
    low, high = (float(config[key]) for key in ("base_shift", "max_shift"))
    mu = low + (high - low) * (tokens - short) / (long - short)  # diffusers' calculate_shift
    return {"timesteps": timesteps, "flow": Flow(shift=math.exp(mu))}


_OUR_FLOW = ("density", "weighting", "convention")
"""What `save_schedule` writes into the configuration of a flow's scheduler, and diffusers itself ignores."""
_FLOW_ODDITIES = (
    "invert_sigmas",
    "shift_terminal",
    "stochastic_sampling",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
)
"""What a scheduler of flow matching may do besides, by the names of diffusers."""


def save_schedule(diffusion: DiffusionProcess, folder: str | Path) -> None:
    """Writes the schedule or flow of a model that was saved alone beside it, where `diffusion_of` reads it."""
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    made: Any
    if diffusion.flow is None:
        made = DDPMScheduler(
            num_train_timesteps=diffusion.timesteps,
            beta_start=diffusion.beta_start,
            beta_end=diffusion.beta_end,
            beta_schedule=diffusion.schedule,
        )
    else:
        made = FlowMatchEulerDiscreteScheduler(diffusion.timesteps, shift=diffusion.flow.shift)
        made.register_to_config(**{key: getattr(diffusion.flow, key) for key in _OUR_FLOW})
    made.save_pretrained(folder)


def _given(value: Any) -> bool:
    return value is not None and value is not False


def _scheduler_config(source: Any) -> Mapping[str, Any] | None:
    """A scheduler's configuration with its class's defaults."""
    if not isinstance(source, str | Path):
        scheduler = getattr(source, "scheduler", None)
        return None if scheduler is None else {"_class_name": type(scheduler).__name__, **scheduler.config}
    import diffusers

    folder = local_folder(source)
    paths = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    stored = read_object(path)
    kind = getattr(diffusers, str(stored.get("_class_name")), None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise CheckpointError(f"{path} is of an unknown scheduler, {stored.get('_class_name')!r}.")
    return {"_class_name": stored["_class_name"], **cast(Any, kind).from_config(stored).config}


def check_libraries() -> None:
    """What a run needs, before it begins: it would be a pity to miss it at the evaluation.

    Raises:
        SettingError: names what is missing.
    """
    missing = [name for name in ("diffusers", "torchmetrics") if not _importable(name)]
    if missing:
        raise SettingError(f"generators need {' and '.join(missing)}: pip install 'untrain[diffusion]'.")


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # taken out of reach in this process
        return False
