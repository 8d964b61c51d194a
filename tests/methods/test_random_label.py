"""Random labels: the steps written out; redirected labels become likelier."""

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, close, forget_part, network, problem, ran, slow_sgd, slow_step
from untrain.methods.random_label import RandomLabel


@pytest.mark.parametrize(("forget", "batch_size"), [(40, 20), (40, 10), (27, 20)])
def test_passes_over_the_union_equal_plain_descent(forget, batch_size):
    """On retain and redirected forget rows in one batch, normalised together; two passes over the retain set."""
    steps = 200 // batch_size
    state, _ = ran(RandomLabel(steps=steps, optimizer=SGD, max_norm=2.0), steps, forget=forget, batch_size=batch_size)
    slow, (work, _) = network().train(), problem(forget=forget, batch_size=batch_size)
    optimizer, schedule = slow_sgd(slow, steps=steps)
    for k in range(steps):
        retain, taught = work.retain.batch(k, work.task, "retain"), forget_part(work, k)
        inputs = torch.cat([retain["input"], taught["input"]])
        labels = torch.cat([retain["label"], work.task.variant(taught, "redirect")["label"]])
        slow_step(slow, optimizer, schedule, F.cross_entropy(slow(inputs), labels), 2.0)
    close(state.module, slow)


def test_both_losses_are_logged():
    work, engine = problem()
    state = RandomLabel(steps=5, optimizer=SGD).start(work, engine)
    found = RandomLabel(steps=5).step(state, 0)
    retain, taught = work.retain.batch(0, work.task, "retain"), forget_part(work, 0)
    with torch.no_grad():
        logits = network().train()(torch.cat([retain["input"], taught["input"]]))
    other = work.task.variant(taught, "redirect")["label"]
    assert found["retain_loss"] == pytest.approx(float(F.cross_entropy(logits[:20], retain["label"])), rel=1e-12)
    assert found["forget_loss"] == pytest.approx(float(F.cross_entropy(logits[20:], other)), rel=1e-12)


def test_other_labels_become_likelier_than_the_true_ones():
    work, _ = problem()
    batch = next(iter(work.forget.once(work.task, "evaluate", batch_size=40)))
    other = work.task.variant(batch, "redirect")
    state, _ = ran(RandomLabel(steps=100, optimizer=SGD), 100)
    state.module.eval()
    with torch.no_grad():
        assert work.task.loss(state.module, other).mean() < work.task.loss(state.module, batch).mean() - 1


def test_a_single_sample_can_be_forgotten():
    state, _ = ran(RandomLabel(steps=10, optimizer=SGD), 10, forget=1)
    assert all(torch.isfinite(p).all() for p in state.parameters)
