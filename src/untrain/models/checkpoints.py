"""Weights in files: safetensors to write, safetensors and torch files to read, content hashes to compare.

No file is ever allowed to run code: torch files are read with `weights_only`.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import safetensors
from annotated_types import Ge, Gt

from untrain.errors import CheckpointError
from untrain.io import hash_tensors, open_atomic
from untrain.lazy import nn, torch
from untrain.reading import DAMAGED, check_regular, check_unpacked, open_regular
from untrain.sealed import NOTES, read_notes, sealed_notes
from untrain.settings import Setting

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "torch.Tensor"]
"""Name → tensor, parameters and buffers, as `nn.Module.state_dict` gives them."""

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "ema")
_OPTIMIZERS = ("optimizer", "optimizer_state_dict")
_COMPILED = "_orig_mod."  # what torch.compile puts into names
_PARALLEL = "module."  # what DataParallel and DistributedDataParallel put before names


def save(
    module_or_state: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    metadata: dict[str, Any] | None = None,
    *,
    content: str | None = None,
) -> None:
    """Writes weights as safetensors, whole or not at all, with a hash of weights and metadata.

    Tied weights are written under each of their names. The file's bytes depend on names, weights and metadata alone.

    Args:
        module_or_state: a module, or its state.
        path: the file.
        metadata: a JSON value that `load_state` gives back.
        content: their `state_hash`, where it is known.

    Raises:
        CheckpointError: if an entry is not a tensor. FolderError: if the file cannot be written.
    """
    from safetensors.torch import save_file

    state = _state(module_or_state)
    strange = [name for name, tensor in state.items() if not isinstance(tensor, torch.Tensor)]
    if strange:
        raise CheckpointError(f"{path} cannot hold {', '.join(map(repr, strange))}: only tensors can be written.")
    notes = sealed_notes({} if metadata is None else metadata, state, content)
    with open_atomic(path) as file:
        try:
            save_file(_apart(state), file.name, notes)
        except safetensors.SafetensorError as error:  # the system's own is told in its text alone
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number) if found else str(error)) from error


def _apart(state: Mapping[str, Tensor]) -> State:
    """Weights on the CPU, contiguous, none in another's memory; copied only where they have to be."""
    found: State = {}
    taken: set[int] = set()
    for name, tensor in state.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in taken else plain
        taken.add(place)
    return found


def load_state(path: str | Path) -> tuple[State, dict[str, Any]]:
    """Reads weights, on the CPU.

    A torch file may wrap them in an entry called state_dict, model, model_state_dict, net or ema; the prefixes of
    torch.compile and of DataParallel are taken off.

    Args:
        path: a .safetensors file, or a torch file (.pt, .pth, …).

    Returns:
        The state, and metadata: what `save` was given; of a torch file, {"optimizer_lr": rate} if it holds an
        optimiser, its initial rate where a schedule noted that.

    Raises:
        CheckpointError: if the file is missing, damaged, holds no weights, or would run code.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a folder: give the file of weights in it.")
    check_regular(path, CheckpointError)
    _check_archive(path)
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies a state into a module.

    Raises:
        CheckpointError: names every missing, unexpected and mis-shaped entry; the module is unchanged then.
    """
    own = {_plain(name): tensor for name, tensor in module.state_dict().items()}
    state = _aligned({_plain(name): tensor for name, tensor in state.items()}, own)
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} ({list(state[name].shape)}, the model has {list(own[name].shape)})"
            for name in own
            if name in state and isinstance(own[name], torch.Tensor) and state[name].shape != own[name].shape
        ],
    }
    found = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
    if found:
        raise CheckpointError(
            f"the checkpoint was made for another architecture. {found}. Build the model it was made for."
        )
    compiled = {_plain(name): name for name in module.state_dict()}
    module.load_state_dict({compiled[name]: tensor for name, tensor in state.items()}, strict=True)


def state_hash(module: nn.Module) -> str:
    """A hash of parameters and buffers: names, types, shapes, content; the same on every device, compiled or not."""
    return hash_tensors({name: tensor for name, tensor in _state(module).items() if isinstance(tensor, torch.Tensor)})


def _state(module_or_state: nn.Module | Mapping[str, Tensor]) -> State:
    state = module_or_state.state_dict() if isinstance(module_or_state, nn.Module) else module_or_state
    return {_plain(name): tensor for name, tensor in state.items()}


