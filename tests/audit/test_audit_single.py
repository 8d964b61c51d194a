"""Audits of a run that keeps samples back: its own models without twins, and as targets beside twins."""

import csv
import json
import shutil
from itertools import chain

import pytest

from helpers.command_line import untrain
from helpers.page_figures import drawn, figures_by

pytestmark = pytest.mark.usefixtures("quick_workers")

RECIPE = """\
name: kept-back
data: {name: digits, limit: 400, test_limit: 100}
forget: {fraction: 0.2, holdout: 0.1, audit_holdout: 0.2}
model: {name: small-cnn, options: {width: 8}}
train: {epochs: 5, optimizer: {name: sgd, lr: 0.1, momentum: 0.9}}
references: 1
methods:
  finetune: {epochs: 1}
batch_size: 50
device: cpu
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run that kept a fifth of its data back, and nothing of an audit."""
    place = tmp_path_factory.mktemp("single")
    (place / "recipe.yaml").write_text(RECIPE)
    code, _, err = untrain("run", place / "recipe.yaml", "--out", place / "run")
    assert code == 0, err
    return place / "run"


def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run"


def audit_of(folder):
    found = json.loads((folder / "audit/audit.json").read_text())
    for name in ("sha256", "command", "run", "seconds"):
        found.pop(name, None)
    return found


def test_what_is_kept_back_is_given_to_nobody(folder):
    split = json.loads((folder / "split.json").read_text())
    parts = [split[part] for part in ("forget", "retain", "holdout", "unseen")]
    assert len(split["unseen"]) == 80 and len({*chain(*parts)}) == sum(map(len, parts)) == 400
    assert json.loads((folder / "evaluation.json").read_text())["sizes"] == {
        "forget": len(parts[0]), "retain": len(parts[1]), "holdout": 40, "test": 100
    }  # fmt: skip


def test_a_run_is_audited_without_twins(folder, tmp_path):
    run = copied(folder, tmp_path)
    with figures_by(drawn):
        code, out, err = untrain("audit", run, "--twins", "0")
    assert code == 0, err
    found = audit_of(run)
    assert found["design"] == "single" and found["exchangeable"] and found["unseen_from"] == "audit holdout"
    assert (found["pool"], found["references"]) == ({"forget": 56, "unseen": 80}, 1)
    assert "cannot be said from one model" in out and "positions" not in json.dumps(found)
    assert found["methods"]["finetune"]["verdict"]["kind"] in ("trace", "blind", "weak")
    assert {path.name for path in run.glob("audit/*")} == {"audit.json", "audit.html", "run"}
    (run / "audit/run/signals/finetune.safetensors").unlink()
    assert untrain("audit", run, "--twins", "0")[0] == 1, "an audit is there already"
    code, _, err = untrain("audit", run, "--twins", "0", "--resume")
    assert code == 0 and audit_of(run) == found, err


def test_the_runs_own_model_is_a_target_of_the_twins_attack(folder, tmp_path):
    run = copied(folder, tmp_path)
    flags = ("--twins", "4", "--references", "1", "--planted", "16", "--per-sample")
    code, out, err = untrain("audit", run, *flags)
    assert code == 0, err
    found = audit_of(run)
    mine = found["methods"]["finetune"]["this_model"]
    assert (mine["forgotten"], mine["unseen"]) == (56, 80) and 0 < mine["p"] <= 1 and "this model" in out
    assert found["pool"]["unseen"] == 80 and found["pool"]["size"] == 192
    assert found["methods"]["finetune"]["planted"]["values"] == 64 and found["planted_control"]["p"] > 0.001
    with open(run / "audit/per-sample.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 2 * 192 and {row["method"] for row in rows} == {"original", "finetune"}
    assert all(row["id"].startswith("digits-") and float(row["exposure"]) >= 0 for row in rows)
    assert "who is in the training data" in err
    assert rows[0]["id"] not in json.dumps(found) and (run / "original.safetensors").exists()
    (run / "audit/per-sample.csv").unlink()
    shutil.rmtree(run / "audit/twins/twin-02")
    code, _, err = untrain("audit", run, *flags[:-1], "--resume")
    assert code == 0 and audit_of(run) == found and not (run / "audit/per-sample.csv").exists(), err


def test_a_run_from_a_checkpoint_is_audited_without_twins_alone(folder, tmp_path):
    """Its unseen samples are test data: whether they are of one source with the others, the user must say."""
    weights = ("--model.checkpoint", folder / "original.safetensors", "--references", "0")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    code, _, err = untrain("run", recipe, "--out", tmp_path / "run", *weights)
    assert code == 1 and "audit_holdout" in err and "holdout_from" in err
    code, _, err = untrain("run", recipe, "--out", tmp_path / "run", *weights, "--forget.audit_holdout", "0")
    assert code == 0, err
    code, _, err = untrain("audit", tmp_path / "run")
    assert code == 1 and "--twins 0" in err
    code, _, err = untrain("audit", tmp_path / "run", "--twins", "0")
    assert code == 0, err
    found = audit_of(tmp_path / "run")
    assert found["unseen_from"] == "test data" and found["methods"]["finetune"]["verdict"]["kind"] == "cannot-judge"
    shutil.rmtree(tmp_path / "run/audit")
    code, _, err = untrain("audit", tmp_path / "run", "--twins", "0", "--exchangeable")
    assert code == 0, err
    assert audit_of(tmp_path / "run")["methods"]["finetune"]["p"] is not None


@pytest.mark.parametrize(
    "flags",
    [
        ("--twins", "0", "--per-sample"),
        ("--twins", "0", "--planted", "8"),
        ("--twins", "4", "--exchangeable"),
        ("--twins", "4", "--design", "single"),
    ],
)
def test_flags_that_a_design_does_not_know_are_named(folder, flags):
    code, _, err = untrain("audit", folder, *flags)
    assert code == 1 and (flags[2].removeprefix("--") in err.replace("design single has", "design")) and "leave" in err
