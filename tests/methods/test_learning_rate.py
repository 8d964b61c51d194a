import torch

from helpers.small_classifiers import few_samples
from untrain.methods import learning_rate
from untrain.methods.base import Optimizer
from untrain.methods.finetune import Finetune
from untrain.methods.learning_rate import range_test, unsettled, with_learning_rate
from untrain.methods.loop import run


def test_a_given_rate_is_taken():
    work, engine = few_samples()
    assert with_learning_rate(Optimizer("adam", 0.3), work, engine) == Optimizer("adam", 0.3)
    assert work.notes == []


def test_the_peak_of_the_original_training_is_taken_and_noted():
    work, engine = few_samples()
    work.subject.peak_lr = 0.07
    assert with_learning_rate(None, work, engine) == Optimizer("sgd", 0.07, 0.9, 5e-4)
    assert "original training's peak" in work.notes[0]


def test_a_range_test_finds_a_rate_and_leaves_everything_as_it_was():
    work, engine = few_samples()
    before = {name: tensor.clone() for name, tensor in work.subject.module.state_dict().items()}
    chosen = with_learning_rate(None, work, engine)
    assert 1e-3 < chosen.lr < 1
    assert "range test" in work.notes[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in work.subject.module.state_dict().items())
    assert all(parameter.grad is None for parameter in work.subject.module.parameters())
    assert with_learning_rate(None, work, engine) == chosen, "remembered, not repeated"
    assert len(work.notes) == 1


def trained():
    """A problem whose model fits its retain set."""
    work, engine = few_samples()
    run(Finetune(steps=200, optimizer=Optimizer("sgd", 0.05, 0.9)), work, engine)
    return work, engine


def test_a_steeper_loss_gets_a_smaller_rate():
    """Scaling weights down and what follows up leaves the function as it is and makes its loss steeper."""
    work, engine = trained()
    plain = range_test(Optimizer("sgd", None, 0.9), work, engine)
    with torch.no_grad():
        for parameter in work.subject.module[4].parameters():
            parameter.div_(30)
        work.subject.module[6].weight.mul_(30)
    assert range_test(Optimizer("sgd", None, 0.9), work, engine) < plain


def test_where_no_rate_unsettles_the_model_one_is_found_all_the_same():
    work, engine = few_samples()
    for parameter in work.subject.module.parameters():
        parameter.requires_grad_(False)
    work.subject.module[0].bias.requires_grad_(True)  # before batch normalisation, a bias changes nothing
    assert 1e-3 <= range_test(Optimizer("sgd", None), work, engine) <= 1


def test_when_a_growing_rate_counts_as_too_large():
    assert not unsettled([0.5] * 8)
    assert not unsettled([0.5, 0.5, 0.5, 0.5, 5.0, 0.5, 0.55]), "one bad batch is no sign"
    assert unsettled([0.5] * 5 + [0.7] * 3)
    assert not unsettled([2.0, 1.5, 1.0, 0.8, 0.5, 0.4, 0.3]), "a falling loss is none either"
    assert unsettled([0.5, float("nan")])


def test_a_rate_whose_harm_comes_late_is_refused(monkeypatch):
    """A model that knows its data by heart: the ramp shows harm above 0.2 only, a trial above 0.03 after 28 steps."""

    def losses(optimizer, rates, problem, engine, stop=lambda losses: False):
        seen = []
        for k in range(len(rates)):
            late = rates[-1] == rates[0] > 0.03 and k == 28
            seen.append(8.0 if late else 0.5 if rates[k] > 0.2 else 0.004)
            if stop(seen):
                break
        return seen

    monkeypatch.setattr(learning_rate, "_losses", losses)
    work, engine = few_samples()
    assert 0.015 < range_test(Optimizer("sgd", None, 0.9), work, engine) <= 0.03


def test_a_trial_is_over_once_the_model_is_ruined():
    stop = learning_rate.ruined(0.5)
    assert not stop([0.5, 2.4])
    assert stop([0.5, 2.6])
    assert stop([0.5, float("nan")])
