"""Modules that cannot be trained are refused in words; compiled ones are trained as what was compiled."""

import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

import untrain
from untrain.errors import ModelError
from untrain.models.kinds import check_kind, plain_module

INPUTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def exported():
    return torch.export.export(net(), (INPUTS,))


def quantised():
    return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})


def integers():
    model = net()
    model[0].weight = nn.Parameter(torch.ones(8, 6, dtype=torch.int8), requires_grad=False)
    return model


def of_a_library(module, name):
    """A layer of a library that is not here."""
    kind = type(name, (nn.Linear,), {})
    kind.__module__ = module
    return nn.Sequential(nn.Linear(6, 8), kind(8, 4))


def one_mode():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            raise RuntimeError("this one cannot be trained")

    return Frozen(nn.Linear(6, 4))


REFUSED = {
    "scripted": (lambda: torch.jit.script(net()), "TorchScript"),
    "traced": (lambda: torch.jit.trace(net(), INPUTS), "TorchScript"),
    "scripted inside": (lambda: nn.Sequential(torch.jit.script(net()), nn.ReLU()), "0 of the model is TorchScript"),
    "exported": (lambda: exported().module(), "cannot be put into training mode"),
    "exported program": (exported, "torch.export"),
    "quantised": (quantised, "0 of the model is quantised"),
    "in whole numbers": (integers, "0 of the model is quantised"),
    "of bitsandbytes": (lambda: of_a_library("bitsandbytes.nn.modules", "Linear8bitLt"), "1 of the model is quantised"),
    "parallel": (lambda: nn.DataParallel(net()), r"DataParallel: give .*\.module"),
    "sharded": (lambda: of_a_library("torch.distributed.fsdp.fully_sharded_data_parallel", "FSDP"), "sharded"),
    "of one mode": (one_mode, "cannot be put into training mode: RuntimeError: this one cannot be trained"),
}


def unlearn(model, **settings):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(96, 6, generator=generator), torch.arange(96) % 4)
    sets = {"forget": Subset(data, range(16)), "retain": Subset(data, range(16, 96))}
    how = {"steps": 2, "batch_size": 16, "device": "cpu", "optimizer": untrain.Optimizer("sgd", 0.1)}
    return untrain.unlearn(model, **sets, **how, **settings)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained(name):
    make, message = REFUSED[name]
    for inplace in (False, True):
        with pytest.raises(ModelError, match=message):
            unlearn(make(), inplace=inplace)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ["scripted", "traced", "quantised", "parallel"])
def test_they_are_measured_all_the_same(name):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(96, 6, generator=generator), torch.arange(96) % 4)
    sets = {part: Subset(data, range(i, i + 32)) for part, i in (("forget", 0), ("retain", 32), ("test", 64))}
    found = untrain.evaluate(REFUSED[name][0](), **sets, device="cpu")
    assert found.FA == pytest.approx(untrain.evaluate(net(), **sets, device="cpu").FA, abs=10), "8 bits are not exact"


def test_what_can():
    for module in (net(), torch.fx.symbolic_trace(net()), nn.Linear(6, 4).to(torch.bfloat16)):
        check_kind(module)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_compiled_model_is_unlearned_as_what_was_compiled(inplace):
    expected = unlearn(net()).model.state_dict()
    plain = net()
    compiled = torch.compile(plain, backend="eager")
    result = unlearn(compiled, inplace=inplace)
    assert (result.model is compiled) is inplace
    assert type(plain_module(result.model)) is nn.Sequential
    found = plain_module(result.model).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert set(result.mask) == set(expected), "names as without compilation"
    if not inplace:
        assert all(torch.equal(plain.state_dict()[name], value) for name, value in net().state_dict().items())
