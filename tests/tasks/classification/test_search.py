"""What a search judges a classifier by, in closed form."""

import math
from dataclasses import fields, replace

import pytest
import torch

from untrain.tasks.classification.evaluate import Predictions
from untrain.tasks.classification.search import Goal, Observation, certainty_gap, goal, heldout_score


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
ORIGINAL = Observation(forget=said(20, 20, 0.1), retain=said(49, 50, 0.1), one=HALF, other=HALF)


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


def test_the_score_is_the_mean_of_the_gaps():
    seen = Observation(
        forget=joined(said(10, 12, 0.1, certainty=0.9), said(5, 8, 2.0, certainty=0.9)),
        retain=said(45, 50, 0.1),
        one=said(6, 10, 2.0, certainty=0.5),
        other=said(6, 10, 2.0, certainty=0.5),
    )
    gaps = (75 - 70, 98 - 90, 70 - 60, 60 - 40, 90 - 80, 80 - 50)  # 12 of 20 have the members' entropy
    assert heldout_score(seen, ORIGINAL) == pytest.approx(sum(gaps) / 6)
    unknown = replace(seen, forget=said(3, 20, 0.1, label=7, certainty=0.25))
    gone = (15, 98 - 90, 70 - 60, 25, 80 - 50)
    original = replace(ORIGINAL, forget=said(20, 20, 0.1, label=7))
    assert heldout_score(unknown, original) == pytest.approx(sum(gone) / 5), "no attack; no certainty should be left"


def test_a_model_that_treats_the_forget_set_as_held_out_data_has_no_distance():
    """14 of 20 right, 8 of 20 called members, certain as the original is of held-out data."""
    assert heldout_score(replace(ORIGINAL, forget=joined(HALF, HALF)), ORIGINAL) == pytest.approx(0.0, abs=1e-12)


def test_certainty_is_compared_by_its_whole_distribution():
    assert certainty_gap(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])) == pytest.approx(50.0), "equal means"
    assert certainty_gap(torch.tensor([0.2, 0.4]), torch.tensor([0.4, 0.2, 0.4, 0.2])) == pytest.approx(0.0)
