"""L1-sparse: the steps written out, the decay of the penalty, and fewer weights that matter."""

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, close, network, problem, ran, slow_sgd, slow_step
from untrain.methods.base import Optimizer
from untrain.methods.finetune import Finetune
from untrain.methods.l1_sparse import L1Sparse


def test_six_steps_equal_the_penalised_loss_written_out():
    state, _ = ran(L1Sparse(steps=6, gamma=3e-3, optimizer=SGD), 6)
    slow, (work, _) = network().train(), problem()
    optimizer, schedule = slow_sgd(slow, steps=6)
    for k in range(6):
        batch = work.retain.batch(k, work.task, "retain")
        norm = sum(p.abs().sum() for p in slow.parameters())
        loss = F.cross_entropy(slow(batch["input"]), batch["label"]) + (2 - 2 * k / 6) * 3e-3 * norm
        slow_step(slow, optimizer, schedule, loss)
    close(state.module, slow)


def test_the_penalty_decays_from_twice_gamma_to_zero():
    method = L1Sparse(steps=1000, gamma=0.5)
    rates = [method.gamma_at(k) for k in range(1000)]
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(0.001)
    assert sum(rates) / 1000 == pytest.approx(0.5, rel=2e-3)


def test_weights_become_sparse():
    plain = Optimizer("sgd", 0.05, 0.9)
    small = []
    for method in (Finetune(60, optimizer=plain), L1Sparse(60, gamma=3e-3, optimizer=plain)):
        weights = torch.cat([p.detach().flatten() for p in ran(method, 60)[0].parameters])
        small.append(float((weights.abs() < 1e-2).double().mean()))
    assert small[1] > 3 * small[0]


def test_frozen_parameters_are_not_penalised():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    state, _ = ran(L1Sparse(steps=3, gamma=0.1, optimizer=SGD), 3, model=model)
    assert torch.equal(state.module[0].weight, before)
