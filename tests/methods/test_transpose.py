"""Transposed kernels: which, and what happens where there are none."""

import pytest
import torch
from torch import nn

from helpers.small_classifiers import SGD, network, problem, ran
from untrain.errors import SettingError
from untrain.methods.transpose import Transpose


def test_kernels_are_transposed_and_nothing_else():
    state, _ = ran(Transpose(3, optimizer=SGD), 0)
    old = dict(network().named_parameters())
    for name, parameter in state.module.named_parameters():
        expected = old[name].transpose(2, 3) if name == "0.weight" else old[name]
        assert torch.equal(parameter, expected), name


def deep():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1) for i in range(4)]
    return nn.Sequential(*layers, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, (1, 3)), nn.Flatten(), nn.LazyLinear(5)).double()


def test_a_share_of_the_layers_is_chosen_by_the_seed():
    chosen = set()
    for seed in range(4):
        model = deep()
        model(torch.zeros(1, 1, 8, 8, dtype=torch.float64))
        before = [layer.weight.clone() for layer in model[:6]]
        state, _ = ran(Transpose(3, fraction=0.5, optimizer=SGD), 0, model=model, seed=seed)
        changed = [i for i in range(6) if not torch.equal(before[i], state.module[i].weight)]
        assert len(changed) == 2
        assert max(changed) < 4
        chosen.add(tuple(changed))
    assert len(chosen) > 1


def test_a_model_without_such_kernels_is_refused():
    work, engine = problem(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).double())
    with pytest.raises(SettingError, match="no convolution.*shrink-perturb"):
        Transpose(3, optimizer=SGD).start(work, engine)