def _plain(name: str) -> str:
    return name.replace(_COMPILED, "")


def _aligned(state: State, own: Mapping[str, Tensor]) -> State:
    """The state under the names of a module that is wrapped as `module`, if that is what makes them fit."""
    longer = {_PARALLEL + name: tensor for name, tensor in state.items()}
    return longer if set(longer) == set(own) else state


def _check_archive(path: Path) -> None:
    """Refuses a torch file that would unpack into far more than it is; what torch writes is not packed at all."""
    try:
        with open_regular(path, CheckpointError) as file, zipfile.ZipFile(file) as archive:
            told = sum(info.file_size for info in archive.infolist())
    except DAMAGED:  # not an archive: safetensors, and what torch wrote before 1.6
        return
    check_unpacked(path, told, os.stat(path).st_size, CheckpointError)


def _read_safetensors(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a mapping
            notes = dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged or is not a safetensors file: {error}. Get it again.") from error
    if NOTES not in notes:
        return _without_prefixes(state), notes
    try:
        facts = read_notes(notes, state)
        check_facts(facts)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or was not written by untrain: {error}. Get it again.") from error
    return state, facts


_FACTS: dict[str, Any] = {
    **dict.fromkeys(("method", "fingerprint", "hash", "started_from", "file"), str),
    **dict.fromkeys(("peak_lr", "optimizer_lr"), Annotated[float, Gt(0)] | None),
    **dict.fromkeys(("settings", "made_from"), dict[str, Any]),
    **dict.fromkeys(("notes", "warnings"), list[str]),
    "aim": float | None,
    "clocks": dict[str, Annotated[float, Ge(0)]],
    "seconds": Annotated[float, Ge(0)],
    "steps": Annotated[int, Ge(0)],
    "threads": Annotated[int, Ge(1)],
    "mask": dict[str, Any] | None,
    "files": dict[str, str],
}
"""What files of ours say of their weights, as far as anything is done with it."""


def check_facts(facts: Mapping[str, Any]) -> None:
    """Checks what a file of ours says of its weights.

    Raises:
        ValueError: names an entry that is not what it should be.
    """
    for name, hint in _FACTS.items():
        setting = Setting(name, hint)
        if name in facts and not setting.fits(facts[name]):
            raise ValueError(f"its entry {name} must be {setting.words}")


def _read_torch(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what matters is whether it can be read
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower() and "unsupported" not in str(error).lower():
            raise CheckpointError(f"{path} is damaged or is not a torch file. Get it again.") from error
        raise CheckpointError(
            f"{path} was refused: it holds more than tensors, and reading that would run code. If you trust who made "
            "it, convert it once yourself: load it by torch.load(path, weights_only=False) and write the model's "
            "state_dict() by torch.save or untrain.models.checkpoints.save."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    except (AttributeError, AssertionError, *DAMAGED) as error:
        raise CheckpointError(f"{path} is damaged or is not a torch file. Get it again.") from error
    state = _unwrapped(content, path)
    rate = _learning_rate(content)
    return _without_prefixes(state), {} if rate is None else {"optimizer_lr": rate}


def _unwrapped(content: Any, path: Path) -> State:
    """The mapping of tensors within the wrappers that training scripts put around it."""
    while isinstance(content, Mapping):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict. Save model.state_dict() by torch.save or as safetensors.")
    tensors = {name for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    strange = [str(name) for name in content if name not in tensors]
    if strange:
        raise CheckpointError(
            f"{path} holds entries that are not tensors: {', '.join(strange[:8])}. "
            f"Put the weights alone into the file, or under one of {', '.join(_WRAPPERS)}."
        )
    return dict(content)


def _without_prefixes(state: State) -> State:
    state = {_plain(name): tensor for name, tensor in state.items()}
    while state and all(name.startswith(_PARALLEL) for name in state):
        state = {name.removeprefix(_PARALLEL): tensor for name, tensor in state.items()}
    return state


def _learning_rate(content: Any) -> float | None:
    """The rate that a stored optimiser (SGD, Adam, …) started with."""
    stored = [content[key] for key in _OPTIMIZERS if isinstance(content, Mapping) and key in content]
    for optimizer in stored:
        groups = optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None
        if groups and isinstance(groups[0], Mapping):
            rate = groups[0].get("initial_lr", groups[0].get("lr"))
            if rate is not None:
                return float(rate)
    return None
