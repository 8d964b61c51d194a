"""Tiny text-to-image pipelines for whoever asks for them by name."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    from small_pipelines import stable_diffusion

    return stable_diffusion(folder)


@pytest.fixture(scope="module")
def xl(folder: Path) -> Any:
    from small_pipelines import stable_diffusion_xl

    return stable_diffusion_xl(folder)
