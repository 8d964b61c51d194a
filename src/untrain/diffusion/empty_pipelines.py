"""Pipelines without weights: a folder's configurations alone, of which shapes can be asked."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from untrain.diffusion.folders import INDEX, absent_parts, local_folder, part_class, parts_of
from untrain.diffusion.pipelines import load_pipeline
from untrain.diffusion.text import check_pipeline
from untrain.errors import CheckpointError
from untrain.lazy import nn, torch
from untrain.models.pretrained import read_object, refusal_of


def empty_pipeline(source: str | Path, *, config: str | Path | None = None) -> Any:
    """A text-to-image pipeline whose weights are on the meta device: shapes in float32, and no value.

    Of a folder or hub id no weights are read, and none need be there; a single file is read whole.

    Args:
        source: see `load_pipeline`, and so for `config`.
        config: likewise.

    Raises:
        CheckpointError: if the folder's configurations are missing or damaged. ModelError: if it is no pipeline of a
            supported class.
    """
    if os.path.isfile(source):
        made = load_pipeline(source, config=config)
        for part in made.components.values():
            if isinstance(part, nn.Module):
                part.to("meta")
        return made
    import diffusers

    folder = config_folder(source)
    index = read_object(folder / INDEX)
    parts: dict[str, Any] = {name: None for name in ("safety_checker", "feature_extractor") if name in index}
    parts |= absent_parts(index)
    parts |= {"requires_safety_checker": False} if "safety_checker" in index else {}
    for name, entry in parts_of(index, folder / INDEX).items():
        kind = part_class(folder, name, *entry)
        if name in parts or kind is None or not issubclass(kind, nn.Module):
            continue
        parts[name] = _empty(kind, folder / name)
    try:
        made = getattr(diffusers, str(index["_class_name"])).from_pretrained(folder, trust_remote_code=False, **parts)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the pipeline in {source} cannot be read: {refusal_of(error)}") from error
    check_pipeline(made)
    return made


def config_folder(source: str | Path) -> Path:
    """The folder itself, or of a hub id a copy of its configurations and vocabularies alone.

    Raises:
        CheckpointError: if there is no pipeline.
    """
    if os.path.isdir(source) or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        folder = local_folder(source)
    else:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.txt", "*.model"]))
        except Exception as error:  # the hub's client has many kinds of failures; the cause is passed on
            raise CheckpointError(
                f"{source} is neither a folder nor something that the hub gives: {error}. Check the path or the "
                "connection."
            ) from error
        folder = local_folder(folder)
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{source} holds no pipeline: it has no {INDEX}. Give the folder that has all parts.")
    return folder


def _empty(kind: Any, folder: Path) -> nn.Module:
    """A part of its configuration, in float32 as it would be loaded."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json, which says what the weights are of. Get the folder again.")
    with torch.device("meta"):
        if hasattr(kind, "_from_config"):  # of transformers
            return kind._from_config(kind.config_class.from_pretrained(folder)).float().eval()
        return kind.from_config(read_object(path)).float().eval()
