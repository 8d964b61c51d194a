"""Divided weights on CUDA devices: `torchrun --nproc-per-node 2 -m pytest tests/gpu/test_fsdp.py`."""

import os

import pytest
import torch

from helpers.fsdp_in_processes import SFRON, Reader, small
from untrain.engine import Engine
from untrain.methods import make
from untrain.methods.loop import run

pytestmark = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or "RANK" not in os.environ,
    reason="there are no two CUDA devices here, or torchrun has not started this",
)


def test_two_gpus_with_half_the_weights_each_give_what_whole_weights_give() -> None:
    """Tolerance 1e-9 of the largest weight: float64, and sums on a GPU come in any order."""
    found = []
    for fsdp in (True, False):
        engine = Engine.start(fsdp=fsdp)
        work = small(engine, Reader().to(engine.device))
        found.append(run(make("sfron", SFRON), work, engine).state.module.state_dict())
    for name, value in found[0].items():
        assert (value - found[1][name]).abs().max() <= 1e-9 * value.abs().max(), name
