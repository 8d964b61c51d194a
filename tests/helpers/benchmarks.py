"""Scripts of benchmarks/, run as the command line runs them, in this process."""

import sys
from runpy import run_path

import pytest
import torch

from helpers.documents import ROOT


class Benchmark:
    """Runs benchmarks/NAME with words; what a script changes of this process is put back by `close`."""

    def __init__(self, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self._patch, self._captured, self._threads = patch, captured, torch.get_num_threads()
        patch.setenv("MALLOC_ARENA_MAX", "")  # or a script would change how this process keeps memory
        patch.syspath_prepend(ROOT / "benchmarks")

    def __call__(self, name: str, *words: object) -> str:
        """Returns what it printed."""
        path = str(ROOT / "benchmarks" / name)
        self._patch.setattr(sys, "argv", [path, *map(str, words)])
        self._captured.readouterr()
        run_path(path, run_name="__main__")
        return self._captured.readouterr().out

    def close(self) -> None:
        torch.set_num_threads(self._threads)
