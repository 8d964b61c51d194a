"""Files that carry a hash of what they hold, so that damage is seen before anything is believed.

A hash protects from damage and mix-ups, not from someone who may write into the folder and makes a fitting one.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from untrain.errors import DataError, StaleFile, UntrainError
from untrain.io import hash_file, hash_json, hash_tensors, open_atomic, write_json, write_text
from untrain.reading import open_regular, parse_json, printable, read_text

if TYPE_CHECKING:
    from torch import Tensor

SEAL = "sha256"
"""Under this name stands the hash, in JSON and in the metadata of safetensors files."""
NOTES = "untrain"
"""Under this name stands what a safetensors file of ours says of itself, as JSON."""


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_sealed(path: Path, content: Mapping[str, Any], *, compact: bool = False) -> None:
    """Writes an object as JSON with a hash of all else in it; compact: on one line."""
    plain = content if _has_text_keys(content) else json.loads(json.dumps(content, allow_nan=False))  # as it is read
    whole = {**plain, SEAL: hash_json(plain)}
    if compact:
        write_text(path, json.dumps(whole, ensure_ascii=False) + "\n")
    else:
        write_json(path, whole)


def _has_text_keys(value: Any) -> bool:
    """Whether a reader finds the keys that stand there: JSON makes texts of all others."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_text_keys(own) for key, own in value.items())
    if isinstance(value, (list, tuple)):
        return {*map(type, value)} <= _LEAVES or all(map(_has_text_keys, value))
    return True


_LEAVES = {str, int, float, bool, type(None)}


def read_sealed(
    path: Path, remedy: str, what: str = "JSON", unreadable: type[UntrainError] = StaleFile
) -> dict[str, Any] | None:
    """Reads what `write_sealed` wrote, without the hash; None where there is no such file.

    Args:
        path: the file.
        remedy: what to do where it is damaged, as sentences.
        what: it should hold, for messages.
        unreadable: the error where it holds something else.

    Raises:
        StaleFile: if it is damaged, or holds something else.
    """
    if not os.path.lexists(path):
        return None
    try:
        content = parse_json(read_text(path))
        if not isinstance(content, dict):
            raise ValueError("it must hold one JSON object")
    except (DataError, ValueError) as error:
        raise unreadable(f"{printable(path)} cannot be read as {what}: {str(error).rstrip('.')}. {remedy}") from error
    if not fits_seal(content):
        raise StaleFile(
            f"{printable(path)} is damaged or was changed after it was written: its content does not fit its hash. "
            f"{remedy}"
        )
    return content


def fits_seal(content: dict[str, Any]) -> bool:
    """Takes the hash out of an object; returns whether it fits all else in it, as it does where there is none."""
    seal = content.pop(SEAL, None)
    return seal is None or seal == hash_json(content)


# ── text ────────────────────────────────────────────────────────────────────────────────────────────────────────

_LAST = re.compile(r"# sha256 of the lines above: (\S*)\n\Z")


def write_sealed_text(path: Path, text: str) -> None:
    """Writes lines in which # begins a comment, with a hash of them as the last one."""
    lines = text if text.endswith("\n") else f"{text}\n"
    write_text(path, f"{lines}# sha256 of the lines above: {_digest(lines)}\n")


def unsealed(text: str) -> str | None:
    """Returns a text without the hash in its last line; None where that does not fit. One without a hash is itself."""
    found = _LAST.search(text)
    if found is None:
        return text
    lines = text[: found.start()]
    return lines if found[1] == _digest(lines) else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ── safetensors ─────────────────────────────────────────────────────────────────────────────────────────────────


def sealed_notes(
    about: Mapping[str, Any], tensors: "Mapping[str, Tensor]", content: str | None = None
) -> dict[str, str]:
    """Returns the metadata of a safetensors file: what is said of its tensors, and a hash of both.

    Args:
        about: a JSON value.
        tensors: what the file will hold.
        content: their `hash_tensors`, where it is known.
    """
    seal = _digest(f"{_text(about)}\n{content or hash_tensors(tensors)}")
    return {NOTES: _text({**about, SEAL: seal})}  # one entry: the format keeps several in no order


def _text(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True, allow_nan=False)


def read_notes(notes: Mapping[str, str], tensors: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Returns what a safetensors file of ours says of its tensors, checked against the hash that it carries.

    Raises:
        ValueError: says what does not fit.
    """
    try:
        about = parse_json(notes[NOTES])
    except ValueError as error:
        raise ValueError(f"its entry {NOTES!r} is not what untrain writes ({error})") from None
    if not isinstance(about, dict):
        raise ValueError(f"its entry {NOTES!r} is not what untrain writes: a JSON object")
    seal = about.pop(SEAL, None)
    if seal is not None and seal != _digest(f"{_text(about)}\n{hash_tensors(tensors)}"):
        raise ValueError("its content does not fit the hash in it")
    return about


# ── other files ─────────────────────────────────────────────────────────────────────────────────────────────────

_TRAILER = b"\nsha256 of all before: "
_LENGTH = len(_TRAILER) + 64


class _Hashing:
    """A file to write into whose content is hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Writes what is given."""
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        """Hands on what is buffered."""
        self.file.flush()


@contextmanager
def open_sealed(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write piece by piece, whole or not at all; a hash of it stands at its end.

    Formats that are read from a directory at their end, such as zip and so torch's, are read with it as without.
    """
    with open_atomic(path) as file:
        hashing = _Hashing(file)
        yield cast(BinaryIO, hashing)
        file.write(_TRAILER + hashing.digest.hexdigest().encode())


def check_trailer(path: Path) -> None:
    """Compares a file with the hash at its end.

    Raises:
        ValueError: if it does not fit, or there is none.
    """
    digest, left = hashlib.sha256(), path.stat().st_size - _LENGTH
    with open_regular(path) as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        if file.read() != _TRAILER + digest.hexdigest().encode():
            raise ValueError("its content does not fit the hash at its end")


# ── hashes that stand in another file ───────────────────────────────────────────────────────────────────────────


def check_listed(path: Path, listed: Mapping[str, Any], name: str, remedy: str) -> None:
    """Compares a file with the hash that is listed for it; one that is not listed is not looked at.

    Args:
        path: the file.
        listed: names → SHA-256 of each file, in hexadecimal.
        name: of this one.
        remedy: what to do where it does not fit, as sentences.

    Raises:
        StaleFile: names the file.
    """
    if name not in listed:
        return
    try:
        found = hash_file(path)
    except DataError as error:
        raise StaleFile(f"{error} {remedy}") from error
    if found != listed[name]:
        raise StaleFile(
            f"{printable(path)} is damaged or of another run: its hash is not the one noted for it. {remedy}"
        )
