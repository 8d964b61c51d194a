"""Models of run folders that are finished: which there are, and how one is opened again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untrain.errors import CheckpointError, FolderError, SettingError, StaleFile, UnknownName, unknown
from untrain.models import checkpoints
from untrain.models.lora import FILE, PEFT_FILE, LoRA, read_factors
from untrain.permissions import NONE, Permissions
from untrain.runs.names import CONFIG, ORIGINAL
from untrain.runs.python import read_python_run
from untrain.runs.recipe import read, read_config

if TYPE_CHECKING:
    from torch import nn

    from untrain.domain import Domain
    from untrain.runs.folder import RunFolder


def is_run(folder: Path) -> bool:
    """Returns whether a folder holds a run."""
    return os.path.isfile(folder / CONFIG)


def task_name(folder: Path) -> str:
    """Returns the task of a run folder.

    Raises:
        CheckpointError: if its config.yaml is not what a run writes.
    """
    return str(_config(folder).get("task", ""))


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = read_config(folder)
    except FolderError as error:
        raise CheckpointError(f"{error} Give a run folder.") from error
    if not isinstance(content.get("methods"), dict):
        raise CheckpointError(f"{folder / CONFIG} is not what a run writes. Give a run folder.")
    return content


def choose_model(folder: Path, name: str | None, *, among: set[str]) -> str:
    """Chooses a model of a run folder: the one that is asked for, else the only unlearned one.

    Args:
        folder: the run's.
        name: what is asked for; None: the unlearned one.
        among: the models that can be opened.

    Raises:
        SettingError: if there are several, or none. UnknownName: if there is no such model.
    """
    if name is not None:
        if name not in among:
            raise UnknownName(unknown(f"model of {folder}", name, among))
        return name
    there = [entry for entry in _config(folder)["methods"] if entry in among]
    if len(there) == 1:
        return there[0]
    said = f"several unlearned models ({', '.join(there)})" if there else "no unlearned model yet"
    raise SettingError(f"{folder} holds {said}: choose one with --model, such as --model {(*there, ORIGINAL)[0]}.")


def kept_weights(folder: Path) -> set[str]:
    """Names the models whose weights a run folder holds, and the original, which may come from elsewhere."""
    return {path.stem for path in folder.glob("*.safetensors") if not path.stem.endswith(".mask")} | {ORIGINAL}


def kept_folders(folder: Path, marker: str) -> set[str]:
    """Names the models that a run folder holds as folders of their own, by a file that each of these has."""
    return {path.parent.name for path in folder.glob(f"*/{marker}")}


def checked_folder(folder: Path, name: str) -> Path:
    """Returns the own folder of a run's model, compared with the hashes that were noted when it was written.

    Raises:
        StaleFile: names the file that is damaged.
    """
    from untrain.runs.folder import check_files, read_manifest

    check_files(folder, name, read_manifest(folder).get("models", {}).get(name, {}), f"untrain run {folder} --resume")
    return folder / name


def open_model(folder: Path, name: str, permissions: Permissions = NONE) -> tuple[Domain, nn.Module]:
    """Opens a finished model of a recipe's run folder, on the recipe's data.

    Raises:
        SettingError: if the run was made in Python. StaleFile: if the file is damaged.
    """
    if read_python_run(folder) is not None:
        raise SettingError(
            f"{folder} is of a run made in Python, whose model is known there alone. Build it there, and load "
            f"{name}.safetensors into it, or read it by untrain.unlearn(..., out={str(folder)!r}, resume=True)."
        )
    from untrain.models.copies import copy_module
    from untrain.models.precision import widen_
    from untrain.runs.stages import open_experiment, prepare_original

    recipe = read(folder, permissions=permissions)
    experiment = open_experiment(replace(recipe, references=0, methods={}), fresh=False, write=False)
    domain = experiment.domain
    if name == ORIGINAL and domain.checkpoint is not None:
        return domain, prepare_original(experiment).eval()
    run = experiment.folder
    holds_change = run.holds_change(name)
    if holds_change and domain.checkpoint is not None:
        module = copy_module(prepare_original(experiment))  # the domain may go on with its own
    else:
        module = domain.build(0)
        widen_(module)  # files of weights are in float32, whatever the architecture's own type is
        if holds_change:
            _check_original(run, name)
            module = run.read_model(ORIGINAL, None, None, module).module
    return domain, run.read_model(name, None, None, module).module


def _check_original(run: RunFolder, name: str) -> None:
    """Refuses to read what a model changed where the original that the run trained is gone."""
    if not run.holds(ORIGINAL):
        whole = f", or take the whole model, {run.path / name}" if _is_whole(run.path / name) else ""
        raise StaleFile(
            f"{run.weights(name)} holds what changed of {run.weights(ORIGINAL)} alone, and that is not there. Put it "
            f"back{whole}."
        )


def _is_whole(own: Path) -> bool:
    """Whether a model's own folder is there, and not of adapters."""
    return own.is_dir() and not any((own / file).is_file() for file in (FILE, PEFT_FILE))


def kept_lora(folder: Path, name: str, module: nn.Module) -> LoRA | None:
    """Reads the adapters that a run's model is kept as; None where its weights are.

    Args:
        folder: the run's.
        name: of the model.
        module: of its architecture.
    """
    state, facts = checkpoints.load_state(folder / f"{name}.safetensors", whole=False)
    return read_factors(state, facts, module) if "lora" in facts else None


def sample_place(source: Path, model: str | None, ending: str, out: str | None, form: str = "") -> Path:
    """Returns where samples of a run's model, or of another source, are written.

    Args:
        source: run folder, or another source.
        model: which of the run's models.
        ending: of the file; "" for a folder.
        out: what the user says.
        form: what the user asked for, for the message.

    Raises:
        SettingError: if `out` has another ending.
    """
    if out is not None:
        if ending and not out.endswith(ending):
            raise SettingError(f"--form {form} writes a file that ends in {ending}: --out {out}{ending}.")
        return Path(out)
    if is_run(source):
        return source / "samples" / f"{model}{ending}"
    whole = source.resolve()
    return Path("samples") / f"{whole.stem if os.path.isfile(whole) else whole.name}{ending}"
