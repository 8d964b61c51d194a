"""ReGUn: the reference of each class, the joined step written out, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, close, few_samples, network, samples, slow_sgd, slow_step
from untrain.errors import SettingError
from untrain.methods.regun import ReGUn, mean_answers


def test_the_reference_is_the_mean_answer_to_held_out_samples_of_the_class():
    work, engine = few_samples(holdout=True)
    found = mean_answers(work, engine)
    x, y = samples(30, 3).tensors
    with torch.no_grad():
        answers = network().eval()(x).softmax(1)
    for c in range(5):
        torch.testing.assert_close(found["mean"][c], answers[y == c].mean(0), rtol=1e-10, atol=1e-12)
        assert found["count"][c] == (y == c).sum()


def test_steps_equal_the_weighted_sum_written_out():
    """Batches of ten are normalised by running statistics."""
    work, engine = few_samples(holdout=True)
    method = ReGUn(steps=4, weight=0.3, optimizer=SGD).resolved(work, engine)
    state = method.start(work, engine)
    for k in range(4):
        method.step(state, k)
    slow, (work, engine) = network(), few_samples(holdout=True)
    reference = mean_answers(work, engine)["mean"]
    optimizer, schedule = slow_sgd(slow, steps=4)
    for k in range(4):
        forget, retain = work.forget.batch(k, work.task, "forget"), work.retain.batch(k, work.task, "retain")
        down = F.cross_entropy(slow.train()(retain["input"]), retain["label"])
        q = reference[forget["label"]]
        away = (q * (q.log() - F.log_softmax(slow.eval()(forget["input"]), 1))).sum(1).mean()
        slow_step(slow, optimizer, schedule, 0.7 * down + 0.3 * away)
    close(state.module, slow)


def test_a_class_without_held_out_samples_is_left_out():
    work, engine = few_samples(holdout=True)
    x, y = samples(30, 3).tensors
    work.holdout.data.tensors = (x, torch.where(y == 2, 3, y))
    method = ReGUn(steps=4, optimizer=SGD).resolved(work, engine)
    state = method.start(work, engine)
    assert state.problem.memo["reference"]["count"][2] == 0
    torch.testing.assert_close(state.problem.memo["reference"]["mean"][2], torch.full((5,), 0.2).double())
    assert method.step(state, 0)["forget_loss"] >= 0


def test_without_held_out_data_it_is_refused():
    work, engine = few_samples()
    with pytest.raises(SettingError, match=r"'regun'.*holdout"):
        ReGUn(steps=4, optimizer=SGD).resolved(work, engine)
    with pytest.raises(SettingError, match="weight"):
        ReGUn(weight=1.0)
