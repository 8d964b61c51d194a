"""DELETE: its target, its steps written out, and a class that is forgotten without a look at the rest."""

import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, buffers, close, network, problem, ran, slow_sgd, slow_step
from untrain.methods.delete import Delete, without_class


def test_the_true_class_loses_all_probability_and_the_others_keep_their_proportions():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    found = without_class(logits, torch.tensor([0, 2])).softmax(1)
    expected = torch.tensor([[0, 1 / (1 + torch.e**-1), torch.e**-1 / (1 + torch.e**-1)], [0.5, 0.5, 0]])
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=1e-12)


def test_steps_equal_the_divergence_written_out():
    state, method = ran(Delete(epochs=2, optimizer=SGD, max_norm=0.7), 4)
    assert method.total == 4
    slow, teacher, (work, _) = network().train(), network().eval(), problem()
    optimizer, schedule = slow_sgd(slow, steps=4)
    for k in range(4):
        batch = work.forget.batch(k, work.task, "forget")
        with torch.no_grad():
            target = teacher(batch["input"]).double().scatter(1, batch["label"][:, None], -1e3)
        kept = buffers(slow)
        p, out = target.softmax(1), slow(batch["input"])
        loss = (torch.xlogy(p, p) - p * F.log_softmax(out, 1)).sum(1).mean()
        slow_step(slow, optimizer, schedule, loss, 0.7, kept=kept)
    close(state.module, slow)
    close(state.frozen["original"], network())


def test_a_class_loses_its_probability():
    torch.manual_seed(0)
    x = torch.randn(40, 1, 8, 8, dtype=torch.float64)
    work, engine = problem()
    work.forget.data.tensors = (x, torch.full((40,), 3))
    method = Delete(steps=60, optimizer=SGD).resolved(work, engine)
    state = method.start(work, engine)
    for k in range(60):
        method.step(state, k)
    with torch.no_grad():
        assert state.module.eval()(x).softmax(1)[:, 3].mean() < 0.05
