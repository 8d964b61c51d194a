"""SFR-on from shrunk weights: where it begins, its mask, its ends and cost; which requests ask for it."""

import pytest
import torch

import untrain
from helpers.small_classifiers import SGD, close, network, problem, ran, samples
from untrain import api
from untrain.data.streams import Stream
from untrain.engine import Engine, seed_of
from untrain.errors import SettingError
from untrain.methods import make
from untrain.methods.base import Problem
from untrain.methods.sfron import SFRon
from untrain.methods.shrink_perturb import shrinkage
from untrain.methods.shrink_sfron import ShrinkSFRon
from untrain.models.prepare import prepare_task
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification

ENGINE = Engine(torch.device("cpu"))
STEPS = {"steps": 3, "retain_steps": 2, "optimizer": SGD}


def test_it_begins_between_the_original_and_new_weights_with_the_originals_mask():
    state, _ = ran(ShrinkSFRon(keep=0.7, **STEPS), 0)
    new = dict(Subject(network()).fresh(seed_of(0, "fresh weights")).named_parameters())
    old = dict(network().named_parameters())
    for name, parameter in state.module.named_parameters():
        expected = 0.7 * old[name] + 0.3 * new[name].double()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)
    mask = ran(SFRon(**STEPS), 0)[0].problem.memo["mask"]
    for name, own in state.problem.memo["mask"].items():
        assert torch.equal(own, mask[name])


def of_class(data, labels):
    data.tensors[1].copy_(labels)
    return data


def class_3(*kept):
    """Sets of class 3, to be forgotten, and of these classes, to be retained."""
    labels = torch.tensor(kept)[torch.arange(60) % len(kept)]
    return {"forget": of_class(samples(20, 1), torch.full((20,), 3)), "retain": of_class(samples(60, 2), labels)}


def forgets_class_3(*kept):
    """A problem of these sets."""
    streams = {name: Stream(data, name, ENGINE, 20) for name, data in class_3(*kept).items()}
    return Problem(Subject(network()), Classification(num_classes=5), **streams)


def renewed(*kept, **settings):
    """A network's head before and after a class's forgetting begins, new weights, and the notes; these are retained."""
    work = forgets_class_3(*kept)
    state = SFRon(**{**STEPS, "fresh_head": True, **settings}).resolved(work, ENGINE).start(work, ENGINE)
    new = dict(Subject(network()).fresh(seed_of(0, "fresh weights")).named_parameters())
    names = [name for name, p in network().named_parameters() if p.shape[0] == 5]
    old, now = (dict(module.named_parameters()) for module in (network(), state.module))
    return [[(old[n], now[n].detach(), new[n].detach()) for n in names], work.notes, (old, now, names)]


def test_of_a_class_the_last_layer_begins_anew():
    head, _, (old, now, names) = renewed(0, 1, 2, 4)
    assert len(head) == 2
    for _, after, new in head:
        torch.testing.assert_close(after, new.to(after))
    assert all(torch.equal(now[name], old[name]) for name in old.keys() - set(names))


def test_rows_of_classes_that_neither_set_holds_stay():
    head, notes, _ = renewed(0, 1)
    for before, after, new in head:
        torch.testing.assert_close(after[[0, 1, 3]], new.to(after)[[0, 1, 3]])
        assert torch.equal(after[[2, 4]], before[[2, 4]])
    assert any("begins anew for 3 classes" in note for note in notes)


def test_the_last_layer_stays_where_the_class_is_kept_or_the_method_is_as_published():
    for kept, settings in (((0, 3), {}), ((0, 1), {"fresh_head": None})):
        head, _, _ = renewed(*kept, **settings)
        assert all(torch.equal(before, after) for before, after, _ in head)


