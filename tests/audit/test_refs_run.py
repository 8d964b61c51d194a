"""The audit by references of a real run: a digit forgotten, a small network, five models of each kind."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from helpers.command_line import untrain
from helpers.page_figures import drawn, figures_by
from untrain.audit.designs import plan_of
from untrain.audit.refs_score import FOUND, TOO_LITTLE
from untrain.audit.run import audit_run
from untrain.data.splits import Subset
from untrain.domain import Inquiry
from untrain.errors import DataError, SettingError
from untrain.runs.recipe import read
from untrain.runs.stages import open_experiment, run_recipe

pytestmark = pytest.mark.usefixtures("quick_workers")

RECIPE = """\
name: audited-class
data: {name: digits, limit: 400, test_limit: 200}
forget: {classes: ["3"], holdout: 0.1}
model: {name: small-cnn, options: {width: 8}}
train: {epochs: 8, optimizer: {name: sgd, lr: 0.1, momentum: 0.9}}
references: 0
methods:
  retrain: {epochs: 8}
  identity: {method: "helpers.cheats:Identity", steps: 1, optimizer: {name: sgd, lr: 0.01}}
  too-far: {method: "helpers.cheats:PushedTooFar", steps: 1, optimizer: {name: sgd, lr: 0.01}}
batch_size: 50
device: cpu
"""
TESTED = ("recall", "answers", "relearning", "refit", "features")
FLAGS = ("--twins", "5", "--allow-code")


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """The run's folder with its audit, what was printed, and audit.json."""
    place = tmp_path_factory.mktemp("refs")
    (place / "recipe.yaml").write_text(RECIPE)
    code, _, err = untrain("run", place / "recipe.yaml", "--out", place / "run", "--allow-code")
    assert code == 0, err
    with figures_by(drawn):
        code, out, err = untrain("audit", place / "run", *FLAGS)
    assert code == 0, err
    return place / "run", out, json.loads((place / "run/audit/audit.json").read_text())


def test_real_networks_get_the_verdicts_that_are_due(audited):
    """Nothing was removed by the identity, all by training anew, and a class that no relearning brings back is more.

    Of one audit in twenty, p falls under 5 % by chance: retraining is held to 1 % after Holm.
    """
    _, out, found = audited
    assert found["design"] == "refs" and found["twins"] == found["references"] == 5
    identity, anew, far = (found["methods"][name] for name in ("identity", "retrain", "too-far"))
    assert identity["verdict"]["kind"] == "trace" and identity["verdict"]["subkind"] == TOO_LITTLE
    recall = identity["numbers"]["recall"]
    assert recall["p"] == pytest.approx(2 / 252) and recall["removed"] == 0 and recall["kind"] == TOO_LITTLE
    assert np.mean(recall["values"]["original"]) > 80 and np.mean(recall["values"]["retrained"]) == 0
    assert min(anew["numbers"][name]["p_holm"] for name in TESTED) > 0.01
    assert anew["numbers"]["recall"]["removed"] == 1
    assert far["verdict"]["kind"] == "trace"
    assert far["numbers"]["recall"]["removed"] == 1, "by its recall alone it seems to have forgotten"
    assert far["numbers"]["refit"]["kind"] in (TOO_LITTLE, "unsure", "cannot-show"), "features are the original's"
    same = [each["numbers"]["refit"]["values"]["unlearned"] for each in (far, identity)]
    assert same[0] == same[1]
    assert "identity leaves a trace" in out and "New head" in out


def test_the_card_and_the_numbers_are_kept(audited):
    _, _, found = audited
    for method in found["methods"].values():
        assert set(TESTED) < set(method["numbers"]) and len(method["card"]) == len(method["numbers"]) + 2
        assert [len(method["numbers"]["features"]["values"][kind]) for kind in ("unlearned", "retrained")] == [4, 5]
        assert method["numbers"]["own_features"]["p"] is None
        assert {number["kind"] for number in method["numbers"].values()} <= {
            *FOUND,
            *("as-retrained", "unsure", "cannot-show", "described"),
        }
    control = found["controls"]["original"]["numbers"]["recall"]
    assert control["values"]["unlearned"] == control["values"]["original"] and control["p_holm"] <= 0.05


