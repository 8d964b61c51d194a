"""`untrain export`: what a method of a run changed, as a LoRA or an exact difference, or the model itself."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from untrain.models import checkpoints
from untrain.models.delta import apply_delta, save_delta
from untrain.models.lora import apply_lora, check_loaded, extract_lora, form_of, save_lora
from untrain.permissions import NONE, Permissions
from untrain.runs.folder import RunFolder
from untrain.runs.models import choose_model, kept_lora, kept_weights, open_model
from untrain.runs.names import ORIGINAL

if TYPE_CHECKING:
    from torch import nn

    from untrain.domain import Domain


def export_lora(
    folder: Path,
    model: str | None = None,
    *,
    rank: int = 16,
    kohya: bool = False,
    out: str | None = None,
    permissions: Permissions = NONE,
) -> str:
    """Writes what a method changed as a LoRA, reads it once more, and says what of the change it holds.

    Args:
        folder: the run's.
        model: which of its models; None: the only unlearned one.
        rank: at most this.
        kohya: kohya's names instead of diffusers'.
        out: the file, or a folder; None: MODEL-lora in the run folder.
        permissions: what the person at the keyboard allows.

    Raises:
        SettingError: if the run has several models and none was chosen, or kohya has no names for this kind.
    """
    name, part, before, after = _opened(folder, model, permissions)
    form = form_of(before, part, kohya=kohya)
    lora = kept_lora(folder, name, before)
    if lora is None or lora.rank > rank:
        lora = extract_lora(before, after, rank=rank)
    path = save_lora(lora, folder / f"{name}-lora" if out is None else out, form=form, part=part)
    check_loaded(lora, before, path, form, part)
    left = _distance(apply_lora(copy.deepcopy(before), path), after) / _distance(before, after)
    return f"{path}: {lora}. Read again and added to the original, it leaves {100 * left:.2g} % of the squared change."


def export_delta(
    folder: Path, model: str | None = None, *, out: str | None = None, permissions: Permissions = NONE
) -> str:
    """Writes the exact new values of what a method changed, reads them once more, and says how many they are.

    Args:
        folder: see `export_lora`, and so for model, out and permissions; the file is MODEL-delta.safetensors.
        model: likewise.
        out: the file.
        permissions: likewise.
    """
    name, _, before, after = _opened(folder, model, permissions)
    path = Path(out) if out is not None else folder / f"{name}-delta" / "delta.safetensors"
    share = save_delta(before, after, path)
    apply_delta(copy.deepcopy(before), path)  # which compares the hash of what it gives
    return f"{path}: {100 * share:.2f} % of the weights changed; put into the original they give the model to the bit."


def export_whole(
    folder: Path, model: str | None = None, *, out: str | None = None, permissions: Permissions = NONE
) -> str:
    """Writes the model itself where the run keeps what changed alone, so that the original may go; says what is where.

    Args:
        folder: see `export_lora`, and so for model and permissions.
        model: likewise.
        out: a .safetensors file for its weights alone, or a folder for the model as its library loads it; None: the run
            folder keeps the model, in the place of what changed, and as its library loads it.
        permissions: likewise.
    """
    name = choose_model(folder, model, among=kept_weights(folder) - {ORIGINAL})
    domain, module = open_model(folder, name, permissions)
    if out is not None and out.endswith(".safetensors"):
        checkpoints.save(module, out)
        return f"{out}: the weights of {name}, whole."
    if out is not None:
        write_model(domain, module, Path(out))
        return f"{out}: {name}, whole."
    run = RunFolder(folder, domain.context.engine)
    facts = checkpoints.read_facts(run.weights(name))
    run.facts[name] = facts
    run.keep_whole(name, module, None if "lora" in facts else lambda made: domain.save(name, made))
    return f"{run.weights(name)}: {name}, whole. It needs no other file any more."


def write_model(domain: Domain, module: nn.Module, place: Path) -> bool:
    """Writes a model as its library loads it into a folder; of one without such a library its weights.

    Args:
        domain: of the run; it writes into this folder's parent from now on.
        module: the model.
        place: the folder.

    Returns:
        Whether its library loads it.
    """
    domain.context = replace(domain.context, folder=place.parent)
    if domain.save(place.name, module):
        return True
    checkpoints.save(module, place / "model.safetensors")
    return False


def _opened(folder: Path, model: str | None, permissions: Permissions) -> tuple[str, str, nn.Module, nn.Module]:
    """The model's name, the part of a pipeline that it is, the original, and the model."""
    name = choose_model(folder, model, among=kept_weights(folder) - {ORIGINAL})
    domain, after = open_model(folder, name, permissions)
    _, before = open_model(folder, ORIGINAL, permissions)
    return name, domain.pipeline_part, before, after


def _distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return sum(float((x.double() - y.double()).square().sum()) for x, y in pairs)