@pytest.mark.parametrize(
    ("settings", "ceilings"),
    [
        ({"fresh_head": True}, (4.0, 3.0)),
        ({"fresh_head": False}, (6.0, 4.0)),
        ({"fresh_head": True, "calibration": {"ceiling": 6.0}}, (6.0, 3.0)),
    ],
)
def test_a_last_layer_that_knows_nothing_of_the_class_is_driven_less_far(settings, ceilings):
    method = make("sfron", {"optimizer": SGD, **settings}).resolved(forgets_class_3(0, 1, 2), ENGINE)
    assert method.calibration.ceilings == ceilings
    kept = forgets_class_3(0, 1, 2)
    kept.forget = kept.retain
    assert SFRon(fresh_head=True, optimizer=SGD).resolved(kept, ENGINE).calibration.ceilings[0] == 6


def test_adapters_leave_the_last_layer_and_say_so():
    given = {**class_3(0, 1, 2), "adapters": {"rank": 2}, "device": "cpu"}
    done = untrain.unlearn(network(), method="sfron", fresh_head=True, steps=2, optimizer=SGD, **given)
    assert any("adapters are trained" in note for note in done.notes)
    assert not done.method.fresh_head and done.method.calibration.ceilings == (6.0, 4.0)


def test_all_kept_is_sfron():
    kept, plain = (ran(method, 3)[0] for method in (ShrinkSFRon(keep=1.0, **STEPS), SFRon(**STEPS)))
    close(kept.module, plain.module)


def in_parts(retain_rows, method, steps=3):
    """The state after so many steps with forget batches of 20 and retain batches of so many samples."""
    work, engine = problem(forget=60, retain=120)
    work.retain = Stream(samples(120, 2), "retain", engine, retain_rows)
    method = method.resolved(work, engine)
    state = method.start(work, engine)
    for k in range(steps):
        method.step(state, k)
    return state, method


def test_halves_of_retain_batches_are_steps_of_their_own():
    """As many steps on batches of half the size."""
    shared = {"steps": 3, "optimizer": SGD, "gamma": None}
    halves, method = in_parts(40, SFRon(split=2, retain_steps=1, **shared))
    whole, _ = in_parts(20, SFRon(retain_steps=2, **shared))
    close(halves.module, whole.module)
    assert (method.updates, method.batches, method.optimizer) == (9, 6, SGD)


@pytest.mark.parametrize(("rows", "split"), [(20, 1), (40, 2), (64, 4), (100, 4)])
def test_quarters_of_at_least_16_samples_are_taken_at_a_part_of_the_peak(rows, split):
    work, engine = problem(batch_size=rows)
    work.subject.peak_lr, work.subject.train_steps = 0.1, 400
    method = ShrinkSFRon(budget=0.2).resolved(work, engine)
    assert (method.split, method.optimizer.lr) == (split, pytest.approx(0.1 / split))
    assert (method.total, method.batches, method.updates) == (20, 80, 20 * (1 + 3 * split))
    assert SFRon().resolved(work, engine).optimizer.lr == 0.1
    assert ShrinkSFRon(online=False).resolved(work, engine).split == 1


def test_a_budget_pays_for_forget_and_retain_steps_and_says_how_far_weights_are_shrunk():
    work, engine = problem()
    work.subject.train_steps = 400
    method = ShrinkSFRon(budget=0.2, optimizer=SGD).resolved(work, engine)
    assert (method.total, method.retain_steps, method.updates, method.keep) == (20, 3, 80, 0.474)
    assert any("κ 0.474" in note and "20%" in note for note in work.notes)
    work.subject.train_steps = 400
    assert SFRon(budget=0.4, retain_steps=1, optimizer=SGD).resolved(work, engine).total == 80
    assert ShrinkSFRon(keep=0.9, budget=0.2, optimizer=SGD).resolved(work, engine).keep == 0.9


@pytest.mark.parametrize(
    ("steps", "budget", "kept"),
    [
        *((280, 0.1, 0.581), (280, 0.2, 0.499), (400, 0.2, 0.474), (1000, 0.2, 0.41), (5000, 0.2, 0.4)),
        *((200, 0.4, 0.4), (1500, 0.4, 0.36), (5000, 0.4, 0.36), (280, 1.0, 0.0)),
    ],
)
def test_what_is_kept_falls_with_the_budget_and_where_batches_are_many(steps, budget, kept):
    work, engine = problem()
    work.subject.train_steps = steps
    method = ShrinkSFRon(budget=budget, optimizer=SGD).resolved(work, engine)
    assert method.keep == pytest.approx(kept, abs=0.001)
    assert 0.8 * shrinkage(method.batches / steps) <= method.keep + 1e-3 <= shrinkage(method.batches / steps) + 2e-3
    less = method.keep < round(shrinkage(method.batches / steps), 3)
    assert any("since small steps repair more" in note for note in work.notes) == less


