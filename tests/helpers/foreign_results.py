"""Results of a task that untrain knows nothing of: a regression with two measures and a distance, and no word more."""

from typing import Any

from helpers.example_comparison import stat
from untrain.report import Distance, Measure, Presentation


class Foreign(Presentation):
    """Only measures and distance."""

    measures = (
        Measure("forget_rmse", "F-RMSE", "Forget error", "kWh", "How far predictions on the forget set are off.",
                "The retrained model's value.", compared=True),
        Measure("rmse", "RMSE", "Test error", "kWh", "How far predictions on new samples are off.",
                "The retrained model's value.", compared=True),
        Measure("gap", "Gap", "Mean gap", "kWh", "The mean of the two differences to the retrained model.", "Zero."),
        Measure("seconds", "Time", "Run time", "s", "How long it took.", "Short."),
    )  # fmt: skip
    distance = Distance("gap", ("forget_rmse", "rmse"), name="mean gap", unit="kWh")


MODELS = {  # forget_rmse, rmse, gap, seconds
    "original": (1.2, 2.5, 0.85, None),
    "retrained": (2.8, 2.6, None, 40.0),
    "retrained-2": (2.9, 2.6, 0.05, 41.0),
    "finetune": (1.6, 2.5, 0.65, 4.0),
    "sfron": (2.7, 2.7, 0.1, 3.0),
}
KEYS = ("forget_rmse", "rmse", "gap", "seconds")


def foreign_run() -> dict[str, Any]:
    """The content of evaluation.json."""
    models = {name: dict(zip(KEYS, values)) for name, values in MODELS.items()}
    return {
        "task": "meters", "models": models, "noise_floor": {"gap": 0.05, "rmse": 0.0},
        "sizes": {"forget": 30, "retain": 270, "test": 50}, "settings": {"seed": 3}, "meter": {"model": "M-3"},
    }  # fmt: skip


def foreign_comparison() -> dict[str, Any]:
    """The content of comparison.json: three seeds."""
    roles = {"original": "original", "retrained": "target", "retrained-2": "reference"}
    models = {}
    for name, values in MODELS.items():
        measures = {}
        for key, value, aim in zip(KEYS, values, MODELS["retrained"]):
            if value is not None:
                aims = None if aim is None else [aim * (1 + 0.01 * s) for s in range(3)]
                measures[key] = stat([value * (1 + 0.01 * s) for s in range(3)], aims)
        rank = {"gap": {"rank": 1 if name == "sfron" else 2, "tied": False}} if name not in roles else {}
        cells = [{"seed": s, "state": "done", "error": None, "folder": f"cells/all/seed-{s}"} for s in range(3)]
        models[name] = {"role": roles.get(name, "method"), "cells": cells, "measures": measures, "rank": rank}
    floor = {"mean": 0.05, "std": 0.01, "values": [0.04, 0.05, 0.06]}
    one = {"sizes": {"forget": 30, "retain": 270}, "noise_floor": {"gap": floor}, "models": models}
    return {"name": "meters", "task": "meters", "seeds": [0, 1, 2], "forget_sets": {"all": one}}
