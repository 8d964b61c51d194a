"""SCRUB: its phases, its steps written out, one pass through the model where loss and divergence are needed."""

import copy

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, buffers, close, kl, network, problem, ran, slow_sgd, slow_step
from untrain.methods.scrub import Scrub


@pytest.mark.parametrize(("max_steps", "epochs", "total"), [(2, 4.0, 24), (0, 2.0, 10), (3, 1.0, 7), (1, 2.5, 15)])
def test_phases(max_steps, epochs, total):
    work, engine = problem()
    method = Scrub(max_steps=max_steps, epochs=epochs, optimizer=SGD).resolved(work, engine)
    assert method.total == total
    visits = [method.forget_batch(work, k) for k in range(total)]
    rounds = min(max_steps, int(-(-epochs // 1)))
    expected = [v for r in range(rounds) for v in [2 * r, 2 * r + 1, *[None] * 5]]
    assert visits == (expected + [None] * total)[:total]


def test_two_epochs_equal_the_two_objectives_written_out():
    method = Scrub(max_steps=1, epochs=2, gamma=0.9, alpha=0.02, temperature=4.0, max_norm=0.7, optimizer=SGD)
    state, method = ran(method, 12)
    slow, (work, _) = network().train(), problem()
    teacher = copy.deepcopy(slow).eval()
    optimizer, schedule = slow_sgd(slow, steps=12)
    for k in range(12):
        up = k < 2
        batch = work.forget.batch(k, work.task, "forget") if up else work.retain.batch(k - 2, work.task, "retain")
        with torch.no_grad():
            target = teacher(batch["input"])
        kept = buffers(slow) if up else None
        out = slow(batch["input"])
        far = 16 * kl(out, target, 4.0)
        loss = -far if up else 0.9 * F.cross_entropy(out, batch["label"]) + 0.02 * far
        slow_step(slow, optimizer, schedule, loss, 0.7 if up else None, kept=kept)
    close(state.module, slow)
    close(state.frozen["original"], network())


def test_a_step_of_a_min_phase_passes_through_the_model_once():
    state, method = ran(Scrub(max_steps=0, epochs=2, optimizer=SGD), 0)
    passes = []
    state.module.register_forward_hook(lambda *_: passes.append(1))
    method.step(state, 0)
    assert len(passes) == 1


def test_a_max_phase_leaves_the_original_on_the_forget_set():
    """The second one: at the original itself the divergence is at its minimum, and has next to no gradient."""
    state, method = ran(Scrub(max_steps=2, epochs=2, optimizer=SGD), 7)

    def far():
        x = state.problem.forget.data.tensors[0]
        with torch.no_grad():
            return kl(state.module.eval()(x), state.frozen["original"](x), 1.0)

    before = far()
    for k in (7, 8):
        assert "forget_loss" in method.step(state, k)
    assert far() > before
