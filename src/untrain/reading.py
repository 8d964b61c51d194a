"""The one way in which files are read that people hand over: regular files alone, within limits, without surprises.

A file from elsewhere may be a pipe that never ends, a link to a device, an archive of a megabyte that holds a gigabyte,
a table of another encoding, or JSON that is nested a hundred thousand deep. All of these end in one error that names
the file and the remedy. Whoever calls says of which kind the error is: data, a checkpoint, a setting.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from untrain.errors import DataError, UntrainError, spell
from untrain.lazy import np
from untrain.permissions import flag_of

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

TEXT_LIMIT = 256 << 20
"""Bytes of a table, a list or a JSON file: the captions of COCO take 90 MB, a split of 14 million images 120 MB."""
IMAGE_LIMIT = 128 << 20
"""Bytes of one encoded image: what 8 bits and three channels of 44 million pixels take without any compression."""
UNPACKED_FREELY = 64 << 20
"""Bytes that a file may unpack into however small it is: they are read in a second."""
RATIO = 250
"""How many times larger than the file what it unpacks into may be, beyond that. dSprites, white shapes on black, has
116; photographs have less than 10; deflate gets to 1,032 with nothing but zeros, which is what bombs are made of."""
DEPTH = 64
"""Levels that JSON may be nested: tables and splits have four."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    SyntaxError,
    RuntimeError,  # RecursionError, NotImplementedError too
    MemoryError,
    OverflowError,
    struct.error,
    tokenize.TokenError,  # numpy takes a header apart as Python's own compiler does
    zlib.error,
    zipfile.BadZipFile,
)
"""What libraries raise that read a damaged array, archive or table."""

ErrorKind = type[UntrainError]


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def printable(name: str | Path) -> str:
    """Returns a name as it can be shown and written anywhere: what is no text in it is escaped."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason_of(error: BaseException) -> str:
    """Returns why the system refuses a file, in its words or ours."""
    if isinstance(error, UnicodeEncodeError):
        return "its name is not text"
    if isinstance(error, ValueError) and "null" in str(error):
        return "its name holds a NUL character"
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def failure_of(path: str | Path, error: BaseException) -> str:
    """Returns the beginning of a sentence: that a path does not exist, or cannot be read and why."""
    if isinstance(error, FileNotFoundError):
        return f"{printable(path)} does not exist"
    return f"{printable(path)} cannot be read: {reason_of(error)}"


def expand(path: str | Path) -> Path:
    """Returns the path with ~ replaced by the home folder, where there is one."""
    return Path(os.path.expanduser(path))


def check_regular(path: str | Path, error: ErrorKind = DataError) -> int:
    """Checks that a path leads to a regular file, through links or not; returns its size in bytes.

    Args:
        path: of the file.
        error: what is raised.

    Raises:
        UntrainError: if there is none, if it may not be looked at, or if it is a folder, pipe, socket or device.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as cause:
        raise error(f"{failure_of(path, cause)}. Check the path.") from cause
    _check_kind(path, found.st_mode, error)
    return found.st_size


def _check_kind(path: str | Path, mode: int, error: ErrorKind) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for holds, name in _KINDS if holds(mode)), "no file")
        raise error(f"{printable(path)} is {kind}, and only regular files are read. Remove it, or give a file.")


def open_regular(path: str | Path, error: ErrorKind = DataError) -> BinaryIO:
    """Opens a regular file to read its bytes; never waits for the other end of a pipe.

    Args and errors as of `check_regular`.
    """
    check_regular(path, error)  # before it is opened: to open a device can already do something
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as cause:
        raise error(f"{printable(path)} cannot be read: {reason_of(cause)}. Check its permissions.") from cause
    file = os.fdopen(handle, "rb")
    try:
        _check_kind(path, os.fstat(handle).st_mode, error)  # what is open now may be another than a moment ago
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: str | Path, limit: int, error: ErrorKind = DataError) -> bytes:
    """Reads a regular file of at most `limit` bytes.

    Raises:
        UntrainError: as `check_regular`; also if the file is larger, or cannot be read.
    """
    with open_regular(path, error) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            parts = [file.read(size + 1) or b""] if size <= limit else []
            while parts and size < sum(map(len, parts)) <= limit and parts[-1]:  # it grows, or does not tell its size
                parts.append(file.read(1 << 20) or b"")
        except (OSError, MemoryError) as cause:
            raise error(f"{printable(path)} cannot be read: {reason_of(cause)}. Get the file again.") from cause
    if not parts or sum(map(len, parts)) > limit:
        raise error(
            f"{printable(path)} is larger than the {_size(limit)} that a file of this kind may have. Make it smaller."
        )
    return b"".join(parts)


