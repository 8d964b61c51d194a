"""Writes run folders that look like those of text-to-image runs, for the tests of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from helpers.example_comparison import stat
from untrain.diffusion.images import grid

SHAPES, COLOURS, PLACES = ("circle", "square", "triangle"), ("red", "green", "blue"), ("on the left", "on the right")
CAPTIONS = tuple(f"a {colour} {shape} {place}" for shape in SHAPES for colour in COLOURS for place in PLACES)
NUDE = "a photo of a nude person"
CLOTHED = (
    "a photo of a person wearing clothes",
    "an oil painting of two friends who walk through an old town in the evening light, wide angle, trending, highly "
    "detailed, dramatic shadows, by a master of the nineteenth century, on rough canvas, with warm colours and a crowd",
)
PARTS = {"FEMALE_BREAST_EXPOSED": 71, "BUTTOCKS_EXPOSED": 23, "MALE_GENITALIA_EXPOSED": 4, "FEET_EXPOSED": 48}
KEYS = ("FA", "FA5", "RA", "RA_worst", "NR", "CLIP", "FD", "steps", "seconds")
SEEN = {  # by a classifier
    "original": (97.5, None, 98.1, 96.3, None, 31.2, None, None, None),
    "retrained": (0.4, None, 98.0, 95.9, None, 31.1, 1.3, None, 250.0),
    "sfron": (1.3, None, 97.2, 93.9, None, 31.0, 2.41, 120, 74.2),
    "salun": (9.0, None, 91.0, 80.2, None, 29.7, 6.02, 400, 161.0),
    "esd": (3.1, None, 96.0, 90.0, None, 30.6, 3.9, 1000, 402.0),
}
FOUND = {  # by NudeNet
    "original": (91.0, None, None, None, 1.0, 30.9, None, None, None),
    "sfron": (2.0, None, None, None, 0.5, 30.4, 11.8, 1000, 5400.0),
    "salun": (11.5, None, None, None, 0.5, 29.2, 25.1, 1000, 5100.0),
}
REASONS = {
    "classifier": {"FA5": "there are fewer than 6 classes", "NR": "the detector does not look for nudity"},
    "nudity": dict.fromkeys(("RA", "RA_worst", "FA5"), "NudeNet knows nothing but parts of bodies"),
}


def write_example_text(
    folder: Path,
    *,
    kind: str = "classifier",
    methods: tuple[str, ...] = ("salun", "sfron"),
    forgotten: tuple[str, ...] | None = None,
    retained: tuple[str, ...] | None = None,
    retrained: bool = False,
    pictures: bool = True,
    blurred: bool | None = None,
    columns: int = 4,
    tile: int = 64,
) -> dict[str, Any]:
    """Writes evaluation.json, grids, history.jsonl, manifest.json and config.yaml; returns the evaluation.

    Args:
        folder: made if it does not exist.
        kind: of the detector: "classifier" or "nudity".
        methods: further names than those of `SEEN` and `FOUND` get values like SFR-on's.
        forgotten: prompts; by default captions with a circle, or a nude person.
        retained: prompts.
        retrained: whether there is a retrained pipeline.
        pictures: whether there are grids.
        blurred: whether the grids say that they are; by default those of nudity.
        columns: of a grid.
        tile: pixels of an image's side.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nudity = kind == "nudity"
    gone = forgotten or ((NUDE,) if nudity else tuple(c for c in CAPTIONS if "circle" in c))
    kept = retained or (CLOTHED if nudity else tuple(c for c in CAPTIONS if "circle" not in c))
    names = ["original", *(["retrained"] if retrained else []), *methods]
    detector = {"name": "NudeNet", "kind": kind, "threshold": 0.6, "test_accuracy": {}, "hash": "sha256:ab"}
    judged = {"name": "small-cnn", "threshold": None, "test_accuracy": {"shape": 99.2, "colour": 100.0}}
    evaluation: dict[str, Any] = {
        "task": "text-to-image", "classes": [*gone, *kept], "forgotten": [*gone, *([] if nudity else ["circle"])],
        "sizes": {"forget": 200, "retain": 400, "holdout": 0, "test": 0},
        "detector": detector if nudity else detector | judged,
        "features": "small-cnn", "clip": "openai/clip-vit-base-patch32",
        "sampler": {"steps": 50, "eta": 0.0, "spacing": "uniform", "guidance_scale": 7.5},
        "prompts": {"forget": len(gone), "retain": len(kept), "images": 40},
        "trained": {"parts": "xattn", "parameters": 48_012, "of": 1_284_003},
        "models": {name: _model(name, kind) for name in names},
        "noise_floor": None, "settings": {"seed": 0, "methods": {"sfron": {"steps": 120}}}, "mark": "m",
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    if pictures:
        (folder / "grids").mkdir(exist_ok=True)
        for name in names:
            after = name in methods or name == "retrained"
            about = {"classes": [*gone, *kept], "columns": columns, "blurred": nudity if blurred is None else blurred}
            (folder / "grids" / f"{name}.json").write_text(json.dumps(about))
            _grid(len(gone), len(kept), after, about["blurred"], columns, tile).save(folder / "grids" / f"{name}.png")
    rng = np.random.default_rng(0)
    lines = [
        {"model": name, "step": k, "retain_loss": 0.1 + 0.01 * rng.random(), "forget_loss": 0.3 - 0.01 * k**0.5}
        for name in methods
        for k in range(40)
    ]
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    mask = {"density": 0.2, "layers": {f"down_blocks.{i}.attn2.to_k": 0.1 + 0.05 * i for i in range(6)}}
    manifest = {
        "untrain": "0.1.0", "created": "2025-03-14T15:09:26+00:00", "device": "cpu", "threads": 2, "seed": 0,
        "versions": {"torch": "2.6.0"}, "data": {"name": "shapes", "hash": "sha256:ef"},
        "models": {n: {"method": n, "hash": "sha256:cd", "mask": mask if n in methods else None} for n in names},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "config.yaml").write_text("task: text-to-image\ntrain: xattn\n")
    return evaluation


def example_text_comparison(seeds: int = 3) -> dict[str, Any]:
    """The content of a comparison.json of text-to-image pipelines."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for name in ("original", "salun", "sfron", "esd"):
        values = dict(zip(KEYS, SEEN[name]))
        measures = {
            key: stat([v * (1 + 0.02 * rng.normal()) for _ in range(seeds)], [None] * seeds)
            for key, v in values.items()
            if v is not None
        }
        role = "original" if name == "original" else "method"
        cells = [{"seed": s, "state": "done", "error": None, "folder": f"cells/a/seed-{s}"} for s in range(seeds)]
        made[name] = {
            "role": role, "method": name, "settings": {"steps": 50}, "cells": cells, "measures": measures, "rank": {},
            "losses": {}, "by_class": {"recognised": {"square": 97.0}},
        }  # fmt: skip
    sets = {"circle": {"spec": {"forget": ["circle"]}, "sizes": {"forget": 200, "retain": 400}, "models": made}}
    return {
        "name": "compare-shapes", "task": "text-to-image", "seeds": list(range(seeds)), "classes": [],
        "settings": {}, "forget_sets": sets,
    }  # fmt: skip


def _model(name: str, kind: str) -> dict[str, Any]:
    table = FOUND if kind == "nudity" else SEEN
    values: dict[str, Any] = dict(zip(KEYS, table.get(name, table["sfron"])))
    missing = dict(REASONS[kind])
    if name == "original":
        missing |= {"FD": "the original is what others are compared with"}
    shares, parts = {}, {}
    if kind == "nudity":
        parts = {part: round(count * values["FA"] / 91) for part, count in PARTS.items()}
    else:
        worst = values["RA_worst"]
        shares = {"circle": values["FA"], "square": worst, "triangle": 98.0, **dict.fromkeys(COLOURS, 99.0)}
    clocks = {"fisher": 4.0, "steps": (values["seconds"] or 4.0) - 4.0, "evaluation": 30.0}
    return values | {
        "missing": missing, "samples": {"forgotten": 240, "retained": 480}, "by_class": {"recognised": shares},
        "by_part": parts, "clocks": clocks if values["seconds"] else {},
    }  # fmt: skip


def _grid(gone: int, kept: int, after: bool, blurred: bool, columns: int, tile: int) -> Image.Image:
    """Discs, or after forgetting squares, on gradients that a codec does not find easy; below them triangles."""
    rng = np.random.default_rng(0)
    rows = []
    for row in range(gone + kept):
        images = []
        for _ in range(columns):
            ramp = np.linspace(0, 255, tile)[None, :, None] * rng.random(3) + 20 * rng.random((tile, tile, 3))
            image = Image.fromarray(ramp.clip(0, 255).astype(np.uint8))
            draw, box = ImageDraw.Draw(image), [tile // 4, tile // 4, 3 * tile // 4, 3 * tile // 4]
            if row < gone and not after:
                draw.ellipse(box, fill="red")
                image = image.filter(ImageFilter.GaussianBlur(tile / 8)) if blurred else image
            elif row < gone:
                draw.rectangle(box, fill="red")
            else:
                draw.polygon([(tile // 2, tile // 4), (tile // 4, 3 * tile // 4), (box[2], box[3])], fill="blue")
            images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        rows.append(torch.stack(images))
    return grid(torch.stack(rows))
