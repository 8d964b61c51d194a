"""What small edits of text-to-image pipelines do and cost: on shapes, and at the shapes of Stable Diffusion's maps.

    for seed in 0 1 2; do python examples/shapes/make.py --seed $seed; done
    python benchmarks/edits.py --seeds 0 1 2 [--concepts one shape five] [--variants uce leco …] [--out FILE]
    python benchmarks/edits.py [--models sd-1 sdxl] [--counts 1 10 100] [--out FILE]

With seeds: pipelines of examples/shapes forget one caption with a circle, all 25 of them, or five of these as five
concepts at once, each redirected to the same caption with a square, while all captions with other shapes are retained.
The table has the share of forgotten captions' images in which a circle is still seen, the share of the others in which
their shape is, the Fréchet distance of these to the original's, seconds of unlearning, all that comes before the first
step included, and the file on disk that makes the original into the result to the bit: adapters, or else new values.

Without seeds: seconds and memory of closed-form edits at the real shapes. The maps are of random weights and the texts
of random vectors, of the shapes and lengths of the real ones: what an edit costs does not depend on what they are. Each
edit runs in a process of its own, so that its peak memory is its own. The inverses of the published formula, one for
each map, are timed beside it.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from untrain.cli import main as untrain_command
from untrain.methods.closed_form import Edit, condense, fuse_edits, solve_edit

ROOT = Path(__file__).parents[1]
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


# ── on pipelines of shapes ────────────────────────────────────────────────────────────────────────────────

WAY = {"steps": 20, "guidance_scale": 2.0}
"""How images are made, as in the recipe of the shapes."""
GROUPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adapters": {"adapters": {"rank": 4}},
    "xattn": {"parts": "xattn"},
    "prompts": {"concepts": {"images": {"from_prompts": WAY}}},
}
"""What a recipe says for all its methods."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "uce": ("plain", {}),
    "mace-refine": ("plain", {}),
    "concept-ablation": ("xattn", {"sampler": WAY}),
    "concept-ablation-prompts": ("xattn", {"method": "concept-ablation", "images": 0, "sampler": WAY}),
    "leco": (
        "plain",
        {
            "neutral": "anchor",
            "optimizer": {"name": "adamw", "lr": 3e-4},
            "steps": 250,
            "sampler": {"steps": 20, "guidance_scale": 3.0},
        },
    ),
    "sfron": ("plain", {}),
    "sfron-lora": ("adapters", {"method": "sfron"}),
    "sfron-xattn": ("xattn", {"method": "sfron", "steps": 400}),
    "sfron-prompts": ("prompts", {"method": "sfron"}),
}
"""Row of the table → group, and the method's entry in the recipe. What differs from defaults was chosen on a
pipeline of seed 3."""
BY_ADAPTERS = ("leco", "sfron-lora")
CIRCLES = (
    *("a red circle on the left", "a green circle on the right", "a blue circle at the top"),
    *("a yellow circle at the bottom", "a white circle in the middle"),
)
CONCEPTS: dict[str, list[dict[str, str]]] = {
    "one": [{"prompt": CIRCLES[0]}],
    "shape": [{"containing": "circle", "instead": "square"}],
    "five": [{"prompt": text} for text in CIRCLES],
}
"""What is forgotten: one caption, all 25 with a circle, five as concepts of their own."""
OTHERS = ("square", "triangle", "cross")
COLUMNS = {"FA": "circle, %", "RA": "other shapes, %", "FD": "FD", "seconds": "seconds", "file": "file, KiB"}


