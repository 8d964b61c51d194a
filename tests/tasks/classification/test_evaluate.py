import pytest

import untrain
from helpers.stored_logits import LABELS, Table, batches, logits_for
from untrain.errors import DataError
from untrain.tasks.classification.evaluate import EDGES, SVC_ATTACKS


def test_values_in_closed_form_and_one_pass_a_set():
    answers = [0, 1, 0, 1] + LABELS["retain"] + [0, 1, 2, 0]
    model = Table(logits_for(answers))
    model.train()
    found = untrain.evaluate(model, **batches(), device="cpu")
    assert (found.FA, found.RA, found.TA) == (50, 100, 75)
    assert found.by_class["FA"] == {"0": 50, "1": 100, "2": 0}
    assert model.training, "the mode is put back"
    assert model.calls == 4, "one pass over each of three sets, and one look when the task is prepared"
    assert found.forgotten_TA is None
    assert set(found.missing) == {"KL", "JS", "AvgD", "ToW", *SVC_ATTACKS}
    assert sum(found.losses["forget"]) == 4
    assert len(found.losses["test"]) == len(EDGES) - 1


def test_distances_and_the_noise_floor():
    right = logits_for(LABELS["forget"] + LABELS["retain"] + LABELS["test"])
    wrong = right.clone()
    wrong[:2] = wrong[:2].roll(1, 1)
    same = untrain.evaluate(Table(right), **batches(), reference=Table(right), device="cpu")
    assert (same.KL, same.JS, same.AvgD, same.ToW) == (0, 0, 0, 1)
    assert same.noise_floor is None
    two = untrain.evaluate(Table(right), **batches(), reference=[Table(right), Table(wrong)], device="cpu")
    assert two.AvgD == 0
    alone = untrain.evaluate(Table(wrong), **batches(), reference=Table(right), device="cpu")
    assert two.noise_floor["AvgD"] == alone.AvgD > 0
    assert two.noise_floor["KL"] == pytest.approx(alone.KL)


def test_a_forgotten_class_is_left_out_of_the_test_accuracy():
    labels = {"forget": [2, 2], "retain": [0, 1, 0, 1], "test": [0, 1, 2, 2]}
    answers = [0, 1] + labels["retain"] + [0, 1, 2, 0]
    found = untrain.evaluate(Table(logits_for(answers)), **batches(labels), device="cpu")
    assert (found.FA, found.TA, found.forgotten_TA) == (0, 100, 50)
    only = {**labels, "test": [2, 2, 2, 2]}
    found = untrain.evaluate(Table(logits_for(answers)), **batches(only), device="cpu")
    assert found.TA is None
    assert found.MIA is None
    assert "forgotten" in found.missing["TA"]


def test_a_loss_that_is_not_finite_is_named():
    logits = logits_for(LABELS["forget"] + LABELS["retain"] + LABELS["test"])
    logits[5] = float("nan")
    with pytest.raises(DataError, match="not finite on 1 samples of the retain set"):
        untrain.evaluate(Table(logits), **batches(), device="cpu")


def test_a_reference_with_other_classes_is_refused():
    rows = LABELS["forget"] + LABELS["retain"] + LABELS["test"]
    with pytest.raises(DataError, match="same classes"):
        untrain.evaluate(
            Table(logits_for(rows)), **batches(), reference=Table(logits_for(rows, classes=4)), device="cpu"
        )
