"""`untrain push`: a run's model, or what was changed as a LoRA, with its card, to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from untrain.errors import SettingError
from untrain.models import checkpoints
from untrain.models.card import CARD, licence_of
from untrain.models.hub import HubCard, check_repo, hub_library, push_folder, write_hub_card
from untrain.permissions import NONE, Permissions
from untrain.report.presentation import Presentation
from untrain.runs.export import export_lora, write_model
from untrain.runs.folder import read_evaluation, read_manifest
from untrain.runs.models import checked_folder, choose_model, kept_weights, open_model
from untrain.runs.names import ORIGINAL


def push_run(
    folder: Path,
    repo: str,
    presentation: Presentation,
    model: str | None = None,
    *,
    lora: bool = False,
    rank: int = 16,
    public: bool = False,
    update: bool = False,
    message: str | None = None,
    permissions: Permissions = NONE,
    api: Any = None,
) -> str:
    """Uploads a model of a finished run: its own folder, its LoRA, or its weights alone; returns its address.

    Nothing else of the run folder is uploaded: neither its split, which names samples, nor its pictures. Weights that
    have no folder of their own go without the notes that lie in their file.

    Args:
        folder: the run's.
        repo: USER/NAME.
        presentation: of the run's task, which names measures.
        model: which of its models; None: the only unlearned one.
        lora: upload what was changed as a LoRA instead.
        rank: of the LoRA, at most.
        public: see `push_folder`, and so for update, message and api.
        update: likewise.
        message: likewise.
        permissions: what the person at the keyboard allows.
        api: likewise.

    Raises:
        UntrainError: what keeps it from being uploaded.
    """
    check_repo(repo)
    hub_library()
    name = choose_model(folder, model, among=kept_weights(folder) - {ORIGINAL})
    facts = read_manifest(folder).get("models", {})
    if name not in facts:
        raise SettingError(
            f"{folder} does not tell how {name} was made. Finish the run: untrain run {folder} --resume."
        )
    how: dict[str, Any] = {"public": public, "update": update, "api": api}
    how["message"] = message or f"Upload {name}, made to forget by {facts[name]['method']}"
    with _staged(folder, name, facts, presentation, lora, rank, permissions) as place:
        return push_folder(place, repo, **how)


@contextmanager
def _staged(
    folder: Path,
    name: str,
    facts: Mapping[str, Any],
    presentation: Presentation,
    lora: bool,
    rank: int,
    permissions: Permissions,
) -> Iterator[Path]:
    """A folder that holds what is uploaded, and nothing else."""
    own = folder / name
    if own.is_dir() and not lora:
        checked_folder(folder, name)
        if (own / CARD).is_file():
            yield own
            return
    with tempfile.TemporaryDirectory(prefix="untrain-hub-") as temporary:
        place = Path(temporary) / "model"
        place.mkdir()
        if lora:
            export_lora(folder, name, rank=rank, out=str(place), permissions=permissions)
            holds = f"A LoRA of rank {rank} at most, which approximates the change that the method made."
        elif own.is_dir():
            for path in own.iterdir():
                (place / path.name).symlink_to(path.resolve())
            holds = "The whole model, as its library loads it."
        else:
            path = folder / f"{name}.safetensors"
            if "delta" in checkpoints.read_facts(path):
                loads = write_model(*open_model(folder, name, permissions), place)
            else:
                loads = False
                checkpoints.save(checkpoints.load_state(path)[0], place / "model.safetensors")
            plain = "The weights of the unlearned model, as a state dict: `model.safetensors`."
            holds = "The whole model, as its library loads it." if loads else plain
        write_hub_card(place, _card(folder, name, facts, presentation, holds, lora))
        yield place


def _card(
    folder: Path, name: str, facts: Mapping[str, Any], presentation: Presentation, holds: str, lora: bool
) -> HubCard:
    made, source = facts[name], facts.get(ORIGINAL, {}).get("source")
    evaluation = read_evaluation(folder) or {}
    models = evaluation.get("models", {})
    before, after = models.get(ORIGINAL, {}), models.get(name, {})
    measures = [
        (f"{each.title}{', %' * (each.unit == '%')}", before.get(each.key), after[each.key])
        for each in presentation.measures
        if isinstance(after.get(each.key), int | float)
    ]
    count = evaluation.get("sizes", {}).get("forget")
    steps, seconds = made.get("steps"), made.get("seconds")
    took = f"It took {steps} optimiser steps." if seconds is None else f"It took {steps} steps and {seconds:.0f} s."
    return HubCard(
        base=source or "A model trained by the recipe",
        forgotten=_forgotten(folder, count),
        method=made["method"],
        settings=made["settings"],
        holds=holds,
        before=made["started_from"],
        after=None if lora else made["hash"],
        library="peft" if lora else None,
        took=took,
        measures=measures,
        warnings=made.get("warnings", ()),
        versions={library: version(library) for library in ("untrain", "torch")},
        tags=("lora",) if lora else (),
        licence={} if source is None or not Path(source).is_dir() else licence_of(source),
    )


def _forgotten(folder: Path, count: int | None) -> str:
    """What was asked: classes or concepts by name; of samples no more than their number."""
    split = read_manifest(folder).get("split", {})
    classes = split.get("spec", {}).get("classes") if split.get("kind") == "classes" else None
    samples = "" if count is None else f"{count:,} training samples"
    if classes:
        named = ", ".join(str(each) for each in classes)
        return f"{named}: {samples}." if samples else f"{named}."
    return f"{samples or 'Training samples'}, which are not named here."
