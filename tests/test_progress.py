"""Progress where nobody looks at a terminal: lines that come in time, and end."""

import sys
import threading
import time

import pytest
import torch

from untrain import progress
from untrain.engine import Engine
from untrain.progress import PrintedBar, in_words, show_progress

EVERY = 0.05


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", EVERY)


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("progress of")]


def printed(capsys, count):
    """The next so many lines; they come in their own time where the machine has other work."""
    text, limit = "", time.monotonic() + 60
    while text.count("\n") < count and time.monotonic() < limit:
        time.sleep(EVERY / 5)
        text += capsys.readouterr().err
    return text.splitlines()


def test_a_line_says_how_far_and_how_long():
    bar = PrintedBar("sfron", 400, 0)
    assert bar.line(40) == "sfron: step 0 of 400, 0 %, 40 s so far"
    bar.advance("retain_loss 0.1", by=120)
    assert bar.line(60) == "sfron: step 120 of 400, 30 %, about 2 min left (retain_loss 0.1)"


def test_time_left_is_of_what_was_done_in_this_run():
    bar = PrintedBar("sfron", 400, start=300)
    bar.advance(by=50)
    assert bar.line(100) == "sfron: step 350 of 400, 87 %, about 2 min left"


def test_without_a_total_the_time_so_far_is_told():
    bar = PrintedBar("reading", None, 0)
    bar.advance(by=7)
    assert bar.line(7200) == "reading: step 7, 2 h 0 min so far"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3570, "1 h 0 min"), (12000, "3 h 20 min"), (190000, "2 d 4 h")],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_lines_come_while_a_single_step_lasts_and_end_with_the_block(often, capsys):
    with show_progress("slow", 2) as bar:
        before = printed(capsys, 2)
        bar.advance()
        after = printed(capsys, 3)
    assert all(line.startswith("slow: step 0 of 2") for line in before)
    assert after[-1].startswith("slow: step 1 of 2, 50 %")
    assert not running()
    capsys.readouterr()
    time.sleep(2 * EVERY)
    assert not capsys.readouterr().err


def test_short_work_and_other_processes_print_nothing(monkeypatch, capsys):
    with show_progress("short", 1) as bar:
        bar.advance()
    monkeypatch.setattr(progress, "EVERY", EVERY)
    with Engine(torch.device("cpu"), process=1, num_processes=2).progress("other", 1):
        time.sleep(3 * EVERY)
    assert not capsys.readouterr().err


def test_an_error_ends_the_lines(often):
    engine = Engine(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), engine.progress("broken", 3):
        1 / 0  # noqa: B018
    for item in engine.track(range(3), "left early", 3):
        if item:
            break
    assert not running()


def test_work_goes_on_where_nobody_reads_any_more(often, monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    with show_progress("alone", 1):
        monkeypatch.setattr(sys, "stderr", Closed())
        time.sleep(3 * EVERY)
        assert running()


def test_a_terminal_has_a_bar(often, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with show_progress("drawn", 2) as bar:
        bar.advance("half")
        time.sleep(3 * EVERY)
        assert not running()
    assert "drawn" in capsys.readouterr().err
