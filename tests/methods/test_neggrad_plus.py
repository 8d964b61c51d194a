"""NegGrad+: the joined step written out, and what β does."""

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, buffers, close, network, problem, ran, slow_sgd, slow_step
from untrain.methods.finetune import Finetune
from untrain.methods.neggrad_plus import NegGradPlus


@pytest.mark.parametrize("beta", [0.95, 0.6])
def test_five_steps_equal_the_weighted_sum_written_out(beta):
    state, _ = ran(NegGradPlus(steps=5, beta=beta, optimizer=SGD, max_norm=3.0), 5)
    slow, (work, _) = network().train(), problem()
    optimizer, schedule = slow_sgd(slow, steps=5)
    for k in range(5):
        forget, retain = work.forget.batch(k, work.task, "forget"), work.retain.batch(k, work.task, "retain")
        kept = buffers(slow)
        up = F.cross_entropy(slow(forget["input"]), forget["label"])
        gradients = torch.autograd.grad(-(1 - beta) * up, list(slow.parameters()))
        slow.load_state_dict(kept, strict=False)
        down = F.cross_entropy(slow(retain["input"]), retain["label"])
        linear = sum((p * g).sum() for p, g in zip(slow.parameters(), gradients, strict=True))
        slow_step(slow, optimizer, schedule, beta * down + linear, 3.0)
    close(state.module, slow)


def test_without_forgetting_it_is_finetuning():
    joined = NegGradPlus(steps=5, beta=1, optimizer=SGD, max_norm=None)
    found, expected = (ran(method, 5)[0] for method in (joined, Finetune(5, optimizer=SGD)))
    close(found.module, expected.module)


def test_the_smaller_beta_the_higher_the_forget_loss():
    ends = []
    for beta in (1.0, 0.95, 0.8):
        state, _ = ran(NegGradPlus(steps=30, beta=beta, optimizer=SGD), 30)
        x, y = state.problem.forget.data.tensors
        with torch.no_grad():
            ends.append(float(F.cross_entropy(state.module.eval()(x), y)))
    assert ends[0] < ends[1] < ends[2]
