"""Stable Diffusion in one file, in the layout of its authors (CompVis, Stability AI): read, and written again.

diffusers converts that layout into its own and not back. So a file is written from the one that was loaded: the names
of its weights go through diffusers' own conversion, which tells where each of the UNet's weights lies.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors

from untrain.diffusion.folders import INDEX, check_parts, part_class, parts_of
from untrain.diffusion.text import check_pipeline
from untrain.errors import CheckpointError, ModelError, SettingError
from untrain.io import open_atomic, write_json
from untrain.lazy import nn, torch
from untrain.models.kinds import plain_module
from untrain.models.model_folders import copy_inside
from untrain.models.precision import count_changes, is_narrow, warn_of_loss
from untrain.models.pretrained import read_object
from untrain.reading import DAMAGED, check_regular

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Of single files. All but the first are torch files and are read with `weights_only`."""

_UNET = "model.diffusion_model."
_AVERAGE = "model_ema."
_SD, _XL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
_HUB = {_SD: "v1", _XL: "xl_base"}  # what diffusers' table of hub ids calls the model whose configuration is taken
_WHOLE = "Take the checkpoint that holds the whole model, or load a folder that diffusers saved."


def load_single_file(path: str | Path, config: str | Path | None = None) -> Any:
    """The pipeline in a checkpoint of Stable Diffusion 1.x, 2.x or XL, in float32, without a safety checker.

    Such a file holds weights and nothing else, so that configuration and tokenizer come from elsewhere. Weights of a
    .safetensors file are mapped from the disk, not read: the pipeline takes memory for them as they are used. Averaged
    weights in the file are left out.

    Args:
        path: a .safetensors file, or a torch file that can be read with `weights_only`.
        config: a pipeline's folder (weights in it are not looked at) or hub id of the same architecture; or a folder
            with CLIP's vocab.json and merges.txt alone, for the public configuration of Stable Diffusion 1.x or XL;
            None: what the hub has for 1.x and XL.

    Raises:
        CheckpointError: if the file is damaged, unsafe, holds something else or not all, or the configuration cannot
            be had or is of another architecture. ModelError: if it is of a model that is not supported.
        SettingError: if the configuration must be given, as for 2.x: its files do not tell what is predicted.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    path = Path(path)
    with _opened(path) as original:
        kind = _kind(path, original.shapes)
        names = list(original.shapes)
    with _configuration(path, kind, names, config) as folder:
        ldm_names(names, _empty_unet(folder))
        encoders = _text_encoders(path, kind, names, folder)
        try:
            made = getattr(diffusers, kind).from_single_file(str(path), config=str(folder), **encoders)
        except (SingleFileComponentError, OSError, ValueError, RuntimeError, LookupError, AttributeError) as error:
            why = "the file lacks some of the weights." if "meta tensor" in str(error) else str(error)
            why = why.partition("\nPlease load the component")[0]  # the rest is code for developers
            raise CheckpointError(
                f"{path} cannot be loaded with the configuration in {config or folder}: {why} Take a file that is "
                "whole, and give the folder of a pipeline of the same architecture as config."
            ) from error
    _check_whole(path, made)
    _check_prediction(path, made, names)
    check_pipeline(made)
    return made


def save_single_file(
    original: str | Path, unet: nn.Module, target: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the file that a pipeline was loaded from once more, with the weights of another UNet.

    The UNet's weights are stored in the type that they have in the original, half precision included. All other
    weights are copied bit by bit, but for averages of the UNet's, which remember what was forgotten. One weight at a
    time is in memory.

    Args:
        original: the file that `load_single_file` read.
        unet: diffusers' UNet2DConditionModel, with the new weights.
        target: a .safetensors file, written whole or not at all.
        metadata: goes beside the original's, of which hashes of the old weights and thumbnails are left out.

    Raises:
        CheckpointError: if the original is no single file, or its UNet is of another architecture.
        ModelError: if a weight is not finite in the original's type. SettingError: the target is the original, or has
            another ending. FolderError: if it cannot be written.
    """
    original, target = Path(original), Path(target)
    if original.suffix not in ENDINGS or not os.path.isfile(original):
        raise CheckpointError(
            f"{original} is not a single file, and diffusers converts into its own layout only: the names of the "
            "weights are known where the pipeline came from a single file. Save a folder of diffusers instead."
        )
    if target.suffix != ".safetensors":
        raise SettingError(f"{target} must end in .safetensors.")
    if target.exists() and target.resolve() == original.resolve():
        raise SettingError(f"{target} is the original, which would be lost: choose another name.")
    plain = plain_module(unet)
    with _opened(original) as old:
        _kind(original, old.shapes)
        state = plain.state_dict()
        new = {theirs: state[own] for own, theirs in ldm_names(list(old.shapes), plain).items()}
        for name, tensor in new.items():
            if tuple(tensor.shape) != old.shapes[name]:
                raise _other_architecture(f"{name} is {list(old.shapes[name])} there and {list(tensor.shape)} here")
        notes = {key: note for key, note in old.metadata.items() if "hash" not in key and "thumbnail" not in key}
        _write(target, old, new, notes | dict(metadata or {}))
        _tell_rounding(target, old, new)


