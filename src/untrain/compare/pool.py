"""Cells side by side: each in a process of its own that nothing else depends on.

On one machine, n workers take a cell each. A worker that dies, because it was killed or ran out of memory, takes its
one cell with it and is replaced. On a cluster, a Dask scheduler hands the cells to its workers. Where a cell is itself
several processes, and on a cluster, it runs as a command of its own, `untrain compare FOLDER --cell KEY`.
"""

import io
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from untrain.allocator import keep_freed_memory
from untrain.compare.plan import Cell
from untrain.errors import SettingError, UntrainError

Cache = MutableMapping[str, Any]
"""What the cells of one process share, such as the data that were loaded last."""
RunCell = Callable[[str, Cache], None]
"""Runs the cell of a key; it can be pickled."""

TETHER = "UNTRAIN_TETHER"
"""Set for a command that must end with the process which holds the other end of its standard input."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""For what we start: no file of the working directory takes the place of a library's module (Python 3.11 and newer).
Code that the user names is found there all the same, after the libraries."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        state: "missing" where it could not be begun, because a cell that it needs failed.
        error: why it is not done.
        traceback: where in the code it failed.
        warnings: what it warned of.
        seconds: what it took.
    """

    state: Literal["done", "failed", "missing"] = "done"
    error: str | None = None
    traceback: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


class Pool(Protocol):
    """Where cells run."""

    def free(self) -> int:
        """How many cells can be begun now."""
        ...

    def begin(self, key: str) -> "Future[Outcome]":
        """Begins a cell."""
        ...

    def end(self, future: "Future[Outcome]") -> Outcome:
        """How a finished cell ended; its place is free again."""
        ...

    def close(self, kill: bool) -> None:
        """Lets everything go; `kill` does not wait for what still runs."""
        ...


def run_cells(
    cells: Sequence[Cell], pool: Pool, done: Sequence[str], on_over: Callable[[Cell, Outcome], None]
) -> dict[str, Outcome]:
    """Runs all cells, each as soon as what it needs is done and what it comes after is over.

    A cell that fails does not take others with it, but those that need it are missing then.

    Args:
        cells: in the order in which they should be begun.
        pool: where they run; closed in the end, whatever happens.
        done: keys of the cells that were finished before.
        on_over: called with each cell that is over.

    Returns:
        Key → how it ended, for every cell.
    """
    over = {key: Outcome() for key in done}
    waiting = [cell for cell in cells if cell.key not in over]
    running: dict[Future[Outcome], Cell] = {}
    finished = False
    try:
        while waiting or running:
            for cell in _unrunnable(waiting, over):
                on_over(cell, over[cell.key])
            for cell in [cell for cell in waiting if _ready(cell, over)][: pool.free()]:
                waiting.remove(cell)
                running[pool.begin(cell.key)] = cell
            if running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    over[cell.key] = pool.end(future)
                    on_over(cell, over[cell.key])
        finished = True
    finally:
        pool.close(kill=not finished)
    return over


def _ready(cell: Cell, over: Mapping[str, Outcome]) -> bool:
    return all(key in over for key in (*cell.needs, *cell.after))


def _unrunnable(waiting: list[Cell], over: dict[str, Outcome]) -> list[Cell]:
    """Takes the cells out that need one which is not done, however indirectly."""
    found: list[Cell] = []
    lost = True
    while lost:
        lost = False
        for cell in [*waiting]:
            broken = [key for key in cell.needs if key in over and over[key].state != "done"]
            if broken:
                waiting.remove(cell)
                over[cell.key] = Outcome("missing", f"it needs {broken[0]}, which is not done")
                found.append(cell)
                lost = True
    return found


# ── cells in worker processes of this machine ───────────────────────────────────────────────────────────────────


