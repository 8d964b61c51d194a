"""Folders that are written into: made once, and one process at work in each at a time."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from untrain.errors import FolderError, spell

PRIVATE = 0o700
"""Of a folder that only its owner can look into."""

REMEDIES = {
    errno.ENOSPC: "Free some space or choose another folder.",
    errno.EDQUOT: "Free some of your quota or choose another folder.",
    errno.EFBIG: "Files may not grow so large here: raise the limit or choose another folder.",
    errno.EACCES: "Get permission to write there or choose another folder.",
    errno.EPERM: "Get permission to write there or choose another folder.",
    errno.EROFS: "The file system is read-only: choose another folder.",
    errno.ENOTDIR: "A part of the path is a file: choose another folder.",
    errno.EEXIST: "A part of the path is a file: choose another folder.",
    errno.EISDIR: "The path is a folder: choose another name.",
    errno.ELOOP: "It is a link: remove it or choose another folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}
"""What to do where the system refuses to write, by its error."""


LONGEST_NAME = 200
"""Bytes of a name that a file or folder is called by: file systems take 255, and some are left for what stands behind
it."""


def is_name(text: str) -> bool:
    """Returns whether a text can name a file or folder by itself.

    It can without separators and control characters, if it begins with neither a dot nor a hyphen, and has at most
    `LONGEST_NAME` bytes.
    """
    plain = not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)
    return plain and re.fullmatch(r"[^/\\.-][^/\\]*", text) is not None and len(text.encode()) <= LONGEST_NAME


def shorten_name(text: str) -> str:
    """Returns a text of at most half of `LONGEST_NAME` bytes: of a longer one the beginning and a hash."""
    data, most = text.encode(), LONGEST_NAME // 2
    if len(data) <= most:
        return text
    return f"{data[: most - 9].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:8]}"


@dataclass(frozen=True, eq=False)
class _Held:
    """A folder that this process is at work in.

    Attributes:
        path: absolute.
        identity: device and inode, by which another folder of this name is told from it.
        lock: the name of its lock; "": it has none.
        shared: whether others may have that lock too.
        written: files that this process wrote in it since, by their absolute paths.
    """

    path: Path
    identity: tuple[int, int]
    lock: str = ""
    shared: bool = False
    written: set[Path] = field(default_factory=set)


_held: list[_Held] = []


def ensure_dir(folder: Path, mode: int = 0o777) -> Path:
    """Makes a folder where it is missing.

    A folder that this process is at work in is not made anew when it was removed.

    Args:
        folder: its path.
        mode: of a folder that is made, less the user's umask; what is above it has the usual one.

    Raises:
        FolderError: if it cannot be made.
    """
    _made(folder, mode)
    return folder


def _made(folder: Path, mode: int) -> list[Path]:
    """The folders that had to be made, as of `make_missing`; what cannot be is said."""
    try:
        return make_missing(folder, mode)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        remedy = REMEDIES.get(getattr(error, "errno", None) or 0, "Choose another folder.")
        raise FolderError(f"{folder} cannot be made: {said}. {remedy}") from error


def make_missing(folder: Path, mode: int = 0o777) -> list[Path]:
    """Makes a folder and what is missing above it; returns what was made, the innermost first.

    Raises:
        OSError: if it cannot be made; then nothing of it is left.
        FolderError: if this process is at work in it, and it is gone.
    """
    check_held(folder)
    missing = [path for path in (folder, *folder.absolute().parents) if not _is_dir(path)]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            with suppress(FileExistsError):
                path.mkdir(mode if path == folder else 0o777)
                made.insert(0, path)
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
            check_held(folder)
    except BaseException:
        remove_empty(made)
        raise
    return made


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or no path at all: making it says why
        return False


def remove_empty(folders: list[Path]) -> None:
    """Removes folders that hold nothing, in this order; others stay."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def check_held(path: Path) -> None:
    """Refuses to write into a folder that this process is at work in, but which is not there any more, or by a link.

    Raises:
        FolderError: if the folder was removed, or another one has its name; or if a folder in it is a link.
    """
    place = Path(os.path.abspath(path))
    for held in _held:
        if not place.is_relative_to(held.path):
            continue
        if _identity(held.path) != held.identity:
            raise FolderError(
                f"{held.path} is gone: it was removed, moved or its disk was unmounted during the run. Nothing more is "
                "written there. Put it back and go on with --resume, or start anew."
            )
        inside = [above for above in place.parents if above != held.path and above.is_relative_to(held.path)]
        for above in inside:
            if above.is_symlink():
                raise FolderError(f"{above} is a link, and nothing is written through it. Remove it.")


def is_held(folder: Path) -> bool:
    """Returns whether this process has a lock on a folder, or on something in it."""
    place = Path(os.path.abspath(folder))
    return any(held.lock and held.path == place for held in _held)


def note_written(path: Path) -> None:
    """Notes that this process wrote a file, for the folder that it is at work in."""
    place = Path(os.path.abspath(path))
    for held in _held:
        if place.is_relative_to(held.path):
            held.written.add(place)


