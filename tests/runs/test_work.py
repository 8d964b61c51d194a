"""The work that a recipe asks for: what is told of it, and where it is too much."""

import pytest

from untrain.errors import SettingError
from untrain.permissions import Permissions
from untrain.runs.recipe import read
from untrain.runs.work import CELLS, MODELS, cells_of, check_count, check_work, estimate

SIZES = {"train": 1000, "retain": 900, "forget": 100}


def test_steps_are_counted_by_passes_and_by_steps():
    flags = ["--train.epochs", "3", "--batch_size", "100", "--methods", "{finetune: {epochs: 2}, sfron: {steps: 7}}"]
    work = estimate(read(None, [*flags, "--methods.sfron.retain_steps", "3"]), SIZES, trained=2, images=0)
    assert (work.models, work.methods, work.steps) == (2, 2, 2 * 3 * 10 + 2 * 9 + 7 * 4)


def test_a_budget_is_a_share_of_the_training():
    flags = ["--train.epochs", "3", "--batch_size", "100", "--methods", "{shrink-perturb: {budget: 0.2}}"]
    assert estimate(read(None, flags), SIZES, trained=1, images=0).steps == 30 + 6


def test_what_is_told():
    recipe = read(None, ["--train.steps", "5000"])
    said = estimate(recipe, SIZES, trained=1, images=1234).sentence(128)
    assert said.startswith("work: 1 model to train, 1 method, about 5,000 steps") and "1,200 images" in said


@pytest.mark.parametrize(
    "flags", [["--train.steps", "1000000000"], ["--train.epochs", "1e9"], ["--methods.sfron.steps", "100000000"]]
)
def test_a_digit_too_many_is_refused_unless_it_is_allowed(flags):
    recipe = read(None, flags)
    with pytest.raises(SettingError, match="steps, more than 20,000,000.*--allow-large"):
        check_work(estimate(recipe, SIZES, trained=1, images=0), recipe)
    recipe = read(None, flags, permissions=Permissions(large=True))
    check_work(estimate(recipe, SIZES, trained=1, images=0), recipe)


def test_models_and_cells():
    recipe = read(None, ["--references", str(MODELS)])
    with pytest.raises(SettingError, match="models and methods"):
        check_work(estimate(recipe, {}, trained=MODELS + 1, images=0), recipe)
    assert cells_of(read(None, ["--references", "2"]), sets=2, searched=1) == 3 * 2 * 5 + 4
    with pytest.raises(SettingError, match="cells"):
        check_count(CELLS + 1, "cells", CELLS, recipe)
