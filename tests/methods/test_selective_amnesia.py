"""Selective amnesia: its Fisher and its steps written out; the forgotten class turns to noise, the others stay."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.small_generators import TASK, denoiser, points_problem, problem, recognised, trained_points
from untrain.engine import generator_of
from untrain.errors import SettingError
from untrain.methods import make
from untrain.methods.base import Optimizer, check_runs
from untrain.methods.elbo import InParts, _noised, elbo_fisher, strata
from untrain.methods.loop import run
from untrain.methods.selective_amnesia import SelectiveAmnesia
from untrain.sampling import Sampler
from untrain.tasks.classification.task import Classification

SAMPLER = Sampler(steps=5)
SGD = Optimizer("sgd", 0.05)
SMALL = {"sampler": SAMPLER, "replay_samples": 10, "fisher_samples": 6, "fisher_timesteps": 4}


# The Fisher.


def slow_fisher(model, task, batches):
    """One backward pass an image and timestep; their sum, scaled to all timesteps, is squared and averaged."""
    named = dict(model.eval().named_parameters())
    totals, count = {name: torch.zeros_like(p) for name, p in named.items()}, 0
    for batch in batches:
        rows = len(batch["input"])
        sums = {name: torch.zeros_like(p) for name, p in named.items()}
        for i in range(rows):
            loss = task.loss(model, {key: value[i : i + 1] for key, value in batch.items()}).sum()
            for total, gradient in zip(sums.values(), torch.autograd.grad(loss, list(named.values())), strict=True):
                total += gradient * task.timesteps / rows
        for total, gradient in zip(totals.values(), sums.values(), strict=True):
            total += gradient**2
        count += 1
    return {name: total / count for name, total in totals.items()}


@pytest.mark.parametrize("kind", ["unet", "dit", "dit-learned"])
def test_the_fisher_squares_each_images_gradient_summed_over_timesteps(kind):
    """At five timesteps of twenty in parts of six rows, and at all twenty in parts."""
    work, engine = problem(denoiser(kind))
    images = list(work.retain.once(work.task, "evaluate", limit=3))
    for timesteps in (5, 20):
        found = elbo_fisher(work, engine, images, timesteps, 3)
        expected = slow_fisher(work.subject.module, work.task, _noised(work, images, timesteps))
        assert found.keys() == expected.keys()
        largest = max(value.max() for value in expected.values())
        for name, value in expected.items():
            # float64, sums in another order; of a key's bias the gradient is 0 but for rounding
            assert (found[name] - value).abs().max() <= 1e-9 * value.max() + 1e-20 * largest, name


def test_each_image_is_noised_anew_to_every_timestep():
    work, _ = problem(denoiser())
    images = list(work.retain.once(work.task, "evaluate", limit=4))
    noised = list(_noised(work, images, 20))
    assert len(noised) == 4
    for batch, image in zip(noised, torch.cat([b["input"] for b in images]), strict=True):
        assert batch["timestep"].tolist() == list(range(20))
        assert torch.equal(batch["input"], image.expand(20, 1, 8, 8))
        assert torch.equal(batch["condition"], batch["label"]), "no class is dropped for Fisher"
    noises = torch.cat([batch["noise"] for batch in noised]).flatten(1)
    assert len(noises.unique(dim=0)) == 80


@pytest.mark.parametrize(("T", "count"), [(20, 20), (20, 7), (1000, 50), (3, 1)])
def test_strata_are_one_of_every_part(T, count):
    draws = torch.stack([strata(T, count, torch.Generator().manual_seed(i)) for i in range(400)])
    edges = torch.arange(count + 1) * T // count
    assert bool(((draws >= edges[:-1]) & (draws < edges[1:])).all())
    assert T > 20 or len(draws.unique()) == T  # every timestep can come


def test_the_loss_in_parts_is_the_loss_and_keeps_few_rows_at_a_time():
    work, _ = problem(denoiser("dit"))
    model, batch = work.subject.module, work.retain.batch(0, work.task, "fisher")
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    parts, weights = InParts(work.task, 4).loss(model, batch), list(model.parameters())
    assert seen == [4, 2]
    whole = work.task.loss(model, batch)
    assert torch.allclose(parts, whole, rtol=1e-12)
    for a, b in zip(*(torch.autograd.grad(losses.sum(), weights) for losses in (parts, whole)), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-14)


def test_the_fisher_is_of_both_sets_in_proportion():
    """12 forget and 30 retain samples: of seven images, two are of class 2."""
    work, engine = problem(denoiser())
    labels = []
    draw = type(work.task).draw

    class Noted(type(work.task)):
        def draw(self, batch, generator, role):
            drawn = draw(self, batch, generator, role)
            if role == "fisher":
                labels.append(drawn["label"].tolist())
            return drawn

    work.task = Noted(**vars(work.task))
    SelectiveAmnesia(**SMALL | {"fisher_samples": 7, "replay": "data"}).start(work, engine)
    assert [row[0] for row in labels[:2]] == [2, 2]
    assert len(labels) == 7
    assert all(row == [row[0]] * 4 and row[0] != 2 for row in labels[2:])


# Steps.


@pytest.mark.parametrize("replay", ["model", "data"])
def test_steps_equal_the_formula_written_out(replay):
    work, engine = problem(denoiser("dit-learned"))
    method = SelectiveAmnesia(
        **SMALL, replay=replay, steps=3, lam=0.01, retain_weight=0.7, optimizer=SGD, max_norm=0.5, decay="cosine"
    )
    state = method.start(work, engine)
    task, fisher = work.task, work.memo["fisher"]
    slow, original = denoiser("dit-learned").train(), dict(denoiser("dit-learned").named_parameters())
    optimizer = torch.optim.SGD(slow.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for k in range(3):
        log = method.step(state, k)
        forget = work.forget.batch(k, task, "forget")
        g = generator_of(0, "surrogate", k)
        forget["input"] = 2 * torch.rand(forget["input"].shape, generator=g, dtype=torch.float64) - 1
        assert forget["condition"].tolist() == [2] * 6
        kept = method._retained(work, engine).batch(k, task, "retain")
        pull = sum((fisher[n] * (p - original[n].detach()) ** 2).sum() for n, p in slow.named_parameters())
        losses = [task.loss(slow, batch).mean() for batch in (forget, kept)]
        optimizer.zero_grad()
        (losses[0] + 0.7 * losses[1] + 0.01 * pull).backward()
        nn.utils.clip_grad_norm_(slow.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        assert log["forget_loss"] == pytest.approx(losses[0].item(), rel=1e-9)
        assert log["retain_loss"] == pytest.approx(losses[1].item(), rel=1e-9)
        assert log["pull"] == pytest.approx(0.01 * pull.item(), rel=1e-9, abs=1e-15)
    assert log["pull"] > 0
    for (name, found), expected in zip(state.module.named_parameters(), slow.parameters(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11), name


def test_the_original_makes_what_is_replayed_of_the_retain_sets_conditions_alone():
    work, engine = problem(denoiser())
    SelectiveAmnesia(**SMALL).start(work, engine)
    replay = work.memo["replay"]
    assert len(replay["input"]) == 10
    assert set(replay["label"].tolist()) == {0, 1}
    assert "noise" not in replay, "every step draws its own"
    for i in (0, 9):
        row = {key: value[i : i + 1] for key, value in replay.items()}
        noise = [generator_of(0, "replay", "retain", int(row["index"]))]
        assert torch.allclose(work.task.generate(denoiser(), row, noise, SAMPLER), row["input"], atol=1e-12)


def test_no_image_of_the_retain_set_is_looked_at_unless_it_is_replayed():
    found = {}
    for replay in ("model", "data"):
        for fill in (0.0, 0.5):
            work, engine = problem(denoiser())
            for stream in (work.forget, work.retain):
                stream.data.tensors[0].fill_(fill)
            done = run(SelectiveAmnesia(**SMALL, steps=2, replay=replay), work, engine)
            found[replay, fill] = torch.cat([p.detach().flatten() for p in done.state.module.parameters()])
    assert torch.equal(found["model", 0.0], found["model", 0.5])
    assert not torch.equal(found["data", 0.0], found["data", 0.5])


def test_replayed_batches_are_drawn_for_retaining_and_come_in_another_order_each_pass():
    work, engine = problem(denoiser())
    method = SelectiveAmnesia(**SMALL)
    method.start(work, engine)
    stream = method._retained(work, engine)
    assert (len(stream), stream.rows) == (10, 6)
    indices = torch.cat([stream.batch(k, work.task, "retain")["index"] for k in range(5)])
    assert torch.equal(indices[:10].sort().values, indices[10:20].sort().values)
    assert not torch.equal(indices[:10], indices[10:20])
    dropped = torch.cat([stream.batch(k, work.task, "retain")["condition"] for k in range(100)]) == 3
    assert 0.05 < float(dropped.double().mean()) < 0.15


# The claim.


def test_the_forgotten_class_turns_to_noise_and_the_others_stay():
    sampler, found = Sampler(steps=10), {}
    for lam in (0.1, 1000.0):
        work, engine = points_problem(copy.deepcopy(trained_points()))
        settings = {"steps": 300, "lam": lam, "sampler": sampler, "fisher_samples": 100, "fisher_timesteps": 10}
        found[lam] = recognised(run(SelectiveAmnesia(**settings), work, engine).state.module, work.task, sampler)
    assert found[0.1][3] < 0.1
    assert min(found[0.1][:3]) > 0.9
    assert found[1000.0][3] > 0.8, "the pull to the original weights holds everything"


# Settings.

WRONG = [
    {"lam": 0.0}, {"retain_weight": -1.0}, {"replay": "both"}, {"replay_samples": 0}, {"fisher_samples": 0},
    {"fisher_timesteps": 0}, {"steps": 0}, {"max_norm": 0.0}, {"decay": "linear"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        make("selective-amnesia", wrong)


def test_more_timesteps_than_the_diffusion_has_are_refused():
    work, engine = problem(denoiser())
    with pytest.raises(SettingError, match="fisher_timesteps is 21, but the diffusion has 20"):
        SelectiveAmnesia(**SMALL | {"fisher_timesteps": 21}).start(work, engine)
    with pytest.raises(SettingError, match="20 steps"):
        SelectiveAmnesia(**SMALL | {"sampler": replace(SAMPLER, steps=21)}).start(work, engine)


@pytest.mark.parametrize("name", ["selective-amnesia", "esd"])
def test_a_task_that_makes_no_images_is_refused(name):
    with pytest.raises(
        SettingError,
        match=rf"'{name}' cannot run on task 'classification': it needs a model that makes images.*finetune",
    ) as error:
        check_runs(make(name, {}), Classification())
    assert name not in str(error.value).rpartition("run on it:")[2]


def test_what_is_replayed_can_keep_its_conditions():
    """Then a task that drops nearly all takes the steps of one that drops none."""

    def losses(drop, **settings):
        work, engine = problem(denoiser("unet"), replace(TASK, drop=drop))
        few = {"steps": 2, "replay": "data", "fisher_samples": 2, "fisher_timesteps": 2}
        return [record["retain_loss"] for record in run(SelectiveAmnesia(**few, **settings), work, engine).history]

    assert losses(0.99, replay_drop=False) == losses(0.0, replay_drop=False)
    assert losses(0.99) != losses(0.0)
