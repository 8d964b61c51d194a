"""Channels last: chosen by a rule, refused where it computes something else, and undone at the end."""

from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import untrain
from untrain import Optimizer
from untrain.engine import Engine
from untrain.methods import loop
from untrain.models.layout import CHANNELS_LAST, prefers_channels_last

CPU = Engine(torch.device("cpu"))


class Flattened(nn.Module):
    """Takes the output of its convolutions for contiguous, as `view` does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions, self.head = nn.Sequential(*convolutions()), nn.Linear(6 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flat(self.convolutions(x)))

    def flat(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


class Misread(Flattened):
    """Reads it as if it were, without an error."""

    def flat(self, x: Tensor) -> Tensor:
        return torch.as_strided(x, (len(x), 96), (96, 1))


def convolutions(groups: int = 1) -> list[nn.Module]:
    first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1, groups=groups)
    return [first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.ReLU()]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*convolutions(), nn.Flatten(), nn.Linear(96, 3))


def sets() -> dict[str, TensorDataset]:
    g = torch.Generator().manual_seed(1)
    drawn = {"forget": 12, "retain": 40}
    return {k: TensorDataset(torch.randn(n, 3, 8, 8, generator=g), torch.arange(n) % 3) for k, n in drawn.items()}


def unlearned(model: nn.Module, method: str = "sfron", **more: object) -> untrain.Result:
    how = {"steps": 3, "optimizer": Optimizer("sgd", 0.05), "batch_size": 8, "device": "cpu"}
    return untrain.unlearn(model, **sets(), method=method, **{**how, **more})


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def never(monkeypatch):
    """Makes runs keep every module's own layout while it is called."""

    def within(act):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "prefers_channels_last", lambda module, engine: False)
            return act()

    return within


@pytest.mark.parametrize(
    ("module", "engine", "expected"),
    [
        (network(), CPU, True),
        (network(), Engine(torch.device("cuda")), False),
        (network(), Engine(torch.device("cpu"), "bf16"), False),
        (network().double(), CPU, False),
        (network().to(memory_format=torch.channels_last), CPU, False),
        (nn.Sequential(*convolutions(groups=2)), CPU, False),
        (nn.Sequential(*convolutions(), nn.GroupNorm(2, 6)), CPU, False),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3)), CPU, False),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 3)), CPU, False),
    ],
)
def test_rule(module, engine, expected):
    assert prefers_channels_last(module, engine) is expected


@pytest.mark.parametrize("method", ["sfron", "retrain"])
def test_a_convolutional_model_comes_back_as_it_lay(method, never, monkeypatch):
    model = network()
    before, settings = bits(model), {"method": method}
    seen = []
    real = type(model).forward
    monkeypatch.setattr(nn.Sequential, "forward", lambda self, x: seen.append(self[0].weight.stride()) or real(self, x))
    result = unlearned(model, **settings)
    assert CHANNELS_LAST in result.notes
    assert seen[-1] == (27, 1, 9, 3)
    assert all(a.stride() == b.stride() for a, b in zip(model.parameters(), result.model.parameters(), strict=True))
    assert same(bits(model), before)
    assert same(bits(unlearned(model, **settings).model), bits(result.model))
    usual = never(lambda: unlearned(model, **settings))
    assert CHANNELS_LAST not in usual.notes
    for name, value in usual.model.state_dict().items():
        assert torch.allclose(result.model.state_dict()[name], value, rtol=1e-3, atol=1e-4), name


def test_in_place_the_weights_keep_their_memory():
    model = network()
    places = [parameter.data_ptr() for parameter in model.parameters()]
    result = unlearned(model, inplace=True)
    assert CHANNELS_LAST in result.notes
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert same(bits(model), bits(unlearned(network()).model))


def test_after_an_error_the_weights_lie_as_they_did():
    model = network()
    strides = [parameter.stride() for parameter in model.parameters()]

    class Stopping(untrain.Callback):
        def on_step(self, *args):
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        unlearned(model, inplace=True, callbacks=[Stopping()])
        raise AssertionError("it went on")
    assert [parameter.stride() for parameter in model.parameters()] == strides


@pytest.mark.parametrize("kind", [Flattened, Misread])
def test_a_model_that_takes_tensors_for_contiguous_stays_as_it_is(kind, never):
    torch.manual_seed(0)
    model = kind()
    result = unlearned(model)
    assert CHANNELS_LAST not in result.notes
    assert any("does not bear channels last" in note for note in result.notes)
    assert same(bits(never(lambda: unlearned(model)).model), bits(result.model))


def test_a_stopped_run_goes_on_in_the_same_layout(tmp_path, monkeypatch):
    whole = unlearned(network(), steps=6)
    real, stops = untrain.methods()["sfron"].step, iter([3])

    def stopping(self, state, k):
        if k == 3 and next(stops, None):
            raise KeyboardInterrupt
        return real(self, state, k)

    monkeypatch.setattr(untrain.methods()["sfron"], "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        unlearned(network(), steps=6, out=tmp_path / "run")
    again = unlearned(network(), steps=6, out=tmp_path / "run", resume=True)
    assert same(bits(again.model), bits(whole.model))
    assert again.notes.count(CHANNELS_LAST) == 1
