"""Writes run folders that look like those of real runs, for the tests of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
LAYERS = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "conv4", "norm4", "head")
MEASURES = {  # FA, RA, TA, MIA, KL, JS, AvgD, ToW, seconds
    "original": (98.6, 98.61, 90.8, 84.1, 0.171, 0.036, 3.96, 0.906, None),
    "retrained": (91.83, 98.58, 90.55, 75.33, None, None, None, None, 61.4),
    "retrained-2": (91.5, 98.7, 90.9, 74.46, 0.101, 0.021, 0.42, 0.989, 60.9),
    "finetune": (95.67, 98.9, 90.75, 79.42, 0.092, 0.019, 2.03, 0.955, 7.12),
    "sfron": (93.0, 97.9, 90.1, 77.58, 0.084, 0.018, 1.14, 0.975, 7.41),
}
"""Measures of a run like those of the prototype on Fashion-MNIST."""


def write_example_run(
    folder: Path,
    *,
    methods: tuple[str, ...] = ("finetune", "sfron"),
    classes: tuple[str, ...] = FASHION,
    layers: tuple[str, ...] = LAYERS,
    steps: int = 150,
    retrained: bool = True,
    noise_floor: bool = True,
    forgotten: str | None = None,
) -> dict[str, Any]:
    """Writes evaluation.json, history.jsonl, manifest.json and config.yaml; returns the evaluation.

    Args:
        folder: made if it does not exist.
        methods: further names than "finetune" and "sfron" get values between theirs.
        classes: the names of the classes.
        layers: the names in the mask.
        steps: lines of history for each method.
        retrained: whether there are retrained models.
        noise_floor: whether there are two of them.
        forgotten: a class to forget, else a random tenth.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ["original", *(["retrained"] if retrained else []), *(["retrained-2"] if retrained and noise_floor else [])]
    names += methods
    rng = np.random.default_rng(0)
    evaluation: dict[str, Any] = {
        "models": {name: _model(name, i, classes, retrained, forgotten, rng) for i, name in enumerate(names)},
        "noise_floor": {"FA": 0.33, "RA": 0.12, "TA": 0.35, "MIA": 0.87, "AvgD": 0.42, "KL": 0.101, "JS": 0.021}
        if retrained and noise_floor
        else None,
        "settings": {"seed": 0, "batch_size": 256},
        "classes": list(classes),
        "sizes": {"forget": 600, "retain": 5400, "holdout": 600, "test": 2000},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "history.jsonl").write_text("".join(_history(methods, steps, rng)))
    (folder / "manifest.json").write_text(json.dumps(_manifest(names, classes, layers, forgotten, rng)))
    (folder / "config.yaml").write_text("data: fashion\nmodel: small-cnn\nforget:\n  fraction: 0.1\nmethod: sfron\n")
    return evaluation


def _model(
    name: str, place: int, classes: tuple[str, ...], retrained: bool, forgotten: str | None, rng: np.random.Generator
) -> dict[str, Any]:
    values = dict(zip(("FA", "RA", "TA", "MIA", "KL", "JS", "AvgD", "ToW", "seconds"), MEASURES.get(name, ())))
    if not values:
        values = {"FA": 94 + 0.3 * place, "RA": 98.1, "TA": 90.2, "MIA": 78 + 0.3 * place, "KL": 0.09, "JS": 0.019}
        values |= {"AvgD": 1.3 + 0.25 * place, "ToW": 0.96, "seconds": 5.0 + place}
    missing = {}
    if not retrained:
        values |= dict.fromkeys(("KL", "JS", "AvgD", "ToW"))
        missing = dict.fromkeys(("KL", "JS", "AvgD", "ToW"), "needs a retrained model as reference")
    model: dict[str, Any] = {**values, "missing": missing, "forgotten_TA": None}
    knows = name == "original"
    if forgotten:
        model |= {"FA": 99.1 if knows else 0.2, "forgotten_TA": 93.0 if knows else 0.0}
    model["by_class"] = {
        measure: {
            c: round(float(np.clip(model[measure] + rng.normal(0, 2.5), 0, 100)), 2)
            for c in ([forgotten] if forgotten and measure == "FA" else classes)
        }
        for measure in ("FA", "RA", "TA")
    }
    edges = np.concatenate([[0.0], np.geomspace(1e-4, 12, 40)])
    centre = {"forget": -4.5 if knows else -2.6, "retain": -4.6, "test": -2.5}
    spread = {"forget": 1.5 if knows else 1.9, "retain": 1.5, "test": 2.0}
    model["losses"] = {"edges": edges.tolist()} | {
        part: np.histogram(np.exp(rng.normal(centre[part], spread[part], size)).clip(0, 11.9), edges)[0].tolist()
        for part, size in (("forget", 600), ("retain", 5400), ("test", 2000))
    }
    if values["seconds"] is not None:
        fisher = 1.9 if name == "sfron" else 0.0
        model["clocks"] = {"fisher": fisher, "steps": values["seconds"] - fisher, "evaluation": 2.3}
    return model


def _history(methods: tuple[str, ...], steps: int, rng: np.random.Generator) -> list[str]:
    lines = []
    for name in methods:
        for k in range(steps):
            done = k / steps
            record: dict[str, Any] = {"model": name, "step": k, "lr": 0.05 * (1 + np.cos(np.pi * done))}
            record["retain_loss"] = 0.06 + 0.09 * np.exp(-6 * done) + 0.02 * rng.random()
            if name != "finetune":
                record["forget_loss"] = 0.08 + 0.35 * done**0.5 + 0.08 * rng.random()
                record["skipped"] = bool(done > 0.5 and rng.random() < 0.3)
            if k % max(1, steps // 8) == 0:
                record |= {"FA": 98 - 5 * done + rng.random(), "RA": 98.0, "TA": 90 - rng.random()}
            lines.append(json.dumps(record) + "\n")
    return lines


def _manifest(
    names: list[str], classes: tuple[str, ...], layers: tuple[str, ...], forgotten: str | None, rng: np.random.Generator
) -> dict[str, Any]:
    settings = {"steps": 30, "retain_steps": 5, "alpha": 25.0, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}
    models = {}
    for name in names:
        mask = None
        if name not in ("original", "retrained", "retrained-2", "finetune"):
            density = {layer: round(float(rng.beta(2, 6)), 4) for layer in layers}
            mask = {"density": float(np.mean(list(density.values()))), "layers": density}
        notes = ["lr 0.1 was read from the optimiser in the checkpoint"] if name == "sfron" else []
        models[name] = {"file": f"{name}.safetensors", "hash": f"sha256:{rng.bytes(32).hex()}", "method": name}
        models[name] |= {"settings": settings if mask else {}, "notes": notes, "mask": mask}
    split = {"kind": "classes", "spec": [forgotten]} if forgotten else {"kind": "fraction", "spec": 0.1}
    return {
        "untrain": "0.1.0", "created": "2025-03-14T15:09:26+00:00", "device": "cpu", "threads": 2, "seed": 0,
        "versions": {"python": "3.11.2", "torch": "2.6.0", "numpy": "2.1.0"},
        "data": {"name": "fashion", "hash": f"sha256:{rng.bytes(32).hex()}", "classes": list(classes)},
        "split": {**split, "hash": f"sha256:{rng.bytes(32).hex()}"}, "models": models,
    }  # fmt: skip
