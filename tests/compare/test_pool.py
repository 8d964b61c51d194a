"""The pool of cells: order, failures, places; with a pool that says what becomes of a cell."""

import os
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from helpers.foreign_code import plant
from untrain.compare.plan import Cell
from untrain.compare.pool import Command, Outcome, follow, run_cells, threads_of


class Pretence:
    """Runs nothing: a cell ends at once, well unless it is told otherwise."""

    def __init__(self, places=1, broken=()):
        self.places, self.broken = places, broken
        self.begun, self.now, self.most, self.closed = [], 0, 0, None

    def free(self):
        return self.places - self.now

    def begin(self, key):
        self.begun.append(key)
        self.now += 1
        self.most = max(self.most, self.now)
        future = Future()
        future.set_result(Outcome("failed", "broken") if key in self.broken else Outcome())
        return future

    def end(self, future):
        self.now -= 1
        return future.result()

    def close(self, kill):
        self.closed = kill


CELLS = [
    Cell("g", "original"),
    Cell("g", "retrained"),
    Cell("g", "a", needs=("g/original",)),
    Cell("g", "b", needs=("g/a",)),
    Cell("g", "c", needs=("g/original",)),
    Cell("g", "evaluation", needs=("g/original",), after=("g/retrained", "g/a", "g/b", "g/c")),
]


def ran(pool, done=()):
    told = []
    over = run_cells(CELLS, pool, done, lambda cell, outcome: told.append((cell.name, outcome.state)))
    return {key.removeprefix("g/"): outcome.state for key, outcome in over.items()}, told


@pytest.mark.parametrize("places", [1, 2, 9])
def test_all_cells_run_once_and_after_what_they_need(places):
    pool = Pretence(places)
    states, told = ran(pool)
    assert set(states.values()) == {"done"}
    assert sorted(pool.begun) == sorted(cell.key for cell in CELLS)
    place = {key: i for i, key in enumerate(pool.begun)}
    assert all(place[key] < place[cell.key] for cell in CELLS for key in (*cell.needs, *cell.after))
    assert pool.most <= places
    assert len(told) == len(CELLS)
    assert pool.closed is False


def test_a_failed_cell_takes_only_those_that_need_it():
    pool = Pretence(broken=("g/a",))
    states, told = ran(pool)
    assert states == {
        "original": "done", "retrained": "done", "a": "failed", "b": "missing", "c": "done", "evaluation": "done",
    }  # fmt: skip
    assert "g/b" not in pool.begun
    assert ("b", "missing") in told


def test_a_missing_cell_is_missing_for_others_too():
    states, _ = ran(Pretence(broken=("g/original",)))
    assert states == {"original": "failed", "retrained": "done"} | dict.fromkeys("abc", "missing") | {
        "evaluation": "missing"
    }


def test_a_finished_cell_is_not_run_again():
    pool = Pretence()
    states, _ = ran(pool, done=("g/original", "g/a"))
    assert pool.begun == ["g/retrained", "g/b", "g/c", "g/evaluation"]
    assert set(states.values()) == {"done"}


def test_what_still_runs_is_killed_when_something_unforeseen_happens():
    class Interrupted(Pretence):
        def end(self, future):
            raise KeyboardInterrupt

    pool = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        ran(pool)
    assert pool.closed is True


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of(jobs) for jobs in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_of(jobs) for jobs in (1, 2, 3)] == [3, 3, 2]


class Script(Command):
    """A command that is Python given here instead of a cell."""

    def words(self, key):
        return [sys.executable, "-c", key]


def test_what_a_command_says_becomes_its_outcome(tmp_path):
    command = Script(str(tmp_path), str(tmp_path), threads=3)
    code = "import os, sys; print(os.environ['OMP_NUM_THREADS'], os.getcwd()); print('untrain: warning: odd')"
    good = follow(command, code)
    assert (good.state, good.warnings) == ("done", ("odd",))
    bad = follow(command, code + "; print('untrain: no such thing.'); sys.exit(1)")
    assert (bad.state, bad.error) == ("failed", "no such thing.")
    assert f"3 {tmp_path}" in bad.traceback
    dead = follow(command, "import os; os.abort()")
    assert dead.state == "failed"
    assert "its process ended with -6" in dead.error


def test_a_command_that_is_not_wanted_ends_with_what_it_started(tmp_path):
    """Its child has the same standard input, and ends when that closes; a kill would leave it alone."""
    child = "import os; open('child', 'w').write(str(os.getpid())); os.read(0, 1)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    path, began = tmp_path / "child", time.monotonic()
    outcome = follow(Script(str(tmp_path), str(tmp_path)), code, lambda: not path.exists() or not path.read_text())
    assert outcome.state == "failed"
    assert time.monotonic() - began < 30
    for _ in range(100):
        if not alive(int(path.read_text())):
            break
        time.sleep(0.05)
    assert not alive(int(path.read_text()))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 knows no safe path")
def test_no_file_beside_a_command_takes_a_librarys_place(tmp_path):
    """Neither of what untrain imports, nor of Python itself, nor untrain."""
    marks = [plant(tmp_path / f"{name}.py") for name in ("yaml", "json", "torch", "untrain")]
    outcome = follow(Command(str(tmp_path / "none"), str(tmp_path)), "random-10/seed-0/finetune")
    assert outcome.state == "failed"
    assert str(tmp_path / "none") in outcome.error
    assert not any(mark.exists() for mark in marks)


def test_no_file_beside_python_m_takes_a_librarys_place(tmp_path):
    marks = [plant(tmp_path / f"{name}.py") for name in ("yaml", "torch", "pydantic")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    words = [sys.executable, "-m", "untrain", "evaluate", "none"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("untrain: ")
    assert not any(mark.exists() for mark in marks)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