def _tell_rounding(target: Path, old: _Original, new: Mapping[str, Tensor]) -> None:
    """Warns where most of what was unlearned is lost in the types of the file."""
    pairs = ((old.tensor(name), weight.detach().cpu()) for name, weight in new.items())
    moved, kept = count_changes((before, after) for before, after in pairs if is_narrow(before))
    text = f"{target} has half precision, as its original: of {moved:,} weights that changed, {kept:,} differ in it"
    warn_of_loss(text, moved, kept)


def ldm_names(names: Sequence[str], unet: Any) -> dict[str, str]:
    """Where each weight of a UNet lies in a single file: diffusers' name → the file's.

    diffusers' conversion only moves values about, so it is run on the names themselves.

    Args:
        names: of all weights in the file.
        unet: diffusers' UNet2DConditionModel.

    Raises:
        CheckpointError: if the weights of the two do not pair off.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    inside = {name: name for name in names if name.startswith(_UNET)}
    try:
        found: dict[str, str | None] = convert_ldm_unet_checkpoint(inside, unet.config)
    except (LookupError, TypeError) as error:
        raise _other_architecture(f"the file lacks {error}") from error
    own = set(unet.state_dict())
    pairs = {name: theirs for name, theirs in found.items() if name in own and theirs is not None}
    lacking, left = sorted(own - set(pairs)), sorted(set(inside) - set(pairs.values()))
    if lacking or left or len(set(pairs.values())) < len(pairs):
        more = f"the model has {len(lacking)} weights that the file lacks" + (f" ({lacking[0]})" if lacking else "")
        raise _other_architecture(f"{more}, the file {len(left)} more" + (f" ({left[0]})" if left else ""))
    return pairs


def _other_architecture(what: str) -> CheckpointError:
    return CheckpointError(f"the file's UNet is of another architecture: {what}. Take the file it was loaded from.")


_TEXT: dict[str, dict[str, str]] = {
    _SD: {"text_encoder": "cond_stage_model."},
    _XL: {"text_encoder": "conditioner.embedders.0.", "text_encoder_2": "conditioner.embedders.1."},
}
"""Class of pipelines → text encoder → how its names begin in a single file."""


def _text_encoders(path: Path, kind: str, names: Sequence[str], folder: Path) -> dict[str, nn.Module]:
    """The text encoders that a file holds under other names than diffusers looks for, in evaluation mode.

    CLIP's names have changed with versions of transformers: of `transformer.text_model.embeddings…` the first two
    words may be missing (diffusers#8228). Those of OpenCLIP, `model.…`, and the usual ones are left to diffusers.
    """
    stored = {part: _clip_names(names, start) for part, start in _TEXT[kind].items()}
    first = f"{_TEXT[kind]['text_encoder']}transformer.text_model."
    if all(name.startswith(first) for each in stored.values() for name in each.values()):
        return {}
    return {part: _text_encoder(path, folder, part, each) for part, each in stored.items() if each}


def _clip_names(names: Sequence[str], start: str) -> dict[str, str]:
    """Plain name → name in the file, of a text encoder in the names of transformers; {} where it has OpenCLIP's."""
    own = [name for name in names if name.startswith(start) and not name.startswith(f"{start}model.")]
    return {_plain_clip_name(name, start): name for name in own}


def _plain_clip_name(name: str, start: str = "") -> str:
    """A weight's name without what versions put before it."""
    return name.removeprefix(start).removeprefix("transformer.").removeprefix("text_model.")


def _text_encoder(path: Path, folder: Path, part: str, stored: Mapping[str, str]) -> nn.Module:
    """CLIP's text encoder of a configuration, with a file's weights in float32.

    Args:
        path: of the file.
        folder: of the configuration.
        part: the folder in it.
        stored: a weight's plain name → its name in the file.

    Raises:
        CheckpointError: if the file lacks a weight, or has one of another shape.
    """
    entry = parts_of(read_object(folder / INDEX), folder / INDEX)[part]
    kind = part_class(folder, part, *entry)
    made: nn.Module = kind(kind.config_class.from_pretrained(folder / part)).float().eval()
    state = {name: tensor for name, tensor in made.state_dict().items() if not name.endswith("position_ids")}
    with _opened(path) as file:
        for name, weight in state.items():
            theirs = stored.get(_plain_clip_name(name))
            if theirs is None or file.shapes[theirs] != tuple(weight.shape):
                said = "is missing" if theirs is None else f"is {list(file.shapes[theirs])}"
                raise CheckpointError(
                    f"{path} does not hold the {part} of the configuration in {folder}: {name} {said}, where "
                    f"{list(weight.shape)} is needed. {_WHOLE}"
                )
            weight.copy_(file.tensor(theirs))
    return made


# ── what is in a file ───────────────────────────────────────────────────────────────────────────────────────────


class _Original(NamedTuple):
    """A file of weights: names → shapes, and each weight as it is asked for."""

    shapes: dict[str, tuple[int, ...]]
    tensor: Callable[[str], Tensor]
    metadata: dict[str, str]


@contextmanager
def _opened(path: Path) -> Iterator[_Original]:
    """A single file; its weights are left on the disk until they are asked for, where its format allows that."""
    if path.suffix not in ENDINGS:
        raise CheckpointError(f"{path} is not a checkpoint by its name: it should end in {' or '.join(ENDINGS[:2])}.")
    check_regular(path, CheckpointError)
    if path.suffix != ".safetensors":
        state = _torch_file(path)
        yield _Original({name: tuple(tensor.shape) for name, tensor in state.items()}, state.__getitem__, {})
        return
    try:
        file = safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged or is not a safetensors file: {error}. Get it again.") from error
    with file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, no mapping
        yield _Original(shapes, file.get_tensor, dict(file.metadata() or {}))


def _torch_file(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        raise CheckpointError(
            f"{path} was refused: it is damaged, or holds more than tensors{f' ({found[1]})' if found else ''}, and "
            "reading that would run code. Get the model as .safetensors, or convert it to that with a tool that you "
            "trust, where you trust who made the file."
        ) from error
    except (AttributeError, AssertionError, *DAMAGED) as error:
        raise CheckpointError(f"{path} is damaged or is not a torch file: {error}. Get it again.") from error
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of weights by name. {_WHOLE}")
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}


_OTHERS = (
    (r"lora_|\.lora[._]|lokr_|hada_w", "an adapter (LoRA), which changes a model and is none. Load its model, join the "
     "two by load_lora_weights and fuse_lora of diffusers, and save them as a folder"),
    (r"^(emb_params|string_to_param|string_to_token|clip_[lg])\b", "an embedding (textual inversion), which a model's "
     "prompts can name, and no model. Load the model itself"),
    (r"^control_model\.|^controlnet_", "a ControlNet. Load the model it steers"),
    (r"joint_blocks\.|double_blocks\.|single_blocks\.|transformer_blocks\.\d+\.(ff_context|norm1_context)",
     "a model built around a transformer (Stable Diffusion 3, FLUX), which is read from a folder of diffusers alone"),
    (r"^edm_mean$", f"Playground 2.5, which is noised otherwise; single files can be of {_SD} and {_XL}"),
    (r"^ztsnr$", "a model whose last step is pure noise (zero terminal SNR), which is not supported"),
)  # fmt: skip
"""What else is handed around as one file: a pattern of its names, and what to say of it."""


def _kind(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The class of pipelines that a file belongs to, told by its text encoder; refuses files of anything else."""
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in shapes):
            raise ModelError(f"{path} holds {what}.")
    first, last = shapes.get(f"{_UNET}input_blocks.0.0.weight"), shapes.get(f"{_UNET}out.2.weight")
    if first is None or last is None:
        raise CheckpointError(
            f"{path} is not a checkpoint of Stable Diffusion: none of its {len(shapes)} weights is called "
            f"{_UNET}input_blocks.0.0.weight (the first is {next(iter(shapes), 'missing')}). {_WHOLE}"
        )
    if first[1] != last[0]:
        raise ModelError(f"{path} holds a UNet that sees more than a latent ({first[1]} channels): it edits images.")

    def holds(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in shapes)

    if not holds("first_stage_model.", "vae."):
        raise CheckpointError(f"{path} holds no VAE. {_WHOLE}")
    if holds("conditioner.embedders.1."):
        return _XL
    if holds("conditioner.embedders.0.model."):
        raise ModelError(f"{path} holds the refiner of Stable Diffusion XL, which has no prompts of its own: "
                         "load the base model.")  # fmt: skip
    if not holds("cond_stage_model."):
        raise CheckpointError(f"{path} holds no text encoder. {_WHOLE}")
    return _SD


# ── what a file lacks ───────────────────────────────────────────────────────────────────────────────────────────

_CLIP = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_CLIP_L = _CLIP | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
_CLIP_G = _CLIP | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
}
_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}

PUBLIC: dict[str, dict[str, tuple[str, str, dict[str, Any]]]] = {
    _SD: {
        "unet": ("diffusers", "UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}),
        "vae": ("diffusers", "AutoencoderKL", {**_VAE, "sample_size": 512, "scaling_factor": 0.18215}),
        "text_encoder": ("transformers", "CLIPTextModel", _CLIP_L),
        "scheduler": ("diffusers", "PNDMScheduler", {**_BETAS, "skip_prk_steps": True, "set_alpha_to_one": False}),
        "tokenizer": ("transformers", "CLIPTokenizer", {"pad_token": "<|endoftext|>"}),
    },
    _XL: {
        "unet": (
            "diffusers",
            "UNet2DConditionModel",
            {
                "sample_size": 128,
                "block_out_channels": [320, 640, 1280],
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                "transformer_layers_per_block": [1, 2, 10],
                "attention_head_dim": [5, 10, 20],
                "cross_attention_dim": 2048,
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
        ),
        "vae": ("diffusers", "AutoencoderKL", {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025}),
        "text_encoder": ("transformers", "CLIPTextModel", _CLIP_L),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", _CLIP_G),
        "scheduler": ("diffusers", "EulerDiscreteScheduler", {**_BETAS, "timestep_spacing": "leading"}),
        "tokenizer": ("transformers", "CLIPTokenizer", {"pad_token": "<|endoftext|>"}),
        "tokenizer_2": ("transformers", "CLIPTokenizer", {"pad_token": "!"}),
    },
}
"""The configurations of Stable Diffusion 1.x and XL as their authors published them, by class of pipeline and part:
library, class, and settings where they differ from the class's defaults. Tokenizers besides need CLIP's vocabulary."""


@contextmanager
def _configuration(path: Path, kind: str, names: Sequence[str], config: str | Path | None) -> Iterator[Path]:
    """The folder in which diffusers finds what the file lacks; one that is made for it is gone afterwards."""
    folder = None if config is None else Path(config)
    vocabulary = None
    if folder is not None and os.path.isdir(folder) and not (folder / INDEX).is_file():
        vocabulary = next((p.parent for p in _vocabularies(folder) if p.is_file()), None)
        if vocabulary is None:
            raise CheckpointError(f"{folder} holds no configuration: neither {INDEX} nor CLIP's vocab.json.")
    second = any(name.startswith("cond_stage_model.model.") for name in names)
    if second and (folder is None or vocabulary is not None):
        raise SettingError(
            f"{path} holds Stable Diffusion 2, and does not tell whether it predicts noise or v, nor for which size: "
            "give the folder or hub id of its pipeline as config (model.config in a recipe)."
        )
    if vocabulary is not None:
        with TemporaryDirectory() as place:
            _public_folder(kind, vocabulary, Path(place))
            yield Path(place)
        return
    if folder is None or not os.path.isdir(folder):
        folder = _from_hub(path, kind, config)
    check_parts(folder)
    index = read_object(folder / INDEX)
    for name, entry in parts_of(index, folder / INDEX).items():
        part_class(folder, name, *entry)
    known = index["_class_name"]
    if known != kind:
        raise SettingError(f"{path} holds a {kind}, and the configuration in {config or folder} is of a {known}.")
    yield folder


def _vocabularies(folder: Path) -> tuple[Path, ...]:
    return folder / "vocab.json", folder / "tokenizer" / "vocab.json"


def _public_folder(kind: str, vocabulary: Path, place: Path) -> None:
    """Writes the public configuration of a kind, and the vocabulary, as diffusers lays them out."""
    import diffusers

    for name, (library, made, settings) in PUBLIC[kind].items():
        if name.startswith("tokenizer"):
            (place / name).mkdir()
            for file in ("vocab.json", "merges.txt"):
                if not (vocabulary / file).is_file():
                    raise CheckpointError(f"{vocabulary} lacks {file}, which CLIP's tokenizer needs beside the other.")
                copy_inside(vocabulary / file, place / name / file, vocabulary)
            words = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
            said = {"tokenizer_class": made, "model_max_length": _window(kind), **words, **settings}
            write_json(place / name / "tokenizer_config.json", said)
        elif name == "scheduler":
            write_json(place / name / "scheduler_config.json", {"_class_name": made, **settings})
        elif library == "diffusers":
            with torch.device("meta"):  # its configuration has the defaults too, which the conversion looks at
                getattr(diffusers, made)(**settings).save_config(place / name)
        else:
            write_json(place / name / "config.json", {"model_type": "clip_text_model", **settings})
    none = {name: [None, None] for name in ("safety_checker", "feature_extractor")} if kind == _SD else {}
    parts = {name: [library, made] for name, (library, made, _) in PUBLIC[kind].items()}
    more = {"requires_safety_checker": False} if kind == _SD else {"force_zeros_for_empty_prompt": True}
    write_json(place / INDEX, {"_class_name": kind, **parts, **none, **more})


def _window(kind: str) -> int:
    return int(PUBLIC[kind]["text_encoder"][2]["max_position_embeddings"])


def _from_hub(path: Path, kind: str, config: str | Path | None) -> Path:
    """Configuration and tokenizer of a pipeline, from the hub or the copy of an earlier time."""
    if config is not None and (os.path.exists(config) or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(config))):
        raise CheckpointError(f"{config} is neither a folder nor a hub id: give one of a pipeline as config.")
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS
    from huggingface_hub import snapshot_download

    name = str(config or DIFFUSERS_DEFAULT_PIPELINE_PATHS[_HUB[kind]]["pretrained_model_name_or_path"])
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt"]))
    except Exception as error:  # the hub's client has many kinds of failures; the cause is passed on
        raise CheckpointError(
            f"{path} holds weights alone, and the configuration and tokenizer of {name} cannot be had: {error}. Give "
            "as config (model.config in a recipe) the folder of a pipeline of the same architecture, or one with "
            "CLIP's vocab.json and merges.txt."
        ) from error


def _empty_unet(folder: Path) -> nn.Module:
    """A UNet of a configuration, without weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        made: nn.Module = UNet2DConditionModel.from_config(read_object(folder / "unet" / "config.json"))
    return made


def _check_whole(path: Path, pipeline: Any) -> None:
    for part, module in pipeline.components.items():
        held = dict(module.named_parameters()) if isinstance(module, nn.Module) else {}
        empty = [name for name, weight in held.items() if weight.is_meta]
        if empty:
            raise CheckpointError(
                f"{path} lacks {len(empty)} of the {len(held)} weights of the {part} ({empty[0]}): it is not whole, "
                "or the configuration is of another architecture."
            )


def _check_prediction(path: Path, pipeline: Any, names: Sequence[str]) -> None:
    """Some files of XL say by an entry without content that they predict v."""
    if "v_pred" in names and pipeline.scheduler.config.get("prediction_type") != "v_prediction":
        raise SettingError(
            f"{path} says that it predicts v, and its configuration says otherwise: give as config the folder of a "
            "pipeline whose scheduler has prediction_type v_prediction."
        )


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

_TYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
"""What the format calls the types."""


def _write(target: Path, old: _Original, new: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file weight by weight: the length of its header, the header, and all bytes in its order.

    The library's own writer wants every weight in memory at once.
    """
    types = {name: old.tensor(name).dtype for name in old.shapes if not name.startswith(_AVERAGE)}
    unknown = [name for name, kind in types.items() if str(kind) not in _TYPES]
    if unknown:
        raise CheckpointError(f"{unknown[0]} is of type {types[unknown[0]]}, which cannot be written.")
    order = sorted(types, key=lambda name: (-types[name].itemsize, name))  # so that each begins at its own multiple
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in order:
        start, end = end, end + math.prod(old.shapes[name]) * types[name].itemsize
        kind = _TYPES[str(types[name])]
        header[name] = {"dtype": kind, "shape": list(old.shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open_atomic(target) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(_content(_stored(name, new[name], types[name]) if name in new else old.tensor(name)))


def _stored(name: str, weight: Tensor, kind: torch.dtype) -> Tensor:
    made = weight.detach().to("cpu", kind)
    if not made.to(torch.float32).isfinite().all():
        raise ModelError(f"{name} is not finite as {kind}, in which the original stores it.")
    return made


def _content(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
