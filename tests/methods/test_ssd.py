"""SSD: one step in closed form."""

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import network, problem, ran
from untrain.methods.ssd import SSD


def slow_fisher(data, module):
    """Mean over samples of squared gradients."""
    x, y = data.tensors
    totals = [torch.zeros_like(p) for p in module.eval().parameters()]
    for i in range(len(x)):
        loss = F.cross_entropy(module(x[i : i + 1]), y[i : i + 1])
        for total, g in zip(totals, torch.autograd.grad(loss, list(module.parameters())), strict=True):
            total += g**2 / len(x)
    return totals


@pytest.mark.parametrize(("alpha", "lam"), [(1.5, 1.0), (1.0, 0.3), (2.0, 5.0)])
def test_the_dampened_weights_in_closed_form(alpha, lam):
    state, _ = ran(SSD(alpha=alpha, lam=lam), 1)
    module, work = network(), state.problem
    forget, retain = (slow_fisher(stream.data, module) for stream in (work.forget, work.retain))
    dampened = 0
    for found, old, f, r in zip(state.parameters, module.parameters(), forget, retain, strict=True):
        whole = (40 * f + 100 * r) / 140
        chosen = f > alpha * whole
        expected = torch.where(chosen, old * (lam * whole / f).clamp(max=1), old)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-14)
        assert torch.equal(found[~chosen], old[~chosen])
        dampened += int(chosen.sum())
    assert 0 < dampened < sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("fraction", [0.01, 0.2])
def test_a_fraction_takes_the_highest_ratios(fraction):
    state, method = ran(SSD(fraction=fraction), 0)
    logged = method.step(state, 0)["dampened"]
    module, work = network(), state.problem
    forget, retain = (slow_fisher(stream.data, module) for stream in (work.forget, work.retain))
    whole = [(40 * f + 100 * r) / 140 for f, r in zip(forget, retain, strict=True)]
    ratio = torch.cat([torch.where(w > 0, f / w, 0).flatten() for f, w in zip(forget, whole, strict=True)])
    moved = torch.cat([(a != b).flatten() for a, b in zip(state.parameters, module.parameters(), strict=True)])
    keep = round(fraction * len(ratio))
    assert int(moved.sum()) == keep
    assert logged == pytest.approx(keep / len(ratio))
    assert ratio[moved].min() >= ratio[~moved].max() > 0


def test_a_ratio_that_cannot_be_reached_changes_nothing():
    """F_all holds 40 / 140 of F_forget, so that no weight's ratio is above 3.5."""
    state, _ = ran(SSD(alpha=3.5), 1)
    assert all(torch.equal(a, b) for a, b in zip(state.parameters, network().parameters(), strict=True))


def test_dead_weights_stay():
    model = network()
    with torch.no_grad():
        model[0].bias[:3] = 7.0
        model[6].weight[:, :4] = 0.0
        model[4].weight[:4] = 0.0
        model[4].bias[:4] = -1.0  # dead units: no gradient from any sample
    before = [p.detach().clone() for p in model.parameters()]
    state, _ = ran(SSD(fraction=1.0), 1, model=model)
    assert torch.equal(state.module[4].weight[:4], before[4][:4])
    assert torch.equal(state.module[4].bias[:4], before[5][:4])
    assert all(torch.isfinite(p).all() for p in state.parameters)


def test_looking_moves_no_buffer():
    work, engine = problem()
    before = {name: b.clone() for name, b in work.subject.module.named_buffers()}
    SSD().start(work, engine)
    assert all(torch.equal(before[name], b) for name, b in work.subject.module.named_buffers())
