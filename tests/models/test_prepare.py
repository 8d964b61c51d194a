"""A stranger's model is looked at in both modes before the first step: what it gives is understood, or refused."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

import untrain
from untrain.errors import ModelError

Pair = namedtuple("Pair", ["logits", "aux_logits"])


class Model(nn.Module):
    """Gives what a function makes of its logits [B, 4], and says in which modes it was asked."""

    def __init__(self, give):
        super().__init__()
        self.linear, self.norm, self.give, self.asked = nn.Linear(6, 4), nn.BatchNorm1d(4), give, set()

    def forward(self, x):
        self.asked.add(self.training)
        return self.give(self, self.norm(self.linear(x)))


class Output(OrderedDict):
    """As those of transformers: its entries are attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def fail(error):
    raise error


UNDERSTOOD = {
    "tensor": lambda m, y: y,
    "dict": lambda m, y: {"loss": None, "logits": y},
    "output": lambda m, y: Output(logits=y, hidden_states=None),
    "named tuple, in training alone": lambda m, y: Pair(y, y) if m.training else y,
    "log-softmax": lambda m, y: y.log_softmax(1),
    "list of one": lambda m, y: [y],
    "tuple with features [B, C, H, W]": lambda m, y: (y, y[:, :, None, None]),
    "tuple with a number": lambda m, y: (y.mean(), y, 3),
}
IN_BOTH = {
    "tuple": lambda m, y: (y, y),
    "tuple of nothing": lambda m, y: (),
    "dict of other names": lambda m, y: {"scores": y},
    "output of other names": lambda m, y: Output(embeddings=y),
    "None": lambda m, y: None,
    "text": lambda m, y: "4",
    "[B]": lambda m, y: y[:, 0],
    "scalar": lambda m, y: y.sum(),
    "[B, C, H, W]": lambda m, y: y[:, :, None, None],
    "[C, B]": lambda m, y: y.T.repeat(2, 3),
    "whole numbers": lambda m, y: y.long(),
    "probabilities": lambda m, y: y.softmax(1),
    "one of two probabilities": lambda m, y: torch.stack([y[:, 0].sigmoid(), 1 - y[:, 0].sigmoid()], 1),
    "an error": lambda m, y: fail(NotImplementedError("no such thing")),
    "a key that is not there": lambda m, y: {}["x"],
    "an assertion": lambda m, y: fail(AssertionError()),
}


def unlearn(model, rows=80, **settings):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(96, 6, generator=generator), torch.arange(96) % 4)
    sets = {"forget": Subset(data, range(16)), "retain": Subset(data, range(16, 16 + rows))}
    how = {"steps": 2, "batch_size": 16, "device": "cpu", "optimizer": untrain.Optimizer("sgd", 0.1)}
    return untrain.unlearn(model, **sets, **how | settings)


@pytest.mark.filterwarnings("ignore:the model returns a (list|tuple)")
@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_is_understood(name):
    """The same weights as from the logits alone, to the last bit."""
    torch.manual_seed(0)
    model = Model(UNDERSTOOD[name])
    plain = Model(UNDERSTOOD["log-softmax" if name == "log-softmax" else "tensor"])
    plain.load_state_dict(model.state_dict())
    found, expected = unlearn(model).model.state_dict(), unlearn(plain).model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["list of one", "tuple with a number"])
def test_a_choice_is_said(name):
    with pytest.warns(UserWarning, match="is taken for logits"):
        unlearn(Model(UNDERSTOOD[name]))


@pytest.mark.parametrize("name", IN_BOTH)
@pytest.mark.parametrize("training_alone", [False, True])
def test_what_is_refused_before_anything_changes(name, training_alone):
    model = Model(lambda m, y: IN_BOTH[name](m, y) if m.training or not training_alone else y)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        unlearn(model, inplace=True)
    assert str(caught.value).startswith("in training mode") is training_alone
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert model.training, "modes are put back"
    if name in ("an error", "a key that is not there", "an assertion"):
        assert isinstance(caught.value.__cause__, (NotImplementedError, KeyError, AssertionError))


def test_only_evaluation_mode_matters_for_a_measurement():
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(96, 6, generator=generator), torch.arange(96) % 4)
    sets = {name: Subset(data, range(i, i + 32)) for name, i in (("forget", 0), ("retain", 32), ("test", 64))}
    model = Model(lambda m, y: (y, y) if m.training else y)
    assert 0 <= untrain.evaluate(model, **sets, device="cpu").FA <= 100
    assert model.asked == {False}


def test_a_set_of_one_sample_can_be_tried():
    """Batch normalisation needs two samples in training mode; what is tried must not fail for that."""
    model = Model(lambda m, y: y)
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(33, 6, generator=generator), torch.arange(33) % 4)
    result = untrain.unlearn(
        model, forget=Subset(data, [0]), retain=Subset(data, range(1, 33)), steps=2, batch_size=16, device="cpu",
        optimizer=untrain.Optimizer("sgd", 0.1),
    )  # fmt: skip
    assert len(result.history) == 2
