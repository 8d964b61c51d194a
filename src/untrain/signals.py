"""Signals that ask a command to end: it ends as by an interrupt from the keyboard, with a state to go on from."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NoReturn


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


def _send_again(hook: Callable[[Any], object], unraisable: Any) -> None:
    """Sends a signal again whose exception came where Python must swallow it, as in a callback of an import.

    Its exception would be printed and forgotten, and the command would go on.
    """
    error = unraisable.exc_value
    if not isinstance(error, KeyboardInterrupt):
        hook(unraisable)
        return
    number = error.signal if isinstance(error, Stopped) else signal.SIGINT
    if isinstance(error, Stopped):
        signal.signal(number, _stop)
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


@contextmanager
def stoppable() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the block by `Stopped`; one that is ignored, as under nohup, stays ignored.

    Outside of the main thread nothing changes: Python hears no signals there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    ours = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_send_again, hook)
    try:
        for number in ours:
            signal.signal(number, _stop)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        sys.unraisablehook = hook
