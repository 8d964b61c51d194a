"""Processes as tests start them: several that work together, and one that is killed.

Most are forked off a server that has imported everything once: starting Python anew takes longer than what they do.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

from untrain.cli import main

TESTS = Path(__file__).parents[1]
LOADED = [
    *("untrain.runs.stages", "untrain.compare.cells", "untrain.audit.cells", "untrain.diffusion.pipelines"),
    *("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "diffusers.models.unets.unet_2d"),
    *("matplotlib.backends.backend_svg", "sklearn.datasets", "sklearn.metrics", "torchmetrics"),
]
"""What the server imports; where a name is wrong, tests are slower, and nothing else."""


def python_path(*folders):
    """The environment of this process, in which modules of these folders can be imported as well."""
    path = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def torchrun(processes, module, *words, timeout=300):
    """Runs a module of `helpers` in so many processes, as a user starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", f"helpers.{module}", *map(str, words)]
    done = subprocess.run(command, env=python_path(TESTS), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]


def server():
    """What processes are forked off."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def start(log, function, *arguments, environment=None):
    """Calls a module's function in a process of its own, which exits with what it returns."""
    process = server().Process(target=_call, args=(log, environment or {}, function, arguments))
    process.start()
    return process


def run_script(path, folder, *words, timeout=570):
    """Runs a script in a folder as `python PATH WORDS…` does, forked off; returns what it printed."""
    logs = [folder / f"{path.stem}.{stream}" for stream in ("out", "err")]
    process = start(logs[1], _run_path, path, folder, logs[0], [*map(str, words)])
    process.join(timeout)
    process.kill()
    process.join()
    assert process.exitcode == 0, logs[1].read_text()[-3000:]
    return logs[0].read_text()


def _run_path(path, folder, out, words):
    with open(out, "w") as file:
        os.dup2(file.fileno(), 1)
    os.environ.pop("PYTHONSAFEPATH", None)  # the server may have been started for workers, which have it set
    os.chdir(folder)
    sys.argv[:] = [str(path), *words]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def _call(log, environment, function, arguments):
    with open(log, "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    sys.exit(function(*arguments))


def run_in_processes(count, folder, function, *arguments, timeout=300):
    """Calls a module's function in so many processes that know of each other, as `torchrun` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in range(count):
        environment = {name: str(value) for name, value in {**known, "RANK": rank, "LOCAL_RANK": rank}.items()}
        log = folder / f"{count}-{rank}.log"
        started.append((log, start(log, function, *arguments, environment=environment)))
    end = time.monotonic() + timeout
    try:
        for log, process in started:
            process.join(max(0, end - time.monotonic()))
            assert process.exitcode == 0, log.read_text()[-3000:]
    finally:
        for _, process in started:
            process.kill()


def kill_when(there, log, words, limit=90.0):
    """Starts a command of `untrain`, kills it once something is there, and returns its exit code."""
    process, end = start(log, main, [str(word) for word in words]), time.monotonic() + limit
    try:
        while not there() and process.is_alive() and time.monotonic() < end:
            time.sleep(0.0005)
    finally:
        process.kill()  # SIGKILL
        process.join()
    return process.exitcode


class Writes:
    """Whether a file was written so often."""

    def __init__(self, path, times):
        self.path, self.left = path, times
        self.last = self._stamp()

    def __call__(self):
        now = self._stamp()
        if now is not None and now != self.last:
            self.left, self.last = self.left - 1, now
        return self.left <= 0

    def _stamp(self):
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns
