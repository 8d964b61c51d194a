"""Writes comparison folders that look like those of `untrain compare`, for the tests of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from helpers.example_run import FASHION, write_example_run

METHODS = {  # distances to retrained in FA, RA, TA, MIA; KL; seconds; by class
    "sfron": (0.6, -0.5, -0.3, 0.9, 0.079, 7.4),
    "salun": (0.9, -0.3, -0.2, -2.1, 0.098, 11.2),
    "finetune": (2.7, 0.2, 0.1, 3.9, 0.092, 7.1),
    "scrub": (1.9, 0.1, 0.2, 3.1, 0.094, 5.3),
    "neggrad-plus": (-1.7, -0.8, -0.9, -2.4, 0.113, 8.8),
    "bad-teacher": (1.2, -0.4, -0.4, -12.6, 0.131, 12.5),
    "random-label": (-2.2, -0.5, -0.6, -14.8, 0.148, 9.9),
    "l1-sparse": (1.5, -1.9, -0.7, 2.2, 0.101, 7.3),
    "ssd": (-3.3, -4.1, -3.6, -3.9, 0.164, 2.1),
    "gradient-ascent": (-13.5, -17.2, -15.9, -21.0, 0.610, 0.9),
    "sfron-r": (3.6, 0.1, 0.2, 5.2, 0.121, 6.8),
}
"""Methods at distances like those of runs on Fashion-MNIST: FA, RA, TA, MIA in points, KL in nats, seconds."""
TARGETS = {"FA": 91.83, "RA": 98.58, "TA": 90.55, "MIA": 75.33}


def example_comparison(
    *,
    methods: dict[str, tuple[float, ...]] | None = None,
    seeds: int = 3,
    sets: tuple[str, ...] = ("random-10",),
    classes: tuple[str, ...] = FASHION,
    failed: tuple[tuple[str, int], ...] = (("bad-teacher", 1),),
    trials: int = 8,
    references: int = 1,
    svc: bool = True,
) -> dict[str, Any]:
    """The content of a comparison.json.

    Args:
        methods: entry name → distances as in `METHODS`, which is the default.
        seeds: how many.
        sets: names of the forget sets.
        classes: their names.
        failed: cells of methods that failed: entry name and seed.
        trials: of each method's search; 0: none was made.
        references: retrained models beside the target.
        svc: whether there are SVC attacks.
    """
    rng = np.random.default_rng(0)
    given = {
        name: _forget_set(methods or METHODS, seeds, name, classes, failed, trials, references, svc, rng)
        for name in sets
    }
    settings = {"model": {"name": "small-cnn"}, "compare": {"seeds": list(range(seeds)), "trials": trials}}
    return {
        "name": "compare-fashion", "task": "classification", "seeds": list(range(seeds)), "classes": list(classes),
        "settings": settings, "forget_sets": given,
    }  # fmt: skip


def write_example_comparison(folder: Path, cells: bool = True, **changes: Any) -> dict[str, Any]:
    """Writes comparison.json and manifest.json, and run folders with reports as cells; returns the content."""
    content = example_comparison(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(content), encoding="utf-8")
    manifest = {"untrain": "0.1.0", "created": "2025-03-14T15:09:26+00:00", "device": "cpu", "threads": 2}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"versions": {"python": "3.11.2", "torch": "2.6.0"}}))
    (folder / "config.yaml").write_text("data:\n  name: fashion\ncompare:\n  seeds: [0, 1, 2]\n", encoding="utf-8")
    if cells:
        for name in content["forget_sets"]:
            for seed in content["seeds"]:
                cell = folder / "cells" / name / f"seed-{seed}"
                write_example_run(cell, steps=3)
                (cell / "report.html").write_text("<!DOCTYPE html><title>cell</title>", encoding="utf-8")
    return content


def stat(values: list[float | None], target: list[float | None] | None = None) -> dict[str, Any]:
    """A measure as comparison.json holds it, from its values by seed and the target's."""
    known = [v for v in values if v is not None]
    if not known:
        return {"values": values, "n": 0, "mean": None, "std": None, "ci95": None, "few": True, "difference": None}
    mean, n = float(np.mean(known)), len(known)
    std = float(np.std(known, ddof=1)) if n > 1 else None
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(n, 2.2)
    half = quantile * std / n**0.5 if std is not None else None
    pairs = [v - t for v, t in zip(values, target or []) if v is not None and t is not None]
    return {
        "values": values, "n": n, "mean": mean, "std": std, "few": n < 5,
        "ci95": None if half is None else [mean - half, mean + half],
        "difference": float(np.mean(pairs)) if pairs else None,
    }  # fmt: skip


