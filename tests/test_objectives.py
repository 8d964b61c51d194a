"""What a search judges any task's model by: losses held against those of samples that nothing saw."""

from dataclasses import replace

import pytest
import torch

from untrain.data.splits import Split
from untrain.objectives import forget_splits, loss_score


def test_a_random_forget_set_is_drawn_twice_and_a_class_is_not():
    split = Split(torch.arange(10), torch.arange(20, 60), torch.arange(60, 80), "fraction")
    first, second = forget_splits(split, 3)
    assert first is split
    assert len(second.forget) == 10
    assert set(second.forget.tolist()) < set(split.retain.tolist())
    assert sorted([*second.forget.tolist(), *second.retain.tolist()]) == [*range(10), *range(20, 60)]
    assert torch.equal(second.holdout, split.holdout)
    assert torch.equal(forget_splits(split, 3)[1].forget, second.forget)
    assert not torch.equal(forget_splits(split, 4)[1].forget, second.forget)
    assert len(forget_splits(replace(split, kind="classes"), 3)) == 1


def losses(forget, retain, held):
    return {"forget": torch.tensor(forget), "retain": torch.tensor(retain), "held": torch.tensor(held)}


ORIGINAL = losses([0.0, 0.0], [0.0, 0.0], [2.0, 2.0])


def test_the_score_is_the_mean_of_three_distances():
    """W is 2 between what the original saw and what it did not: 100 points."""
    assert loss_score(losses([2.0, 2.0], [0.0, 0.0], [2.0, 2.0]), ORIGINAL) == 0
    assert loss_score(ORIGINAL, ORIGINAL) == pytest.approx(100 / 3), "what is to be forgotten is still known"
    assert loss_score(losses([2.0, 2.0], [0.0, 1.0], [2.0, 3.0]), ORIGINAL) == pytest.approx((0 + 25 + 25) / 3)
    assert loss_score(losses([90.0] * 2, [90.0] * 2, [90.0] * 2), ORIGINAL) == 100, "no part counts more than 100"


def test_an_original_that_treats_all_alike_has_nothing_to_forget():
    alike = losses([1.0, 1.0], [1.0, 1.0], [1.0, 1.0])
    assert loss_score(alike, alike) == 0
    assert loss_score(losses([1.5, 1.0], [1.0, 1.0], [1.0, 1.0]), alike) == pytest.approx(100 / 3)
