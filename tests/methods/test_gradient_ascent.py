"""Gradient ascent: the step written out, and what it may not touch."""

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, close, network, problem, ran, slow_sgd, slow_step
from helpers.small_generators import denoiser
from helpers.small_generators import problem as generator
from untrain.methods.base import Optimizer
from untrain.methods.gradient_ascent import GradientAscent
from untrain.methods.loop import run


def test_five_steps_equal_plain_ascent():
    state, _ = ran(GradientAscent(steps=8, optimizer=SGD, max_norm=0.5), 5)
    slow, (work, _) = network().eval(), problem()
    optimizer, schedule = slow_sgd(slow)
    for k in range(5):
        batch = work.forget.batch(k, work.task, "forget")
        slow_step(slow, optimizer, schedule, -F.cross_entropy(slow(batch["input"]), batch["label"]), 0.5)
    close(state.module, slow)


def test_forgetting_raises_the_forget_loss_and_moves_no_running_statistics():
    work, _ = problem()
    before = {name: b.clone() for name, b in work.subject.module.named_buffers()}
    state, method = ran(GradientAscent(), 10)
    assert method.total == 10  # five passes of two batches
    assert all(torch.equal(before[name], b) for name, b in state.module.named_buffers())
    x, y = work.forget.data.tensors
    with torch.no_grad():
        first, last = (F.cross_entropy(module.eval()(x), y) for module in (network(), state.module))
    assert last > first
    assert state.retained == 0


@pytest.mark.parametrize("steps", [5, 60])
@pytest.mark.parametrize("optimizer", [Optimizer("sgd", None, 0.9), Optimizer("sgd", None), Optimizer("adam", None)])
def test_where_no_rate_is_given_all_steps_together_reach_as_far_however_many_there_are(steps, optimizer):
    state, method = ran(GradientAscent(steps=steps, optimizer=optimizer, max_norm=0.01), steps)
    with torch.no_grad():
        moved = [p - q for p, q in zip(state.parameters, network().parameters(), strict=True)]
    length = float(torch.cat([m.flatten() for m in moved]).norm())
    assert 0.004 < length < 0.051
    assert any("reach 0.05" in note for note in state.problem.notes)
    assert method.optimizer.name == optimizer.name


def test_a_single_sample_can_be_forgotten():
    state, _ = ran(GradientAscent(steps=3), 3, forget=1)
    assert all(torch.isfinite(p).all() for p in state.parameters)


def test_a_generator_is_carried_further():
    work, engine = generator(denoiser())
    done = run(GradientAscent(steps=30), work, engine)
    moved = torch.cat([(p - q).flatten() for p, q in zip(done.state.parameters, denoiser().parameters(), strict=True)])
    assert 0.05 < float(moved.detach().norm()) < 0.51
    assert any("reach 0.5 " in note for note in work.notes)
