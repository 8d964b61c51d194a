"""Signals that ask a command to end: it ends as by an interrupt from the keyboard, with a state to go on from."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal other than that of the keyboard.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not break off what the first has begun
    raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the block by `Stopped`; one that is ignored, as under nohup, stays ignored.

    Outside of the main thread nothing changes: Python hears no signals there.
    """
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            with suppress(ValueError):
                before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