def read_text(path: str | Path, limit: int = TEXT_LIMIT, error: ErrorKind = DataError) -> str:
    """Reads a text file in UTF-8, with or without a byte-order mark.

    Raises:
        UntrainError: as `read_bytes`; also names the line where the text is not UTF-8, or holds a NUL character.
    """
    data = read_bytes(path, limit, error)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = cause.object[: cause.start].count(b"\n") + 1
        raise error(f"{printable(path)}, line {line}: the text is not UTF-8. Save the file in UTF-8.") from cause
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise error(f"{printable(path)}, line {line}: the text holds a NUL character. Save the file as UTF-8 text.")
    return text


def _size(count: int) -> str:
    """Bytes as a person says them."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.3g} {unit}"
    return f"{count} bytes"


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse_json(text: str, *, unbounded: Collection[str] = ()) -> Any:
    """Returns the value that a JSON text holds.

    Args:
        text: what is parsed.
        unbounded: names of entries that may be infinite, which libraries write though it is no JSON.

    Raises:
        ValueError: says what is wrong: no JSON, NaN or infinity, nested more than `DEPTH` deep, a number of thousands
            of digits, or half a character.
    """
    constant = _infinite if unbounded and "Infinity" in text else _refuse_constant
    try:
        value = json.loads(text, parse_constant=constant, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEPTH} deep") from None
    _check_depth(text, value)
    if constant is _infinite:
        _check_bounded(value, unbounded)
    if "\\ud" in text or "\\uD" in text:  # halves of characters outside the basic plane: each needs the other
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it holds half a character, \\ud800 to \\udfff") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _infinite(name: str) -> float:
    if name == "NaN":
        _refuse_constant(name)
    return float(name)


def _check_bounded(value: Any, unbounded: Collection[str]) -> None:
    """Refuses infinities everywhere but in the entries that may hold one."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, each = stack.pop()
        if isinstance(each, float) and math.isinf(each) and key not in unbounded:
            _refuse_constant("Infinity" if each > 0 else "-Infinity")
        inner = (
            each.items() if isinstance(each, dict) else [("", one) for one in each] if isinstance(each, list) else ()
        )
        stack.extend(inner)


def _finite(text: str) -> float:
    if float(text) in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return float(text)


def _check_depth(text: str, value: Any) -> None:
    if text.count("[") + text.count("{") <= DEPTH:
        return
    level = [value]
    for _ in range(DEPTH + 1):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in inner for each in values if isinstance(each, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEPTH} deep")


def read_json(
    path: str | Path, error: ErrorKind = DataError, limit: int = TEXT_LIMIT, *, unbounded: Collection[str] = ()
) -> Any:
    """Reads the value in a JSON file; entries that may be infinite are named, see `parse_json`.

    Raises:
        UntrainError: as `read_text`; also if it holds no JSON, see `parse_json`.
    """
    text = read_text(path, limit, error)
    try:
        return parse_json(text, unbounded=unbounded)
    except ValueError as cause:
        raise error(f"{printable(path)} cannot be read as JSON: {cause}. Get the file again.") from cause


# ── folders and links ───────────────────────────────────────────────────────────────────────────────────────────


def lies_in(path: Path, folder: Path) -> bool:
    """Returns whether a path leads to something in a folder, or among the files of the hub's copy that it belongs to.

    A folder of the Hugging Face hub's cache, REPOSITORY/snapshots/REVISION, links to REPOSITORY/blobs.
    """
    target, home = os.path.realpath(path), os.path.realpath(folder)
    return _below(target, home) or _below(target, _blobs(home))


def check_inside(path: Path, folder: Path, links: bool, error: ErrorKind = DataError) -> None:
    """Checks that a path in a folder is not led out of it by a link; see `lies_in`.

    Args:
        path: a file or folder below the folder.
        folder: what was handed over; may be a link itself.
        links: whether links may lead out of it.
        error: what is raised.

    Raises:
        UntrainError: names the link and where it leads; also if it leads nowhere, or in a circle.
    """
    try:
        target = os.path.realpath(path, strict=True)
        os.path.realpath(folder, strict=True)
    except (OSError, ValueError) as cause:
        what = (
            "is a link that leads nowhere, or" if os.path.islink(path) else "cannot be read, or lies behind a link that"
        )
        raise error(
            f"{printable(path)} {what} cannot be followed: {reason_of(cause)}. Restore what is missing, or remove it."
        ) from cause
    if links or lies_in(path, folder):
        return
    raise error(
        f"{printable(path)} is or lies behind a link that leads out of {printable(folder)}, to {printable(target)}. "
        f"Put the files themselves there or, if you trust the folder, allow links: "
        f"{spell(flag_of('links'), 'links=True')}."
    )


def _below(target: str, folder: str) -> bool:
    return bool(folder) and (target == folder or target.startswith(folder.rstrip("/") + "/"))


