"""Where held-out data come from."""

import pytest
import torch

from untrain.models.classifiers import build
from untrain.runs.recipe import read
from untrain.runs.stages import open_workshop


def workshop(tmp_path, *flags):
    return open_workshop(read(None, ["--data.name", "digits", "--out", str(tmp_path / "run"), *flags]))


def test_without_a_checkpoint_they_are_cut_from_the_training_data(tmp_path):
    shop = workshop(tmp_path, "--forget.fraction", "0.1")
    assert shop.holdout.source is shop.source
    assert len(shop.holdout) == pytest.approx(0.1 * len(shop.source), abs=1)
    assert len(shop.test) == 360


def test_with_a_checkpoint_they_are_test_data_that_are_not_tested_on(tmp_path):
    path = tmp_path / "theirs.pt"
    torch.save(build("small-cnn", num_classes=10, in_channels=1).state_dict(), path)
    shop = workshop(tmp_path, "--forget.classes", "[3]", "--model.checkpoint", str(path))
    assert len(shop.split.holdout) == 0
    assert len(shop.split.forget) + len(shop.split.retain) == len(shop.source)
    assert not set(shop.holdout.indices.tolist()) & set(shop.test.indices.tolist())
    assert len(shop.holdout) > 100
    assert 3 not in shop.holdout.labels
    assert 3 in shop.test.labels


def test_normalisation_of_a_checkpoint_can_be_given(tmp_path):
    shop = workshop(tmp_path, "--forget.fraction", "0.1", "--data.mean", "[0.5]", "--data.std", "[0.25]")
    assert shop.task.mean == (0.5,)
    assert shop.task.std == (0.25,)
