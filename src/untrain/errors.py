"""What can go wrong, in kinds a caller can act on. Every message names the culprit and the remedy."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class UntrainError(Exception):
    """Any failure that `untrain` foresaw; the command line prints its message without a traceback."""


class SettingError(UntrainError):
    """A setting is unknown, out of range, or contradicts another."""


class UnknownName(SettingError):
    """A name (of a method, model, class, data source, …) is not known; the message lists the known ones."""


class DataError(UntrainError):
    """The data cannot be used: unreadable, mis-shaped, not finite, labels outside the model's outputs."""


class EmptySet(DataError):
    """A set that must hold samples holds none."""


class Overlap(DataError):
    """A sample is in two sets that must be disjoint."""


class ModelError(UntrainError):
    """The model cannot be used as asked: wrong architecture, no parameters, cannot be built anew."""


class CheckpointError(ModelError):
    """A checkpoint is missing, unreadable, unsafe, or made for another architecture."""


class InexactFisher(ModelError):
    """A parameter is used in a way whose per-sample gradient cannot be computed exactly."""


class Diverged(UntrainError):
    """A loss or gradient became NaN or infinite; the last good state was kept."""


class StaleFile(UntrainError):
    """A stored file (weights, mask, split, checkpoint, …) is damaged, of another run, or was made from other inputs."""


class FolderError(UntrainError):
    """A run folder holds another run, or cannot be written."""


class UnlearningWarning(UserWarning):
    """A result that cannot be taken as it looks: the run fell short of its aim, or what it is held against is weak."""


@contextmanager
def convert_errors(kind: type[UntrainError], what: str) -> Iterator[None]:
    """Turns whatever a user's own code raises inside the block into an error of ours, with that as its cause.

    Args:
        kind: of the error.
        what: the sentence that its message begins with, such as "the model cannot run".
    """
    try:
        yield
    except UntrainError:
        raise
    except Exception as error:
        raise kind(f"{what}: {type(error).__name__}: {message_of(error)}") from error


def message_of(error: Exception) -> str:
    """What an error says; of one that fails to say it, nothing."""
    try:
        return str(error)
    except Exception:  # an exception of the user's own can do anything
        return ""


_speaking = {"flags": False}


@contextmanager
def speak_of_flags() -> Iterator[None]:
    """Has messages name the command line's flags inside the block; elsewhere they name Python's arguments."""
    before = _speaking["flags"]
    _speaking["flags"] = True
    try:
        yield
    finally:
        _speaking["flags"] = before


def spell(flag: str, argument: str) -> str:
    """Spells a setting as whoever reads the message writes it.

    Args:
        flag: on the command line, such as "--data.path".
        argument: in Python, such as "path=".
    """
    return flag if _speaking["flags"] else argument


def lacks_reference() -> str:
    """Says why a measure that needs a retrained model has no value."""
    return f"needs a retrained model: {spell('--references 1', 'pass reference=')}"


def lookup(kind: str, table: Mapping[str, T], name: str) -> T:
    """The entry called `name`, or an `UnknownName` that lists the known ones.

    Args:
        kind: what is looked up, for the message ("method", "model", …).
        table: the known entries.
        name: the entry wanted.
    """
    if name in table:
        return table[name]
    raise UnknownName(unknown(kind, name, table))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence that says a name is unknown, guesses what was meant, and lists the known names."""
    known = sorted(map(str, known))
    name = str(name)
    name = name if len(name) <= 80 else f"{name[:60]}…"
    close = get_close_matches(name, known, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}.{guess} Known: {', '.join(known) or 'none'}."