def was_written(path: Path) -> bool:
    """Returns whether this process wrote a file since it is at work in its folder."""
    place = Path(os.path.abspath(path))
    return any(place in held.written for held in _held)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Writes into a folder inside the block only as long as it is the same one.

    Raises:
        FolderError: if it is not there.
    """
    identity = _identity(folder)
    if identity is None:
        raise FolderError(f"there is no folder {folder}: it was removed, moved or its disk was unmounted.")
    held = _Held(Path(os.path.abspath(folder)), identity)
    _held.append(held)
    try:
        yield
    finally:
        _held.remove(held)


@contextmanager
def exclusive_lock(folder: Path, *, name: str = "", wait: bool = False, mode: int = 0o777) -> Iterator[None]:
    """Locks a folder, which is made where it is missing; released when the block or the process ends, however it ends.

    What processes that were killed left half-written in it is removed. A folder that was made for the lock, and that
    nothing was written into, is removed too.

    Args:
        folder: its path.
        name: what of the folder is locked, such as one of its files: others may lock other names then, but nobody all
            of it; "": all of it.
        wait: for another process on this machine that holds it; else that is an error.
        mode: of a folder that is made.

    Raises:
        FolderError: if another process holds it, or it cannot be made or written into.
    """
    made: list[Path] = []
    locks: list[_Lock] = []
    try:
        locks.append(_take(folder, LOCK, wait, shared=bool(name), made=made, mode=mode))
        if name:
            locks.append(_take(folder, f".{name[:_LONGEST]}{LOCK}", wait, shared=False, made=made, mode=mode))
        else:
            _remove_leftovers(folder)
        yield
    finally:
        for lock in reversed(locks):
            lock.release()
        remove_empty(made)


LOCK = ".lock.tmp"
"""The lock of a whole folder; by its name a temporary file, which is no part of a run."""
_LONGEST = 50
"""Of a file's name so many characters stand in the name of its temporary file or lock: names have limits."""


@dataclass(frozen=True, eq=False)
class _Lock:
    """A lock that this process has: the open file, and the folder that is held by it."""

    file: int
    path: Path
    held: _Held

    def release(self) -> None:
        """Removes the lock's file, unless others share it, and lets it go."""
        _held.remove(self.held)
        with suppress(OSError):  # the folder is gone, or others have it
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(self.file), os.stat(self.path)):
                os.unlink(self.path)
        os.close(self.file)


def _take(folder: Path, name: str, wait: bool, *, shared: bool, made: list[Path], mode: int) -> _Lock:
    """Takes one lock; adds to `made` what folders had to be made for it."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    place = Path(os.path.abspath(folder))
    while True:
        made[:0] = _made(folder, mode)
        ours = any(held.path == place and held.lock == name and not (shared and held.shared) for held in _held)
        file = None if ours else _open(folder / name)
        if file is not None:
            if _try(file, folder / name, kind):
                held = _Held(place, _identity(folder) or (0, 0), name, shared)
                _held.append(held)
                return _Lock(file, folder / name, held)
            os.close(file)
        if not wait and (ours or _is_taken(folder / name)):
            raise FolderError(
                f"another process is at work in {folder}. Wait for it, stop it, or choose another folder "
                f"({spell('--out', 'out=')})."
            )
        time.sleep(0.02)  # whoever had it may have just removed the file


def _open(path: Path) -> int | None:
    """Opens a lock's file, not through a link; None where its folder has just been removed by another process."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except FileNotFoundError:
        return None
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "Choose another folder.")
        raise FolderError(f"{path} cannot be written: {error.strerror}. {remedy}") from error


def _try(file: int, path: Path, kind: int) -> bool:
    """Locks an open file, if nobody has it and it is still the one of this name."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise FolderError(f"{path} cannot be locked: {error.strerror}. Choose a folder on another disk.") from error
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _is_taken(path: Path) -> bool:
    """Whether another process has a lock."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def _remove_leftovers(folder: Path) -> None:
    """Removes files that killed processes left half-written, but for folders that others are at work in."""
    ours = {held.path for held in _held}
    for place, inner, names in os.walk(folder):
        here = Path(place)
        locks = [name for name in names if name.endswith(LOCK)]
        if here != folder and (Path(os.path.abspath(here)) in ours or any(_is_taken(here / lock) for lock in locks)):
            inner.clear()
            continue
        for name in names:
            if is_temporary(name) and (here, name) != (folder, LOCK):
                with suppress(OSError):
                    os.unlink(here / name)


def is_temporary(name: str) -> bool:
    """Returns whether a file or folder, by its name, is what was written for a moment and is no part of a run."""
    return (name.startswith(".") and name.endswith(".tmp")) or _SAFETENSORS.fullmatch(name) is not None


_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")
"""What the library of that name calls a file that it has not written whole."""


def usual_mode(folder: Path) -> int:
    """Returns the mode of files that this process makes in a folder, which the user's umask decides."""
    path = folder / temporary_name("mode")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    os.unlink(path)
    try:
        return stat.S_IMODE(os.fstat(file).st_mode)
    finally:
        os.close(file)


def temporary_name(name: str) -> str:
    """Draws a name for what is written for a moment beside a file of that name; nobody can foresee it."""
    return f".{name[:_LONGEST]}.{secrets.token_hex(4)}.tmp"