def _blobs(home: str) -> str:
    """Where the hub's cache keeps the files of the repository that a folder is in; empty: it is in none."""
    parts = Path(home).parts
    at = next((i for i in range(len(parts) - 2, 1, -1) if parts[i] == "snapshots"), 0)
    return str(Path(*parts[:at], "blobs")) if at else ""


def check_all_inside(paths: Iterable[Path], folder: Path, links: bool) -> None:
    """Checks of many files of a folder what `check_inside` checks of one; quick where there are no links."""
    paths = list(paths)
    for parent in dict.fromkeys(path.parent for path in paths):
        check_inside(parent, folder, links)
    for path in paths:
        if os.path.islink(path):
            check_inside(path, folder, links)


def check_name(path: Path) -> Path:
    """Returns a path whose name is text.

    Raises:
        DataError: if it is not, so that it could stand in no table and no file of a run.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise DataError(f"the name of {printable(path)} is not text in UTF-8. Rename it.") from None
    return path


def check_folder(folder: Path) -> None:
    """Checks that what a folder holds can be listed.

    Raises:
        DataError: if it cannot.
    """
    _entries(folder)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (OSError, ValueError) as cause:
        raise DataError(
            f"the folder {printable(folder)} cannot be read: {reason_of(cause)}. Check the path and its permissions."
        ) from cause


def _leads_to_folder(entry: os.DirEntry[str], root: Path, links: bool) -> bool:
    try:
        if entry.is_dir():
            return True
    except OSError:  # a link in a circle, or through a folder without rights
        pass
    if entry.is_symlink() and not os.path.exists(entry.path):
        check_inside(Path(entry.path), root, links)
    return False


_SYSTEM = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
"""Folders, in small letters, in which systems keep copies, previews and what was removed."""


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is no part of the data by its name.

    Such are names that begin with a dot, backups of editors (x~), and folders in which systems keep what was removed.
    """
    return name.startswith(".") or name.endswith("~") or name.lower() in _SYSTEM


@dataclass
class LeftOut:
    """What of a folder is not read, and why.

    Attributes:
        root: the folder.
        found: reason → paths, in the order in which they were met.
    """

    root: Path
    found: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, reason: str, path: Path) -> None:
        """Counts one."""
        self.found.setdefault(reason, []).append(path)

    def warn(self) -> None:
        """Says what was left out, if anything: how many for each reason, and the first."""
        parts = [
            f"{len(paths)} {reason} ({printable(paths[0].relative_to(self.root).as_posix())}"
            f"{', …' if len(paths) > 1 else ''})"
            for reason, paths in self.found.items()
        ]
        if parts:
            warnings.warn(f"left out of the samples in {printable(self.root)}: {'; '.join(parts)}.", stacklevel=2)


HIDDEN = "hidden, a backup or removed, by the name"
"""Why something is left out that is hidden."""


def find_folders(
    folder: Path, root: Path, *, links: bool = False, beside: Collection[str] = (), left_out: LeftOut | None = None
) -> list[Path]:
    """Finds the folders in a folder, in order, but for hidden ones.

    Args:
        folder: where to look.
        root: what was handed over, and holds it.
        links: whether links may lead out of that.
        beside: endings of files that are looked for in folders; here they are counted as left out.
        left_out: where that and hidden folders are counted.

    Raises:
        DataError: names a folder that cannot be read, a link that leads out, or a name that is no text.
    """
    check_inside(folder, root, links)
    found, left_out = [], left_out or LeftOut(root)
    for entry in _entries(folder):
        path = folder / entry.name
        if is_hidden(entry.name):
            if os.path.isdir(path):
                left_out.add(HIDDEN, path)
        elif _leads_to_folder(entry, root, links):
            if entry.is_symlink():
                check_inside(path, root, links)
            found.append(check_name(path))
        elif path.suffix.lower() in beside:
            left_out.add("beside the folders", path)
    return found


