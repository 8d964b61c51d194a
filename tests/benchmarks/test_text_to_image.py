"""The benchmark of the real size, at a tiny one: every stage runs, and what is too large is computed and not run."""

import re

import pytest

from helpers.benchmarks import Benchmark

SCRIPT = "text_to_image.py"
STAGES = 8


def rows(table: str) -> dict[tuple[str, ...], list[str]]:
    """Of a Markdown table: model, parts, optimisers → the other cells."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {tuple(row[:3]): row[3:] for row in cells[2:]}


def test_it_measures_what_fits_and_computes_the_rest(benchmark: Benchmark) -> None:
    words = ["--models", "sd-tiny", "sd-1", "--parts", "xattn", "--gradient-checkpointing", "--threads", "1"]
    needed, measured = benchmark(SCRIPT, *words, "--limit", 1).split("\nSeconds (of the processor), peak GiB;")
    small, large = ("sd-tiny", "xattn", "two-adams"), ("sd-1", "xattn", "two-adams")
    assert set(rows(needed)) == {small, large}
    assert "more than 1 GiB would be needed: sd-1, xattn, two-adams." in needed
    assert set(rows(measured)) == {small}
    figures = rows(needed)[large]
    trained = 43_962_560  # of the UNet's 859,520,964, as public counts have it
    weights = 859_520_964 + 83_653_863 + 123_060_480  # UNet, VAE, text encoder
    sizes = [4 * weights, 4 * trained, 4 * 4 * trained, 4 * trained, trained]
    assert figures[0] == f"{trained:,}"
    assert [float(cell) for cell in figures[1:]] == [round(size / 2**30, 2) for size in (*sizes, sum(sizes))]
    stages = [re.fullmatch(r"([\d.]+) \(([\d.]+)\), ([\d.]+)", cell) for cell in rows(measured)[small]]
    assert len(stages) == STAGES
    assert all(stage and float(stage[1]) >= 0 and 0.05 < float(stage[3]) < 8 for stage in stages)


def test_a_run_that_fails_is_told(benchmark: Benchmark) -> None:
    words = ["--models", "sd-tiny", "--parts", "xattn", "--threads", "1", "--size", "3"]
    with pytest.raises(SystemExit, match="1 of 1 did not end"):
        benchmark(SCRIPT, *words)
