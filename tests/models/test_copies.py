"""Copies of modules are whole and their own, or refused."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from untrain.errors import ModelError
from untrain.models.copies import copy_module, shallow_copy

INPUTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def net(change=lambda layer: layer):
    torch.manual_seed(0)
    return nn.Sequential(change(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3))


def counted(layer):
    layer.register_forward_pre_hook(lambda module, args: module.__dict__.setdefault("seen", []).append(1))
    return layer


def doubled(layer):
    layer.forward = functools.partial(lambda own, x: 2 * nn.functional.linear(x, own.weight, own.bias), layer)
    return layer


OWN = {
    "plain": lambda layer: layer,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "weight norm": nn.utils.weight_norm,
    "spectral norm": nn.utils.spectral_norm,
    "parametrised": parametrizations.orthogonal,
    "a hook that is told its module": counted,
    "a partial": doubled,
}


@pytest.mark.filterwarnings("ignore:.*_norm.*deprecated")
@pytest.mark.parametrize("name", OWN)
def test_a_copy_is_its_own(name):
    """After a forward pass with a graph too: it gives the same, and what changes it leaves the original alone."""
    module = net(OWN[name]).eval()
    before = module(INPUTS)
    made = copy_module(module)
    assert torch.equal(made(INPUTS), before)
    made(INPUTS).sum().backward()
    with torch.no_grad():
        for parameter in made.parameters():
            assert parameter.grad is not None
            parameter -= parameter.grad
    assert not torch.equal(made(INPUTS), before)
    assert torch.equal(module(INPUTS), before)
    assert all(parameter.grad is None for parameter in module.parameters())


def held_by_a_hook(layer):
    layer.register_forward_hook(lambda module, args, output: output * layer.bias.sum())
    return layer


def held_by_a_parameter(layer):
    weight = layer.weight
    layer.register_forward_pre_hook(lambda module, args: (args[0] * weight.sum(),))
    return layer


def held_by_a_forward(layer):
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)
    return layer


def held_by_a_default(layer):
    layer.register_forward_hook(lambda module, args, output, own=layer: own.bias + output)
    return layer


@pytest.mark.parametrize("hold", [held_by_a_hook, held_by_a_parameter, held_by_a_forward, held_by_a_default])
def test_a_copy_that_would_use_the_original_is_refused(hold):
    with pytest.raises(ModelError, match="of 0 holds a layer or parameter"):
        copy_module(net(hold))


def test_parameters_can_be_shared():
    module = net()
    made = copy_module(module, [module[0].weight])
    assert made[0].weight is module[0].weight
    assert made[2].weight is not module[2].weight


def test_a_shallow_copy_lies_in_the_same_memory_until_it_is_given_other_data():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()
    model[2].weight.requires_grad_(False)
    made, before = shallow_copy(model), {name: value.clone() for name, value in model.state_dict().items()}
    pairs = list(zip(model.parameters(), made.parameters(), strict=True))
    assert all(a is not b and a.data_ptr() == b.data_ptr() and a.requires_grad == b.requires_grad for a, b in pairs)
    assert made[1].running_mean.data_ptr() != model[1].running_mean.data_ptr(), "buffers move with every batch"
    made.requires_grad_(False).double()
    made.train()(INPUTS.double())
    assert model[0].weight.requires_grad and all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
