"""Files that torch.save wrote: weights found among all that training scripts keep beside them; nothing in them runs.

Classes that a file names, such as the callbacks of Lightning, are neither imported nor called: stand-ins that do
nothing take their places.
"""

from __future__ import annotations

import os
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from untrain.errors import CheckpointError
from untrain.lazy import torch
from untrain.models.weight_names import name_some
from untrain.reading import DAMAGED, check_unpacked, open_regular

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS = ("state_dict", "model", "model_state_dict", "net", "network", "net_state_dict", "params")
_AVERAGES = (
    *("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "model_ema_state_dict", "params_ema"),
    *("swa", "swa_model", "averaged_model"),
)
"""What training scripts call their weights, and averages of these over training."""
_OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optimizers", "optim", "opt")
_ACCURACIES = ("acc", "accuracy", "test_acc", "val_acc", "best_acc", "best_acc1", "best_prec1")
_HARMLESS = ("argparse", "collections", "datetime", "enum", "functools", "pathlib", "typing")
"""Modules of Python's own library whose classes stand in settings; all others of it are how pickles attack."""
_OLD = ("__builtin__", "commands", "copy_reg", "cPickle")
"""What such modules were called in Python 2, whose names pickles of torch.save have."""


def read_torch_file(path: Path, entry: str | int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the weights in a file of torch.save, on the CPU, and what it tells of their training.

    Args:
        path: the file.
        entry: which of its entries holds the weights; None: the one that does, of several the average.

    Returns:
        The weights; and "optimizer_lr", the peak rate of an optimiser in it, "accuracy", in %, and "reading", which
        entry was taken, as far as there is anything to say.

    Raises:
        CheckpointError: if it is damaged, holds no weights, or would run code.
    """
    _check_archive(path)
    content, refusal = _read(path)
    try:
        state, notes = _chosen(content, path, entry)
    except CheckpointError as error:
        raise refusal or error from None
    facts = {"optimizer_lr": _learning_rate(content), "accuracy": _accuracy(content), "reading": notes or None}
    return state, {name: value for name, value in facts.items() if value is not None}


def _check_archive(path: Path) -> None:
    """Refuses a torch file that would unpack into far more than it is; what torch writes is not packed at all."""
    try:
        with open_regular(path, CheckpointError) as file, zipfile.ZipFile(file) as archive:
            told = sum(info.file_size for info in archive.infolist())
    except DAMAGED:  # not an archive: what torch wrote before 1.6
        return
    check_unpacked(path, told, os.stat(path).st_size, CheckpointError)


def _read(path: Path) -> tuple[Any, CheckpointError | None]:
    """The content; and where classes in it were replaced by stand-ins, what to say if there are no weights."""
    try:
        return _load(path), None
    except UnpicklingError as error:
        if "global" not in str(error).lower() and "unsupported" not in str(error).lower():
            raise CheckpointError(f"{path} is damaged or is not a torch file. Get it again.") from error
        refusal = CheckpointError(
            f"{path} was refused: it holds more than tensors, and reading that would run code. If you trust who made "
            "it, convert it once yourself: load it by torch.load(path, weights_only=False) and write the model's "
            "state_dict() by torch.save or untrain.models.checkpoints.save."
        )
        try:
            return _load_inert(path), refusal
        except (UnpicklingError, TypeError, AttributeError, LookupError, ValueError, OSError):
            raise refusal from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    except (AttributeError, AssertionError, *DAMAGED) as error:
        raise CheckpointError(f"{path} is damaged or is not a torch file. Get it again.") from error


def _load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols: what matters is whether it can be read
        return torch.load(path, map_location="cpu", weights_only=True)


class _StandIn:
    """Takes the place of any class or function: takes whatever is given, keeps nothing, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _MappingStandIn(_StandIn):
    """The same for a class of mappings: torch fills these as ordered ones alone."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def _load_inert(path: Path) -> Any:
    """The content with a stand-in for each class or function that torch does not know; none is imported or called.

    Raises:
        UnpicklingError: if the file names what only an attack would, or cannot be read in this way.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    for name in names:
        module = name.partition(".")[0]
        if module in (*sys.stdlib_module_names, *_OLD) and module not in _HARMLESS:
            raise UnpicklingError(f"{name} would run")
    kinds: dict[str, type[_StandIn]] = dict.fromkeys(names, _StandIn)
    while True:
        try:
            with torch.serialization.safe_globals([_stand_in(*each) for each in kinds.items()]):
                return _load(path)
        except UnpicklingError as error:  # which are mappings is found by trying
            filled = [name for name, kind in kinds.items() if kind is _StandIn and f"'{name}'" in str(error)]
            if "SETITEM" not in str(error) or not filled:
                raise
            kinds[filled[0]] = _MappingStandIn


def _stand_in(name: str, kind: type[_StandIn]) -> Any:
    module, _, last = name.rpartition(".")
    return type(last, (kind,), {"__module__": module}), name


# ── which entry ─────────────────────────────────────────────────────────────────────────────────────────────────


def _chosen(content: Any, path: Path, entry: str | int | None) -> tuple[dict[str, Tensor], list[str]]:
    """The weights that are asked for, or meant, and which these are where there is a choice."""
    if _is_state(content):
        if entry is not None:
            raise CheckpointError(f"{path} holds one state dict and no entries: leave model.entry out.")
        return dict(content), []
    found = {key: state for key, value in _entries(content) if (state := _state_in(value)) is not None}
    if entry is not None:
        keys = {str(key): key for key in found}
        if str(entry) not in keys:
            raise CheckpointError(f"{path} has no weights under {entry!r}: {_list(found)}.")
        return found[keys[str(entry)]], []
    if not found:
        raise CheckpointError(f"{path} holds {_flaw(content)}")
    taken = _usual(found)
    if taken is None:
        raise CheckpointError(f"{path} holds several sets of weights: {_list(found)}. Choose one by model.entry.")
    others = [key for key in found if key != taken]
    if not others:
        return found[taken], []
    why = ", the average over training," if taken in _AVERAGES else ""
    rest = name_some(map(str, others))
    return found[taken], [f"of the file's sets of weights, {taken}{why} was taken; model.entry takes another: {rest}"]


def _usual(found: Mapping[Any, Any]) -> Any:
    """The only entry, or the one that is used where nothing is said: authors evaluate averages where they have them."""
    if len(found) == 1:
        return next(iter(found))
    return next((key for key in (*_AVERAGES, *_WEIGHTS) if key in found), None)


def _entries(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, Mapping):
        yield from content.items()
    elif isinstance(content, list | tuple):
        yield from enumerate(content)


def _state_in(value: Any, depth: int = 4) -> dict[str, Tensor] | None:
    """A state dict, or that within further wrappers."""
    if _is_state(value):
        return dict(value)
    if not isinstance(value, Mapping) or not depth:
        return None
    inner = (value[key] for key in _WEIGHTS if key in value)
    return next((state for each in inner if (state := _state_in(each, depth - 1)) is not None), None)


def _is_state(value: Any) -> bool:
    whole = isinstance(value, Mapping) and len(value) > 0
    return whole and all(isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in value.items())


def _list(found: Mapping[Any, Any]) -> str:
    told = [f"{key} ({len(state)} tensors)" for key, state in found.items()]
    return f"it holds {', '.join(told[:8])}" if told else "it holds none"


def _flaw(content: Any) -> str:
    """What a file without weights holds."""
    strange = [str(name) for name, value in _entries(content) if not isinstance(value, torch.Tensor)]
    if not isinstance(content, Mapping) or not strange or any(key in content for key in _WEIGHTS):
        return "no state dict. Save model.state_dict() by torch.save or as safetensors."
    return (
        f"entries that are not tensors: {name_some(strange)}. Put the weights alone into the file, or under one of "
        f"{', '.join(_WEIGHTS)}."
    )


# ── what it tells of the training ───────────────────────────────────────────────────────────────────────────────


def _learning_rate(content: Any) -> float | None:
    """The rate at its peak of a stored optimiser (SGD, Adam, …): OneCycleLR notes it beside the one it began with."""
    stored = [value for key, value in _entries(content) if key in _OPTIMIZERS or isinstance(key, int)]
    for optimizer in stored:
        first = optimizer[0] if isinstance(optimizer, list) and optimizer else optimizer
        groups = first.get("param_groups") if isinstance(first, Mapping) else None
        if groups and isinstance(groups[0], Mapping):
            rates = [groups[0].get(name) for name in ("max_lr", "initial_lr", "lr")]
            known = [float(rate) for rate in rates if isinstance(rate, int | float | torch.Tensor)]
            if known and known[0] > 0:
                return known[0]
    return None


def _accuracy(content: Any) -> float | None:
    """The accuracy that a training script noted, in %."""
    for name in _ACCURACIES if isinstance(content, Mapping) else ():
        value = content.get(name)
        if isinstance(value, int | float | torch.Tensor) and not isinstance(value, bool):
            number = float(value) if not isinstance(value, torch.Tensor) or value.numel() == 1 else 0.0
            if 0 < number <= 100:
                return 100 * number if number <= 1 else number
    return None
