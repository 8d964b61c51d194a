"""Folders of models that are written: whole or not at all, with what belongs to the original beside the weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from untrain.errors import CheckpointError, FolderError
from untrain.folders import check_held, exclusive_lock, is_held, usual_mode
from untrain.models.pretrained import CONFIG
from untrain.permissions import flag_of
from untrain.reading import lies_in


@contextmanager
def replace_folder(target: Path, markers: Sequence[str] = (CONFIG,)) -> Iterator[Path]:
    """Yields a folder beside the target, which takes its place at the end; nothing is left of it on an error.

    No other process writes the same one for as long.

    Args:
        target: the folder of a model; one that is there is replaced.
        markers: files of which each folder of a model has one.

    Raises:
        FolderError: if there is something else in its place, or it cannot be written.
    """
    if target.is_dir():
        names = {path.name for path in target.iterdir()}
        if names and not names & {*markers}:
            raise FolderError(f"{target} holds other files than a model: choose another folder.")
    elif target.exists():
        raise FolderError(f"{target} is a file: choose another folder.")
    alone = nullcontext() if is_held(target.parent) else exclusive_lock(target.parent, name=target.name)
    temporary, old = (target.with_name(f".{target.name}.{ending}") for ending in ("tmp", "old"))
    with alone:
        try:
            _clear(target, temporary, old)  # what a process that was killed has left
            check_held(target)
            temporary.mkdir()
            yield temporary
            _open_to_readers(temporary)
            if target.is_dir():
                target.rename(old)
            temporary.rename(target)
        except OSError as error:
            check_held(target)
            raise FolderError(
                f"{target} cannot be written: {error.strerror or error}. Choose another folder."
            ) from error
        finally:
            _clear(target, temporary, old)


def _clear(target: Path, temporary: Path, old: Path) -> None:
    """Removes what is half-written; what was in the target's place is put back where nothing else is."""
    if old.is_dir() and not target.exists():
        old.rename(target)
    for left in (temporary, old):
        shutil.rmtree(left, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """Gives files the user's own mode: libraries write some that their owner alone can read."""
    mode = usual_mode(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def copy_inside(path: Path, target: Path, root: Path, *, links: bool = False) -> None:
    """Copies a file, or a folder with all in it, of a model's folder.

    Args:
        path: what is copied.
        target: where to; does not exist.
        root: the model's folder, which a copy must not lead out of: it may be handed on.
        links: whether to follow links that do.

    Raises:
        CheckpointError: names a link that leads out of the folder, or what is neither a file nor a folder.
    """
    if not links and (not lies_in(path, root) or (path.is_symlink() and path.is_dir())):
        raise CheckpointError(
            f"{path} is a link to {path.resolve()}, which would be copied into the new model. Put the file itself in "
            f"its place, or allow links: {flag_of('links')}."
        )
    if path.is_dir():
        target.mkdir()
        for each in sorted(path.iterdir()):
            copy_inside(each, target / each.name, root, links=links)
    elif path.is_file():
        shutil.copyfile(path, target)
    else:
        raise CheckpointError(f"{path} is neither a file nor a folder, and cannot be copied. Remove it.")
