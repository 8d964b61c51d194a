"""Writes run folders that look like those of runs on generators, for the tests of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from helpers.example_comparison import stat
from untrain.diffusion.images import grid

DIGITS = tuple(str(i) for i in range(10))
MEASURES = {  # FA, RA, RA_worst, FD, sFD, CS, precision, recall, forget_probability, forget_entropy, seconds
    "original": (98.9, 98.1, 94.8, 1.21, 0.62, 8.21, 91.2, 83.0, 0.981, 0.06, 210.4),
    "retrained": (0.2, 98.0, 94.1, 1.19, 0.60, 8.19, 91.5, 82.6, 0.003, 0.41, 205.7),
    "sfron": (0.3, 97.2, 92.7, 1.29, 0.66, 8.12, 90.3, 80.8, 0.004, 0.52, 6.3),
    "salun": (4.1, 95.0, 83.9, 1.63, 0.81, 7.97, 88.0, 77.1, 0.046, 0.37, 9.8),
    "selective-amnesia": (0.9, 90.4, 71.5, 2.90, 1.74, 7.60, 80.1, 66.0, 0.012, 1.20, 41.0),
}
KEYS = ("FA", "RA", "RA_worst", "FD", "sFD", "CS", "precision", "recall", "forget_probability", "forget_entropy",
        "seconds")  # fmt: skip


def write_example_generator(
    folder: Path,
    *,
    methods: tuple[str, ...] = ("salun", "sfron"),
    classes: tuple[str, ...] = DIGITS,
    forgotten: tuple[str, ...] = ("3",),
    retrained: bool = True,
    inception: bool = False,
    pictures: bool = True,
    snapshots: tuple[int, ...] = (10, 20, 30, 40, 50),
    columns: int = 8,
    tile: int = 32,
) -> dict[str, Any]:
    """Writes evaluation.json, grids, snapshots, history.jsonl, manifest.json and config.yaml; returns the evaluation.

    Args:
        folder: made if it does not exist.
        methods: further names than those of `MEASURES` get values like SFR-on's.
        classes: the names of the classes.
        forgotten: those to forget.
        retrained: whether there is a retrained generator.
        inception: whether distances are those of Inception-v3.
        pictures: whether there are grids.
        snapshots: steps after which there are some, for every method.
        columns: of a grid.
        tile: pixels of an image's side.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ["original", *(["retrained"] if retrained else []), *methods]
    distances = {"FD": 0.34, "sFD": 0.21}
    evaluation: dict[str, Any] = {
        "task": "class-diffusion", "classes": list(classes), "forgotten": list(forgotten),
        "sizes": {"forget": 146, "retain": 1291, "holdout": 0, "test": 360},
        "judge": {"name": "small-cnn", "test_accuracy": 98.61, "hash": "sha256:ab"},
        "features": "inception" if inception else "small-cnn",
        "sampler": {"steps": 50, "eta": 0.0, "spacing": "uniform", "guidance_scale": 1.5},
        "real": _renamed(distances, inception) | {"samples": 1617},
        "models": {name: _model(name, classes, forgotten, inception) for name in names},
        "noise_floor": None, "settings": {"seed": 0, "methods": {"sfron": {"steps": 50}}}, "mark": "m",
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    if pictures:
        _pictures(folder, names, methods, classes, forgotten, snapshots, columns, tile)
    rng = np.random.default_rng(0)
    lines = [
        {"model": name, "step": k, "retain_loss": 40 + rng.normal(), "forget_loss": 40 + 4 * k**0.5 + rng.normal()}
        for name in methods
        for k in range(50)
    ]
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    layers = {f"down_blocks.{i}.conv": 0.1 + 0.05 * i for i in range(6)}
    mask = {"density": 0.2, "layers": layers}
    models = {name: {"method": name, "hash": "sha256:cd", "mask": mask if name in methods else None} for name in names}
    manifest = {
        "untrain": "0.1.0", "created": "2025-03-14T15:09:26+00:00", "device": "cpu", "threads": 2, "seed": 0,
        "versions": {"torch": "2.6.0"}, "data": {"name": "digits", "hash": "sha256:ef"}, "models": models,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "config.yaml").write_text("task: class-diffusion\nmodel: unet-small\n")
    return evaluation


def example_generator_comparison(seeds: int = 3) -> dict[str, Any]:
    """The content of a comparison.json of generators."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    target = {key: [v * (1 + 0.01 * rng.normal()) for _ in range(seeds)] for key, v in zip(KEYS, MEASURES["retrained"])}
    roles = {"original": "original", "retrained": "target", "salun": "method", "sfron": "method", "esd": "method"}
    for name, role in roles.items():
        values = {
            key: [v * (1 + 0.02 * rng.normal()) for _ in range(seeds)]
            for key, v in zip(KEYS, MEASURES.get(name, MEASURES["selective-amnesia"]))
        }
        if role == "target":
            values = target
        cells = [{"seed": s, "state": "done", "error": None, "folder": f"cells/a/seed-{s}"} for s in range(seeds)]
        made[name] = {
            "role": role, "method": name if role == "method" else None, "settings": {"steps": 50}, "cells": cells,
            "measures": {key: stat(v, target[key]) for key, v in values.items()}, "rank": {}, "losses": {},
            "by_class": {"recognised": dict.fromkeys(DIGITS, 97.0)},
        }  # fmt: skip
    made["esd"]["cells"][1] |= {"state": "failed", "error": "Diverged: the loss became NaN"}
    sets = {"class-3": {"spec": {"classes": ["3"]}, "sizes": {"forget": 146, "retain": 1291}, "models": made}}
    return {
        "name": "compare-digits", "task": "class-diffusion", "seeds": list(range(seeds)), "classes": list(DIGITS),
        "settings": {}, "forget_sets": sets,
    }  # fmt: skip


def _renamed(values: dict[str, Any], inception: bool) -> dict[str, Any]:
    names = {"FD": "FID", "sFD": "sFID", "CS": "IS"} if inception else {}
    return {names.get(key, key): value for key, value in values.items()}


def _model(name: str, classes: tuple[str, ...], forgotten: tuple[str, ...], inception: bool) -> dict[str, Any]:
    values = dict(zip(KEYS, MEASURES.get(name, MEASURES["sfron"])))
    rng = np.random.default_rng(len(name))
    shares = {
        c: values["FA"] if c in forgotten else float(np.clip(values["RA"] + rng.normal(0, 1), 0, 100)) for c in classes
    }
    worst = next(c for c in classes if c not in forgotten)
    shares[worst] = values["RA_worst"]
    by_class = {
        "recognised": shares, "probability": {c: v / 100 for c, v in shares.items()},
        "entropy": dict.fromkeys(classes, 0.1),
    }  # fmt: skip
    clocks = {"fisher": 0.3 * values["seconds"] * (name == "sfron"), "steps": values["seconds"] * 0.7, "evaluation": 30}
    more = {"missing": {}, "samples": {"forgotten": 500, "retained": 4500}, "by_class": by_class, "clocks": clocks}
    return _renamed(values, inception) | more


def _pictures(
    folder: Path, names: list[str], methods: tuple[str, ...], classes: tuple[str, ...], forgotten: tuple[str, ...],
    snapshots: tuple[int, ...], columns: int, tile: int,
) -> None:  # fmt: skip
    for part in ("grids", "snapshots"):
        (folder / part).mkdir(exist_ok=True)
    for name in names:
        gone = 1.0 if name in methods or name == "retrained" else 0.0
        _grid(classes, forgotten, gone, columns, tile, len(name)).save(folder / "grids" / f"{name}.png")
        layout = json.dumps({"classes": list(classes), "columns": columns})
        (folder / "grids" / f"{name}.json").write_text(layout)
    for name in methods:
        for step in snapshots:
            picture = _grid(classes, forgotten, step / max(snapshots), columns, tile, 8)
            picture.save(folder / "snapshots" / f"{name}-{step:06d}.png")


def _grid(
    classes: tuple[str, ...], forgotten: tuple[str, ...], gone: float, columns: int, tile: int, seed: int
) -> Image.Image:
    """Real digits, those of forgotten classes dissolved into noise."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    rows = []
    for place, name in enumerate(classes):
        found = digits.images[digits.target == place % 10][:columns] / 16
        if name in forgotten:
            found = (1 - gone) * found + gone * rng.random(found.shape)
        rows.append(found)
    pixels = torch.from_numpy((255 * np.stack(rows)).astype(np.uint8))
    scale = tile // pixels.shape[-1]
    return grid(pixels.repeat_interleave(scale, -1).repeat_interleave(scale, -2).unsqueeze(2))
