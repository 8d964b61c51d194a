"""Batches that pass through the model in parts: the same result as whole ones, in less memory."""

import pytest
import torch
from torch import nn

import untrain
from helpers.small_classifiers import clusters
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import Problem, State
from untrain.methods.steps import losses_of
from untrain.models.subject import Subject
from untrain.runs.dry_run import TensorMemory
from untrain.tasks.classification.task import Classification

OWN = {"ssd": {}, "eu-k": {"layers": 1}, "cf-k": {"layers": 1}, "shrink-perturb": {"budget": 0.5}}
METHODS = ("sfron", "scrub", "salun", "neggrad-plus", "bad-teacher", "cf-k", "noisy-finetune", "delete", "lotus", "ssd")


def normed():
    """A model of which no sample sees another, in float64; its dropout never drops."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.0), nn.Linear(16, 5)).double()


def forgotten(name, microbatch):
    settings = OWN.get(name, {})
    if name != "ssd":
        settings = {"steps": 6, "optimizer": untrain.Optimizer("sgd", 0.05, 0.9), **settings}
    sets = {"forget": clusters(25, 1), "retain": clusters(75, 2), "holdout": clusters(30, 3)}
    how = {"batch_size": 25, "device": "cpu", "microbatch": microbatch}
    return untrain.unlearn(normed(), **sets, method=name, **how, **settings).model.state_dict()


@pytest.mark.parametrize("name", METHODS)
def test_parts_give_what_the_whole_gives(name):
    """Every method, those whose weights need the whole batch's losses too; rounding in float64 alone differs."""
    whole, parts = forgotten(name, None), forgotten(name, 7)
    start = normed().state_dict()
    assert any(not torch.equal(whole[key], start[key]) for key in start)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-9, atol=1e-11)


def peak_of(microbatch):
    torch.manual_seed(0)
    engine = Engine(torch.device("cpu"), microbatch=microbatch)
    stream = Stream(clusters(96, 1), "retain", engine, 96)
    model = nn.Sequential(nn.Linear(12, 256), nn.GELU(), nn.Linear(256, 5))
    work = Problem(Subject(model.double()), Classification(5), stream, stream)
    state = State(work, engine, work.subject.module)
    batch = work.retain.batch(0, work.task, "retain")
    memory = TensorMemory(torch.device("cpu"))
    with memory:
        engine.backward(engine.mean(losses_of(state, batch)), state.parameters)
    return memory.peak


def test_parts_hold_the_activations_of_one_part_alone():
    """An eighth of the batch: the two hidden layers' 2 × 96 × 256 numbers become 2 × 12 × 256, and gradients stay."""
    whole, part = peak_of(None), peak_of(12)
    gradients = 8 * (12 * 256 + 256 + 256 * 5 + 5)
    assert (part - gradients) < (whole - gradients) / 3


def test_a_model_that_looks_at_its_batch_is_refused():
    sets = {"forget": clusters(25, 1), "retain": clusters(75, 2)}
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)).double()
    with pytest.raises(SettingError, match="microbatch: 1, a BatchNorm1d"):
        untrain.unlearn(model, **sets, method="finetune", steps=2, batch_size=25, device="cpu", microbatch=5)
