"""Commands of untrain, each in a session of its own, so that it can be stopped with all that it started. Linux only."""

import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

TRACEBACK = "Traceback (most recent call last)"
LIMIT = 300.0
"""Seconds after which a command counts as one that hangs; the tiny ones here take ten."""
LOADED = [
    *("untrain.runs.stages", "untrain.runs.sampling", "untrain.diffusion.pipelines", "untrain.compare.compare"),
    *("diffusers.pipelines.stable_diffusion", "matplotlib.backends.backend_svg", "sklearn.datasets"),
    *("sklearn.metrics", "torchmetrics"),
]
"""What warm commands find imported; where a name is wrong, they are slower, and nothing else."""
_BOUND = """
import os, resource, sys
files, memory = (int(word) for word in sys.argv[1:3])
for which, bound in ((resource.RLIMIT_FSIZE, files), (resource.RLIMIT_AS, memory)):
    if bound:
        resource.setrlimit(which, (bound, bound))
os.execvp(sys.argv[3], sys.argv[3:])
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: as a shell tells it: 128 + n after signal n.
        out: standard output.
        err: standard error.
        seconds: of the clock.
        late: whether it was over before the signal came.
        worked: seconds of the processor that it had had when the signal came.
        left: whether processes of it were still there ten seconds later.
    """

    code: int
    out: str
    err: str
    seconds: float
    late: bool = False
    worked: float = math.inf
    left: bool = False

    @property
    def last_words(self) -> str:
        """The end of what it said, in one line."""
        return " ".join((self.err or self.out).split())[-300:]

    def failed_badly(self) -> list[str]:
        """What no command may do, whatever the world is like."""
        found = [f"a traceback: {self.last_words}"] if TRACEBACK in self.out + self.err else []
        found += [f"exit 3: {self.last_words}"] if self.code == 3 else []
        return [*found, "processes are left behind"] if self.left else found


