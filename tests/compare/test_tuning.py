"""The search: its criterion in closed form, and that a suggestion is a pure function of the trials before it."""

import copy
import math
from dataclasses import fields, replace

import pytest
import torch
from untrain.compare.benches import Goal, Seen, _splits, certainty_gap, criterion, goal
from untrain.compare.tuning import best, suggestion

from untrain.data.splits import Split
from untrain.errors import SettingError
from untrain.methods.base import Choice, Optimizer, Range
from untrain.methods.finetune import Finetune
from untrain.methods.sfron import SFRon
from untrain.runs.recipe import with_settings
from untrain.tasks.classification.evaluate import Predictions


def said(right, of, entropy, label=0, certainty=1.0):
    """Predictions of `of` samples of one class, the first `right` of them right, all of one entropy and certainty."""
    nothing = {f.name: torch.zeros(of, dtype=torch.float64) for f in fields(Predictions) if f.name != "log_probs"}
    return Predictions(
        **nothing
        | {
            "labels": torch.full((of,), label),
            "correct": torch.arange(of) < right,
            "entropies": torch.full((of,), entropy, dtype=torch.float64),
            "losses": torch.full((of,), -math.log(certainty), dtype=torch.float64),
        }
    )


def joined(a, b):
    return Predictions(
        **{f.name: torch.cat([getattr(a, f.name), getattr(b, f.name)]) for f in fields(a) if f.name != "log_probs"}
    )


HALF = joined(said(6, 6, 2.0, certainty=0.8), said(1, 4, 0.1, certainty=0.8))
ORIGINAL = Seen(forget=said(20, 20, 0.1), retain=said(49, 50, 0.1), one=HALF, other=HALF)


def test_the_goal_is_what_the_original_does_with_what_it_never_saw():
    """14 of 20 held-out samples are right; the attack tells 0.1 from 2.0 nats, and calls 4 of 10 members."""
    assert goal(ORIGINAL) == Goal(FA=70.0, RA=98.0, HA=70.0, MIA=40.0)


def test_each_half_is_asked_by_the_attack_on_the_other():
    uneven = replace(ORIGINAL, other=joined(said(6, 8, 2.0), said(1, 2, 0.1)))
    assert uneven.held_out_members == pytest.approx((20 + 40) / 2)


def test_a_class_that_is_not_retained_should_be_gone():
    gone = replace(ORIGINAL, forget=said(20, 20, 0.1, label=7))
    assert goal(gone) == Goal(FA=0.0, RA=98.0, HA=70.0, MIA=None)
    some = joined(said(5, 5, 0.1), said(15, 15, 0.1, label=7))
    assert goal(replace(ORIGINAL, forget=some)) == Goal(FA=17.5, RA=98.0, HA=70.0, MIA=40.0)


def test_the_criterion_is_the_mean_of_the_gaps():
    seen = Seen(
        forget=joined(said(10, 12, 0.1, certainty=0.9), said(5, 8, 2.0, certainty=0.9)),
        retain=said(45, 50, 0.1),
        one=said(6, 10, 2.0, certainty=0.5),
        other=said(6, 10, 2.0, certainty=0.5),
    )
    gaps = (75 - 70, 98 - 90, 70 - 60, 60 - 40, 90 - 80, 80 - 50)  # 12 of 20 have the members' entropy
    assert criterion(seen, ORIGINAL) == pytest.approx(sum(gaps) / 6)
    unknown = replace(seen, forget=said(3, 20, 0.1, label=7, certainty=0.25))
    gone = (15, 98 - 90, 70 - 60, 25, 80 - 50)
    original = replace(ORIGINAL, forget=said(20, 20, 0.1, label=7))
    assert criterion(unknown, original) == pytest.approx(sum(gone) / 5), "no attack; no certainty should be left"


def test_a_model_that_treats_the_forget_set_as_held_out_data_has_no_distance():
    """14 of 20 right, 8 of 20 called members, certain as the original is of held-out data."""
    assert criterion(replace(ORIGINAL, forget=joined(HALF, HALF)), ORIGINAL) == pytest.approx(0.0, abs=1e-12)


def test_certainty_is_compared_by_its_whole_distribution():
    assert certainty_gap(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])) == pytest.approx(50.0), "equal means"
    assert certainty_gap(torch.tensor([0.2, 0.4]), torch.tensor([0.4, 0.2, 0.4, 0.2])) == pytest.approx(0.0)


def test_a_random_forget_set_is_drawn_twice_and_a_class_is_not():
    split = Split(torch.arange(10), torch.arange(20, 60), torch.arange(60, 80), "fraction")
    first, second = _splits(split, 3)
    assert first is split
    assert len(second.forget) == 10
    assert set(second.forget.tolist()) < set(split.retain.tolist())
    assert sorted([*second.forget.tolist(), *second.retain.tolist()]) == [*range(10), *range(20, 60)]
    assert torch.equal(second.holdout, split.holdout)
    assert torch.equal(_splits(split, 3)[1].forget, second.forget)
    assert not torch.equal(_splits(split, 4)[1].forget, second.forget)
    assert len(_splits(replace(split, kind="classes"), 3)) == 1


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
    found = [suggestion(SFRon(), SPACE, trials, seed, 9) for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0] != found[2]
    turned = suggestion(SFRon(), dict(reversed(SPACE.items())), trials, 1, 9)
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
    found = [suggestion(Finetune(), space, trials, seed, 12)["optimizer.lr"] for seed in range(20)]
    assert sum(lr < 0.005 for lr in found) >= 15


def test_own_settings_outside_the_space_take_no_part():
    outside = [{"settings": {"optimizer.lr": 0.5}, "criterion": 0.1}]
    space = {"optimizer.lr": SPACE["optimizer.lr"]}
    assert suggestion(Finetune(), space, outside, 3, 5) == suggestion(Finetune(), space, [], 3, 5)


def test_the_best_is_the_lowest_and_the_first_of_equals():
    assert best([{"criterion": None}, {"criterion": 2.0}, {"criterion": 1.0}, {"criterion": 1.0}]) == 2
    assert best([{"criterion": None}]) is None


def test_settings_by_dotted_name():
    made = with_settings(SFRon(), {"alpha": 2.0, "forget_optimizer.lr": 0.01, "calibration.margin": 0.9})
    assert (made.alpha, made.forget_optimizer, made.calibration.margin) == (2.0, Optimizer("adam", 0.01), 0.9)
    both = with_settings(
        Finetune(), {"optimizer.lr": 0.5, "optimizer.momentum": 0.1}, Optimizer("sgd", momentum=0.9, weight_decay=1e-3)
    )
    assert both.optimizer == Optimizer("sgd", 0.5, 0.1, 1e-3), "a null optimiser is the one that fits the model"
    assert with_settings(Finetune(), {}) == Finetune()
    with pytest.raises(SettingError, match="alpha must be above 0"):
        with_settings(SFRon(), {"alpha": -1.0})
