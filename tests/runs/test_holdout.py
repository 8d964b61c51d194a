"""Where held-out data come from."""

import pytest
import torch

from untrain.models.classifiers import build
from untrain.runs.recipe import read
from untrain.runs.stages import open_experiment


def experiment(tmp_path, *flags):
    return open_experiment(read(None, ["--data.name", "digits", "--out", str(tmp_path / "run"), *flags]))


def test_without_a_checkpoint_they_are_cut_from_the_training_data(tmp_path):
    run = experiment(tmp_path, "--forget.fraction", "0.1")
    source, division = run.domain.source, run.division
    assert division.holdout.source is source
    assert len(division.holdout) == pytest.approx(0.1 * len(source), abs=1)
    assert len(division.test) == 360


def test_with_a_checkpoint_they_are_test_data_that_are_not_tested_on(tmp_path):
    path = tmp_path / "theirs.pt"
    torch.save(build("small-cnn", num_classes=10, in_channels=1).state_dict(), path)
    run = experiment(tmp_path, "--forget.classes", "[3]", "--model.checkpoint", str(path))
    split, holdout, test = run.division.split, run.division.holdout, run.division.test
    assert len(split.holdout) == 0
    assert len(split.forget) + len(split.retain) == len(run.domain.source)
    assert not set(holdout.indices.tolist()) & set(test.indices.tolist())
    assert len(holdout) > 100
    assert 3 not in holdout.labels
    assert 3 in test.labels


def test_normalisation_of_a_checkpoint_can_be_given(tmp_path):
    run = experiment(tmp_path, "--forget.fraction", "0.1", "--data.mean", "[0.5]", "--data.std", "[0.25]")
    assert run.domain.task.mean == (0.5,)
    assert run.domain.task.std == (0.25,)
