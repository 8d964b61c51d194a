"""Proximal gradient: the steps written out; weights that are not worth moving are exactly the original's."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, close, forget_part, network, problem, ran, slow_sgd, slow_step
from untrain.methods import proximal_gradient
from untrain.methods.base import Optimizer
from untrain.methods.proximal_gradient import ProximalGradient, quantile
from untrain.methods.random_label import RandomLabel


def pulled_back(model, original, fraction):
    """S_γ weight by weight, with γ from a sorted list of all distances."""
    distances = sorted(
        abs(a - b)
        for p, start in zip(model.parameters(), original.parameters(), strict=True)
        for a, b in zip(p.flatten().tolist(), start.flatten().tolist(), strict=True)
    )
    gamma = distances[max(1, round(fraction * len(distances))) - 1]
    with torch.no_grad():
        for p, start in zip(model.parameters(), original.parameters(), strict=True):
            flat, origin = p.view(-1), start.flatten().tolist()
            for i, value in enumerate(flat.tolist()):
                delta = value - origin[i]
                flat[i] = origin[i] + math.copysign(max(abs(delta) - gamma, 0.0), delta)
    return gamma


@pytest.mark.parametrize("fraction", [0.2, 0.7])
def test_two_passes_over_the_union_equal_the_operator_written_out(fraction):
    state, method = ran(ProximalGradient(steps=10, fraction=fraction, optimizer=SGD, max_norm=2.0), 0)
    slow, original, (work, _) = network().train(), network(), problem()
    optimizer, schedule = slow_sgd(slow, steps=10)
    for k in range(10):
        log = method.step(state, k)
        retain, taught = work.retain.batch(k, work.task, "retain"), forget_part(work, k)
        inputs = torch.cat([retain["input"], taught["input"]])
        labels = torch.cat([retain["label"], work.task.variant(taught, "redirect")["label"]])
        slow_step(slow, optimizer, schedule, F.cross_entropy(slow(inputs), labels), 2.0)
        assert log["gamma"] == pytest.approx(pulled_back(slow, original, fraction), rel=1e-8)
    close(state.module, slow)


def kept_share(state):
    """The share of weights that are exactly the original's."""
    pairs = list(zip(state.parameters, network().parameters(), strict=True))
    return sum(int((p == start).sum()) for p, start in pairs) / sum(p.numel() for p, _ in pairs)


@pytest.mark.parametrize("optimizer", [SGD, Optimizer("adam", 1e-2), Optimizer("adamw", 1e-2, weight_decay=0.1)])
def test_the_larger_the_fraction_the_more_weights_stay_exactly_as_they_were(optimizer):
    shares = [kept_share(ran(ProximalGradient(20, fraction=f, optimizer=optimizer), 20)[0]) for f in (0.2, 0.5, 0.9)]
    assert shares == pytest.approx([0.2, 0.5, 0.9], abs=0.02)  # equal distances go back together
    assert shares[0] >= 0.2 - 1e-3
    assert kept_share(ran(RandomLabel(20, optimizer=optimizer), 20)[0]) < 0.05


def test_what_is_not_trained_is_not_touched():
    model = network()
    model[0].weight.requires_grad_(False)
    state, _ = ran(ProximalGradient(steps=3, optimizer=SGD), 3, model=model)
    assert torch.equal(state.module[0].weight, network()[0].weight)
    assert state.frozen["original"][0].weight is state.module[0].weight, "and not copied"


def test_other_labels_become_likelier_than_the_true_ones():
    work, _ = problem()
    batch = next(iter(work.forget.once(work.task, "evaluate", batch_size=40)))
    other = work.task.variant(batch, "redirect")
    state, _ = ran(ProximalGradient(steps=100, optimizer=SGD), 100)
    state.module.eval()
    with torch.no_grad():
        assert work.task.loss(state.module, other).mean() < work.task.loss(state.module, batch).mean() - 1


@torch.no_grad()
def test_of_a_large_model_a_part_says_how_far_weights_moved(monkeypatch):
    torch.manual_seed(0)
    start = [torch.randn(n, 7) for n in (300, 20)]
    pairs = [(p + torch.randn_like(p), p) for p in start]
    whole = quantile(pairs, 0.5)
    assert whole == float(torch.cat([(p - q).abs().flatten() for p, q in pairs]).sort().values[1119])
    monkeypatch.setattr(proximal_gradient, "SAMPLE", 500)
    assert quantile(pairs, 0.5) == pytest.approx(whole, abs=0.1)  # 448 draws: a standard error of 0.04
    assert quantile(pairs, 0.5) != whole