def recipe_of(group: str, concepts: str, names: Sequence[str], seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """The recipe of the shapes, for some rows of the table.

    Args:
        group: of `GROUPS`.
        concepts: of `CONCEPTS`.
        names: of `VARIANTS`, all of the group.
        seed: which pipeline, and of all else.
        given: the command line.
    """
    recipe = yaml.safe_load((ROOT / "recipes" / "shapes-text.yaml").read_text())
    images = {"count": given.count, "sampler": WAY, "batch_size": 40}
    forget = [{**each, "anchor": each["prompt"].replace("circle", "square")} if "prompt" in each else each
              for each in CONCEPTS[concepts]]  # fmt: skip
    recipe["concepts"] = {"forget": forget, "retain": [{"containing": shape} for shape in OTHERS], "images": images}
    recipe["data"]["path"], recipe["model"]["checkpoint"] = (
        str(given.data / name) for name in ("images", f"pipeline-{seed}")
    )
    recipe["generation"]["samples"] = given.samples
    recipe["judge"] = {**recipe["judge"], "attributes": ["shape"]}
    recipe["judge"]["train"]["steps"] = given.judge_steps
    methods = {name: dict(VARIANTS[name][1]) for name in names}
    if given.steps is not None:
        for name, settings in methods.items():
            if settings.get("method", name) not in IN_CLOSED_FORM:
                settings["steps"] = given.steps
    recipe |= {"name": f"edits-{group}", "seed": seed, "methods": methods}
    return _with_steps(_merged(recipe, GROUPS[group]), given.image_steps)


IN_CLOSED_FORM = ("uce", "mace-refine")


def _with_steps(content: Any, steps: int) -> Any:
    """A part of a recipe in which every sampler takes so many steps."""
    if not isinstance(content, dict):
        return content
    own = {"steps": steps} if "guidance_scale" in content else {}
    return {**{key: _with_steps(value, steps) for key, value in content.items()}, **own}


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, one put over the other."""
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _merged(found[key], value) if both else value
    return found


def unlearned(group: str, concepts: str, names: Sequence[str], seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Rows of one pipeline: variant → what was measured of it."""
    with tempfile.TemporaryDirectory(prefix="edits-") as place:
        recipe, out = Path(place) / "recipe.yaml", Path(place) / "run"
        recipe.write_text(yaml.safe_dump(recipe_of(group, concepts, names, seed, given)))
        _command("run", recipe, "--out", out)
        models = json.loads((out / "evaluation.json").read_text())["models"]
        found = {"original": {key: models["original"][key] for key in ("FA", "RA")}}
        for name in names:
            adapts = name in BY_ADAPTERS
            target = Path(place) / ("lora" if adapts else "delta.safetensors")
            _command("export", out, "--lora" if adapts else "--delta", "--model", name, "--out", target)
            files = [target] if target.is_file() else [each for each in target.rglob("*") if each.is_file()]
            measured = {key: models[name][key] for key in COLUMNS if key != "file"}
            found[name] = {**measured, "file": sum(each.stat().st_size for each in files) / 1024}
        return found


def _command(*words: object) -> None:
    code = untrain_command([str(word) for word in words])
    if code:
        sys.exit(f"untrain {words[0]} failed with {code}.")


def compare_on_shapes(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every variant on every pipeline and kind of concepts; prints the table of each kind."""
    rows = []
    for concepts in given.concepts:
        kind: list[dict[str, Any]] = []
        for seed in given.seeds:
            for group in GROUPS:
                names = [name for name in given.variants if VARIANTS[name][0] == group]
                found = unlearned(group, concepts, names, seed, given) if names else {}
                known = {row["variant"] for row in kind if row["seed"] == seed}
                kind += [
                    {"concepts": concepts, "variant": name, "seed": seed, **measured}
                    for name, measured in found.items()
                    if name not in known
                ]
        print(f"\n{concepts}, seeds {', '.join(map(str, given.seeds))}\n\n| variant | {' | '.join(COLUMNS.values())} |")
        print("|---" * (1 + len(COLUMNS)) + "|")
        for name in ("original", *given.variants):
            own = [row for row in kind if row["variant"] == name]
            print(f"| {name} | {' | '.join(_cell([row.get(key) for row in own]) for key in COLUMNS)} |", flush=True)
        rows += kind
    return rows


def _cell(values: Sequence[float | None]) -> str:
    """Mean and standard deviation over the seeds; empty where there is nothing."""
    there = [value for value in values if value is not None]
    if not there:
        return ""
    spread = f" ± {statistics.stdev(there):.3g}" if len(there) > 1 else ""
    return f"{statistics.fmean(there):.3g}{spread}"


def main() -> None:
    """Prints a table, and writes its rows where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["sd-1", "sdxl"], choices=["sd-1", "sdxl"])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 10, 100], help="concepts, at the real shapes")
    parser.add_argument("--seeds", nargs="+", type=int, help="pipelines of the shapes")
    parser.add_argument("--concepts", nargs="+", default=[*CONCEPTS], choices=[*CONCEPTS])
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=[*VARIANTS])
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "shapes" / "out", help="of make.py")
    parser.add_argument("--count", type=int, default=40, help="images of a concept that comes without (%(default)s)")
    parser.add_argument("--samples", type=int, default=20, help="images of each caption (%(default)s)")
    parser.add_argument("--image-steps", type=int, default=20, help="of every sampler (%(default)s)")
    parser.add_argument("--judge-steps", type=int, default=300, help="training of the judge (%(default)s)")
    parser.add_argument("--steps", type=int, help="of each method that takes any; without it, their own")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*json.loads(given.one))))
        return
    rows = measure_costs(given) if given.seeds is None else compare_on_shapes(given)
    if given.out:
        given.out.write_text(json.dumps(rows, indent=2))


def measure_costs(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every edit of every model, each in a process of its own; prints the table, row by row."""
    print(
        "| model | method | concepts | rank | solve, s | apply, s | peak memory, GiB |\n|---|---|---|---|---|---|---|"
    )
    rows: list[dict[str, Any]] = []
    for model in given.models:
        for method in ("uce, last token", "uce, all tokens", "mace-refine"):
            for concepts in given.counts:
                words = [sys.executable, __file__, "--one", json.dumps([model, method, concepts])]
                found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
                rows.append({"model": model, "method": method, "concepts": concepts, **found})
                cells = f"{found['rank']} | {found['solve']:.2f} | {found['apply']:.2f} | {found['peak']:.2f}"
                print(f"| {model} | {method} | {concepts} | {cells} |", flush=True)
        print(f"| {model} | {len(shapes(model))} inverses, as published | | | {inverse_seconds(model):.1f} | | |")
    return rows


if __name__ == "__main__":
    main()
