"""Random recipes: each is read, or run, or ends in an error of ours that says something."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from helpers.endings import SEEDED, succeeds
from helpers.random_recipes import random_flags, random_recipe, runnable_recipe
from untrain import UntrainError
from untrain.runs.recipe import read
from untrain.runs.stages import run_recipe

FUZZ = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck])


def test_random_recipes_are_read_or_say_what_is_wrong(tmp_path):
    path, ended = tmp_path / "recipe.yaml", []

    @FUZZ
    @given(SEEDED)
    def read_one(rng):
        text, flags = random_recipe(rng), random_flags(rng)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        ended.append(succeeds(lambda: read(path), text))
        ended.append(succeeds(lambda: read(path, flags), f"{flags}\n{text}"))

    read_one()
    assert 0.05 < sum(ended) / len(ended) < 0.8


def test_random_recipes_run_or_say_what_is_wrong(tmp_path):
    ended = []

    @settings(FUZZ, max_examples=8, phases=[Phase.generate])
    @given(SEEDED)
    def run_one(rng):
        folder = tmp_path / str(len(ended))
        folder.mkdir()
        path, text = folder / "recipe.yaml", runnable_recipe(rng, folder / "out")
        path.write_text(text)
        ended.append(succeeds(lambda: run_recipe(read(path)), text))
        assert ended[-1] == (folder / "out" / "report.html").exists()

    run_one()
    assert any(ended)


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
