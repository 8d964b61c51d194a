"""Weights in files: safetensors to write, safetensors and torch files to read, content hashes to compare.

No file is ever allowed to run code: torch files are read with `weights_only`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import safetensors
from annotated_types import Ge, Gt

from untrain.errors import CheckpointError
from untrain.io import hash_json, hash_tensors, open_atomic
from untrain.lazy import nn, torch
from untrain.models.changed_values import put_values_, stem_of
from untrain.models.precision import widen
from untrain.models.torch_files import read_torch_file
from untrain.models.weight_names import fit_names, name_some, plain_name, recognise, without_wrapping
from untrain.reading import check_regular, parse_json, read_json
from untrain.sealed import NOTES, SEAL, read_notes, sealed_notes
from untrain.settings import Setting

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "torch.Tensor"]
"""Name → tensor, parameters and buffers, as `nn.Module.state_dict` gives them."""


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

    state = plain_state(module_or_state)
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


def load_state(path: str | Path, entry: str | int | None = None, *, whole: bool = True) -> tuple[State, dict[str, Any]]:
    """Reads weights, on the CPU.

    A torch file may hold other things beside them, see `torch_files`; the prefixes of torch.compile and of DataParallel
    are taken off. A file of a run that holds what changed alone is put together with the file of weights that it names.

    Args:
        path: a .safetensors file, the index of several, or a torch file (.pt, .pth, .ckpt, …).
        entry: of a torch file, which of its entries holds the weights; None: the one that does.
        whole: False: of a file that holds what changed, no more than that.

    Returns:
        The state, and metadata: what `save` was given; of a torch file, see `read_torch_file`.

    Raises:
        CheckpointError: if the file is missing, damaged, holds no weights, or would run code; if it holds what changed
            alone, and the weights before are gone, or are others now.
    """
    return _load(Path(path), entry, whole, ())


def _load(path: Path, entry: str | int | None, whole: bool, within: tuple[str, ...]) -> tuple[State, dict[str, Any]]:
    """As `load_state`; within: files of changes whose original this is."""
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a folder: give the file of weights in it.")
    check_regular(path, CheckpointError)
    if path.suffix not in (".safetensors", ".json"):
        state, facts = read_torch_file(path, entry)
        return without_wrapping(state), facts
    if entry is not None:
        raise CheckpointError(f"{path} has no entries to choose from: leave model.entry out.")
    if path.suffix != ".safetensors":
        return _read_shards(path)
    state, facts = _read_safetensors(path)
    return _put_together(path, state, facts, within) if whole and "delta" in facts else (state, facts)


def read_facts(path: str | Path) -> dict[str, Any]:
    """What a file of ours says of its weights, which are not read, nor its hash compared; {} where it says nothing.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    path = Path(path)
    check_regular(path, CheckpointError)
    with _name_damage(path), safetensors.safe_open(path, framework="pt") as file:
        notes = dict(file.metadata() or {})
    try:
        facts = parse_json(notes.get(NOTES, "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or was not written by untrain: {error}. Get it again.") from error
    return {name: fact for name, fact in facts.items() if name != SEAL} if isinstance(facts, dict) else {}


def _put_together(
    path: Path, values: State, facts: Mapping[str, Any], within: tuple[str, ...]
) -> tuple[State, dict[str, Any]]:
    """The weights that a file holds the changed ones of, with those before from the file that it names."""
    place, name = str(facts["delta"]["original"]), path.stem
    original = path.parent / place
    there = (path.parent / name).is_dir()
    own = f"give {path.parent / name}, which is the whole model"
    holds = f"{path} holds what changed of {place} alone"
    if not os.path.lexists(original):
        raise CheckpointError(f"{holds}, and that is not there. Put it back{f', or {own}' if there else ''}.")
    if os.path.realpath(original) in (within := (*within, os.path.realpath(path))):
        raise CheckpointError(f"{path} is damaged: what it was made from is itself. Get it again.")
    for candidate in _weights_with(original, {stem_of(each) for each in values}):
        state, _ = _load(candidate, facts["delta"].get("entry"), True, within)
        state = {key: widen(tensor) for key, tensor in state.items()}
        if hash_tensors(state) == facts.get("started_from"):
            break
    else:
        command = f"untrain export {path.parent} --whole --model {name} puts it together where it can be read"
        raise CheckpointError(
            f"{holds}, and that is not what it was, or names its weights otherwise. Put {original} back as it was, or "
            f"{own if there else command}."
        )
    try:
        put_values_(state, values)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: {error} Get it again.") from error
    return state, {name: fact for name, fact in facts.items() if name != "delta"}


def _weights_with(original: Path, names: set[str]) -> Iterator[Path]:
    """The file itself; of a folder that a library saved, the files in it and its parts that have weights so called."""
    if not os.path.isdir(original):
        yield original
        return
    for place in (original, *sorted(path for path in original.iterdir() if path.is_dir())):
        for path in sorted((*place.glob("*.safetensors.index.json"), *place.glob("*.safetensors"))):
            if path.suffix == ".json":
                content = read_json(path, CheckpointError)
                held = content.get("weight_map", ()) if isinstance(content, dict) else ()
            else:
                with _name_damage(path), safetensors.safe_open(path, framework="pt") as file:
                    held = file.keys()
            if names <= {*held}:
                yield path


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copies a state into a module; returns what of its names was changed to make it fit, as sentences.

    Raises:
        CheckpointError: counts missing, unexpected and mis-shaped entries, and names at most three of each; the module
            is unchanged then.
    """
    own = {plain_name(name): tensor for name, tensor in module.state_dict().items()}
    fitted, notes = fit_names(state, own)
    problems = {
        "missing": [name for name in own if name not in fitted],
        "unexpected": [name for name in fitted if name not in own],
        "of another shape": [
            f"{name} ({list(fitted[name].shape)}, the model has {list(own[name].shape)})"
            for name in own
            if name in fitted and isinstance(own[name], torch.Tensor) and fitted[name].shape != own[name].shape
        ],
    }
    found = "; ".join(f"{kind}: {name_some(names)}" for kind, names in problems.items() if names)
    if found:
        whose = recognise(problems["unexpected"]) or "Build the model it was made for."
        raise CheckpointError(f"the checkpoint was made for another architecture. {found}. {whose}")
    compiled = {plain_name(name): name for name in module.state_dict()}
    module.load_state_dict({compiled[name]: tensor for name, tensor in fitted.items()}, strict=True)
    return notes


def state_hash(module: nn.Module) -> str:
    """A hash of parameters and buffers: names, types, shapes, content; the same on every device, compiled or not.

    Of a module without values, on the meta device, names, types and shapes alone.
    """
    state = {name: tensor for name, tensor in plain_state(module).items() if isinstance(tensor, torch.Tensor)}
    if any(tensor.is_meta for tensor in state.values()):
        return hash_json({name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in state.items()})
    return hash_tensors(state)


def bytes_of(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers as a file holds them: each name by itself."""
    state = (tensor for tensor in plain_state(module).values() if isinstance(tensor, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


def plain_state(module_or_state: nn.Module | Mapping[str, Tensor]) -> State:
    """A state, or that of a module, under the names that torch.compile did not change."""
    state = module_or_state.state_dict() if isinstance(module_or_state, nn.Module) else module_or_state
    return {plain_name(name): tensor for name, tensor in state.items()}


def _read_safetensors(path: Path) -> tuple[State, dict[str, Any]]:
    with _name_damage(path), safetensors.safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a mapping
        notes = dict(file.metadata() or {})
    if NOTES not in notes:
        return without_wrapping(state), notes
    try:
        facts = read_notes(notes, state)
        check_facts(facts)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or was not written by untrain: {error}. Get it again.") from error
    return state, facts


@contextmanager
def _name_damage(path: Path) -> Iterator[None]:
    """Says which file cannot be read as safetensors."""
    try:
        yield
    except (safetensors.SafetensorError, OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged or is not a safetensors file: {error}. Get it again.") from error


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
    "delta": dict[str, Any],
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
    if "delta" in facts and not isinstance(facts["delta"].get("original"), str):
        raise ValueError("its entry delta must say what the original is")


def shards_of(index: Path) -> list[Path]:
    """The files that the index of a model in several files names; all lie beside it.

    Raises:
        CheckpointError: if it names none, or some elsewhere.
    """
    content = read_json(index, CheckpointError)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(each, str) for each in named.values()):
        raise CheckpointError(
            f"{index} is no index of weights in several files: it has no weight_map. Give the weights."
        )
    names = sorted(set(named.values()))
    elsewhere = next((name for name in names if Path(name).name != name), None)
    if elsewhere is not None:
        raise CheckpointError(f"{index} names {elsewhere!r}, which does not lie beside it. Get the folder again.")
    return [index.parent / name for name in names]


def _read_shards(index: Path) -> tuple[State, dict[str, Any]]:
    state: State = {}
    for shard in shards_of(index):
        state |= load_state(shard)[0]
    return state, {}
