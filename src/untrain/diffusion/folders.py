"""Folders that diffusers saved: found, and checked for what they would have a library import."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from untrain.errors import CheckpointError
from untrain.models.pretrained import check_entries, check_folder, read_object

INDEX = "model_index.json"
"""In every folder that holds a whole pipeline."""
_LIBRARIES = ("diffusers", "transformers")


def local_folder(path: str | Path) -> Path:
    """The folder itself, or of a hub id the copy of the pipeline that diffusers keeps; neither brings code.

    Raises:
        CheckpointError: if it is a file, if there is no such folder and the hub has it not either, or if it names code.
    """
    folder = Path(path)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise CheckpointError(f"{folder} is a file: give the folder that diffusers saved.")
    if not os.path.isdir(folder):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
            raise CheckpointError(f"{folder} does not exist. Give a folder that diffusers saved, or a hub id.")
        folder = _from_hub(str(path))
    check_folder(folder)
    if (folder / INDEX).is_file():
        check_parts(folder)
    return folder


def _from_hub(name: str) -> Path:
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    try:
        index = Path(snapshot_download(name, allow_patterns=[INDEX])) / INDEX
        if not index.is_file():  # no pipeline: a model alone
            return Path(snapshot_download(name, allow_patterns=["*config.json", "diffusion_pytorch_model*"]))
        parts_of(read_object(index), index)  # the download imports what the index names
        return Path(DiffusionPipeline.download(name, trust_remote_code=False))
    except CheckpointError:
        raise
    except Exception as error:  # the hub's client has many kinds of failures; the cause is passed on
        raise CheckpointError(
            f"{name} is neither a folder nor something that the hub gives: {error}. Check the path or the connection."
        ) from error


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────


def absent_parts(index: Mapping[str, Any]) -> dict[str, None]:
    """The parts that a pipeline was saved without, such as T5, by its model_index.json: diffusers must hear of each."""
    return {name: None for name, entry in index.items() if entry == [None, None]}


def parts_of(index: Mapping[str, Any], place: Path) -> dict[str, tuple[str, str]]:
    """The parts that a model_index.json names: name → library and class.

    Args:
        index: its content.
        place: where it lies, for messages.

    Raises:
        CheckpointError: if a part is not of diffusers or transformers, or the pipeline's class is code of the folder.
    """
    if not isinstance(index.get("_class_name"), str):
        raise CheckpointError(f"{place}: _class_name must be a class of diffusers, not {index.get('_class_name')!r}.")
    check_entries(index, str(place))
    parts = {}
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or len(entry) != 2 or entry[0] is None:
            continue
        library, kind = entry
        plain = isinstance(library, str) and isinstance(kind, str) and re.fullmatch(r"\w+", name)
        if not plain or re.match("Auto[A-Z]", kind) or not _is_known(library):
            raise CheckpointError(
                f"{place}: {name} is {entry!r}, which is no class of {' or '.join(_LIBRARIES)}. Code that a folder "
                "brings or names is never run: get a pipeline of the libraries' own parts."
            )
        parts[name] = (library, kind)
    return parts


def _is_known(library: str) -> bool:
    """Whether it is one of the libraries, or a part of diffusers as in ["stable_diffusion", …]."""
    if library in _LIBRARIES:
        return True
    from diffusers import pipelines

    return library.isidentifier() and hasattr(pipelines, library)


def check_parts(folder: Path) -> None:
    """Refuses a pipeline's folder whose parts are, or bring, anything but classes and weights of the two libraries.

    Raises:
        CheckpointError: names the part, or the file.
    """
    parts = parts_of(read_object(folder / INDEX), folder / INDEX)
    files = [folder / "None.py"]  # which some versions of diffusers take for a pipeline's code
    files += [folder / name / f"{library}.py" for name, (library, _) in parts.items()]  # and for a part's
    found = next((path for path in files if path.exists()), None)
    if found is not None:
        raise CheckpointError(f"{found} would be run by some versions of diffusers. Remove the file, if you need none.")
    for name in parts:
        check_folder(folder / name)


def part_class(folder: Path, name: str, library: str, kind: str) -> Any:
    """The class of a pipeline's part, of a kind that reads its own folder and nothing else.

    None where the library has none of that name: diffusers knows what some old ones are called today.

    Raises:
        CheckpointError: if it is of another kind.
    """
    import diffusers
    import transformers

    kinds = (
        diffusers.ModelMixin,
        diffusers.SchedulerMixin,
        transformers.PreTrainedModel,
        transformers.PreTrainedTokenizerBase,
        transformers.ImageProcessingMixin,
        transformers.FeatureExtractionMixin,
    )
    home = library if library in _LIBRARIES else f"diffusers.pipelines.{library}"
    found = getattr(import_module(home), kind, None)
    if found is not None and not (isinstance(found, type) and issubclass(found, kinds)):
        raise CheckpointError(
            f"the {name} in {folder} is a {kind} of {library}, which is no model, scheduler or tokenizer. Get a "
            "pipeline of the libraries' own parts."
        )
    return found
