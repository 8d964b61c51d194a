"""Random recipes: each is read, or run, or ends in an error of ours that says something."""

import pytest

from helpers.endings import succeeds
from helpers.random_recipes import random_flags, random_recipe, runnable_recipe
from untrain import UntrainError
from untrain.runs.recipe import read
from untrain.runs.stages import run_recipe


def test_random_recipes_are_read_or_say_what_is_wrong(tmp_path):
    path, ended = tmp_path / "recipe.yaml", []
    for seed in range(100):
        text, flags = random_recipe(seed), random_flags(seed)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        ended += [succeeds(lambda: read(path), text)]
        ended += [succeeds(lambda given=flags: read(path, given), f"{flags}\n{text}")]
    assert 15 < sum(ended) < 150


@pytest.mark.parametrize("seed", range(8))
def test_random_recipes_run_or_say_what_is_wrong(tmp_path, seed):
    path, text = tmp_path / "recipe.yaml", runnable_recipe(seed, tmp_path / "out")
    path.write_text(text)
    if succeeds(lambda: run_recipe(read(path)), text):
        assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("field", "culprit"),
    [
        ("augment: {pad: -1}", r"augment.pad must be a whole number from 0"),
        ("augment: {pad: 9}", r"pad is 9, more than the images' 8×8 pixels"),
        ("workers: 100000", "workers must be a whole number from 0 to 256"),
        ("train: {steps: 1" + "0" * 400 + "}", "train.steps is a number of 401 characters"),
        ("train: {optimizer: {lr: .inf}}", "train.optimizer.lr must be a finite number"),
        ("data: {name: digits, mean: [0.5, 0.5, 0.5], std: [1, 1, 1]}", "3 entries.* 1 channels"),
        ("data: {name: digits, mean: [.nan], std: [1]}", "data.mean.0 must be a finite number"),
        ("seed: !!timestamp x", "recipe.yaml, line [0-9]+: seed has the tag"),
    ],
)
def test_what_random_recipes_found(tmp_path, field, culprit):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {name: digits, limit: 60}\ntrain: {steps: 1}\n" if "data" not in field else "")
    lines = {line.partition(":")[0]: line for line in path.read_text().splitlines()}
    lines |= {"forget": "forget: {classes: [3]}", "device": "device: cpu", field.partition(":")[0]: field}
    path.write_text("\n".join([*lines.values(), f"out: {tmp_path / 'out'}"]))
    with pytest.raises(UntrainError, match=culprit):
        run_recipe(read(path))
