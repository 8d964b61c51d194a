"""The float64 vectors of an independent implementation, reproduced through the public interface.

Tolerance 1e-8: the largest absolute error over the tensor's largest absolute value. The arithmetic is the same, only
sums are ordered otherwise.
"""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

import untrain
from helpers.references import REFERENCE
from untrain.metrics.membership import entropy, modified_entropy

TOLERANCE = 1e-8


def read(name):
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def under(tensors, prefix):
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def batches(tensors, name):
    count = len({key.split(".")[1] for key in tensors if key.startswith(f"{name}.")})
    return [(tensors[f"{name}.{i}.x"], tensors[f"{name}.{i}.y"]) for i in range(count)]


def network(state):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).double()
    model.load_state_dict(state)
    return model


def error(found, expected):
    scale = expected.double().abs().max().clamp_min(1e-300)
    return ((found.double() - expected.double()).abs().max() / scale).item()


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    errors = {name: error(found[name], expected[name]) for name in expected}
    assert max(errors.values()) <= TOLERANCE, errors


@pytest.mark.parametrize("estimator", ["sample", "batch"])
@pytest.mark.parametrize("part", ["forget", "retain"])
def test_fisher(estimator, part):
    tensors, _ = read("fisher")
    model = network(under(tensors, "model."))
    found = untrain.fisher_diagonal(model, "classification", batches(tensors, part), estimator=estimator)
    assert_close(found, under(tensors, f"{estimator}.{part}."))


@pytest.mark.parametrize(
    ("estimator", "gamma", "eps", "key"),
    [
        ("sample", 1.0, 0.0, "mask.gamma1."),
        ("sample", 3.0, 0.0, "mask.gamma3."),
        ("batch", 1.0, 1e-15, "published_mask.gamma1."),
    ],
)
def test_masks(estimator, gamma, eps, key):
    tensors, _ = read("fisher")
    fishers = [under(tensors, f"{estimator}.{part}.") for part in ("forget", "retain")]
    found = untrain.saliency_mask(*fishers, gamma=gamma, eps=eps)
    expected = under(tensors, key)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def settings_of(metadata):
    given = json.loads(metadata["settings"])
    retain = given.pop("retain_optimiser")
    given["optimizer"] = untrain.Optimizer(retain.pop("kind"), **retain)
    if "forget_optimiser" in given:
        forget = given.pop("forget_optimiser")
        given["forget_optimizer"] = untrain.Optimizer(forget.pop("kind"), **forget)
    return given


@pytest.mark.parametrize("name", ["published", "published_adamw", "separate", "slow"])
def test_runs(name):
    tensors, metadata = read(name)
    start, end = under(tensors, "start."), under(tensors, "end.")
    model = network(start)
    result = untrain.unlearn(
        model,
        forget=batches(tensors, "forget"),
        retain=batches(tensors, "retain"),
        device="cpu",
        **settings_of(metadata),
    )
    mask = under(tensors, "mask.")
    assert all(torch.equal(result.mask[key], mask[key]) for key in mask)
    assert_close(dict(result.model.state_dict()), end)
    assert all(torch.equal(value, start[key]) for key, value in model.state_dict().items()), "the model was changed"


class Answers(nn.Module):
    """A model that knows its answers: the input is a row's number, the output its stored log-probabilities."""

    def __init__(self, log_probs):
        super().__init__()
        self.register_buffer("log_probs", log_probs)

    def forward(self, rows):
        return self.log_probs[rows]


def test_measures_of_the_identity_on_log_probabilities():
    tensors, metadata = read("metrics")
    values = json.loads(metadata["values"])
    sets = {n: [(tensors[f"{n}_probs"].log(), tensors[f"{n}_labels"])] for n in ("forget", "retain", "test")}
    found = untrain.evaluate(nn.Identity(), **sets, device="cpu")
    assert found.MIA == pytest.approx(values["entropy_mia"], rel=TOLERANCE)
    assert found.KL is None
    assert "reference" in found.missing["KL"]


def test_distances_to_a_reference():
    tensors, metadata = read("metrics")
    values = json.loads(metadata["values"])
    names = ("forget", "retain", "test")
    sizes = [len(tensors[f"{n}_probs"]) for n in names]
    rows = torch.arange(sum(sizes)).split(sizes)
    sets = {n: [(r, tensors[f"{n}_labels"])] for n, r in zip(names, rows, strict=True)}
    own = torch.cat([tensors[f"{n}_probs"] for n in names]).log()
    other = own.clone()
    other[: sizes[0]] = tensors["reference_forget_probs"].log()
    found = untrain.evaluate(Answers(own), **sets, reference=Answers(other), device="cpu")
    assert found.KL == pytest.approx(values["kl"], rel=TOLERANCE)
    assert found.JS == pytest.approx(values["js"], rel=TOLERANCE)


def test_entropies():
    tensors, _ = read("metrics")
    log_probs = tensors["forget_probs"].log()
    assert error(entropy(log_probs), tensors["entropy"]) <= TOLERANCE
    assert error(modified_entropy(log_probs, tensors["forget_labels"]), tensors["modified_entropy"]) <= TOLERANCE
