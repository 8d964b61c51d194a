"""Seconds and memory of closed-form edits at the real shapes of Stable Diffusion's cross-attention.

    python benchmarks/edits.py [--models sd-1 sdxl] [--concepts 1 10 100] [--out FILE]

The maps are of random weights and the texts of random vectors, of the shapes and lengths of the real ones: what an edit
costs does not depend on what they are. Each edit runs in a process of its own, so that its peak memory is its own. The
inverses of the published formula, one for each map, are timed beside it.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from untrain.methods.closed_form import Edit, condense, fuse_edits, solve_edit

WINDOW, KEPT = 77, 1
"""Tokens of a text with its padding, and retained texts for each concept."""


def shapes(model: str) -> list[tuple[int, int]]:
    """[out, D] of every cross-attention's keys and values, by diffusers' configurations."""
    if model == "sd-1":  # two or three transformers a resolution, one layer each
        outs = [320] * 5 + [640] * 5 + [1280] * 6
        return [(out, 768) for out in outs for _ in "kv"]
    outs = [640] * (2 * 2 + 3 * 2) + [1280] * (2 * 10 + 3 * 10 + 10)
    return [(out, 2048) for out in outs for _ in "kv"]


def solved(method: str, width: int, concepts: int, g: torch.Generator) -> Edit:
    """An edit of so many concepts, with as many retained texts."""

    def draw(rows: int) -> torch.Tensor:
        return torch.randn(rows, width, generator=g, dtype=torch.float64)

    if method == "uce, last token":
        return solve_edit(draw(concepts), draw(concepts), draw(concepts * KEPT), lam=0.5)
    if method == "uce, all tokens":
        rows = concepts * WINDOW
        return solve_edit(draw(rows), draw(rows), condense(draw(rows * KEPT)), lam=0.5)
    kept = condense(draw(concepts * KEPT * WINDOW))
    edits = ((solve_edit(draw(WINDOW), draw(WINDOW), kept, lam=10), draw(WINDOW)) for _ in range(concepts))
    return fuse_edits(edits, kept, lam=10)


def measure(model: str, method: str, concepts: int) -> dict[str, object]:
    """One edit of all maps of a model; run in a process of its own."""
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(shape, generator=g) / 25 for shape in shapes(model)]
    began = time.perf_counter()
    edit = solved(method, maps[0].shape[1], concepts, g)
    between = time.perf_counter()
    for weight in maps:
        weight.add_(edit.change(weight).float())
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"solve": between - began, "apply": done - between, "rank": edit.rank, "peak": peak}


def inverse_seconds(model: str) -> float:
    """What the inverses of the published code take, one for each map, from one of them."""
    width, count = shapes(model)[0][1], len(shapes(model))
    whole = torch.eye(width, dtype=torch.float64) + torch.randn(width, width, dtype=torch.float64) / width
    began = time.perf_counter()
    torch.inverse(whole)
    return count * (time.perf_counter() - began)


def main() -> None:
    """Prints a table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["sd-1", "sdxl"], choices=["sd-1", "sdxl"])
    parser.add_argument("--concepts", nargs="+", type=int, default=[1, 10, 100])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*json.loads(given.one))))
        return
    print(
        "| model | method | concepts | rank | solve, s | apply, s | peak memory, GiB |\n|---|---|---|---|---|---|---|"
    )
    rows = []
    for model in given.models:
        for method in ("uce, last token", "uce, all tokens", "mace-refine"):
            for concepts in given.concepts:
                words = [sys.executable, __file__, "--one", json.dumps([model, method, concepts])]
                found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
                rows.append({"model": model, "method": method, "concepts": concepts, **found})
                cells = f"{found['rank']} | {found['solve']:.2f} | {found['apply']:.2f} | {found['peak']:.2f}"
                print(f"| {model} | {method} | {concepts} | {cells} |", flush=True)
        print(f"| {model} | {len(shapes(model))} inverses, as published | | | {inverse_seconds(model):.1f} | | |")
    if given.out:
        given.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
