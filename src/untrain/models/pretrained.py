"""Folders of models that others made, of the disk or the hub: data, and never code.

The libraries that read such folders can be told by a configuration to import a file beside it, to fetch a kernel or
another model, or to unpickle. What would do so is refused here, before a library sees the folder.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from untrain.errors import CheckpointError, UntrainError
from untrain.reading import read_json

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
"""Of transformers."""
_VARIANTS = ("model.*.safetensors", "model.safetensors.index.*.json")
"""The same where there is but a variant, such as model.fp16.safetensors."""
_PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
"""The same where nobody converted them; read with `weights_only`."""
_ADAPTER = "adapter_config.json"


def fetch_folder(source: str | Path, files: Sequence[str] = (CONFIG,), *, weights: bool = True) -> Path:
    """Finds the folder of a model of transformers; of a hub id, the copy on this disk, without any Python file.

    Args:
        source: a folder, its config.json, or a hub id.
        files: what is needed besides the weights, by name.
        weights: whether the weights are.

    Raises:
        CheckpointError: if it is neither, or a configuration in it brings code.
    """
    folder = Path(source).expanduser()
    folder = folder.parent if folder.name == CONFIG and os.path.isfile(folder) else folder
    if not os.path.isdir(folder):
        folder = _snapshot(str(source), [*files, *WEIGHTS] if weights else files)
        if weights and not any(folder.glob("*.safetensors")):
            folder = _snapshot(str(source), [*files, *_VARIANTS])
        if weights and not any(folder.glob("*.safetensors")):
            folder = _snapshot(str(source), [*files, *_PICKLED])
    check_folder(folder)
    return folder


def _snapshot(name: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client has many kinds of failures; the cause is passed on
        raise CheckpointError(
            f"{name} is neither a folder nor something that the hub gives: {error}. Check the path or the connection."
        ) from error


_UNBOUNDED = ("lambda_min_clipped",)
"""Entries in which diffusers writes -Infinity, where a scheduler clips nothing."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a folder that a library saved.

    Raises:
        CheckpointError: if the file cannot be read, or holds something else.
    """
    value = read_json(path, CheckpointError, unbounded=_UNBOUNDED)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object. Get the folder again.")
    return value


def refusal_of(error: Exception) -> str:
    """Says why a library could not read a folder; PyTorch's own advice on pickles is to run them."""
    if isinstance(error, pickle.UnpicklingError):
        return "its weights are damaged, or a pickle that would run code. Get them as .safetensors."
    return str(error) if isinstance(error, UntrainError) else f"{type(error).__name__}: {error}"


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────


def check_folder(folder: Path) -> None:
    """Refuses a folder in which a configuration names code, fetches some, or makes a library unpickle.

    Raises:
        CheckpointError: names the file, the entry and what to do.
    """
    for path in sorted([*folder.glob("*config.json"), *folder.glob("model_index.json")]):
        if path.name == _ADAPTER:
            raise CheckpointError(f"{path} is of an adapter, which names another model: merge it into that one first.")
        check_entries(read_object(path), str(path))


def check_entries(stored: Mapping[str, Any], place: str) -> None:
    """Refuses a configuration that names code, fetches some, or makes a library unpickle.

    Args:
        stored: the configuration.
        place: what the message calls it.

    Raises:
        CheckpointError: names the entry and what to do.
    """
    for name, value in _entries(stored):
        why = _flaw(name, value)
        if why and not (name == "auto_map" and _is_of_transformers(stored.get("model_type"))):
            raise CheckpointError(f"{place}: {name} {why}.")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every entry of every mapping, however deep; without recursion, for a file may nest what no stack holds."""
    left = [value]
    while left:
        held = left.pop()
        if isinstance(held, Mapping):
            yield from held.items()
            left += held.values()
        elif isinstance(held, list | tuple):
            left += held


def _flaw(name: str, value: Any) -> str:
    """What is wrong with an entry; nothing where it is harmless."""
    return next(
        (why for pattern, (harmful, why) in _HARMFUL.items() if re.fullmatch(pattern, name) and harmful(value)), ""
    )


def _is_of_transformers(model_type: Any) -> bool:
    """Whether the library has a class of its own for it, which is then taken instead of the one that is named."""
    from transformers import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def _names_kernel(value: Any) -> bool:
    values = value.values() if isinstance(value, Mapping) else [value]
    return any(each not in (None, "eager", "sdpa") for each in values)


_HARMFUL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "auto_map": (
        bool,
        "names code that the folder brings, which is never run. Take a model of the library's own classes, or build "
        "yours in a module that you name as MODULE:NAME",
    ),
    "custom_pipeline|custom_generate": (bool, "names code, which is never run. Remove the entry"),
    "_?(attn|experts)_implementation(_internal)?": (
        _names_kernel,
        "names a kernel, which the library may fetch and run. Remove the entry, or write eager or sdpa",
    ),
    "quantization_config": (
        bool,
        "says that the weights are quantised: such models cannot be trained. Take the full ones",
    ),
    "configuration_files": (bool, "points at another configuration. Put that one in its place"),
    "use_pretrained_backbone": (bool, "fetches another model. Take a folder that holds all weights"),
    "model_args": (bool, "is handed to timm, which reads files that it names as pickles. Remove the entry"),
}
"""Entries by a pattern of their names: which values do harm, and what to say of them."""
