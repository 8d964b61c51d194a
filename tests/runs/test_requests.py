"""Requests to delete, one after another: photos in a folder, erased after each."""

import csv
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.command_line import files, untrain

RECIPE = """\
name: faces
data: {{name: folder, path: {path}, test_fraction: 0.2, limit: 150}}
forget: {{holdout: 0.1}}
model: {{name: small-cnn, options: {{width: 4}}}}
train: {{epochs: 2}}
methods:
  finetune: {{epochs: 1}}
  sfron: {{epochs: 1, retain_steps: 2, fisher_samples: 20}}
batch_size: 32
device: cpu
"""
pytestmark = pytest.mark.filterwarnings("default::UserWarning")  # the command line prints them
CLASSES = ("ann", "bob", "cy")


def write_photos(folder, each=70):
    """Random images of three classes, told apart by their brightness."""
    g = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = g.integers(0, 90, (8, 8, 3)) + 80 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}-{i:03d}.png")


def content(folder, name="split.json"):
    return json.loads((Path(folder) / name).read_text())


def ids_of(folder, part):
    return content(folder)["records"]["parts"][part]


def run(root, out, *flags, command="run"):
    code, stdout, err = untrain(command, root / "recipe.yaml", "--out", out, *flags)
    return code, stdout, err


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Two requests, each erased from the disk after it was met. For looking only."""
    root = tmp_path_factory.mktemp("story")
    photos, first, second = (root / name for name in ("photos", "monday", "tuesday"))
    write_photos(photos)
    (root / "recipe.yaml").write_text(RECIPE.format(path=photos))
    with open(root / "request.csv", "w", newline="") as file:
        rows = [("person", "Photo file")]
        rows += [(7, photos / "ann" / f"ann-{i:03d}.png") for i in range(0, 70, 9)]
        csv.writer(file).writerows(rows)
    flags = ["--forget.ids", root / "request.csv", "--forget.id-column", "photo file", "--forget.missing", "skip"]
    code, _, err = run(root, first, *flags)
    assert code == 0, err
    for name in ids_of(first, "forget"):
        (photos / name).unlink()
    here = [name for name in ids_of(first, "retain") if name.startswith("bob/")]
    (root / "names.txt").write_text("\n".join(Path(name).name for name in here[:6]))
    flags = ["--forget.ids", root / "names.txt", "--forget.after", first]
    code, _, err = run(root, second, *flags, "--model.checkpoint", first / "sfron.safetensors")
    assert code == 0, err
    for name in ids_of(second, "forget"):
        (photos / name).unlink()
    return root, photos, first, second


def test_nothing_comes_back_and_nothing_is_mixed_up(story):
    _, _, first, second = story
    for part in ("holdout", "test"):
        assert ids_of(second, part) == ids_of(first, part)
    assert ids_of(second, "earlier") == ids_of(first, "forget")
    assert sorted([*ids_of(second, "retain"), *ids_of(second, "forget")]) == sorted(ids_of(first, "retain"))
    assert len(ids_of(second, "forget")) == 6
    before = content(first)["records"]["statistics"]
    assert content(second)["records"]["statistics"] == before, "inputs are normalised as the model knows them"