def find_files(
    folder: Path,
    root: Path,
    suffixes: Collection[str],
    *,
    links: bool = False,
    deep: bool = True,
    left_out: LeftOut | None = None,
) -> list[Path]:
    """Finds the files with one of these endings, in a folder and in those below it, in order, but for hidden ones.

    Args:
        folder: where to look.
        root: what was handed over, and holds it.
        suffixes: in small letters, with their dots.
        links: whether links may lead out of that.
        deep: look into folders below as well.
        left_out: where it is counted what is hidden, has another ending, or lies too deep.

    Raises:
        DataError: names what is no regular file, a link that leads out or nowhere, a folder that is reached twice by
            links, one that cannot be read, or a name that is no text.
    """
    found, waiting, seen, left_out = [], [folder], set[tuple[int, int]](), left_out or LeftOut(root)
    while waiting:
        place = waiting.pop()
        check_inside(place, root, links)
        about = os.stat(place)
        if (about.st_dev, about.st_ino) in seen:
            raise DataError(f"{printable(place)} is a link to a folder that is read already. Remove the link.")
        seen.add((about.st_dev, about.st_ino))
        for entry in _entries(place):
            path, fits = place / entry.name, os.path.splitext(entry.name)[1].lower() in suffixes
            reason = None
            if is_hidden(entry.name):
                reason = HIDDEN if fits or os.path.isdir(path) else None  # .DS_Store was never meant
            elif _leads_to_folder(entry, root, links):
                waiting += [path] if deep else []
                reason = None if deep else "folder below, which is not looked into"
            elif fits:
                found.append(_checked_file(path, entry, root, links))
            elif entry.name.lower() not in _SYSTEM_FILES:
                reason = f"of another ending than {', '.join(sorted(suffixes))}"
            if reason is not None:
                left_out.add(reason, path)
    return sorted(found)


_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
"""What Windows puts into folders of images; nobody takes these for samples."""


def _checked_file(path: Path, entry: os.DirEntry[str], root: Path, links: bool) -> Path:
    if entry.is_symlink():
        check_inside(path, root, links)
    if not entry.is_file():
        check_regular(path)
    return check_name(path)


# ── what is packed ──────────────────────────────────────────────────────────────────────────────────────────────


def check_unpacked(name: str | Path, unpacked: int, packed: int, error: ErrorKind = DataError) -> None:
    """Checks how large what a file unpacks into may be.

    Args:
        name: of the file, in the message.
        unpacked: bytes of what it says that it holds.
        packed: bytes of the file.
        error: what is raised.

    Raises:
        UntrainError: if it is more than `UNPACKED_FREELY` and `RATIO` times the file, or than this machine's memory.
    """
    if unpacked > max(UNPACKED_FREELY, RATIO * packed):
        raise error(
            f"{printable(name)}: {_size(packed)} would unpack into {_size(unpacked)}, more than {RATIO} times as much, "
            "as only a bomb does. Remove it, or save its content without compression."
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if unpacked > memory:
        raise error(f"{printable(name)}: {_size(unpacked)} do not fit into this machine's memory. Save less in a file.")


def read_npy(path: Path) -> np.ndarray:
    """Reads the array in an npy file.

    Raises:
        DataError: if it is damaged, holds Python objects, or says that it holds more than there is.
    """
    with open_regular(path) as file:
        try:
            return _array(file, os.fstat(file.fileno()).st_size)
        except DAMAGED as cause:
            raise DataError(
                f"{printable(path)} cannot be read as an npy file: {reason_of(cause)}. Write it by numpy.save."
            ) from cause


def read_npz(path: Path, wanted: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads some arrays of an npz file; what else it holds is left packed.

    Args:
        path: of the file.
        wanted: names of the arrays.

    Returns:
        Name → array for those that are there, and the names of all that it holds.

    Raises:
        DataError: as `read_npy`; also if it would unpack into far more than the file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                raise DataError(f"{printable(path)} holds one array: an npz file with several, by name, is needed.")
            with zipfile.ZipFile(file) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                chosen = {name: members[name] for name in wanted if name in members}
                check_unpacked(path, sum(info.file_size for info in chosen.values()), size)
                return {name: _member(archive, info) for name, info in chosen.items()}, list(members)
        except DAMAGED as cause:
            raise DataError(
                f"{printable(path)} cannot be read as an npz file: {reason_of(cause)}. Write it by numpy.savez, "
                "without Python objects."
            ) from cause


def _member(archive: ZipFile, info: ZipInfo) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a limit
        raise ValueError(f"{info.filename} is packed otherwise than numpy does")
    with archive.open(info) as member:
        return _array(member, info.file_size)  # zipfile gives no more, whatever there is


def _array(file: Any, size: int) -> np.ndarray:
    """The array of a file in the npy format that is `size` bytes long; memory is taken for what is there alone."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format holds records, not numbers")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects (texts become strings by .astype(str))")
    if dtype.itemsize == 0 or dtype.subdtype is not None or any(length < 0 for length in shape):
        raise ValueError(f"its header tells of no numbers: {dtype}, {list(shape)}")
    count = 1
    for length in shape:
        count *= int(length)
    left = size - file.tell()
    if count * dtype.itemsize > left:
        raise ValueError(f"its header tells of {_size(count * dtype.itemsize)}, and {_size(left)} are there")
    array = np.empty(count, dtype)
    content, at = array.view(np.uint8).data, 0
    while at < len(content):
        got = file.readinto(content[at : at + (1 << 20)])
        if not got:
            raise ValueError("it ends early")
        at += got
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
