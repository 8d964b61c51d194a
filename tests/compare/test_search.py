"""The search: a suggestion is a pure function of the trials before it."""

import copy

import pytest
import torch

from untrain.compare.search import best_trial, suggest
from untrain.methods.base import Choice, Range
from untrain.methods.finetune import Finetune
from untrain.methods.sfron import SFRon

SPACE = {
    "optimizer.lr": Range(1e-3, 1e-1, log=True),
    "retain_steps": Range(1, 5),
    "objective": Choice(("adaptive", "ascent")),
}
TRIALS = [
    {"settings": {"optimizer.lr": 0.1, "retain_steps": 3, "objective": "adaptive"}, "criterion": 3.0},
    {"settings": {"optimizer.lr": 0.01, "retain_steps": 2, "objective": "ascent"}, "criterion": None},
    {"settings": {"optimizer.lr": 0.02, "retain_steps": 4, "objective": "ascent"}, "criterion": 1.5},
    {"settings": {"optimizer.lr": 0.03, "retain_steps": 4, "objective": "ascent"}, "criterion": 1.4},
]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_suggestion_depends_on_seed_and_earlier_trials_alone(count):
    trials = copy.deepcopy(TRIALS[:count])
    found = [suggest(SFRon(), SPACE, trials, seed, 9) for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0] != found[2]
    turned = suggest(SFRon(), dict(reversed(SPACE.items())), trials, 1, 9)
    assert turned == found[0], "the order of the space does not matter"
    assert trials == TRIALS[:count]
    assert 1e-3 <= found[0]["optimizer.lr"] <= 1e-1
    assert found[0]["retain_steps"] in range(1, 6)
    assert isinstance(found[0]["retain_steps"], int)
    assert found[0]["objective"] in ("adaptive", "ascent")


def test_after_its_random_start_the_search_learns_from_the_trials():
    """Of 30 trials those below 0.005 were good: nearly all suggestions should be there, a sixth of the log range."""
    rates = torch.logspace(-3, -1, 30).tolist()
    trials = [{"settings": {"optimizer.lr": lr}, "criterion": 1.0 if lr < 0.002 else 50.0} for lr in rates]
    space = {"optimizer.lr": SPACE["optimizer.lr"]}
    found = [suggest(Finetune(), space, trials, seed, 12)["optimizer.lr"] for seed in range(20)]
    assert sum(lr < 0.005 for lr in found) >= 15


def test_own_settings_outside_the_space_take_no_part():
    outside = [{"settings": {"optimizer.lr": 0.5}, "criterion": 0.1}]
    space = {"optimizer.lr": SPACE["optimizer.lr"]}
    assert suggest(Finetune(), space, outside, 3, 5) == suggest(Finetune(), space, [], 3, 5)


def test_the_best_is_the_lowest_and_the_first_of_equals():
    assert best_trial([{"criterion": None}, {"criterion": 2.0}, {"criterion": 1.0}, {"criterion": 1.0}]) == 2
    assert best_trial([{"criterion": None}]) is None
