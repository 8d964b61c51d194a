"""SalUn: the mask is exact, and no step moves a weight outside it."""

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, close, forget_part, network, problem, ran, slow_sgd
from untrain.errors import DataError, SettingError
from untrain.methods.base import Optimizer
from untrain.methods.salun import SalUn, forget_gradient
from untrain.saliency import largest_mask


def slow_gradient(work, module):
    """Mean over the forget set, one sample after the other."""
    x, y = work.forget.data.tensors
    named = dict(module.eval().named_parameters())
    totals = {name: torch.zeros_like(p) for name, p in named.items()}
    for i in range(len(x)):
        loss = F.cross_entropy(module(x[i : i + 1]), y[i : i + 1])
        for total, g in zip(totals.values(), torch.autograd.grad(loss, list(named.values())), strict=True):
            total += g / len(x)
    return totals


def test_the_gradient_is_the_mean_over_samples_in_unequal_batches():
    work, engine = problem(forget=27, batch_size=10)
    found, expected = forget_gradient(work, engine), slow_gradient(work, network())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-10, atol=1e-14), name


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_the_mask_holds_the_largest(fraction):
    state, _ = ran(SalUn(steps=1, fraction=fraction, optimizer=SGD), 0)
    mask = torch.cat([m.flatten() for m in state.problem.memo["mask"].values()])
    gradient = torch.cat([g.abs().flatten() for g in slow_gradient(state.problem, network()).values()])
    assert int(mask.sum()) == round(fraction * len(mask))
    if fraction < 1:
        assert gradient[mask].min() >= gradient[~mask].max()


def test_among_equals_the_first_are_taken():
    values = {"a": torch.tensor([[1.0, -2.0], [2.0, 0.0]]), "b": torch.tensor([2.0, -3.0, 2.0, 2.0])}
    mask = largest_mask(values, 0.5)
    assert mask["a"].tolist() == [[False, True], [True, False]]
    assert mask["b"].tolist() == [True, True, False, False]
    assert sum(int(m.sum()) for m in largest_mask(values, 1e-9).values()) == 1
    assert all(m.all() for m in largest_mask(values, 1.0).values())
    with pytest.raises(SettingError, match="fraction"):
        largest_mask(values, 0.0)
    with pytest.raises(DataError, match="not finite"):
        largest_mask({"a": torch.tensor([float("nan"), 1.0])}, 0.5)


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize(
    "types", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float64,) * 2]
)
def test_the_largest_are_those_of_a_sort(fraction, types):
    """Of many equal values too, and of tensors laid out otherwise; sorted as a whole, the first of equals first."""
    g = torch.Generator().manual_seed(1)
    values = {
        "a": torch.randn(8, 6, 3, 3, generator=g).to(types[0]).to(memory_format=torch.channels_last),
        "b": (3 * torch.randn(200, generator=g)).round().to(types[1]),
        "c": torch.zeros(50, dtype=types[0]),
    }
    flat = torch.cat([value.flatten().double() for value in values.values()]).abs()
    kept = flat.sort(descending=True, stable=True).indices[: max(1, round(fraction * len(flat)))]
    expected = torch.zeros(len(flat), dtype=torch.bool).index_fill(0, kept, True)
    found = torch.cat([part.flatten() for part in largest_mask(values, fraction).values()])
    assert torch.equal(found, expected)


def test_looking_changes_nothing():
    work, engine = problem()
    module = work.subject.module.train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    SalUn(steps=1, optimizer=SGD).start(work, engine)
    assert module.training
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())


@pytest.mark.parametrize(
    "optimizer", [SGD, Optimizer("adam", 1e-2, weight_decay=0.1), Optimizer("adamw", 1e-2, weight_decay=0.1)]
)
def test_no_step_moves_an_unsalient_weight(optimizer):
    state, method = ran(SalUn(steps=14, fraction=0.3, optimizer=optimizer), 14)
    assert method.optimizer.weight_decay == 0
    assert sum("without weight decay" in note for note in state.problem.notes) == 1
    before = dict(network().named_parameters())
    for name, parameter in state.module.named_parameters():
        mask = state.problem.memo["mask"][name]
        assert torch.equal(parameter[~mask], before[name][~mask]), name
    moved = sum(int((p != before[n]).sum()) for n, p in state.module.named_parameters())
    assert moved > 0.9 * sum(int(m.sum()) for m in state.problem.memo["mask"].values())


def test_two_passes_over_the_union_equal_masked_descent():
    state, _ = ran(SalUn(steps=10, fraction=0.4, optimizer=SGD, max_norm=1.5), 10)
    mask = state.problem.memo["mask"]
    slow, (work, _) = network().train(), problem()
    optimizer, schedule = slow_sgd(slow, steps=10)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    for k in range(10):
        retain, taught = work.retain.batch(k, work.task, "retain"), forget_part(work, k)
        inputs = torch.cat([retain["input"], taught["input"]])
        labels = torch.cat([retain["label"], work.task.variant(taught, "redirect")["label"]])
        optimizer.zero_grad()
        F.cross_entropy(slow(inputs), labels).backward()
        for name, parameter in slow.named_parameters():
            parameter.grad[~mask[name]] = 0
        torch.nn.utils.clip_grad_norm_(slow.parameters(), 1.5)
        optimizer.step()
        schedule.step()
    close(state.module, slow)
