"""How far to forget a one-sided request: its class's own held-out loss, as rare as it will be, and enough steps."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import untrain
from helpers.small_classifiers import SGD, few_samples, network, samples
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.methods.base import Problem
from untrain.methods.calibration import Calibration
from untrain.methods.like_with_like import class_counts, class_losses, moved, of_class
from untrain.methods.sfron import SFRon
from untrain.methods.steps import sample_losses
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification

ENGINE = Engine(torch.device("cpu"))


def test_a_loss_after_its_class_became_rarer():
    """p′ = r p / (r p + 1 − p)."""
    p = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64)
    for r in (0.5, 1.0, 3.0):
        found = moved(-p.log(), torch.full((3,), math.log(r), dtype=torch.float64))
        torch.testing.assert_close(found, -(r * p / (r * p + 1 - p)).log(), rtol=1e-9, atol=1e-12)


def one_sided(forget=30, retain=(10, 60, 50), holdout=40):
    """All that is forgotten is of class 1, of which some is kept."""
    engine = ENGINE

    def of(labels, seed):
        x = samples(len(labels), seed).tensors[0]
        return TensorDataset(x, labels)

    kept = torch.cat([torch.full((n,), c) for c, n in enumerate(retain)])
    sets = {"forget": of(torch.ones(forget).long(), 1), "retain": of(kept, 2)}
    sets["holdout"] = of(torch.arange(holdout) % 3, 3)
    streams = {name: Stream(data, name, engine, 20) for name, data in sets.items()}
    return Problem(Subject(network()), Classification(num_classes=5), **streams)


def found_in(work):
    """What the held-out losses of a problem say of its classes."""
    losses = sample_losses(work.task, work.subject.module, work.holdout, ENGINE, "held-out loss")
    return class_losses(work, *losses)


def test_the_target_is_the_class_s_own_held_out_loss_moved_to_its_new_share():
    work = one_sided()
    x, y = work.holdout.data.tensors
    with torch.no_grad():
        losses = F.cross_entropy(network().eval()(x), y, reduction="none")
    found = found_in(work)
    share = torch.tensor([10, 60, 50]) / 120, torch.tensor([10, 90, 50]) / 150
    shifted = moved(losses, (share[0] / share[1]).log().double()[y])
    own = (shifted[y == 1].sum() + 5 * shifted.mean()) / ((y == 1).sum() + 5)
    assert found["classes"].tolist() == [0, 1, 2]
    assert float(found["ratio"][1] * losses.mean()) == pytest.approx(float(own))
    assert float(found["level"]) == pytest.approx(float(found["ratio"][1]))
    assert bool(found["one_sided"])
    assert of_class(found, "ratio", torch.tensor([1, 7])).tolist() == [float(found["ratio"][1]), 1.0]
    certain = (shifted < math.log(2)).double()
    assert float(found["known"][1]) == pytest.approx(
        float((certain[y == 1].sum() + 5 * certain.mean()) / ((y == 1).sum() + 5))
    )


def test_a_one_sided_batch_is_done_when_no_more_of_it_is_known_than_of_held_out_samples():
    measured = {
        "target": torch.tensor(2.0), "held": torch.tensor([1]), "classes": torch.tensor([1]),
        "ratio": torch.tensor([1.0]), "known": torch.tensor([0.5]), "one_sided": torch.tensor(True),
    }  # fmt: skip
    share, task = {"label": torch.ones(4).long()}, Classification(num_classes=5)

    def active(*losses):
        return Calibration().active_samples(measured, share, torch.tensor(losses), 0, 10, task, ENGINE).tolist()

    assert active(0.1, 0.1, 0.1, 3.0) == [True] * 4
    assert active(0.1, 0.1, 1.0, 3.0) == [False] * 4, "half are known, though the mean loss is below the target"
    assert active(0.1, 0.1, 0.1, 9.0) == [False] * 4, "the mean loss is above the target"


def test_a_random_subset_is_not_one_sided_and_a_whole_class_neither():
    work, _ = few_samples(holdout=True)
    assert not bool(found_in(work)["one_sided"])
    whole = found_in(one_sided(retain=(60, 0, 60)))
    assert not bool(whole["one_sided"])
    assert whole["ratio"].isfinite().all()


def test_it_says_when_there_is_too_little_to_go_by():
    work = one_sided(holdout=12)
    found_in(work)
    assert any("4 samples of the classes" in note for note in work.notes)
    work = one_sided()
    found_in(work)
    assert not work.notes


def test_classes_are_counted():
    work = one_sided()
    classes, counts = class_counts(work.retain, work.task)
    assert (classes.tolist(), counts.tolist()) == ([0, 1, 2], [10, 60, 50])


def test_forget_rows_are_normalised_by_the_statistics_of_retain_rows():
    """Those of the next retain batch, as they would be in evaluation; the running statistics stay."""
    work = one_sided()
    method = SFRon(steps=4, optimizer=SGD, gamma=None).resolved(work, ENGINE)
    state = method.start(work, ENGINE)
    before = state.module[1].running_mean.clone()
    forget, retain = (s.batch(0, work.task, n) for s, n in ((work.forget, "forget"), (work.retain, "retain")))
    slow = network().train()
    slow[1].momentum = 1.0
    with torch.no_grad():
        slow(retain["input"])
        losses = F.cross_entropy(slow.eval()(forget["input"]), forget["label"])
    found = method._forget(state, 0)
    assert found["forget_loss"] == pytest.approx(float(losses), rel=1e-10)
    layer = state.module[1]
    assert torch.equal(layer.running_mean, before)
    assert (layer.training, layer.momentum) == (True, 0.1)


def test_small_sets_get_enough_steps():
    work, engine = few_samples()
    assert SFRon(optimizer=SGD).resolved(work, engine).total == 20
    assert SFRon(steps=3, optimizer=SGD).resolved(work, engine).total == 3


# The claim.


def clouds(count, seed):
    """Four overlapping clusters in 12 dimensions."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 4
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(7))
    return TensorDataset(centres[y] + 1.4 * torch.randn(count, 12, generator=g), y)


def fitted(x, y, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        rows = torch.randperm(len(x))[:64]
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.mark.parametrize("method", ["sfron", "shrink-perturb"])
def test_half_of_a_class_is_forgotten_as_a_retrained_model_does(method):
    """Within 8 points, on one seed, of what retraining gives: on the samples, and on new ones of the class."""
    x, y = clouds(1120, 1).tensors
    own = (y == 2).nonzero()[:, 0]
    forget, retain = own[:150], torch.cat([own[150:], (y != 2).nonzero()[:, 0]])
    tested, held = clouds(800, 2), clouds(160, 3)
    original, retrained = fitted(x, y, 0), fitted(x[retain], y[retain], 1)
    found = untrain.unlearn(
        original, forget=TensorDataset(x[forget], y[forget]), retain=TensorDataset(x[retain], y[retain]), holdout=held,
        method=method, optimizer=untrain.Optimizer("sgd", 0.1 if method == "sfron" else 0.025, 0.9), device="cpu",
    )  # fmt: skip

    def scores(model):
        tx, ty = tested.tensors[0][tested.tensors[1] == 2], 2
        with torch.no_grad():
            return [100 * float((model(a).argmax(1) == ty).double().mean()) for a in (x[forget], tx)]

    first, last, target = scores(original), scores(found.model), scores(retrained)
    assert first[0] - target[0] > 8, "there is something to forget"
    assert abs(last[0] - target[0]) < 8, (first, last, target)
    assert abs(last[1] - target[1]) < 8, (first, last, target)
    assert not any(record.get("skipped") for record in found.history[:1])
