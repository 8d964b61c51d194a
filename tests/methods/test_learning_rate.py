from functools import cache

import pytest
import torch
from torch import nn

from helpers.small_classifiers import few_samples
from untrain.methods.base import Optimizer
from untrain.methods.finetune import Finetune
from untrain.methods.learning_rate import PEAKS, mends, range_test, ruined, with_learning_rate
from untrain.methods.loop import run
from untrain.methods.sfron import SFRon

OPEN = Optimizer("sgd", None, 0.9)


def test_a_given_rate_is_taken():
    work, engine = few_samples()
    assert with_learning_rate(Optimizer("adam", 0.3), work, engine, 100, None) == Optimizer("adam", 0.3)
    assert work.notes == []


def test_the_peak_of_the_original_training_is_taken_and_noted():
    work, engine = few_samples()
    work.subject.peak_lr = 0.07
    assert with_learning_rate(None, work, engine, 100, None) == Optimizer("sgd", 0.07, 0.9, 5e-4)
    assert "original training's peak" in work.notes[0]


def test_a_range_test_finds_a_rate_and_leaves_everything_as_it_was():
    work, engine = few_samples()
    before = {name: tensor.clone() for name, tensor in work.subject.module.state_dict().items()}
    chosen = with_learning_rate(None, work, engine, 100, None)
    assert 1e-4 < chosen.lr <= PEAKS["sgd"]
    assert "range test" in work.notes[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in work.subject.module.state_dict().items())
    assert all(parameter.grad is None for parameter in work.subject.module.parameters())
    assert with_learning_rate(None, work, engine, 100, None) == chosen, "remembered, not repeated"
    assert len(work.notes) == 1
    assert with_learning_rate(None, *few_samples(), 100, None) == chosen, "the same in another run"


@cache
def known():
    """Weights that know the retain set by heart."""
    work, engine = few_samples()
    return run(Finetune(steps=200, optimizer=Optimizer("sgd", 0.05, 0.9)), work, engine).state.module.state_dict()


def knows(steepness=1.0):
    """A problem whose model knows its retain set by heart; scaling weights down and what follows up leaves the function
    as it is and makes its loss steeper."""
    work, engine = few_samples()
    work.subject.module.load_state_dict(known())
    with torch.no_grad():
        for parameter in work.subject.module[4].parameters():
            parameter.div_(steepness)
        work.subject.module[6].weight.mul_(steepness)
    return work, engine


def test_a_steeper_loss_gets_a_smaller_rate():
    assert range_test(OPEN, *knows(30), 10)[0] < range_test(OPEN, *knows(), 10)[0]


class Bowl(nn.Module):
    """Weights at the bottom of λ/2 ‖θ − c‖²: there no gradient says how steep it is."""

    def __init__(self, steepness):
        super().__init__()
        self.steepness = steepness
        self.register_buffer("bottom", torch.full((64,), (8 / steepness / 64) ** 0.5, dtype=torch.float64))
        self.weight = nn.Parameter(self.bottom.clone())

    def loss(self):
        return self.steepness / 2 * (self.weight - self.bottom).square().sum()


class OfBowl:
    def draw(self, batch, generator, role):
        return batch

    def loss(self, model, batch):
        return model.loss().expand(len(batch["label"]))


@pytest.mark.parametrize("steepness", [3.0, 15.0, 30.0, 70.0, 1500.0])
def test_the_rate_is_the_largest_that_is_stable(steepness):
    """Descent on a quadratic is stable below 2 / λ, and with momentum β below 2 (1 + β) / λ (Polyak 1964)."""
    work, engine = few_samples(Bowl(steepness))
    work.task = OfBowl()
    rate, _ = range_test(Optimizer("sgd"), work, engine, 30)
    stable = [PEAKS["sgd"] / 2**k for k in range(9) if PEAKS["sgd"] / 2**k < 2 / steepness]
    assert rate == stable[0]
    assert range_test(OPEN, work, engine, 30)[0] < 2 * (1 + 0.9) / steepness


def test_trials_clip_gradients_as_the_run_will():
    """A gradient of norm 1 moves θ by the rate alone, however steep the bowl is."""
    work, engine = few_samples(Bowl(70.0))
    work.task = OfBowl()
    assert range_test(Optimizer("sgd"), work, engine, 30)[0] == 0.025 < 2 / 70
    assert range_test(Optimizer("sgd"), work, engine, 30, max_norm=1.0)[0] == 0.1


@pytest.mark.parametrize(
    ("method", "max_norm"),
    [(SFRon(), 1.0), (SFRon(retain_max_norm=3.0), 3.0), (Finetune(), None), (Finetune(max_norm=2.0), 2.0)],
    ids=str,
)
def test_a_method_tells_the_range_test_how_it_clips(method, max_norm, monkeypatch):
    told = []
    monkeypatch.setattr("untrain.methods.learning_rate.range_test", lambda *given: told.append(given[-1]) or (0.1, 3.0))
    method.resolved(*few_samples(holdout=True))
    assert told == [max_norm]


def test_where_no_rate_unsettles_the_model_the_usual_peak_is_taken():
    work, engine = few_samples()
    for parameter in work.subject.module.parameters():
        parameter.requires_grad_(False)
    work.subject.module[0].bias.requires_grad_(True)  # before batch normalisation, a bias changes nothing
    assert range_test(Optimizer("sgd"), work, engine, 10)[0] == PEAKS["sgd"]


def test_what_a_trial_says():
    assert mends([1.0, 1.5, 0.9, 0.8, 0.9])
    assert mends([1.0, 1.2, 1.2, 3.0 - 1.1, 1.2]), "one bad batch is no sign"
    assert not mends([1.0, 1.5, 1.5, 1.6, 1.4]), "it stays too high"
    assert ruined([1.0, 2.1])
    assert not mends([1.0, 2.1])
    assert not mends([1.0, float("nan")])
    assert not mends([1.0, 1.5]), "short as it is, it says so far"
    assert mends([1.0]), "too short to say"


@pytest.mark.parametrize("steepness", [1.0, 30.0])
@pytest.mark.parametrize("budget", [3, 10])
def test_passes_are_counted_as_they_are_taken_and_stay_within_the_budget(steepness, budget):
    work, engine = knows(steepness)
    rows = {"forward": 0, "backward": 0}
    last = work.subject.module[-1]
    last.register_forward_hook(lambda module, given, result: rows.update(forward=rows["forward"] + len(result)))
    last.register_full_backward_hook(
        lambda module, given, result: rows.update(backward=rows["backward"] + len(result[0]))
    )
    _, passes = range_test(OPEN, work, engine, budget)
    assert passes == pytest.approx((rows["forward"] + 2 * rows["backward"]) / 3 / work.retain.rows)
    assert 1 < passes <= budget


@pytest.mark.parametrize("method", [SFRon(), Finetune(epochs=20), SFRon(steps=5)], ids=str)
def test_of_a_run_it_takes_a_twenty_fifth_or_three_passes(method):
    work, engine = few_samples(holdout=True)
    resolved = method.resolved(work, engine)
    passes = float(work.memo["learning rate"]["passes"])
    assert passes <= max(3, resolved.updates / 25)
    assert f"{passes:.1f} passes" in " ".join(work.notes)
