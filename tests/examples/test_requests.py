"""The example of two requests to delete, from photos and a deployed transformer to the log."""

import csv
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from transformers import AutoModelForImageClassification

from helpers.command_line import untrain
from helpers.processes import run_script
from untrain.data.sources import load

EXAMPLE = Path(__file__).parents[2] / "examples/requests"
FLAGS = ("--references", "0", "--device", "cpu", "--batch_size", "32", "--methods.sfron.steps", "4")


def write_parquet(folder, part, each):
    """Real images of four classes in the layout of CIFAR-10."""
    source = load("fashion", part)
    chosen = np.concatenate([np.flatnonzero(source.labels.numpy() == label)[:each] for label in range(4)])
    images = [source[int(i)]["input"][0].numpy().repeat(3).reshape(28, 28, 3) for i in chosen]
    names = [name.replace("/", "-") for name in source.classes]
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=names))
    table = {"img": images, "label": source.labels[chosen].tolist()}
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / f"{part}-00000-of-00001.parquet")


def run(folder, script, *words):
    """Runs a script of the example in a folder; returns what it prints."""
    return run_script(EXAMPLE / script, folder, *words, timeout=300)


@pytest.fixture
def place(tmp_path):
    """A working directory with photos, requests and a deployed model."""
    folder = tmp_path
    (folder / "cifar").mkdir()
    for part, each in (("train", 40), ("test", 20)):
        write_parquet(folder / "cifar", part, each)
    run(folder, "make.py", "--data", folder / "cifar", "--photos", "160", "--epochs", "4")
    return folder


def photos_of(place, number):
    with (place / f"made/requests/request-{number}.csv").open(newline="") as file:
        return [row["photo"] for row in csv.DictReader(file)]


def test_two_requests_with_files_erased_between_them_end_in_a_folder_of_transformers(place, monkeypatch):
    monkeypatch.chdir(place)
    code, _, err = untrain("run", EXAMPLE / "recipe.yaml", "--out", "runs/request-1", *FLAGS)
    assert code == 0, err
    run(place, "erase.py", "made/requests/request-1.csv")
    gone = photos_of(place, 1)
    assert len(gone) == 10 and not any((place / "made/requests/photos/train" / name).exists() for name in gone)

    second = ("--forget.ids", "made/requests/request-2.csv", "--forget.after", "runs/request-1")
    second += ("--model.checkpoint", "runs/request-1/sfron", "--out", "runs/request-2")
    code, out, err = untrain("run", EXAMPLE / "recipe.yaml", *second, *FLAGS)
    assert code == 0, err
    assert "before all requests" in out

    code, out, err = untrain("log", "runs/request-2", "runs/request-1", "--json", "--ids")
    assert code == 0, err
    first, last = json.loads(out)["requests"]
    assert first["models"][0]["hash"] == last["starts"]
    assert {Path(name).name for name in first["ids"]} == {Path(name).name for name in gone}
    assert {Path(name).name for name in last["ids"]} == {Path(name).name for name in photos_of(place, 2)}
    check_by_transformers(place)


def check_by_transformers(place):
    """What transformers alone finds is what the report says, to one photo: ties may be rounded otherwise."""
    printed = run(place, "check.py", "runs/request-2/sfron")
    told = {line[:2]: float(line[4:].split(" %")[0]) for line in printed.splitlines() if line[:2] in ("RA", "TA")}
    found = json.loads((place / "runs/request-2/evaluation.json").read_text())["models"]["sfron"]
    assert told["RA"] == pytest.approx(found["RA"], abs=100 / 140)
    assert told["TA"] == pytest.approx(found["TA"], abs=100 / 60)
    model = AutoModelForImageClassification.from_pretrained(place / "runs/request-2/sfron")
    classes = [path.name for path in (place / "made/requests/photos/test").iterdir()]
    assert sorted(model.config.label2id) == sorted(classes)
