"""Parameters that are one weight: tied for a block, apart again after it."""

import copy

import torch
from torch import nn

from untrain.models.tying import tied


def two(seed=0):
    torch.manual_seed(seed)
    return nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Linear(3, 3)})


GROUPS = [("a.weight", "b.weight", "c.weight"), ("a.bias", "b.bias", "c.bias")]


def alike(module):
    for name in ("b", "c"):
        module[name].load_state_dict(module["a"].state_dict())
    return module


def test_gradients_of_all_places_add_up_in_one_parameter():
    module, x = alike(two()), torch.randn(5, 3)
    apart = copy.deepcopy(module)
    sum(apart[n](x).square().sum() * k for k, n in enumerate("abc", 1)).backward()
    with tied(module, GROUPS):
        assert [name for name, _ in module.named_parameters()] == ["a.weight", "a.bias"]
        sum(module[n](x).square().sum() * k for k, n in enumerate("abc", 1)).backward()
        summed = sum(apart[n].weight.grad for n in "abc")
        torch.testing.assert_close(module["a"].weight.grad, summed)
        with torch.no_grad():
            module["a"].weight.add_(1.0)
    assert len(list(module.parameters())) == 6
    assert all(torch.equal(module[n].weight, apart["a"].weight + 1) for n in "abc")
    module["b"].weight.data.zero_()
    assert not torch.equal(module["a"].weight, module["b"].weight), "apart again"


def test_parameters_come_back_as_the_objects_they_were():
    module = alike(two())
    before = dict(module.named_parameters())
    with tied(module, GROUPS):
        module.double()
    after = dict(module.named_parameters())
    assert all(after[name] is before[name] and after[name].dtype == torch.float64 for name in before)


def test_what_differs_or_is_trained_in_part_is_left():
    different, part = two(), alike(two())
    part["b"].weight.requires_grad_(False)
    with tied(different, GROUPS), tied(part, GROUPS):
        assert len(list(different.parameters())) == 6
        assert [name for name, _ in part.named_parameters()] == ["a.weight", "a.bias", "b.weight", "c.weight"]


def test_they_are_apart_again_after_an_error():
    module = alike(two())
    try:
        with tied(module, GROUPS):
            raise ArithmeticError
    except ArithmeticError:
        assert len(list(module.parameters())) == 6