@pytest.mark.parametrize("wrong", [{"keep": 1.1}, {"keep": -0.1}, {"budget": 0.0}, {"budget": 1.5}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        make("shrink-sfron", wrong)
    for name in ("sfron", "shrink-sfron"):
        with pytest.raises(SettingError, match="budget=0.2 and steps=3 contradict"):
            make(name, {"budget": 0.2, "steps": 3})


# What an unnamed method becomes.

BUDGET = {"budget": 0.1, "train_steps": 120, "batch_size": 20, "optimizer": SGD, "device": "cpu"}


def unlearned(forget, retain, **given):
    done = untrain.unlearn(network(), forget=forget, retain=retain, **{**BUDGET, **given})
    (note,) = (note for note in done.notes if note.startswith("method: "))
    return done.method, note


def test_with_a_budget_single_samples_are_forgotten_from_shrunk_weights():
    method, note = unlearned(samples(40, 1), samples(100, 2), holdout=samples(60, 3))
    assert (method.name, method.total, method.keep) == ("shrink-sfron", 3, 0.585)
    assert "least of single samples at a given cost" in note
    method, note = unlearned(samples(40, 1), samples(100, 2))
    assert method.name == "shrink-perturb" and "without held-out data" in note
    method, note = unlearned(samples(40, 1), samples(100, 2), retain_steps=2)
    assert method.name == "sfron" and "retain_steps is given" in note


def test_other_requests_have_methods_of_their_own():
    classes = samples(100, 2).tensors[1]
    mixed = torch.where(torch.arange(100) < 10, 0, classes.clamp(min=1))
    one_sided = of_class(samples(40, 1), torch.zeros(40, dtype=torch.int64)), of_class(samples(100, 2), mixed)
    method, note = unlearned(*one_sided, holdout=samples(60, 3))
    assert method.name == "shrink-perturb" and "samples of one class, of which more are retained" in note
    whole = one_sided[0], of_class(samples(100, 2), classes.clamp(min=1))
    method, note = unlearned(*whole, holdout=samples(60, 3))
    assert (method.name, method.total, method.fresh_head) == ("shrink-sfron", 3, True) and "whole classes" in note
    method, note = unlearned(samples(40, 1), samples(100, 2), holdout=samples(60, 3), budget=None, steps=2)
    assert method.name == "sfron" and "the default" in note


def test_who_tells_how_long_the_training_was_need_not_give_a_budget():
    """A fifth of it is taken, and said; steps that are given stay."""
    sets = {"forget": samples(40, 1), "retain": samples(100, 2), "holdout": samples(60, 3), "train_steps": 60}
    done = untrain.unlearn(network(), **sets)
    assert (done.method.name, done.method.total, done.method.keep) == ("shrink-sfron", 3, 0.5)
    assert any(note.startswith("budget: 0.2 ") for note in done.notes)
    done = untrain.unlearn(network(), **sets, steps=2)
    assert (done.method.name, done.method.total) == ("sfron", 2)
    done = untrain.unlearn(network(), **sets | {"holdout": None}, retain_steps=2)
    assert done.method.name == "sfron" and not any(note.startswith("budget: ") for note in done.notes)


def test_the_task_is_prepared_once(monkeypatch):
    prepared = []

    def count(*given, **how):
        prepared.append(how)
        return prepare_task(*given, **how)

    monkeypatch.setattr(api, "prepare_task", count)
    method, _ = unlearned(samples(40, 1), samples(100, 2), holdout=samples(60, 3))
    assert method.name == "shrink-sfron" and prepared == [{"training": True}]
