"""Random calls of the public functions: each ends in success or in an error of ours that says something.

What was found by such calls stands here too, one by one.
"""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn
from torch.utils.data import Subset, TensorDataset

import untrain
from helpers.endings import SEEDED, succeeds
from helpers.random_calls import (
    FEATURES,
    Batching,
    Forward,
    Hostile,
    OwnError,
    OwnTensors,
    Records,
    fail,
    mlp,
    raising,
    random_call,
    tensors,
)
from untrain.errors import DataError, ModelError, SettingError

SGD = untrain.Optimizer("sgd", 0.05)


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """Calls write into the current folder."""
    monkeypatch.chdir(tmp_path)


def test_random_calls_succeed_or_say_what_is_wrong():
    ended = []

    @settings(max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck])
    @given(SEEDED)
    def call_one(rng):
        description, call = random_call(rng)
        ended.append(succeeds(call, description))

    call_one()
    assert 0.2 < sum(ended) / len(ended) < 0.8


def attempt(model=None, **given):
    sets = {"forget": TensorDataset(*tensors(8, 1)), "retain": TensorDataset(*tensors(12, 2))}
    settings = {"method": "finetune", "steps": 2, "optimizer": SGD, "device": "cpu"}
    return untrain.unlearn(mlp() if model is None else model, **{**sets, **settings, **given})


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("seed", "../x", r"a whole number from 0 to 2⁶³ − 1, not '\.\./x'"),
        ("seed", 2**63, "a whole number from 0 to"),
        ("seed", -1, "a whole number from 0 to"),
        ("seed", True, "a whole number from 0 to"),
        ("inplace", "a/b", "True or False, not 'a/b'"),
        ("resume", 1, "True or False, not 1"),
        ("compile", None, "True or False, not None"),
        ("batch_size", "x", "a whole number from 1 to .* or None, not 'x'"),
        ("batch_size", 2.0, "a whole number"),
        ("workers", 10**6, "a whole number from 0 to 256"),
        ("device", 3, "text or a torch.device or None, not 3"),
        ("device", "meta", "no values there"),
        ("out", 3, "text or None, not 3"),
        ("out", "a\0b", "holds a NUL character"),
        ("out", "\ud800", "surrogate"),
        ("init", 3, "a function or None, not 3"),
        ("parts", 3, r"text or a list \(\[…\], each text\) or None, not 3"),
        ("callbacks", [3], r"a list .*each an? untrain.Callback"),
        ("precision", Hostile(), "not Hostile"),
        ("method", 3, "text or a class derived from untrain.Method or"),
    ],
)
def test_an_argument_says_what_it_must_be(name, value, must):
    with pytest.raises(SettingError, match=rf"{name} .*{must}"):
        attempt(**{name: value})


def test_what_is_missing_or_too_much_is_said():
    with pytest.raises(SettingError, match="unlearn: missing a required.*'retain'"):
        untrain.unlearn(mlp(), forget=[])
    with pytest.raises(SettingError, match="Optimizer: .*unexpected.*'rate'"):
        untrain.Optimizer(rate=0.1)
    with pytest.raises(DataError, match="the retain set is None"):
        attempt(retain=None)


def test_numbers_of_numpy_and_devices_of_torch_are_taken():
    assert len(attempt(seed=np.int64(3), batch_size=np.int32(5), device=torch.device("cpu")).history) == 2
    assert type(untrain.Optimizer(lr=np.float32(0.5)).lr) is float


def test_a_class_with_the_functions_of_a_callback_is_one():
    class Ear:
        heard = 0

        def on_stage(self, name, state): ...

        def on_step(self, step, total, record):
            self.heard += 1

        def on_evaluate(self, name, values): ...

    ear = Ear()
    attempt(callbacks=(ear,))
    assert ear.heard == 2


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────────


def spoilt():
    model = mlp()
    with torch.no_grad():
        model[0].weight[1, 2] = float("nan")
    return model


@pytest.mark.parametrize(
    ("model", "culprit"),
    [
        (lambda: mlp().to("meta"), r"0\.weight of the model is on the meta device"),
        (spoilt, r"0\.weight of the model holds NaN"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), r"0\.weight of the model has no shape yet"),
        (lambda: mlp().to(torch.complex64), r"0\.weight is complex"),
        (lambda: Forward(raising(OwnError("mine"))), "OwnError: mine"),
        (lambda: Forward(raising(OwnError("later")), after=2), "OwnError: later"),
        (lambda: Forward(raising(OwnError("training")), only_in_training=True), "OwnError: training"),
    ],
)
def test_a_model_that_cannot_be_trained_is_named(model, culprit):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that complex modules are new
        made = model()
    with pytest.raises(ModelError, match=culprit):
        attempt(made)


def test_the_users_own_error_is_the_cause():
    with pytest.raises(ModelError) as caught:
        attempt(Forward(raising(OwnError("mine"))))
    assert isinstance(caught.value.__cause__, OwnError)
    with pytest.raises(ModelError, match="init= cannot make a new model: OwnError") as caught:
        attempt(method="retrain", init=lambda: fail(OwnError("no")))
    assert isinstance(caught.value.__cause__, OwnError)


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "culprit"),
    [
        (Records(size=lambda: -3), "retain set does not say how many"),
        (Records(size=lambda: "x"), "retain set does not say how many"),
        (Records(size=lambda: fail(OwnError("len"))), "OwnError: len"),
        (Records(lambda x, y, i: (x.to_sparse(), y)), "samples of the retain set .*sparse"),
        (Records(lambda x, y, i: (x.to("meta"), y)), "'input' of the retain set .*meta"),
        (Records(lambda x, y, i: (x.to(torch.complex64), y)), "'input' of the retain set .*complex"),
        (
            Records(lambda x, y, i: (x.numpy().astype(object), y)),
            "samples of the retain set cannot be put into one batch",
        ),
        (Records(lambda x, y, i: {0: x, 1: y}), "a dict without names"),
        (Subset(Records(), [0.5, 1]), "the indices of the retain set"),
        ([tensors(4, 3), (tensors(4, 4)[0].double(), tensors(4, 4)[1])], "batches of the retain set differ.*float64"),
        ([{"input": tensors(4)[0], "label": tensors(4)[1]}, {"label": tensors(4)[1]}], "entry 1 of the retain list"),
    ],
)
def test_data_that_cannot_be_used_are_named(data, culprit):
    with pytest.raises(DataError, match=culprit):
        attempt(retain=data)


def test_samples_are_those_that_the_data_set_gives():
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            seen.append(x.detach().clone())
            return super().forward(x)

    data = OwnTensors(*tensors(12, 2))
    attempt(Watching(FEATURES, 3), retain=data, batch_size=12)
    given = {tuple(data[i][0].tolist()) for i in range(12)}
    assert {tuple(row.tolist()) for batch in seen if len(batch) == 12 for row in batch} == given


def test_a_function_called_batch_need_not_gather():
    assert len(attempt(retain=Batching()).history) == 2


def test_data_may_require_gradients():
    x, y = tensors(12, 2)
    assert len(attempt(retain=TensorDataset(x.requires_grad_() * 2, y)).history) == 2


def test_a_mean_has_an_entry_for_each_channel():
    x, y = torch.rand(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64)
    task = untrain.Classification(mean=[0.5] * 3, std=[0.5] * 3)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    model(torch.rand(2, 3, 4, 4))
    with pytest.raises(SettingError, match="3 entries.* 1 channels"):
        attempt(model, forget=TensorDataset(x, y), retain=TensorDataset(x + 1, y), task=task)
