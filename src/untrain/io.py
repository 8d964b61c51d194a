"""Files written whole or not at all, and hashes of what is in tensors and files."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from untrain.errors import DataError, FolderError
from untrain.folders import REMEDIES, check_held, make_missing, note_written, temporary_name
from untrain.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file whole: into a temporary file of the same folder, which then takes the file's name.

    A reader sees the old file or the new one, never a part. The folder is made if it is missing, but for one that this
    process is at work in and that was removed. The temporary file is new: nothing is written through a link.

    Raises:
        FolderError: if the file cannot be written; no temporary file is left, and an older file is unchanged.
    """
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a file to write piece by piece, for what is too large for `write_bytes`; whole or not at all, as there."""
    path = Path(path)
    temporary = path.with_name(temporary_name(path.name))
    try:
        make_missing(path.parent)
        with open(temporary, "xb", opener=_open_new) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, stat.S_IMODE(os.fstat(file.fileno()).st_mode))  # where a library put its own there
        check_held(path)
        os.replace(temporary, path)
        note_written(path)
    except OSError as error:
        _remove(temporary)
        check_held(path)
        remedy = REMEDIES.get(error.errno or 0, "Choose another folder.")
        raise FolderError(f"{path} cannot be written: {error.strerror or error}. {remedy}") from error
    except BaseException:  # an interrupt must not leave half a file either
        _remove(temporary)
        raise


def _open_new(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder itself is missing or not ours: then there is no file of ours in it
        return


def write_text(path: str | Path, text: str) -> None:
    """Writes text as UTF-8, whole or not at all; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all; NaN and infinities, which JSON lacks, are a ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def hash_tensors(
    tensors: Mapping[str, Tensor] | Iterable[Tensor], brought: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> str:
    """SHA-256 over name, dtype, shape and content of tensors, in hexadecimal.

    It does not depend on device, memory layout or a mapping's order; an iterable's tensors are named by position.

    Args:
        tensors: what is hashed.
        brought: what is hashed in place of each number; a piece of a tensor at a time, so that no whole conversion is
            ever there.
    """
    if isinstance(tensors, Mapping):
        named: Iterable[tuple[str, Tensor]] = sorted(tensors.items())
    else:
        named = ((str(position), tensor) for position, tensor in enumerate(tensors))
    digest = hashlib.sha256()
    for name, tensor in named:
        pieces = tensor.detach().reshape(-1).split(PIECE)
        digest.update(_head(name, brought(pieces[0][:0]).dtype, tensor.shape))
        for piece in pieces:
            digest.update(_content(brought(piece)))
    return digest.hexdigest()


PIECE = 1 << 20
"""Numbers of a tensor that are hashed at a time: allocators give so little from what was freed before."""


def hash_chunks(chunks: Callable[[], Iterator[Mapping[str, Tensor]]], rows: int) -> str:
    """What `hash_tensors` gives of tensors by name, of which only a few rows are there at a time.

    Args:
        chunks: gives the rows from the first to the last; called once for each tensor.
        rows: how many there are.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(next(chunks()).items()):
        digest.update(_head(name, tensor.dtype, (rows, *tensor.shape[1:])))
        for chunk in chunks():
            digest.update(_content(chunk[name]))
    return digest.hexdigest()


def _head(name: str, kind: torch.dtype, shape: Sequence[int]) -> bytes:
    return json.dumps([name, str(kind), list(shape)]).encode()


def _content(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        DataError: if the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