class Workers:
    """Worker processes of this machine, each with one cell at a time.

    Every worker is an executor of its own: where one process of a shared executor dies, all its cells are lost.
    """

    def __init__(self, run: RunCell, jobs: int) -> None:
        self.run = run
        self.threads = threads_of(jobs)
        self.idle: list[ProcessPoolExecutor | None] = [None] * jobs
        self.busy: dict[Future[Outcome], ProcessPoolExecutor] = {}

    def free(self) -> int:
        """Workers without a cell."""
        return len(self.idle)

    def begin(self, key: str) -> "Future[Outcome]":
        """Gives a cell to an idle worker."""
        with _environment(self.threads):  # read when the worker is spawned, and what Python starts beside it
            with _deaf_to_signals():  # its semaphores start a process, too
                worker = self.idle.pop() or ProcessPoolExecutor(
                    1, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(self.threads,)
                )
            with _deaf_to_signals():
                future = worker.submit(run_cell_safely, self.run, key)
        self.busy[future] = worker
        return future

    def end(self, future: "Future[Outcome]") -> Outcome:
        """What the worker says of its cell; a worker that died is replaced."""
        worker = self.busy.pop(future)
        try:
            outcome = future.result()
        except Exception as error:  # whatever the pool raises when its process dies or cannot be reached
            worker.shutdown(wait=False)
            self.idle.insert(0, None)
            return Outcome("failed", f"its process died: killed, out of memory, or crashed ({error})")
        self.idle.append(worker)
        return outcome

    def close(self, kill: bool) -> None:
        """Ends all workers."""
        for worker in [*self.busy.values(), *filter(None, self.idle)]:
            if kill:
                for process in dict(worker._processes or {}).values():
                    process.kill()
            worker.shutdown(wait=True, cancel_futures=True)


def threads_of(jobs: int) -> int:
    """Threads for each of so many processes: those of this machine shared out, but no more than the user allows."""
    from joblib import cpu_count  # knows of affinity and of the limits of containers

    allowed = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cpu_count() // jobs)
    return min(share, int(allowed)) if allowed.isdecimal() and int(allowed) else share


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """What is started inside the block computes with so many threads, and has its modules from the libraries."""
    changes = dict.fromkeys(_THREADS, str(threads)) | _SAFE_PATH
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """What is started inside the block never hears of signals that ask to end: that is its parent's affair.

    They go to all processes of a terminal or job, also to one that is still importing and would print where it was, and
    to the one that Python starts to look after semaphores, which others would miss. When the parent ends, all do.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(threads: int) -> None:
    """What a worker does first."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: Any) -> None:
    """Ends this process at once when its parent is gone, however that came: nobody would take its result."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@cache
def _cache() -> Cache:
    """This process's data."""
    return {}


def run_cell_safely(run: RunCell, key: str) -> Outcome:
    """Runs one cell in this process. What it says is kept from the terminal, where the bar of all cells stands."""
    began = time.perf_counter()
    error, trace = None, ""
    with warnings.catch_warnings(record=True) as heard, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("default")
        try:
            run(key, _cache())
        except Exception as failure:  # a cell must not take others with it
            error, trace = one_line(failure), traceback.format_exc()
    said = tuple(dict.fromkeys(str(warning.message) for warning in heard))
    return Outcome("failed" if error else "done", error, trace, said, time.perf_counter() - began)


def one_line(failure: BaseException) -> str:
    """A failure in one line."""
    return str(failure) if isinstance(failure, UntrainError) else f"{type(failure).__name__}: {failure}"


# ── cells as commands ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Command:
    """How a cell runs as a command of its own.

    Attributes:
        folder: the comparison's, or the audited run's.
        here: the folder that relative paths start from.
        processes: as how many processes each cell runs.
        threads: of each process; None: as the environment says.
        flags: that name code, which no recipe can.
        verb: what runs a cell, "compare" or "audit".
    """

    folder: str
    here: str
    processes: int = 1
    threads: int | None = None
    flags: tuple[str, ...] = ()
    verb: str = "compare"

    def words(self, key: str) -> list[str]:
        """The command line. torchrun starts several processes on CPUs too, which `accelerate launch` does not."""
        several = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes), "-m"]
        launcher = several if self.processes > 1 else []
        return [sys.executable, "-m", *launcher, "untrain", self.verb, self.folder, "--cell", key, *self.flags]

    def start(self, key: str) -> "subprocess.Popen[str]":
        """Starts it, tied to this process: when the pipe to it closes, it ends."""
        threads = {} if self.threads is None else dict.fromkeys(_THREADS, str(self.threads))
        here = self.here if Path(self.here).is_dir() else None
        return subprocess.Popen(
            self.words(key),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=here,
            env={**os.environ, **threads, **_SAFE_PATH, TETHER: "1"},
        )


