"""The benchmark of full-size generators, at a tiny size: what it runs, and what it computes at the real one."""

import argparse
import sys
from collections.abc import Iterator
from runpy import run_path
from typing import Any

import pytest
import torch

from helpers.documents import ROOT

SCRIPT = ROOT / "benchmarks" / "full_size.py"
WEIGHTS = {"sdxl": 2_567_463_684, "sd3": 2_028_328_000, "pixart": 610_856_096}
"""As public counts have them."""


@pytest.fixture(scope="module")
def script() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield run_path(str(SCRIPT))


@pytest.mark.parametrize("name", WEIGHTS)
def test_configurations_are_the_public_ones_and_take_no_memory(script: dict[str, Any], name: str) -> None:
    module = script["empty"](name, False)
    assert sum(parameter.numel() for parameter in module.parameters()) == WEIGHTS[name]
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("name", ["pixart", "sd3"])
def test_a_tiny_one_runs_and_is_planned(
    script: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = argparse.Namespace(batch=1, size=8, rank=1, device="cpu", tiny=True)
    found = script["measure"](name, how)
    assert list(found["stages"]) == list(script["STAGES"])
    assert all(stage["seconds"] >= 0 and stage["peak"] > 0 for stage in found["stages"].values())
    weights, learned, footprint = script["planned"](name, how)
    assert footprint.weights >= 2 * weights and footprint.gradients == 4 * learned
    assert footprint.optimizer >= 4 * footprint.gradients and footprint.copies < footprint.weights
    monkeypatch.setattr(
        sys, "argv", [str(SCRIPT), "--models", name, "--tiny", "--size", "8", "--rank", "1", "--limit", "0"]
    )
    script["main"]()
    assert f"more than 0 GiB would be needed: {name}." in capsys.readouterr().out
