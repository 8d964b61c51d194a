"""recipes/published: every entry takes a few of its steps on a tiny network, and means what its comments say."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import untrain
from untrain.config import read
from untrain.methods.descent import Descent
from untrain.methods.sfron import SFRon

FOLDER = Path(__file__).parents[1] / "recipes/published"
RECIPES = {path.stem: read(path) for path in sorted(FOLDER.glob("*.yaml"))}
ENTRIES = [(stem, name) for stem, recipe in RECIPES.items() for name in recipe.methods]


def short(method):
    """The method with the fewest steps that show all of it."""
    if isinstance(method, SFRon):
        return replace(method, steps=2, retain_steps=1)
    return replace(method, steps=3) if isinstance(method, Descent) else method


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip


def sets():
    g = torch.Generator().manual_seed(0)
    return {
        name: [(torch.randn(n, 3, 8, 8, generator=g), torch.randint(0, 10, (n,), generator=g))]
        for name, n in (("forget", 12), ("retain", 40))
    }


@pytest.mark.parametrize(("stem", "name"), ENTRIES)
def test_every_entry_runs(stem, name):
    method, model = short(RECIPES[stem].methods[name]), network()
    result = untrain.unlearn(model, **sets(), method=method, init=network, device="cpu")
    assert len(result.history) == result.method.total > 0
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), result.model.parameters(), strict=True)]
    assert any(moved)
    assert all(bool(torch.isfinite(p).all()) for p in result.model.parameters())
    resolved = {f.name: getattr(result.method, f.name) for f in fields(method)}
    changed = {name for name, value in resolved.items() if value != getattr(method, name)}
    assert changed <= {"optimizer"}, "nothing but what the recipe left open is found for the user"
    if changed:
        assert method.name == "salun"
        assert replace(method.optimizer, weight_decay=0.0) == result.method.optimizer
        assert any("weight decay" in note for note in result.notes)


def test_every_method_of_the_published_tables_is_there():
    cifar = {method.name for method in RECIPES["cifar10-resnet18"].methods.values()}
    assert cifar == set(untrain.methods()) - {"retrain"}
    tiny = {method.name for method in RECIPES["tiny-imagenet-swin"].methods.values()}
    assert tiny == cifar - {"l1-sparse", "ssd", "neggrad-plus"}


def test_each_ablation_adds_one_part_to_the_one_before():
    ladder = RECIPES["cifar10-ablation"].methods
    assert list(ladder) == ["R", "R-on", "FR-on", "SFR-on"]
    parts = {
        "R-on": {"online": True, "steps": 300, "retain_steps": 5, "alpha": 1.0},
        "FR-on": {"objective": "adaptive", "alpha": 25.0},
        "SFR-on": {"gamma": 1.0, "fisher_samples": None},
    }
    before = ladder["R"]
    assert (before.online, before.objective, before.gamma) == (False, "ascent", None)
    for name, added in parts.items():
        now = ladder[name]
        different = {f.name for f in fields(now) if getattr(now, f.name) != getattr(before, f.name)}
        expected = {key: value for key, value in added.items() if getattr(before, key) != value}
        assert {key: getattr(now, key) for key in different} == expected, name
        before = now
    assert ladder["SFR-on"] == RECIPES["cifar10-resnet18"].methods["sfron"]
    assert ladder["R"].steps == ladder["R-on"].steps * ladder["R-on"].retain_steps, "as many retain batches"
    forgetting = [ladder[name].alpha * ladder[name].steps for name in ("R", "R-on")]
    assert forgetting[0] == pytest.approx(forgetting[1]), "as much forgetting"


class PerClass(untrain.Classification):
    """Divergences averaged over the classes, as the published code of bad-teacher has them."""

    def divergence(self, outputs, targets, temperature=1.0):
        return super().divergence(outputs, targets, temperature) / outputs.shape[1]


def test_a_tenth_of_the_rate_is_a_mean_over_ten_classes():
    """In float64, where only the order of multiplications differs."""
    methods = RECIPES["cifar10-resnet18"].methods
    double = {name: [(x.double(), y) for x, y in batches] for name, batches in sets().items()}
    ends = [
        untrain.unlearn(
            network().double(),
            **double,
            task=task,
            method=short(methods[name]),
            init=lambda: network().double(),
            device="cpu",
        )
        for task, name in ((PerClass(), "bad-teacher"), ("classification", "bad-teacher-tenth"))
    ]
    for a, b in zip(*(end.model.parameters() for end in ends), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