def follow(command: Command, key: str, wanted: Callable[[], bool] = lambda: True) -> Outcome:
    """Runs a cell as a command to its end, or until it is not wanted any more."""
    began = time.perf_counter()
    with command.start(key) as process:
        said = _Listener(process)
        while not _over(process):
            if not wanted() and process.stdin is not None:
                process.stdin.close()  # of its own processes too, which a kill would leave alone
                process.kill()
        text = said.text()
    seconds = time.perf_counter() - began
    heard = tuple(dict.fromkeys(re.findall(r"^untrain: warning: (.*)$", text, re.MULTILINE)))
    if process.returncode == 0:
        return Outcome(warnings=heard, seconds=seconds)
    errors = re.findall(r"^untrain: (?!warning: )(.*)$", text, re.MULTILINE)
    error = errors[0] if errors else f"its process ended with {process.returncode}: {text[-500:].strip()}"
    return Outcome("failed", error, text[-20_000:], heard, seconds)


def _over(process: "subprocess.Popen[str]", patience: float = 0.2) -> bool:
    """Whether a process has ended, after waiting a little."""
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        return False
    return True


class _Listener(threading.Thread):
    """Reads what a process says, so that it never waits for a reader."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        super().__init__(daemon=True)
        self.process = process
        self.parts: list[str] = []
        self.start()

    def run(self) -> None:
        """Reads to the end."""
        self.parts.extend(self.process.stdout or ())

    def text(self) -> str:
        """All of it."""
        self.join()
        return "".join(self.parts)


def end_with_parent() -> None:
    """Ends this process when the one that started it as a tied command is gone."""
    if os.environ.pop(TETHER, None):
        threading.Thread(target=_end_at_eof, daemon=True).start()


def _end_at_eof() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


@dataclass
class Commands:
    """Commands of this machine, some at a time."""

    command: Command
    jobs: int
    running: set["Future[Outcome]"] = field(default_factory=set)
    stopped: bool = False

    def __post_init__(self) -> None:
        """A thread follows each command."""
        self.followers = ThreadPoolExecutor(self.jobs)

    def free(self) -> int:
        """How many more can run."""
        return self.jobs - len(self.running)

    def begin(self, key: str) -> "Future[Outcome]":
        """Starts a cell's command."""
        future = self.followers.submit(follow, self.command, key, lambda: not self.stopped)
        self.running.add(future)
        return future

    def end(self, future: "Future[Outcome]") -> Outcome:
        """How a command ended."""
        self.running.discard(future)
        return future.result()

    def close(self, kill: bool) -> None:
        """Waits for all commands, or kills them."""
        self.stopped = kill
        self.followers.shutdown(wait=True, cancel_futures=True)


# ── cells on a cluster ──────────────────────────────────────────────────────────────────────────────────────────


class Cluster:
    """The workers of a Dask scheduler. They must see the comparison's folder, and have `untrain` installed.

    A cell runs as a command beside the worker, so that the cells of one worker share no state, and a cell that
    crashes leaves the worker alive. A worker that dies hands its cell on; by default, Dask gives up after the fourth.
    """

    def __init__(self, command: Command, address: str) -> None:
        try:
            import distributed
        except ImportError as error:
            raise SettingError("--cluster needs Dask: pip install 'untrain[cluster]'.") from error
        try:
            self.client = distributed.Client(address, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SettingError(f"no Dask scheduler answers at {address}: {error}. Check the address.") from error
        self.command = command
        self.executor = self.client.get_executor(pure=False)
        self.running = 0

    def free(self) -> int:
        """Any number: what has no worker yet waits at the scheduler."""
        return sys.maxsize

    def begin(self, key: str) -> "Future[Outcome]":
        """Hands a cell to the scheduler."""
        return self.executor.submit(follow_there, self.command, key)

    def end(self, future: "Future[Outcome]") -> Outcome:
        """What the worker says of its cell."""
        try:
            return future.result()
        except Exception as error:  # whatever Dask raises when workers die
            return Outcome("failed", f"the cluster lost it: {type(error).__name__}: {error}", traceback.format_exc())

    def close(self, kill: bool) -> None:
        """Leaves the cluster; its workers stop what is not wanted any more."""
        self.executor.shutdown(wait=not kill)
        self.client.close()


def follow_there(command: Command, key: str) -> Outcome:
    """On a cluster's worker: runs a cell as a command for as long as the scheduler wants its result."""
    import distributed

    worker = distributed.get_worker()
    task = worker.get_current_task()

    def wanted() -> bool:
        known = worker.state.tasks.get(task)
        return known is not None and known.state == "executing"

    return follow(command, key, wanted)
