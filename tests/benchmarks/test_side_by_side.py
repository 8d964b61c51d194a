"""The published algorithm that ours is measured beside: held to the reference vectors, and the whole at a tiny size."""

import json
import re
from functools import partial
from runpy import run_path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from helpers.documents import ROOT
from helpers.references import REFERENCE

SCRIPT = ROOT / "benchmarks" / "side_by_side.py"
OPTIMISERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


class Given:
    """Batches of the vectors, in their order."""

    def __init__(self, tensors, name):
        count = len({key.split(".")[1] for key in tensors if key.startswith(f"{name}.")})
        self.pairs = [(tensors[f"{name}.{i}.x"], tensors[f"{name}.{i}.y"]) for i in range(count)]

    def once(self):
        return iter(self.pairs)

    def batch(self, k):
        return self.pairs[k % len(self.pairs)]


@pytest.mark.parametrize("name", ["published", "published_adamw"])
def test_the_published_algorithm_is_that_of_the_vectors(name):
    """Tolerance as in tests/test_vectors.py, where the library's preset is held to them."""
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    given = json.loads(metadata["settings"])
    retain = given.pop("retain_optimiser")
    kind = OPTIMISERS[retain.pop("kind")]
    settings = {key: given[key] for key in ("steps", "retain_steps", "alpha", "lam", "gamma", "max_norm")}
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).double()
    start, end = ({k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)} for p in ("start.", "end."))
    model.load_state_dict(start)
    publish = run_path(str(SCRIPT))["publish"]
    sets = Given(tensors, "forget"), Given(tensors, "retain")
    found = publish(model, *sets, optimizer=partial(kind, **retain), **settings).state_dict()
    errors = {n: float((found[n].double() - v.double()).abs().max() / v.double().abs().max()) for n, v in end.items()}
    assert max(errors.values()) <= 1e-8, errors


def test_a_tiny_run_measures_everyone(benchmark):
    told = benchmark(SCRIPT.name, "--seeds", 0, "--size", 40, "--epochs", 1, "--shares", 0.1)
    rows = {cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in told.splitlines() if "|" in line)}
    assert {"original", "retrained", "retrained again", "published", "default", "10%"} <= set(rows)
    assert all(float(cell) >= 0 for cell in rows["default"])
    assert [float(cell) for cell in rows["retrained"][4:6]] == [0, 0]
    shares = re.search(r"the default takes ([\d.]+) of its time \(by seed ([\d.]+)\)", told)
    assert shares and shares[1] == shares[2] and float(shares[1]) > 0


def figures(**rows):
    """Of one seed: name → Avg.D, KL and seconds."""
    return {name.replace("_", ""): dict(zip(("AvgD", "KL", "seconds"), row, strict=True)) for name, row in rows.items()}


def test_what_is_as_near_as_the_published_one_and_its_share_of_the_time():
    module = run_path(str(SCRIPT))
    found = [
        figures(published=(2.0, 0.2, 10.0), default=(1.0, 0.1, 8.0), _10=(3.0, 0.1, 1.0), _30=(2.1, 0.2, 3.0)),
        figures(published=(2.2, 0.2, 10.0), default=(1.0, 0.1, 7.0), _10=(1.0, 0.4, 1.0), _30=(2.0, 0.1, 2.0)),
    ]
    found = [{f"{n}%" if n.isdigit() else n: row for n, row in each.items()} for each in found]
    assert module["share_to_reach"](found, [0.3, 0.1]) == ["30%", "default"]
    assert module["ratio"](found, "30%") == "0.25 ± 0.07 of its time (by seed 0.30, 0.20)"
