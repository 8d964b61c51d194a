"""A few trials of each kind of `benchmarks/chaos.py`, and that its own judgement can be trusted."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from helpers.documents import ROOT

SEEDS = {
    "kills": (0, 1, 2),
    "disks": (0, 1),
    "flips": (0, 1, 2, 3, 4, 5, 6, 7),
    "pairs": (0, 1),
    "recipes": (0, 1, 2),
    "calls": (0, 1, 2),
    "files": (0,),
    "threads": (0,),
}


@pytest.fixture(scope="module")
def chaos() -> Iterator[Any]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield import_module("chaos")


@pytest.fixture(scope="module")
def world(chaos: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Commands on the smallest recipe, forked off a process that has imported everything."""
    environment = {"PYTHONPATH": str(ROOT / "benchmarks")}
    launcher = chaos.Launcher(warm=True, environment=environment)
    return chaos.World(tmp_path_factory.mktemp("chaos"), launcher, scenarios=("run", "unlearn"))


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind, seeds in SEEDS.items() for seed in seeds])
def test_it_holds(chaos: Any, world: Any, kind: str, seed: int) -> None:
    trial = chaos.attempt(world, kind, seed)
    assert not trial.problems, chaos.failures([trial])


def test_all_kinds_are_tried(chaos: Any) -> None:
    assert SEEDS.keys() == chaos.KINDS.keys()
