"""A run that is killed, without a word, at ten moments and resumed each time ends as if nothing had happened."""

from pathlib import Path

import torch

from helpers.command_line import files, table, untrain, weights
from helpers.processes import Writes, kill_when

RECIPE = """\
name: killed
data: {name: digits}
forget: {fraction: 0.1, holdout: 0.1}
model: {name: small-cnn, options: {width: 4}}
train: {epochs: 6}
methods:
  finetune: {epochs: 2}
  sfron: {epochs: 3, retain_steps: 2}
checkpoint_every: 0
device: cpu
"""

MOMENTS = [
    ("original.resume.pt", 1),  # before the first step
    ("original.resume.pt", 9),  # in the middle of training
    ("original.safetensors", 1),  # between a model and the next
    ("retrained.resume.pt", 14),
    ("finetune.resume.pt", 5),
    ("finetune.safetensors", 1),  # while the Fisher pass of sfron runs
    ("sfron.resume.pt", 3),
    ("sfron.resume.pt", 8),
    ("sfron.safetensors", 1),  # while models are evaluated
    ("manifest.json", 1),  # while the report is made
]
"""A file of the run folder, and how often it was seen written anew before the process is killed."""


def command(recipe, folder):
    return ["run", recipe, "--out", folder, "--resume"]


def test_ten_kills_change_nothing(tmp_path):
    recipe, whole, folder = tmp_path / "killed.yaml", tmp_path / "whole", tmp_path / "killed"
    recipe.write_text(RECIPE)
    code, _, err = untrain("run", recipe, "--out", whole, "--checkpoint_every", "60")
    assert code == 0, err
    for name, times in MOMENTS:
        there = Writes(folder / name, times)
        assert kill_when(there, tmp_path / "log", command(recipe, folder)) == -9, f"{name}: over before it was killed"
    code, _, err = untrain("run", recipe, "--out", folder, "--resume")
    assert code == 0, err
    expected, found = weights(whole), weights(folder)
    assert found.keys() == expected.keys()
    assert len({name for name, _ in found}) == 5  # four models and a mask
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert table(folder) == table(whole)
    for path in whole.glob("*history.jsonl"):
        assert (folder / path.name).read_text() == path.read_text()
    assert not [name for name in files(folder) if "resume" in name or name.endswith(".tmp")]


def test_a_checkpoint_that_outlived_its_run_is_removed(tmp_path):
    """A process can be killed between writing a model and removing what it went on from."""
    recipe, folder = tmp_path / "killed.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    assert untrain("train", recipe, "--out", folder, "--references", "0", "--train.steps", "2")[0] == 0
    (folder / "original.resume.pt").write_bytes(Path(folder / "original.safetensors").read_bytes())
    words = ("train", recipe, "--out", folder, "--references", "0", "--train.steps", "2", "--resume")
    assert untrain(*words)[0] == 0
    assert "original.resume.pt" not in files(folder)
