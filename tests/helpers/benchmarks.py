"""Scripts of benchmarks/, run as the command line runs them, in this process."""

import sys
from collections.abc import Callable, Iterator
from runpy import run_path

import pytest
import torch

from helpers.documents import ROOT

Benchmark = Callable[..., str]
"""Runs a script by its name with words; returns what it printed."""


def runner(patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> Iterator[Benchmark]:
    """Yields what runs benchmarks/NAME with words and returns what it printed; what scripts change of this process is
    put back.
    """
    patch.setenv("MALLOC_ARENA_MAX", "")  # or a script would change how this process keeps memory
    patch.syspath_prepend(ROOT / "benchmarks")
    threads = torch.get_num_threads()

    def run(name: str, *words: object) -> str:
        path = str(ROOT / "benchmarks" / name)
        patch.setattr(sys, "argv", [path, *map(str, words)])
        captured.readouterr()
        run_path(path, run_name="__main__")
        return captured.readouterr().out

    yield run
    torch.set_num_threads(threads)
