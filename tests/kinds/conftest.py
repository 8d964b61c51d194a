"""Helpers of the folder above, and of the tests of models, can be imported, also where these tests run alone."""

import sys
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "models")]


@pytest.fixture(autouse=True)
def _one_thread():
    """As many threads here as in the processes: sums are ordered the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
