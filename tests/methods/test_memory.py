"""What a run holds in memory: of a large model, two Fisher diagonals beside the optimisers would not fit."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import TensorDataset

import untrain.io
from helpers.small_classifiers import SGD
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import Diverged, FolderError
from untrain.methods import base, fishers, loop, make, salun
from untrain.methods.base import Problem
from untrain.methods.finetune import Finetune
from untrain.methods.loop import Checkpoints, run
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification

ENGINE = Engine(torch.device("cpu"))
ESTIMATORS = ("sample", "batch")


def wide(part=None):
    """A model whose weights are far larger than its activations; `part`: what is trained, None: all."""
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(384, 384), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(384, 5))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part is None or name.startswith(part))
    return model


def problem(model, count=8):
    def stream(name):
        g = torch.Generator().manual_seed(len(name))
        data = TensorDataset(torch.randn(count, 384, generator=g), torch.randint(0, 5, (count,), generator=g))
        return Stream(data, name, ENGINE, 4)

    return Problem(Subject(model), Classification(num_classes=5), stream("forget"), stream("retain"))


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def peak_of(compute):
    """What it gives, and the most bytes that it held at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        found = compute()
    events = (event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]")
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return found, most


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_fishers_and_one_gradient_are_the_most_that_is_held(estimator):
    work = problem(wide())
    found, most = peak_of(lambda: fishers.fishers_of(work, ENGINE, estimator=estimator))
    weights = bytes_of(work.subject.module.parameters())
    assert bytes_of(t for fisher in found for t in fisher.values()) == 2 * weights
    assert 2 * weights < most < 3.05 * weights


def test_the_gradient_that_salun_ranks_is_held_once_beside_a_batchs():
    """Then the mask (a quarter), and one tensor at a time in double."""
    work = problem(wide())
    weights = bytes_of(work.subject.module.parameters())
    gradient, most = peak_of(lambda: salun.forget_gradient(work, ENGINE))
    assert bytes_of(gradient.values()) == weights < most < 2.3 * weights
    _, most = peak_of(lambda: salun.largest_mask(gradient, 0.5))
    assert most < weights


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_of_the_fishers_nothing_but_a_mask_of_bools_outlives_the_start(estimator, monkeypatch):
    born, computed = [], fishers.fishers_of

    def noted(*args, **kwargs):
        found = computed(*args, **kwargs)
        born.extend(weakref.ref(tensor) for fisher in found for tensor in fisher.values())
        return found

    monkeypatch.setattr(fishers, "fishers_of", noted)
    work = problem(wide())
    gc.collect()
    before = {id(t) for t in gc.get_objects() if issubclass(type(t), torch.Tensor)}
    method = make("sfron", {"steps": 3, "fisher": estimator, "optimizer": SGD}).resolved(work, ENGINE)
    gc.disable()  # what only a collection frees is still there when the optimisers are made
    try:
        state = method.start(work, ENGINE)
        assert len(born) == 20
        assert not any(ref() is not None for ref in born)
    finally:
        gc.enable()
    gc.collect()
    new = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor) and id(t) not in before]
    mask = work.memo["mask"]
    assert {t.dtype for t in mask.values()} == {torch.bool}
    weights = bytes_of(state.parameters)
    assert bytes_of(mask.values()) == weights // 4
    assert bytes_of(t for t in new if t.dtype != torch.bool) < 0.01 * weights
    assert all(p.grad is None for p in state.parameters)
    assert state.frozen == {}


def test_without_a_mask_no_fisher_is_made(monkeypatch):
    monkeypatch.setattr(fishers, "fishers_of", None)
    work = problem(wide())
    method = make("sfron", {"steps": 2, "gamma": None, "optimizer": SGD, "calibrate": False})
    assert "mask" not in run(method, work, ENGINE).state.problem.memo


# The last good weights.


def test_good_weights_are_kept_once_and_only_those_that_are_trained(tmp_path):
    work = problem(wide(part="6."))
    original = [p.clone() for p in work.subject.module.parameters()]
    trained = bytes_of(p for p in work.subject.module.parameters() if p.requires_grad)
    method = make("finetune", {"steps": 30, "optimizer": SGD})
    done, most = peak_of(lambda: run(method, work, ENGINE))
    everything = bytes_of(done.state.module.parameters())
    assert trained < 0.3 * everything
    assert most < 5 * trained + 0.1 * everything  # gradient, momentum, what is kept, and what a step needs
    moved = [not torch.equal(p, q) for p, q in zip(done.state.module.parameters(), original, strict=True)]
    assert moved == [name.startswith("6.") for name, _ in done.state.module.named_parameters()]


class Exploding(Finetune):
    """Its loss becomes NaN at the last of four steps."""

    def step(self, state, k):
        if k == 3:
            with torch.no_grad():
                state.parameters[0].fill_(float("nan"))
        return super().step(state, k)


def test_of_a_large_model_the_last_good_weights_are_those_of_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "LARGE", 1000)
    monkeypatch.setattr(loop, "SHARE", 0.0)  # no pause between two saved states
    method = Exploding(steps=4, optimizer=SGD)
    with pytest.raises(Diverged, match=r"No earlier weights are known to be good: of a model as large.*Give a folder"):
        run(method, problem(wide()), ENGINE)
    work = problem(wide())
    saver = Checkpoints(tmp_path / "resume.pt", "mark", every=0.0)
    with pytest.raises(Diverged, match=r"put back to its last good weights, after step 3 and .*resume.pt holds"):
        run(method, work, ENGINE, checkpoints=saver)
    saved = torch.load(saver.path, weights_only=True)["state"]["module"]
    found = work.subject.module.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in found.items())
    assert all(bool(value.isfinite().all()) for value in found.values())


class FullDisk:
    """A file on a disk with room for so many bytes."""

    def __init__(self, room):
        self.room = room

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return len(data)

    def flush(self):
        return None


@pytest.mark.parametrize("room", [0, 2000, 1_000_000])
def test_a_checkpoint_on_a_full_disk_says_so(room, tmp_path, monkeypatch):
    """Torch writes piece by piece and turns the error of the file into one of its own."""
    monkeypatch.setattr(untrain.io, "open", lambda *args, **how: FullDisk(room), raising=False)
    with pytest.raises(FolderError, match=r"resume.pt cannot be written: No space left on device. Free some space"):
        run(
            make("finetune", {"steps": 2, "optimizer": SGD}),
            problem(wide()),
            ENGINE,
            checkpoints=Checkpoints(tmp_path / "resume.pt", "mark"),
        )
    assert list(Path(tmp_path).iterdir()) == []
