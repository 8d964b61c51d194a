"""A few trials of each kind of `benchmarks/chaos.py`, and that its own judgement can be trusted."""

import json
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helpers.documents import ROOT

SEEDS = {
    "kills": (0, 2, 4, 16),  # SIGHUP; SIGINT and SIGKILL; SIGTERM; SIGKILL twice
    "disks": (2, 3, 5),  # a small disk, small files, the folder removed
    "flips": (2, 6, 10, 12, 15, 22),  # checkpoint, original, split, history, evaluation, retrained
    "pairs": (15, 38),  # the same run gone on with twice, two recipes
    "recipes": (0, 1, 2),
    "calls": (0, 1, 2),
    "files": (0,),
    "threads": (0,),
}
"""A trial alone: python benchmarks/chaos.py --warm --scenarios run unlearn --only KIND:SEED."""


@pytest.fixture(scope="module")
def chaos() -> Iterator[Any]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield import_module("chaos")


@pytest.fixture(scope="module")
def world(chaos: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Commands on the smallest recipe, forked off a process that has imported everything."""
    scenarios = ("run", "unlearn")
    place, launcher = tmp_path_factory.mktemp("chaos"), chaos.Launcher(warm=True)
    return chaos.World(place, launcher, scenarios, every=30)  # test_hostile_files.py reads all files


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind, seeds in SEEDS.items() for seed in seeds])
def test_it_holds(chaos: Any, world: Any, kind: str, seed: int) -> None:
    trial = chaos.attempt(world, kind, seed)
    assert not trial.problems, chaos.failures([trial])


def test_all_kinds_are_tried(chaos: Any) -> None:
    assert SEEDS.keys() == chaos.KINDS.keys()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a file of each sort that is compared."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_file({"w": torch.arange(4.0)}, folder / "sfron.safetensors", {"untrain": "1"})
    (folder / "evaluation.json").write_text(json.dumps({"models": {"sfron": {"FA": 90.5, "seconds": 3.0}}}))
    (folder / "history.jsonl").write_text('{"model": "b", "loss": 1.0}\n{"model": "a", "loss": 2.0}\n')
    return folder


def copy_of(run: Path) -> Path:
    return Path(shutil.copytree(run, run.with_name("other")))


def test_what_varies_from_run_to_run_is_no_difference(chaos: Any, run: Path) -> None:
    from adversity.folders import differences

    other = copy_of(run)
    save_file({"w": torch.arange(4.0)}, other / "sfron.safetensors", {"untrain": "another"})
    (other / "evaluation.json").write_text(json.dumps({"models": {"sfron": {"FA": 90.5, "seconds": 4.0}}}))
    (other / "history.jsonl").write_text('{"model": "a", "loss": 2.0}\n{"model": "b", "loss": 1.0}\n')
    assert differences(other, run) == []


def test_each_difference_is_told(chaos: Any, run: Path) -> None:
    from adversity.folders import differences, half_written

    other = copy_of(run)
    weights = bytearray((other / "sfron.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "sfron.safetensors").write_bytes(weights)
    (other / "evaluation.json").write_text(json.dumps({"models": {"sfron": {"FA": 90.6, "seconds": 3.0}}}))
    (other / ".evaluation.json.tmp").touch()
    (other / "history.jsonl").unlink()
    told = {each.split()[0] for each in differences(other, run)}
    assert told == {"sfron.safetensors", "evaluation.json", ".evaluation.json.tmp", "history.jsonl"}
    assert half_written(other) == []
    (other / "sfron.safetensors").write_bytes(weights[:-4])
    (other / "evaluation.json").write_text('{"models": ')
    assert {each.split()[0] for each in half_written(other)} == {"sfron.safetensors", "evaluation.json"}


def test_a_refusal_must_name_the_damaged_file_and_no_good_one(chaos: Any, run: Path) -> None:
    from adversity.commands import Ended
    from adversity.flips import _blames_badly

    known = ["sfron.safetensors", "original.safetensors"]

    def judge(said: str) -> list[str]:
        return _blames_badly(Ended(1, "", f"untrain: {said}", 1.0), run, "sfron.safetensors", known)

    assert judge(f"{run}/sfron.safetensors is damaged. Remove it, and it is made again.") == []
    assert judge(f"{run}/original.safetensors is damaged. Remove it, and it is made again.")
    assert judge(f"{run}/original.safetensors does not fit {run}/sfron.safetensors. Remove it.")
    assert judge("a file is damaged.")


def test_a_command_that_is_signalled_ends_as_documented(chaos: Any) -> None:
    from adversity.commands import Ended
    from adversity.kills import _problems

    assert _problems(Ended(143, "", "untrain: stopped; --resume goes on.", 1.0), SIGTERM, silent=False) == []
    assert _problems(Ended(143, "", "", 1.0), SIGTERM, silent=True) == []
    assert _problems(Ended(137, "", "", 1.0), SIGKILL, silent=False) == []
    for ended in (
        Ended(143, "", "", 1.0),
        Ended(1, "", "untrain: stopped", 1.0),
        Ended(143, "", "Traceback (most recent call last)", 1.0),
        Ended(143, "", "untrain: stopped", 1.0, left=True),
    ):
        assert _problems(ended, SIGTERM, silent=False)


def test_the_table_tells_what_failed_and_how_to_repeat_it(
    chaos: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {
        "calm": chaos.Kind(lambda world, rng, place: ("nothing", []), 3),
        "storm": chaos.Kind(lambda world, rng, place: ("wind", ["the roof is gone"]), 2),
    }
    monkeypatch.setattr(chaos, "KINDS", kinds)
    monkeypatch.setattr(sys, "argv", ["chaos.py", "--seed", "5"])
    with pytest.raises(SystemExit) as end:
        chaos.main()
    printed = capsys.readouterr().out.splitlines()
    assert end.value.code == 1
    assert [line.split(" | ")[:3] for line in printed[2:4]] == [["| calm", "3", "0"], ["| storm", "2", "2"]]
    assert [line.partition(": ")[0] for line in printed[4:]] == ["storm:5", "storm:6"]
    monkeypatch.setattr(sys, "argv", ["chaos.py", "--only", "calm:9"])
    with pytest.raises(SystemExit) as end:
        chaos.main()
    assert end.value.code == 0
