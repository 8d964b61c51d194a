import pytest
import torch
from torch import nn

from untrain.errors import ModelError
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification


class WithOwnParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.layer(x) * self.scale


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def test_fresh_weights_come_from_the_seed_and_leave_the_rest_alone():
    module = network()
    module[1].running_mean.fill_(3.0)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    a, b, c = (Subject(module).fresh(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.equal(a[3].weight, b[3].weight)
    assert not torch.equal(a[3].weight, c[3].weight)
    assert not torch.equal(a[0].weight, module[0].weight)
    assert a[1].running_mean.abs().max() == 0


def test_what_cannot_be_renewed_is_named():
    with pytest.raises(ModelError, match="scale.*init="):
        Subject(WithOwnParameter()).fresh(0)
    made = Subject(WithOwnParameter(), init=WithOwnParameter).fresh(0)
    assert isinstance(made, WithOwnParameter)
    with pytest.raises(ModelError, match="another architecture: .*differ"):
        Subject(WithOwnParameter(), init=network).fresh(0)
    with pytest.raises(ModelError, match="init= must return"):
        Subject(WithOwnParameter(), init=lambda: 3).fresh(0)


def test_transformers_are_renewed_from_their_configuration():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    module = ViTForImageClassification(config)
    a, b = (Subject(module).fresh(seed) for seed in (1, 1))
    assert type(a) is type(module)
    assert torch.equal(a.classifier.weight, b.classifier.weight)
    assert not torch.equal(a.classifier.weight, module.classifier.weight)


def test_defaults_fit_the_kind_of_model():
    assert Subject(network()).defaults(Classification())["optimizer"]["name"] == "sgd"
    with_norm = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    assert Subject(with_norm).defaults(Classification())["optimizer"]["name"] == "adamw"


def test_only_modules_are_subjects():
    with pytest.raises(ModelError, match=r"torch.nn.Module, not str"):
        Subject("resnet18")
