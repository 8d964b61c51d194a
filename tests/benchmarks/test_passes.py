"""The benchmarks of Fisher and of the layout print their tables, and Fisher is exact on a network of theirs."""

import sys
from runpy import run_path

import pytest
import torch

from helpers.documents import ROOT


@pytest.fixture
def rows(monkeypatch, capsys):
    """Runs a script with words, and returns the cells of its table's rows by name."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "")  # or the script would change how this process keeps memory
    threads = torch.get_num_threads()

    def run(script, *words):
        path = ROOT / "benchmarks" / script
        monkeypatch.setattr(sys, "argv", [str(path), *words])
        run_path(str(path), run_name="__main__")
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
        return {first: dict(zip(lines[0][1:], rest, strict=True)) for first, *rest in lines[2:]}

    yield run
    torch.set_num_threads(threads)


def test_fisher(rows):
    table = rows("fisher_models.py", "--models", "gpt2", "unet", "--batch", "2", "--repeats", "1", "--exact", "2")
    assert table.keys() == {"gpt2", "unet"}
    for cells in table.values():
        assert cells["batch"] == "2"
        assert all(float(cells[name]) > 0 for name in ("plain s", "further batch", "first batch"))
        assert cells["memory"] == "–" or float(cells["memory"]) > 0
        assert float(cells["error"]) < 1e-12


def test_layout(rows):
    table = rows("layout.py", "--models", "small-cnn", "depthwise", "unet-small", "--batch", "2", "--repeats", "1")
    rule = {name: cells["rule"] for name, cells in table.items()}
    assert rule == {"small-cnn": "channels last", "depthwise": "as it is", "unet-small": "as it is"}
    assert all(float(cells["ratio"]) > 0 for cells in table.values())
