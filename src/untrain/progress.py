"""Progress of what takes long: a bar where a person looks, a line every half minute where a log is written."""

from __future__ import annotations

import codecs
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EVERY = 30.0
"""Seconds between two lines where there is no terminal; what takes less prints none."""


class Bar(ABC):
    """What moves on while something is done."""

    @abstractmethod
    def advance(self, note: str = "", by: int = 1) -> None:
        """Moves on by some steps and shows a short note beside them."""


_SIGNS = {"±": "+-", "–": "-", "−": "-", "—": "-", "…": "...", "×": "x", "·": "*", "→": "->", "≤": "<=", "≥": ">="}
_SIGNS |= {"’": "'", "‘": "'", "“": '"', "”": '"', "²": "^2", "α": "alpha", "β": "beta", "γ": "gamma", "λ": "lambda"}
"""What stands for a sign that a terminal does not know; for any other it is a question mark."""


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_SIGNS.get(sign, "?") for sign in text), error.end


def use_known_signs(stream: Any) -> None:
    """Lets a stream whose encoding lacks a sign print another one for it, instead of failing."""
    codecs.register_error("untrain", _replaced)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="untrain")


@contextmanager
def show_progress(label: str, total: int | None, start: int = 0, *, quiet: bool = False) -> Iterator[Bar]:
    """Shows on standard error how far the block is, and the time left.

    Args:
        label: what is done.
        total: how many steps there are; None: not known.
        start: steps that were done before.
        quiet: show nothing.
    """
    if quiet:
        yield NoBar()
        return
    from rich.console import Console

    console = Console(stderr=True)
    with _drawn(console, label, total, start) if console.is_terminal else _printed(label, total, start) as bar:
        yield bar


class NoBar(Bar):
    """Shows nothing."""

    def advance(self, note: str = "", by: int = 1) -> None:
        """Does nothing."""


@dataclass
class DrawnBar(Bar):
    """A bar in a terminal, drawn by rich."""

    progress: Progress
    task: Any

    def advance(self, note: str = "", by: int = 1) -> None:
        """Moves on by some steps and shows a short note behind the bar."""
        self.progress.update(self.task, advance=by, note=note)


@contextmanager
def _drawn(console: Console, label: str, total: int | None, start: int) -> Iterator[Bar]:
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}"),
    )
    with rich.Progress(*columns, console=console, transient=True) as progress:
        yield DrawnBar(progress, progress.add_task(label, total=total, completed=start, note=""))


class PrintedBar(Bar):
    """A line in a log every so many seconds, also while a single step takes longer than that."""

    def __init__(self, label: str, total: int | None, start: int) -> None:
        self.label = label
        self.total = total
        self.start = self.done = start
        self.note = ""
        self.began = time.monotonic()
        self.over = threading.Event()

    def advance(self, note: str = "", by: int = 1) -> None:
        """Moves on by some steps; the next line has the note."""
        self.done, self.note = self.done + by, note

    def print_lines(self) -> None:
        """Prints a line every so many seconds until it is over."""
        while not self.over.wait(EVERY):
            with suppress(OSError, ValueError):  # nobody reads standard error any more: the work goes on all the same
                print(self.line(time.monotonic() - self.began), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Says how far it is after so many seconds: "sfron: step 120 of 400, 30 %, about 2 min left"."""
        done, made = self.done, self.done - self.start
        parts = [f"{self.label}: step {done}"]
        if self.total:
            parts = [f"{parts[0]} of {self.total}", f"{100 * done // self.total} %"]
        if self.total and made > 0:
            parts.append(f"about {in_words(seconds * max(0, self.total - done) / made)} left")
        else:
            parts.append(f"{in_words(seconds)} so far")
        return ", ".join(parts) + (f" ({self.note})" if self.note else "")


@contextmanager
def _printed(label: str, total: int | None, start: int) -> Iterator[Bar]:
    bar = PrintedBar(label, total, start)
    thread = threading.Thread(target=bar.print_lines, name=f"progress of {label}", daemon=True)
    thread.start()
    try:
        yield bar
    finally:
        bar.over.set()
        thread.join()


def in_words(seconds: float) -> str:
    """A duration in the one or two units that say enough of it: "45 s", "12 min", "3 h 20 min", "2 d 5 h"."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