def test_going_on_gives_the_same(audited, tmp_path):
    """Answers of models that were not asked yet are made from models made anew, bit by bit."""
    folder, _, found = audited
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    assert not [*copy.glob("audit/*/*/*.safetensors.resume*")] and not [*copy.glob("audit/twins/*/*.safetensors")]
    shutil.rmtree(copy / "audit/twins/twin-03")
    (copy / "audit/base/signals/retrained-2.safetensors").unlink()
    code, _, err = untrain("audit", copy, *FLAGS, "--jobs", "2", "--resume")
    assert code == 0, err
    again = json.loads((copy / "audit/audit.json").read_text())
    for each in (found, again):
        for name in ("sha256", "command", "run", "seconds"):
            each.pop(name, None)
    assert again == found


def test_an_audit_of_another_seed_does_not_go_on(audited):
    code, _, err = untrain("audit", audited[0], *FLAGS, "--resume", "--seed", "1")
    assert code == 1 and "holds an audit" in err


def write(place, text):
    (place / "recipe.yaml").write_text(text)
    return read(place / "recipe.yaml", ["--out", str(place / "run")])


SHORT = RECIPE.split("  identity")[0].replace("epochs: 8", "steps: 1") + "batch_size: 50\ndevice: cpu\n"


@pytest.mark.parametrize(("twins", "references"), [(4, None), (5, 4), (6, 0)])
def test_too_few_models_are_refused(tmp_path, twins, references):
    with pytest.raises(SettingError, match="at least 5 twins"):
        plan_of(write(tmp_path, SHORT), twins=twins, references=references)


def test_designs_and_sizes_are_those_of_the_request(tmp_path):
    plan = plan_of(write(tmp_path, SHORT))
    assert (plan.design, plan.twins, plan.references) == ("refs", 6, 6)
    assert plan_of(plan.recipe, twins=8).references == 8
    with pytest.raises(SettingError, match="does not fit"):
        plan_of(plan.recipe, design="coins")
    some = write(tmp_path, SHORT.replace('classes: ["3"]', "fraction: 0.2"))
    assert plan_of(some).design == "coins" and plan_of(some, design="refs").twins == 6


def test_a_run_that_began_from_a_checkpoint_is_refused(tmp_path):
    text = SHORT.replace("model: {name: small-cnn,", "model: {name: small-cnn, checkpoint: there.pt,")
    with pytest.raises(SettingError, match="checkpoint"):
        plan_of(write(tmp_path, text))


def test_a_class_without_test_images_is_refused(tmp_path):
    """A test part of ten images has some of each class, too few; one without the class has none."""
    recipe = write(tmp_path, SHORT.replace("test_limit: 200", "test_limit: 10"))
    run_recipe(recipe)
    with pytest.raises(DataError, match="fewer than 20"):
        audit_run(plan_of(recipe))
    experiment = open_experiment(recipe, fresh=False, write=False)
    test = experiment.division.test
    others = Subset(test, (test.labels != 3).nonzero()[:, 0])
    with pytest.raises(DataError, match="no test image of the class '3'"):
        experiment.domain.check_whole(replace(experiment.division, test=others))


def test_samples_are_asked_about_themselves(tmp_path):
    """By references, a random fifth: what is recognised are the forgotten samples, but for those of relearning."""
    recipe = write(tmp_path, SHORT.replace('classes: ["3"]', "fraction: 0.2"))
    experiment = open_experiment(recipe)
    domain, division = experiment.domain, experiment.division
    domain.check_whole(division)
    module = domain.build(0)
    told = [domain.ask_whole(module, Inquiry(division, 0.01, seed)) for seed in (0, 0, 1)]
    assert len(told[0].signals["answers"]) == 10 and told[0].signals["answers"].sum() == pytest.approx(1)
    assert all(np.array_equal(told[0].signals[key], told[1].signals[key]) for key in told[0].signals)
    assert told[0].scores == told[1].scores and told[0].scores.keys() >= {
        "recall",
        "refit",
        "relearned",
        "base",
        "test",
    }
    assert not np.array_equal(told[0].signals["answers"], told[2].signals["answers"]), "other samples are given away"
    assert "relearned" not in domain.ask_whole(module, Inquiry(division, None, 0)).scores
