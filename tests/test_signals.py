"""Signals that end a command: heard wherever they come, and once."""

import os
import signal
import threading
import time
import weakref

import pytest

from untrain.signals import Stopped, stoppable


class Thing:
    """What a weak reference can point to."""


def send(number):
    """Sends this process a signal, and waits for what it does."""
    os.kill(os.getpid(), number)
    time.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_block_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, stoppable():
        send(number)
    assert stopped.value.signal == number and isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_comes_where_python_swallows_exceptions_is_heard_all_the_same(number, capsys):
    def work():
        thing = Thing()
        reference = weakref.ref(thing, lambda _: send(number))
        del thing
        time.sleep(5 if reference() is None else 0)

    with pytest.raises(KeyboardInterrupt), stoppable():
        work()
    assert "Traceback" not in capsys.readouterr().err


def test_a_second_one_does_not_break_off_what_the_first_began():
    done = []

    def work():
        try:
            send(signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(True)

    with pytest.raises(Stopped), stoppable():
        work()
    assert done == [True]


def test_in_another_thread_nothing_changes():
    found = []

    def work():
        with stoppable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
