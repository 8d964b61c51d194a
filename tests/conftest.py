"""What all tests have: an order, one thread, and tiny text-to-image pipelines for whoever asks for them by name."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from untrain.allocator import keep_freed_memory

keep_freed_memory()
os.environ["OMP_NUM_THREADS"] = "1"
"""Read when torch is loaded, here and in every process that a test starts: sums are ordered the same in all of them."""

LONGEST = (
    *("tasks/text_to_image/test_domain.py", "compare/test_compare.py", "audit/test_audit_run.py", "test_chaos.py"),
    *("test_cli.py", "audit/test_audit_core.py", "recipes/test_published.py", "methods/test_on_generators.py"),
    *("examples/test_next_token.py", "report/test_comparison_page.py", "test_startup.py"),
    *("tasks/class_diffusion/test_domain.py", "report/test_browser.py", "runs/test_plan.py"),
    *("methods/test_on_pipelines.py", "runs/test_damaged_files.py", "docs/test_docs.py"),
)
"""Files that take longest. A file's tests run in one process, which makes what they share once; where a long file came
last, the other processes would have nothing left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    if gone := [str(path) for path in places if not path.exists()]:
        raise pytest.UsageError(f"LONGEST names {gone[0]}, which is not there")
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def unsynced() -> Iterator[None]:
    """Written files are left to the cache of the system: no test pulls the plug; a short run has seventy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def blank_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures of pages have no lines but in the tests of the report, and in runs and audits that ask for them."""
    from helpers.page_figures import blank, drawn, figures_by

    with figures_by(drawn if request.path.parent.name == "report" else blank):
        yield


@pytest.fixture(scope="module")
def quick_workers() -> Iterator[None]:
    """Workers of comparisons and audits start at once: they are forked off a process that has imported everything."""
    from helpers.processes import server

    context = server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("untrain.compare.pool.multiprocessing.get_context", lambda method: context)
        yield


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


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    from helpers.benchmarks import runner

    yield from runner(monkeypatch, capsys)
