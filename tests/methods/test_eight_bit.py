"""Adam of 8 bits: refused where it cannot run, asked for as it should be where it can, and planned."""

import sys
import types

import pytest
import torch
from torch import nn

import untrain
from helpers.small_classifiers import clusters
from untrain.errors import SettingError
from untrain.methods import eight_bit
from untrain.methods.base import Optimizer


class StandIn(torch.optim.SGD):
    """An optimiser called as bitsandbytes' are; it keeps what it was given."""

    def __init__(self, parameters, lr, weight_decay=0.0, min_8bit_size=0):
        super().__init__(parameters, lr=lr)
        self.given = {"lr": lr, "weight_decay": weight_decay, "min_8bit_size": min_8bit_size}


class OtherStandIn(StandIn):
    pass


class Unable(StandIn):
    def step(self, closure=None):
        raise NotImplementedError("no kernel for this device")


def install(monkeypatch, adam, adamw):
    library = types.ModuleType("bitsandbytes")
    library.optim = types.SimpleNamespace(Adam8bit=adam, AdamW8bit=adamw)
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SettingError, match=r"untrain\[bitsandbytes\].*choose adam"):
        Optimizer("adam8bit", 1e-3).build([nn.Parameter(torch.ones(3))])


@pytest.mark.parametrize("name", ["adam8bit", "adamw8bit"])
def test_where_it_cannot_run_it_is_refused_before_anything_is_changed(name, monkeypatch):
    install(monkeypatch, Unable, Unable)
    sets = {"forget": clusters(20, 1), "retain": clusters(40, 2)}
    model = nn.Sequential(nn.Linear(12, 5)).double()
    with pytest.raises(SettingError, match=f"{name} cannot run on cpu in float64.*no kernel.*Choose {name[:-4]}"):
        untrain.unlearn(model, **sets, method="finetune", steps=1, optimizer=Optimizer(name, 1e-3), device="cpu")


@pytest.mark.parametrize(("name", "kind"), [("adam8bit", StandIn), ("adamw8bit", OtherStandIn)])
def test_the_library_is_asked_for_the_same_optimiser(name, kind, monkeypatch):
    install(monkeypatch, StandIn, OtherStandIn)
    weight = nn.Parameter(torch.ones(3))
    made = Optimizer(name, 1e-3, weight_decay=0.1).build([weight])
    assert type(made) is kind
    assert made.given == {"lr": 1e-3, "weight_decay": 0.1, "min_8bit_size": 4096}
    assert made.param_groups[0]["params"] == [weight] and torch.equal(weight, torch.ones(3))


def test_states_take_a_quarter_of_adam():
    model = nn.Linear(1024, 1024).to("meta")
    sizes = {}
    for name in ("adam", "adam8bit"):
        optimizer = Optimizer(name, 1e-3).build([*model.parameters()])
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        states = [s for state in optimizer.state.values() for s in state.values() if s.is_meta]
        sizes[name] = sum(s.numel() * s.element_size() for s in states)
    small = 2 * 4 * 1024  # the bias, in 32 bits
    assert sizes["adam8bit"] - small == (sizes["adam"] - small) / 4 * (1 + 4 / eight_bit.BLOCK)
