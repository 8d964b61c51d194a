"""Processes as tests start them: several that work together, and one that is killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]


def python_path(*folders):
    """The environment of this process, in which modules of these folders can be imported as well."""
    path = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def torchrun(processes, module, *words, timeout=300):
    """Runs a module of `helpers` in so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", f"helpers.{module}", *map(str, words)]
    done = subprocess.run(command, env=python_path(TESTS), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]


def kill_at(words, path, times, limit=90.0):
    """Starts a process, kills it once a file was written so often, and returns its exit code."""
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    end, seen, last = time.monotonic() + limit, 0, stamp(path)
    while seen < times and process.poll() is None and time.monotonic() < end:
        now = stamp(path)
        if now is not None and now != last:
            seen, last = seen + 1, now
        time.sleep(0.0005)
    process.kill()  # SIGKILL
    return process.wait()


def stamp(path):
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
