"""What a run fell short of is warned of, once, in notes and warnings; a run that did what it should says nothing."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn

import untrain
from helpers.small_classifiers import network, problem, samples
from untrain.errors import UnlearningWarning
from untrain.methods.finetune import Finetune
from untrain.methods.loop import run
from untrain.methods.retrain import Retrain
from untrain.methods.sfron import SFRon
from untrain.methods.shortfalls import find_shortfalls, forget_loss, loss_aimed_at


def trained():
    """A network that knows 100 samples by heart, for which new ones are a surprise."""
    model, (x, y) = network().train(), samples(140, 1).tensors
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def once_trained():
    return trained()


@pytest.fixture
def model(once_trained):
    return copy.deepcopy(once_trained)


def loss_of(model, data):
    x, y = data.tensors
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


def unlearned(model, method="sfron", *, forget=slice(0, 40), retain=slice(40, 140), **settings):
    """The result, and the warnings that were heard."""
    data = samples(140, 1)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        result = untrain.unlearn(
            model, forget=_part(data, forget),
            retain=_part(data, retain), holdout=samples(60, 9), method=method, batch_size=20, device="cpu", **settings,
        )  # fmt: skip
    return result, [str(each.message) for each in heard if each.category is UnlearningWarning]


def _part(data, rows):
    return torch.utils.data.TensorDataset(*(tensor[rows] for tensor in data.tensors))


def test_the_mean_loss_is_that_of_every_sample_once(model):
    work, engine = problem(model, forget=41)  # of which the last batch has one
    found = forget_loss(work, model, engine)
    x, y = samples(41, 1).tensors
    losses = nn.functional.cross_entropy(model(x), y, reduction="none")
    torch.testing.assert_close(found["mean"].double(), losses.mean())
    torch.testing.assert_close(found["error"].double(), losses.std(correction=0) / 41**0.5)
    assert 0 < float(found["known"]) == (losses < math.log(2)).double().mean() < 1


def test_a_target_that_was_missed_is_warned_of_with_both_numbers(model):
    result, heard = unlearned(model, steps=2, alpha=1e-3)
    assert len(heard) == len(result.warnings) >= 1
    assert set(heard) == set(result.warnings) <= set(result.notes)
    (missed,) = [text for text in heard if text.startswith("the loss aimed at was not reached:")]
    aimed, ended = loss_of(model, samples(60, 9)), loss_of(result.model, _part(samples(140, 1), slice(0, 40)))
    assert f"{ended:.3g}" in missed
    (note,) = [text for text in result.notes if text.startswith("forgetting aims at the held-out loss")]
    level = note.split()[-2]  # of the forget set's classes
    assert level in missed
    assert float(level) == pytest.approx(aimed, rel=0.1)
    assert missed in repr(result)


def test_a_target_that_was_reached_is_not(model):
    result, heard = unlearned(model, steps=60, optimizer=untrain.Optimizer("sgd", 0.01))
    assert not [text for text in heard if "aimed" in text], result.history[-1]


def test_a_forget_set_that_was_never_learned_needs_no_step(model):
    """Its loss is that of new data from the start, so every forget step is left out."""
    with pytest.warns(UnlearningWarning, match="no forget step was taken"):
        result = untrain.unlearn(
            model, forget=samples(40, 8), retain=_part(samples(140, 1), slice(40, 140)), holdout=samples(60, 9),
            batch_size=20, calibration={"margin": 0.5}, gamma=None, device="cpu",
        )  # fmt: skip
    assert all(record["skipped"] for record in result.history)
    assert len(result.warnings) == 1


def test_nothing_moved(model):
    result, heard = unlearned(model, "finetune", steps=1, optimizer=untrain.Optimizer("sgd", 1e-9))
    assert heard == result.warnings
    assert heard[0].startswith("the loss on the forget set did not move:")


def test_an_empty_mask_and_an_empty_dampening(model):
    work, _ = problem(model)
    work.memo["mask"] = {"weight": torch.zeros(3, dtype=torch.bool)}
    (text,) = find_shortfalls(work, [{"forget_loss": 1.0}], None, None, None)
    assert "the mask holds no weight" in text
    _, heard = unlearned(model, "ssd", alpha=1e30)
    assert [text.partition(":")[0] for text in heard] == ["nothing was forgotten"]


@pytest.mark.parametrize(
    ("history", "told"),
    [
        ([], "no step was taken"),
        ([{"forget_loss": 0.0}] * 3, "no forget step changed anything"),
        ([{"forget_loss": 0.5, "skipped": True}] * 3, "no forget step was taken"),
        ([{"forget_loss": 0.5, "skipped": True}, {"forget_loss": 0.5}], None),
        ([{"retain_loss": 0.5}], None),
        ([{"dampened": 0.0}], "nothing was forgotten"),
        ([{"dampened": 0.1}], None),
    ],
)
def test_what_the_steps_logged(model, history, told):
    found = find_shortfalls(problem(model)[0], history, None, None, None)
    assert [text.partition(":")[0] for text in found] == ([] if told is None else [told])


@pytest.mark.parametrize(
    ("mean", "error", "missed"), [(0.79, 0.01, True), (0.81, 0.01, False), (0.79, 0.11, False), (2.0, 0.1, False)]
)
def test_a_target_counts_as_missed_only_beyond_chance(model, mean, error, missed):
    after = {"mean": torch.tensor(mean), "error": torch.tensor(error)}
    found = find_shortfalls(problem(model)[0], [{"forget_loss": 0.1}], 1.0, None, after)
    assert bool(found) == missed


def test_a_whole_class_aims_at_the_late_ceiling(model):
    x, y = samples(140, 1).tensors
    gone = torch.utils.data.TensorDataset(x[y == 2], y[y == 2])
    kept = torch.utils.data.TensorDataset(x[y != 2], y[y != 2])
    with pytest.warns(UnlearningWarning, match="where 4 was aimed at"):
        untrain.unlearn(model, forget=gone, retain=kept, holdout=samples(60, 9), batch_size=20, steps=1, device="cpu")


def test_training_forgets_nothing_and_is_not_looked_at():
    work, engine = problem()
    work.forget = work.retain
    method = Retrain(steps=1, optimizer=untrain.Optimizer("sgd", 1e-9))
    done = run(method, work, engine)
    assert (work.warnings, done.aim, "forget loss" in work.memo) == ([], None, False)
    assert forget_loss(work, work.subject.module, engine) is None


def test_only_a_calibrated_method_aims(model):
    work, engine = problem(model)
    assert loss_aimed_at(Finetune(), work, engine) is None
    assert loss_aimed_at(SFRon(calibrate=False), work, engine) is None


def test_a_resumed_run_keeps_what_it_measured_before_its_first_step(model):
    work, engine = problem(model)
    before = loss_of(model, samples(40, 1))
    run(Finetune(steps=5, optimizer=untrain.Optimizer("sgd", 0.05)), work, engine)
    assert float(work.memo["forget loss"]["mean"]) == pytest.approx(before, rel=1e-6)
