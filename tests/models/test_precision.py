"""Weights of fewer bits than float32: trained in float32, given back in their own type, and said so."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

import untrain
from untrain.models.precision import widen_

NARROW = [torch.float16, torch.bfloat16]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def samples(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 4
    return TensorDataset((torch.randn(96, 6, generator=generator) + labels[:, None]).to(dtype), labels)


def forget_with(model, dtype=torch.float32, **settings):
    data = samples(dtype)
    settings = {"steps": 3, "batch_size": 16, "device": "cpu", "optimizer": untrain.Optimizer("sgd", 0.1)} | settings
    return untrain.unlearn(model, forget=Subset(data, range(16)), retain=Subset(data, range(16, 96)), **settings)


def types(module):
    return {name: tensor.dtype for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("method", ["sfron", "scrub", "retrain"])
@pytest.mark.parametrize("dtype", NARROW)
def test_the_result_is_that_of_float32_rounded(dtype, method, inplace):
    """Bit for bit: the narrow model's own weights and data, widened, are unlearned, and the result is rounded."""
    model = net().to(dtype)
    model[0].weight.requires_grad_(False)
    wide = copy.deepcopy(model).float()
    expected = forget_with(wide, samples(dtype).tensors[0].dtype, method=method)
    found = forget_with(model, dtype, method=method, inplace=inplace)
    assert types(found.model) == types(net().to(dtype)), "buffers too"
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value.to(types(model)[name])), name
    assert (found.model is model) is inplace
    assert sum("rounded back" in note for note in found.notes) == 1
    assert not any("rounded back" in note for note in expected.notes)


def test_mixed_types_come_back_each_in_its_own():
    model = net()
    model[0].to(torch.bfloat16)
    model[3].to(torch.float64)
    before = types(model)
    rounding = widen_(model)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32, torch.float64}
    rounding.restore_(model)
    assert types(model) == before


def test_what_survives_is_counted_and_little_is_warned_of():
    model = net().bfloat16()
    tiny = untrain.Optimizer("sgd", 1e-6)
    with pytest.warns(UserWarning, match="most of the change is lost"):
        result = forget_with(model, optimizer=tiny, forget_optimizer=tiny)
    differ = sum(int((a != b).sum()) for a, b in zip(model.parameters(), result.model.parameters(), strict=True))
    assert any(f" {differ:,} still differ" in note for note in result.notes)


def test_a_run_folder_keeps_float32(tmp_path):
    result = forget_with(net().bfloat16(), out=tmp_path / "run")
    state, _ = untrain.models.checkpoints.load_state(tmp_path / "run/sfron.safetensors")
    assert state["0.weight"].dtype == torch.float32
    assert torch.equal(state["0.weight"].bfloat16(), result.model[0].weight)
    again = forget_with(net().bfloat16(), out=tmp_path / "run", resume=True)
    assert torch.equal(again.model[0].weight, result.model[0].weight)
    assert again.notes[-1] == result.notes[-1]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_a_narrow_model_is_measured_on_data_of_any_type(dtype, given):
    data, model = samples(given), net().to(dtype)
    sets = {
        "forget": Subset(data, range(16)),
        "retain": Subset(data, range(16, 80)),
        "test": Subset(data, range(80, 96)),
    }
    found = untrain.evaluate(model, **sets, device="cpu")
    with torch.no_grad():
        right = model.eval()(data.tensors[0][:16].to(dtype)).argmax(1) == data.tensors[1][:16]
    assert found.FA == pytest.approx(100 * right.double().mean().item())


@pytest.mark.parametrize("dtype", NARROW)
def test_after_a_failure_in_place_the_model_has_its_type(dtype):
    model = net().to(dtype)
    with pytest.raises(untrain.errors.Diverged):
        forget_with(model, inplace=True, steps=20, optimizer=untrain.Optimizer("sgd", 1e30), method="finetune")
    assert types(model) == types(net().to(dtype))
