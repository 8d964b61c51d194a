"""Who is asked what a redirected sample should be predicted as, and what SFR-on redirects by default."""

import copy

import pytest
import torch

from helpers.small_classifiers import problem as classification
from helpers.small_generators import denoiser, problem
from untrain.errors import SettingError
from untrain.methods import make
from untrain.methods.base import Optimizer, check_runs
from untrain.methods.forgetting import frozen
from untrain.methods.random_label import RandomLabel
from untrain.methods.sfron import SFRon
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.classification.task import Classification
from untrain.tasks.text_to_image.task import TextToImage

SGD = Optimizer("sgd", 0.05)
REDIRECT = {"objective": "redirect", "gamma": None, "max_norm": None, "decay": "constant", "forget_optimizer": SGD}


def slow_loss(task, model, teacher, batch):
    with torch.no_grad():
        target = teacher(task.noisy(batch), batch["timestep"], class_labels=(batch["label"] + 1) % 3).sample
    found = model(task.noisy(batch), batch["timestep"], class_labels=batch["label"]).sample
    return (found - target).square().mean()


@pytest.mark.parametrize("teacher", ["current", "original"])
def test_forget_steps_follow_the_teacher_that_was_chosen(teacher):
    """SFR-on's, written out; without dropout the current model's modes make no difference."""
    work, engine = problem(denoiser())
    method = SFRon(steps=4, optimizer=SGD, teacher=teacher, **REDIRECT).resolved(work, engine)
    state = method.start(work, engine)
    slow = denoiser()
    original = copy.deepcopy(slow)
    for k in range(4):
        method._forget(state, k)
        loss = slow_loss(
            work.task, slow, slow if teacher == "current" else original, work.forget.batch(k, work.task, "forget")
        )
        for p, g in zip(slow.parameters(), torch.autograd.grad(loss, list(slow.parameters())), strict=True):
            p.data -= 0.05 * g
    for p, q in zip(state.module.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    assert set(state.frozen) == (set() if teacher == "current" else {"original"}), "a copy only where it is asked"


@pytest.mark.parametrize("name", ["random-label", "salun", "proximal-gradient"])
def test_random_labels_follow_it_too(name):
    """The first step is the same; from the second on the current model has moved, and its target with it."""
    logs = {}
    for teacher in ("current", "original"):
        work, engine = problem(denoiser())
        method = make(name, {"steps": 6, "optimizer": Optimizer("adam", 1e-2), "teacher": teacher})
        state = method.start(work, engine)
        logs[teacher] = [method.step(state, k)["forget_loss"] for k in range(3)]
        assert state.module is not state.frozen.get("original")
    assert logs["current"][0] == pytest.approx(logs["original"][0], rel=1e-9)  # modes choose other kernels
    assert logs["current"][1] != pytest.approx(logs["original"][1], rel=1e-6)


@pytest.mark.parametrize("name", ["random-label", "salun", "proximal-gradient", "sfron"])
def test_where_no_teacher_is_asked_it_cannot_be_chosen(name):
    settings = {"teacher": "original", **({"objective": "redirect"} if name == "sfron" else {})}
    with pytest.raises(SettingError, match=r"teacher='original' has no meaning on task Classification.*Leave"):
        check_runs(make(name, settings), Classification())
    check_runs(make(name, {**settings, "teacher": "current"}), Classification())
    check_runs(make(name, settings), ClassDiffusion())
    check_runs(make(name, settings), TextToImage())
    with pytest.raises(SettingError, match="teacher.*current.*original.*later"):
        make(name, {"teacher": "later"})


def test_sfron_has_a_teacher_only_where_it_redirects():
    with pytest.raises(SettingError, match="teacher is a setting of objective='redirect'; 'ascent' asks none"):
        SFRon(objective="ascent", teacher="original")
    with pytest.raises(SettingError, match="that of ClassDiffusion is 'adaptive'.*give objective='redirect'"):
        check_runs(SFRon(teacher="original"), ClassDiffusion())
    check_runs(SFRon(teacher="original"), TextToImage())


def test_what_sfron_descends_on_is_the_tasks_unless_it_is_given():
    class Nowhere:
        variants = ()
        objective = "redirect"

    for made, expected in ((classification, "adaptive"), (lambda: problem(denoiser()), "adaptive")):
        work, engine = made()
        assert SFRon(optimizer=SGD).resolved(work, engine).objective == expected
        assert SFRon(optimizer=SGD, objective="ascent").resolved(work, engine).objective == "ascent"
    with pytest.raises(SettingError, match="it needs 'redirect'"):
        check_runs(SFRon(), Nowhere())
    check_runs(SFRon(objective="ascent"), Nowhere())


def test_a_frozen_copy_shares_what_nobody_trains():
    model = denoiser()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("attn" in name or "attentions" in name)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    teacher = frozen(model)
    own = dict(model.named_parameters())
    assert 0 < len(trained) < len(own)
    assert {name for name, p in teacher.named_parameters() if p is not own[name]} == trained
    assert not any(p.requires_grad for p in teacher.parameters())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
    with torch.no_grad():
        for name in trained:
            own[name].add_(1)
    assert all(torch.equal(p + 1, own[name]) for name, p in teacher.named_parameters() if name in trained)


def test_random_labels_without_a_copy_by_default():
    work, engine = problem(denoiser())
    assert RandomLabel(steps=1, optimizer=SGD).start(work, engine).frozen == {}
