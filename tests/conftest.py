"""What all tests have: one thread, and tiny text-to-image pipelines for whoever asks for them by name."""

import os
from pathlib import Path
from typing import Any

import pytest

from untrain.allocator import keep_freed_memory

keep_freed_memory()
os.environ["OMP_NUM_THREADS"] = "1"
"""Read when torch is loaded, here and in every process that a test starts: sums are ordered the same in all of them."""


@pytest.fixture
def quick_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a comparison start at once: they are forked off a process that has imported everything."""
    from helpers.processes import server

    context = server()
    monkeypatch.setattr("untrain.compare.pool.multiprocessing.get_context", lambda method: context)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    from helpers.small_pipelines import stable_diffusion

    return stable_diffusion(folder)


@pytest.fixture(scope="module")
def xl(folder: Path) -> Any:
    from helpers.small_pipelines import stable_diffusion_xl

    return stable_diffusion_xl(folder)
