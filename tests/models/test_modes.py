"""A frozen layer keeps its statistics through training, and what is trained moves its own."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import Subset

import untrain
from untrain.errors import SettingError
from untrain.methods import methods
from untrain.models.modes import held_layers, set_training, statistics_note


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Dropout(0.5)),
        nn.Flatten(),
        nn.Linear(144, 4),
    )


def frozen_to(module: nn.Module, *trained: str) -> nn.Module:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    return module


@pytest.mark.parametrize(
    ("trained", "held"),
    [
        (("5",), {"1", "3.1"}),
        (("3", "5"), {"1"}),
        (("1", "5"), {"3.1"}),
        (("0",), {"1", "3.1"}),
        (("0", "1", "3", "5"), set()),
    ],
)
def test_what_is_held(trained, held):
    module = set_training(frozen_to(net(), *trained))
    assert set(held_layers(module)) == held
    assert {name for name, layer in module.named_modules() if not layer.training} == held, "dropout is not held"
    note = statistics_note(module)
    assert (note is None) == (not held)
    assert all(name in (note or "") for name in held)


def test_a_layer_before_all_parameters_goes_by_the_next():
    for trained, held in ((("1",), set()), (("2",), {"0"})):
        module = nn.Sequential(nn.BatchNorm1d(6, affine=False), nn.Linear(6, 6), nn.Linear(6, 4))
        assert set(held_layers(frozen_to(module, *trained))) == held


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*deprecated")
@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_of_a_frozen_layer(wrap):
    module = frozen_to(nn.Sequential(wrap(nn.Linear(6, 6)), wrap(nn.Linear(6, 4))), "1")
    before = {name: value.clone() for name, value in module.named_buffers()}
    set_training(module)(torch.randn(8, 6))
    moved = {name for name, value in module.named_buffers() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("1.") for name in moved)


NOTHING_TO_DO = {"transpose", "eu-k", "cf-k"}
"""Methods that refuse a network of which the last layer alone is trained."""


@pytest.mark.parametrize("name", sorted(name for name, kind in methods().items() if not (kind.generates or kind.edits)))
def test_every_method_leaves_frozen_features_as_they_are(name):
    """To the last bit: parameters, statistics and so the features of every sample."""
    data = images(200)
    torch.manual_seed(0)
    module = net()
    with torch.no_grad():
        module(3 * data.tensors[0] + 1)
    frozen_to(module, "5").eval()
    init = None if name == "ssd" else net
    settings = {} if name == "ssd" else {"steps": 4}
    sets = {"forget": Subset(data, range(40)), "retain": Subset(data, range(40, 160))}
    sets |= {"holdout": Subset(data, range(160, 200))}

    def unlearned():
        return untrain.unlearn(module, **sets, method=name, device="cpu", batch_size=32, init=init, **settings)

    if name in NOTHING_TO_DO:
        with pytest.raises(SettingError, match="shrink-perturb"):
            unlearned()
        return
    result = unlearned()
    with torch.no_grad():
        same = torch.equal(result.model[:5](data.tensors[0]), module[:5](data.tensors[0]))
    said = [note for note in result.notes if "statistics" in note and "frozen" in note]
    if name == "retrain":
        assert not same, "it begins from new weights throughout"
        assert any("frozen" in note for note in result.notes)
        assert not said
    else:
        assert same
        assert len(said) == 1


def images(count: int) -> torch.utils.data.TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    inputs = torch.randn(count, 3, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)
    return torch.utils.data.TensorDataset(inputs, labels)


def test_parts_hold_what_they_leave_out():
    data = images(120)
    result = untrain.unlearn(
        net(), forget=Subset(data, range(30)), retain=Subset(data, range(30, 120)), steps=2, device="cpu",
        batch_size=32, parts=["5.*"],
    )  # fmt: skip
    assert torch.equal(result.model[1].running_mean, torch.zeros(4))
    assert not torch.equal(result.model[5].weight, net()[5].weight)