@dataclass
class Launcher:
    """How commands are started.

    Attributes:
        untrain: the words that the command line begins with.
        warm: fork commands off a process that has imported everything, instead of starting Python for each.
    """

    untrain: Sequence[str] = (sys.executable, "-m", "untrain")
    warm: bool = False

    def start(
        self, words: Sequence[str], place: Path, *, threads: int = 1, processes: int = 1, largest: int = 0
    ) -> "Running":
        """Starts a command.

        Args:
            words: after `untrain`.
            place: the folder that it is started in, with its logs.
            threads: of each process.
            processes: as how many it runs, under torchrun.
            largest: bytes of the largest file that it may write; 0: any.
        """
        if self.warm and processes == threads == 1 and words[0] not in ("compare", "audit"):
            # a pool of threads does not outlive a fork, and workers of a comparison or an audit are started cold
            return self.call("untrain.cli", "main", (list(words),), place, largest=largest)
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "untrain"]
        command = [*self.untrain, *words] if processes == 1 else [sys.executable, *several, *words]
        return self.execute(command, place, threads=threads, largest=largest)

    def execute(
        self, command: Sequence[str], place: Path, *, threads: int = 1, largest: int = 0, memory: int = 0
    ) -> "Running":
        """Starts any program; see `start`."""
        bound = [sys.executable, "-c", _BOUND, str(largest), str(memory)] if largest or memory else []
        logs = Logs.of(place)
        with open(logs.out, "wb") as out, open(logs.err, "wb") as err:
            process = subprocess.Popen(
                [*bound, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=place,
                env=os.environ | _environment(threads),
                start_new_session=True,
            )
        return Running(process.pid, process.poll, logs)

    def call(
        self,
        module: str,
        function: str,
        arguments: Sequence[Any],
        place: Path,
        *,
        largest: int = 0,
        memory: int = 0,
    ) -> "Running":
        """Calls a function on one thread, in a process that has imported everything; it exits with the result."""
        logs = Logs.of(place)
        bounds = {resource.RLIMIT_FSIZE: largest, resource.RLIMIT_AS: memory}
        told = (logs, _environment(1), bounds, module, function, tuple(arguments))
        with _STARTING:
            process = _server().Process(target=_call, args=told)
            process.start()

        def poll() -> int | None:
            with _STARTING:  # starting another one asks for the codes of all: of two that ask at once, one gets none
                return process.exitcode

        while poll() is None and not logs.begun.exists():
            time.sleep(0.001)
        running = Running(process.pid or 0, poll, logs)
        running.before = running.worked()
        return running

    def run(self, words: Sequence[str], place: Path, **how: int) -> Ended:
        """Runs a command to its end; see `start`."""
        return self.start(words, place, **how).end()


@dataclass(frozen=True)
class Logs:
    """Where a command's words go."""

    out: Path
    err: Path

    @property
    def begun(self) -> Path:
        """Is there once a warm process has come to the command."""
        return self.out.with_suffix(".begun")

    @classmethod
    def of(cls, place: Path) -> "Logs":
        """The next two files of a folder."""
        place.mkdir(parents=True, exist_ok=True)
        with _STARTING:
            number = sum(1 for _ in place.glob("*.out"))
            logs = cls(place / f"{number}.out", place / f"{number}.err")
            logs.out.touch()
        return logs


@dataclass
class Running:
    """A command that was started.

    Attributes:
        pid: of its first process, and of its group.
        poll: the exit code, None while it runs.
        logs: where its words go.
        began: when, on the clock that only goes forward.
        before: seconds of the processor that were used up before the command itself began.
        killed: processes that were killed; those of sessions of their own are nobody's children then.
    """

    pid: int
    poll: Callable[[], int | None]
    logs: Logs
    began: float = field(default_factory=time.monotonic)
    before: float = 0.0
    killed: set[int] = field(default_factory=set)

    def wait(self, moment: float, worked: float = 0.0) -> bool:
        """Waits until so many seconds after the start and of the processor, or for the end; returns whether that came.

        How far a program has come, processor seconds tell better than those of the clock where others work too.
        """
        while self.poll() is None and (time.monotonic() - self.began < moment or self.worked() < worked):
            time.sleep(0.002)
        return self.poll() is not None

    def worked(self) -> float:
        """Seconds of the processor that the first process has had."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            return math.inf
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") - self.before

    def signal_at(self, moment: float, number: signal.Signals, worked: float = 0.0) -> Ended:
        """Sends a signal to the whole group, at a moment as in `wait`, and waits for the end."""
        late = self.wait(moment, worked)
        had = self.worked()
        if number is signal.SIGKILL:
            self.kill()
        elif not late:
            os.killpg(self.pid, number)
        return replace(self.end(late), worked=had)

    def kill(self) -> None:
        """Kills every process of the command at once, those in sessions of their own too."""
        those = family(self.pid)
        self.killed |= those
        for pid in those:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def end(self, late: bool = False) -> Ended:
        """Waits for the end; what hangs is killed, and its code is 124."""
        hung = False
        while self.poll() is None:
            if time.monotonic() - self.began > LIMIT:
                hung = True
                self.kill()
            time.sleep(0.005)
        seconds, code = time.monotonic() - self.began, self.poll() or 0
        left = not self._is_gone()
        if left:
            self.kill()
        out, err = (path.read_text(errors="replace") for path in (self.logs.out, self.logs.err))
        return Ended(124 if hung else code if code >= 0 else 128 - code, out, err, seconds, late, left)

    def _is_gone(self, patience: float = 10.0) -> bool:
        end = time.monotonic() + patience
        while (family(self.pid) | self.killed & living().keys()) - {self.pid}:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


def family(pid: int) -> set[int]:
    """Processes that live and descend from one, or are of its session."""
    those = living()
    found = {each for each, (_, session) in those.items() if pid in (each, session)}
    size = -1
    while size != len(found):
        size = len(found)
        found |= {each for each, (parent, _) in those.items() if parent in found}
    return found


def living() -> dict[int, tuple[int, int]]:
    """Every process of the machine that lives → its parent and its session."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if state not in "ZX":
            found[int(entry.name)] = int(parent), int(session)
    return found


_STARTING = threading.Lock()


def _environment(threads: int) -> dict[str, str]:
    """What a command finds: so many threads, this package, and no network."""
    modules = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(modules),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # else threads that wait take the cores from those that work
        "HF_HUB_OFFLINE": "1",
    }


def _server() -> Any:
    """What warm commands are forked off."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def _call(
    logs: Logs, environment: dict[str, str], bounds: dict[int, int], module: str, function: str, arguments: Any
) -> None:
    from importlib import import_module

    os.setsid()
    for stream, path in ((1, logs.out), (2, logs.err)):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), stream)
    os.chdir(logs.out.parent)
    os.environ.update(environment)
    sys.argv = ["untrain", *map(str, arguments[0] if isinstance(arguments[0], list) else arguments)]
    import torch

    torch.set_num_threads(1)
    for which, bound in bounds.items():
        if bound:
            resource.setrlimit(which, (bound, bound))
    act = getattr(import_module(module), function)
    logs.begun.touch()
    sys.exit(act(*arguments))
