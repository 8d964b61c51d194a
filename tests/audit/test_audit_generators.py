"""The audit of a generator that forgot a class: a tiny network, few steps, five twins and as many retrained models."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.command_line import untrain
from helpers.page_figures import drawn, figures_by

pytestmark = pytest.mark.usefixtures("quick_workers")

RECIPE = """\
name: tiny
task: class-diffusion
data: {name: digits, limit: 150, test_limit: 100}
forget: {classes: ["3"]}
model: {name: unet-small, options: {block_out_channels: [8, 16], norm_num_groups: 4, attention_head_dim: 8}}
diffusion: {timesteps: 20, beta_end: 0.3}
train: {steps: 6, optimizer: {name: adam, lr: 0.003, momentum: 0, weight_decay: 0}, max_norm: 1}
generation: {sampler: {steps: 3}, samples: 10}
judge: {options: {width: 4}, train: {steps: 30}}
references: 0
methods:
  retrain: {steps: 6, optimizer: {name: adam, lr: 0.003, momentum: 0, weight_decay: 0}, max_norm: 1}
batch_size: 32
device: cpu
"""
BUDGET = ("--audit.inversion_steps", "3", "--audit.drawn=8", "--audit.kept", "1", "--audit.images", "5")
FLAGS = (*BUDGET, "--audit.relearning-steps", "[1, 2]", "--audit.noises", "1", "--audit.timesteps", "3")


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A run folder with its audit, what was printed, and audit.json."""
    place = tmp_path_factory.mktemp("audited")
    (place / "recipe.yaml").write_text(RECIPE)
    code, _, err = untrain("run", place / "recipe.yaml", "--out", place / "run")
    assert code == 0, err
    with figures_by(drawn):
        code, out, err = untrain("audit", place / "run", *FLAGS)
    assert code == 0, err
    return place / "run", out + err, json.loads((place / "run/audit/audit.json").read_text())


def test_retraining_as_a_method_shows_no_difference(audited):
    """One audit in twenty says otherwise by chance: each p is held to 1 %, of which 252 splits allow two."""
    _, printed, found = audited
    assert found["design"] == "refs" and found["twins"] == found["references"] == 5
    method = found["methods"]["retrain"]
    assert list(method["numbers"]) == ["plain", "inversion", "relearning", "members", "retained"]
    for name in ("plain", "inversion", "relearning"):
        number = method["numbers"][name]
        assert number["one_sided"] and number["p"] > 0.01, (name, number)
        assert {kind: len(values) for kind, values in number["values"].items()} == dict.fromkeys(number["values"], 5)
        assert all(0 <= value <= 100 for values in number["values"].values() for value in values)
    assert method["numbers"]["members"]["p"] > 0.01 and not method["numbers"]["retained"]["tested"]
    assert method["verdict"]["kind"] != "trace"
    assert "memory" in printed and "3 steps of inversion" in printed and "class drawn by a learned vector" in printed


def test_budgets_are_part_of_the_numbers_and_of_the_audit(audited):
    _, _, found = audited
    assert found["options"]["inversion_steps"] == 3 and found["options"]["relearning_steps"] == [1, 2]
    numbers = found["methods"]["retrain"]["numbers"]
    assert numbers["inversion"]["facts"]["budget"] == {"images": 5, "steps": 3, "lr": 0.01, "drawn": 8}
    after = numbers["relearning"]["facts"]["after"]
    for kind, values in numbers["relearning"]["values"].items():
        assert np.mean(values) == pytest.approx(np.mean([after[steps][kind] for steps in ("1", "2")]))


def test_pictures_of_what_came_back_lie_in_the_audit(audited):
    folder, _, found = audited
    figures = found["methods"]["retrain"]["figures"]
    assert {"drawn-plain", "drawn-inversion", "drawn-relearning"} <= set(figures)
    rows = figures["drawn-inversion"]["rows"]
    assert [row["role"] for row in rows] == ["original", "unlearned", "retrained"]
    for row in rows:
        with Image.open(folder / "audit" / row["pictures"][0]["file"]) as picture:
            assert picture.size == (8 * 32 + 7 * 2, 32), "eight images of one class"


def test_an_audit_that_goes_on_ends_in_the_same_file(audited, tmp_path):
    """Answers of one model and a whole twin are gone, as if it had been killed; the judge is read from the run."""
    copy = tmp_path / "run"
    shutil.copytree(audited[0], copy)
    shutil.rmtree(copy / "audit/twins/twin-04")
    (copy / "audit/base/signals/retrained-2.safetensors").unlink()
    code, _, err = untrain("audit", copy, *FLAGS, "--resume")
    assert code == 0, err
    again = json.loads((copy / "audit/audit.json").read_text())
    for each in (found := dict(audited[2]), again):
        for name in ("sha256", "command", "seconds"):
            each.pop(name)
    assert again == found


def test_what_cannot_be_is_said(audited, tmp_path):
    folder = audited[0]
    code, _, err = untrain("audit", folder, "--audit.inversion_step", "3", "--resume")
    assert code == 1 and "inversion_steps" in err
    code, _, err = untrain("audit", folder, "--audit.relearning_steps", "[5, 2]", "--resume")
    assert code == 1 and "relearning_steps" in err
    code, _, err = untrain("audit", folder, "--audit.drawn", "9", "--resume")
    assert code == 1 and "--resume" not in err and "other" in err
    code, _, err = untrain("audit", folder, "--design", "coins", "--resume")
    assert code == 1 and "refs" in err
    code, out, _ = untrain("audit", folder, "--help")
    assert code == 0 and "--audit.inversion_steps" in out and "default 300" in out