def _forget_set(
    methods: dict[str, tuple[float, ...]], seeds: int, name: str, classes: tuple[str, ...],
    failed: tuple[tuple[str, int], ...], trials: int, references: int, svc: bool, rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    target = {k: [v + rng.normal(0, 0.4) for _ in range(seeds)] for k, v in TARGETS.items()}
    target["seconds"] = [61.4 + rng.normal(0, 1.2) for _ in range(seeds)]
    gone = {"original": (6.8, 0.0, 0.3, 8.8, 0.171, 62.0)}
    others = {f"retrained-{i + 2}": (-0.3, 0.1, 0.3, -0.9, 0.04, 60.9) for i in range(references)}
    models = {"retrained": _target(target, classes, svc, rng)}
    for entry, distances in {**gone, **others, **methods}.items():
        lost = {seed for which, seed in failed if which == entry and seed < seeds}
        models[entry] = _model(entry, distances, target, classes, lost, svc, rng)
    for model in models.values():
        for cell in model["cells"]:
            cell["folder"] = f"cells/{name}/seed-{cell['seed']}"
    usual = {"AvgD": (0.63, 0.1), "KL": (0.04, 0.004), "JS": (0.008, 0.001), "ToW": (0.989, 0.002)}
    floor = {key: stat([m + rng.normal(0, s) for _ in range(max(seeds, 2))]) for key, (m, s) in usual.items()}
    kept = {key: {"mean": f["mean"], "std": f["std"], "values": f["values"]} for key, f in floor.items()}
    noise = kept if references else {}
    for measure in ("AvgD", "KL"):
        _rank(models, methods, measure, noise.get(measure, {}).get("mean", 0.0))
    return {
        "spec": {"fraction": 0.1}, "sizes": {"forget": 630, "retain": 5670, "holdout": 700, "test": 3000},
        "noise_floor": noise, "models": models,
        "tuning": {entry: _tuning(trials, rng) for entry in methods} if trials else {},
    }  # fmt: skip


def _target(
    target: dict[str, list[float]], classes: tuple[str, ...], svc: bool, rng: np.random.Generator
) -> dict[str, Any]:
    measures = {key: stat(values) for key, values in target.items()}
    if svc:
        measures |= {key: stat([v - 8 for v in target["MIA"]]) for key in ("SVC_confidence", "SVC_entropy")}
    cells = [{"seed": seed, "state": "done", "error": None} for seed in range(len(target["FA"]))]
    return {
        "role": "target", "method": None, "settings": {}, "cells": cells, "measures": measures, "rank": {},
        "losses": _losses(-2.6, rng), "by_class": _by_class(classes, 0.0, rng),
    }  # fmt: skip


def _model(
    entry: str, distances: tuple[float, ...], target: dict[str, list[float]], classes: tuple[str, ...],
    lost: set[int], svc: bool, rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    *gaps, divergence, seconds = distances
    seeds = range(len(target["FA"]))
    alone = entry == "original"
    values: dict[str, list[float | None]] = {
        key: [None if s in lost else target[key][s] + gap + rng.normal(0, 0.12 + 0.06 * abs(gap)) for s in seeds]
        for key, gap in zip(TARGETS, gaps)
    }
    away = [[abs((values[k][s] or 0) - target[k][s]) for k in TARGETS] for s in seeds]
    values["AvgD"] = [None if s in lost else float(np.mean(away[s])) for s in seeds]
    values["ToW"] = [None if s in lost else float(np.prod([1 - d / 100 for d in away[s][:3]])) for s in seeds]
    values["KL"] = [None if s in lost else divergence * (1 + rng.normal(0, 0.04)) for s in seeds]
    values["JS"] = [None if v is None else v * 0.21 for v in values["KL"]]
    if svc:
        for key in ("SVC_confidence", "SVC_entropy"):
            values[key] = [None if v is None else v - 8 + rng.normal() for v in values["MIA"]]
    values["seconds"] = [None if s in lost else seconds * (1 + rng.normal(0, 0.04)) for s in seeds]
    measures = {key: stat(v, target.get(key)) for key, v in values.items()}
    if not alone:
        ratio = [None if v is None else w / v for v, w in zip(values["seconds"], target["seconds"])]
        measures["speedup"] = stat(ratio)
    error = "DivergedError: the loss became NaN in step 117. Lower optimizer.lr."
    cells = [
        {"seed": s, "state": "failed" if s in lost else "done", "error": error if s in lost else None} for s in seeds
    ]
    role = "original" if alone else "reference" if entry.startswith("retrained") else "method"
    settings = {"steps": 40, "optimizer": {"name": "sgd", "lr": 0.0137}, "alpha": 4.2} if role == "method" else {}
    return {
        "role": role, "method": entry if role == "method" else None, "settings": settings, "cells": cells,
        "measures": measures, "rank": {}, "losses": _losses(-2.6 - 0.25 * gaps[0], rng),
        "by_class": _by_class(classes, gaps[2], rng),
    }  # fmt: skip


def _losses(centre: float, rng: np.random.Generator) -> dict[str, list[float]]:
    edges = np.concatenate([[0.0], np.geomspace(1e-6, 31.6, 46)])
    made: dict[str, list[float]] = {"edges": edges.tolist()}
    for part, middle, size in (("forget", centre, 1890), ("retain", -4.6, 17010), ("test", -2.5, 9000)):
        drawn = np.exp(rng.normal(min(middle, 1.0), 1.9, size)).clip(0, 31)
        made[part] = np.histogram(drawn, edges)[0].tolist()
    return made


def _by_class(classes: tuple[str, ...], gap: float, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    base = np.random.default_rng(7).uniform(75, 98, len(classes))
    return {
        key: {c: float(np.clip(b + gap + rng.normal(0, 0.4 + 0.3 * abs(gap)), 0, 100)) for c, b in zip(classes, base)}
        for key in ("FA", "RA", "TA")
    }


def _rank(models: dict[str, Any], methods: dict[str, Any], measure: str, floor: float) -> None:
    """Ranks as comparison.json holds them: equal while within the noise floor of the first of the group."""
    means = {}
    for name in methods:
        models[name]["rank"][measure] = None
        if all(cell["state"] == "done" for cell in models[name]["cells"]):
            means[name] = models[name]["measures"][measure]["mean"]
    groups: list[list[str]] = []
    for name in sorted(means, key=lambda name: means[name]):
        if groups and means[name] - means[groups[-1][0]] <= floor:
            groups[-1].append(name)
        else:
            groups.append([name])
    place = 1
    for group in groups:
        for name in group:
            models[name]["rank"][measure] = {"rank": place, "tied": len(group) > 1}
        place += len(group)


def _tuning(trials: int, rng: np.random.Generator) -> dict[str, Any]:
    criteria = [float(0.4 + rng.gamma(2.0, 0.6)) for _ in range(trials)]
    made = [
        {"settings": {"lr": float(rng.uniform(0.01, 0.2))}, "criterion": c, "seconds": 4.2, "error": None}
        for c in criteria
    ]
    if trials > 3:
        made[2] |= {"criterion": None, "error": "DivergedError: the loss became NaN"}
    known = [i for i, trial in enumerate(made) if trial["criterion"] is not None]
    return {"trials": made, "best": min(known, key=lambda i: made[i]["criterion"])}
