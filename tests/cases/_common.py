"""What the cases share: a fresh folder, the command line, and how a case ends."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers of the tests know how to make tiny pipelines


def tmp() -> Path:
    """A new folder."""
    return Path(tempfile.mkdtemp(prefix="case-"))


def cli(*words: Any, cwd: Path, timeout: float = 500) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command, in a process of its own."""
    command = [sys.executable, "-m", "untrain", *map(str, words)]
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**os.environ})
    return ended.returncode, ended.stdout, ended.stderr


def done(bad: Any, why: Any = "") -> NoReturn:
    """Ends a case: exit 1 and what was wrong where there is something, else exit 0."""
    print("FAULT: " if bad else "ok: ", why)
    sys.exit(1 if bad else 0)
