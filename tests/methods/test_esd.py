"""ESD: a step equals the paper's formulas written out; a forgotten class is no longer made, the others are."""

import copy
from dataclasses import replace

import pytest
import torch

from helpers.small_generators import (
    POINTS,
    TASK,
    denoiser,
    pictures,
    points_problem,
    problem,
    recognised,
    trained_points,
)
from untrain.data.streams import Stream
from untrain.engine import generator_of
from untrain.errors import SettingError
from untrain.methods import make
from untrain.methods.base import Optimizer
from untrain.methods.esd import ESD
from untrain.methods.loop import run
from untrain.sampling import Sampler

SAMPLER = Sampler(steps=5, guidance_scale=3.0)
SGD = Optimizer("sgd", 0.05)


def slow_denoised(model, noise, label, until):
    """DDIM of one image with guidance, step by step, over timesteps 16, 12, 8, 4, 0; stops at `until`."""
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.3, 20, dtype=torch.float32).double(), 0)
    x, t = noise, 16
    while t > until:
        one, none = (model(x, torch.tensor([t]), class_labels=torch.tensor([c])).sample for c in (label, 3))
        predicted = none + 3.0 * (one - none)  # the published start guidance
        clean = ((x - (1 - kept[t]).sqrt() * predicted) / kept[t].sqrt()).clamp(-1, 1)
        predicted = (x - kept[t].sqrt() * clean) / (1 - kept[t]).sqrt()
        x = kept[t - 4].sqrt() * clean + (1 - kept[t - 4]).sqrt() * predicted
        t -= 4
    return x


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_steps_equal_the_formulas_written_out(kind):
    """At t = 0, 16 (pure noise), 12 and 0: x_t comes from the changed model, the target from the original."""
    work, engine = problem(denoiser(kind))
    method = ESD(steps=4, eta=1.5, sampler=SAMPLER, samples=3, optimizer=SGD, max_norm=0.2)
    state = method.start(work, engine)
    slow, original = denoiser(kind).eval(), denoiser(kind).eval()
    optimizer = torch.optim.SGD(slow.parameters(), 0.05)
    for k in range(4):
        log = method.step(state, k)
        t = int(torch.randint(5, (), generator=generator_of(0, "esd", k)))
        t = [16, 12, 8, 4, 0][t]
        label, when, none = torch.tensor([2]), torch.tensor([t]), torch.tensor([3])
        losses = []
        for index in work.forget.batch(k, work.task, "forget")["index"][:3].tolist():
            noise = torch.randn(1, 8, 8, generator=generator_of(0, "esd", k, index)).double()[None]
            with torch.no_grad():
                x = slow_denoised(slow, noise, 2, t)
                conditional, unconditional = (original(x, when, class_labels=c).sample for c in (label, none))
            target = unconditional - 1.5 * (conditional - unconditional)
            losses.append((slow(x, when, class_labels=label).sample - target).square().mean())
        optimizer.zero_grad()
        loss = torch.stack(losses).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(slow.parameters(), 0.2)
        optimizer.step()
        assert log["forget_loss"] == pytest.approx(loss.item(), rel=1e-9)
    for (name, found), expected in zip(state.module.named_parameters(), slow.parameters(), strict=True):
        # 1e-9: float64, batched against one by one, through ten passes of sampling
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11), name


def test_neither_images_nor_the_retain_set_are_looked_at():
    found = []
    for fill in (0.0, 1.0):
        work, engine = problem(denoiser())
        for name in ("forget", "retain"):
            stream = getattr(work, name)
            stream.data.tensors[0].fill_(fill)
        work.retain.batch = None
        done = run(ESD(steps=2, sampler=SAMPLER, samples=2), work, engine)
        found.append(torch.cat([p.detach().flatten() for p in done.state.module.parameters()]))
    assert torch.equal(*found)


def test_every_visited_timestep_comes_and_pure_noise_and_nearly_clean_images_too(monkeypatch):
    seen = []
    at = type(TASK).at

    def noted(self, batch, timestep, x=None):
        if len(batch["index"]) == 2 and len(set(timestep.tolist())) == 1 and "seen" not in batch:
            seen.append((int(timestep[0]), x))
        return at(self, batch, timestep, x)

    work, engine = problem(denoiser())
    method = ESD(steps=60, sampler=replace(SAMPLER, guidance_scale=1.0), samples=2).resolved(work, engine)
    state = method.start(work, engine)
    for k in range(60):
        monkeypatch.setattr(type(TASK), "at", noted)
        before = len(seen)
        method.step(state, k)
        steps = [t for t, _ in seen[before:]]
        assert steps == [*[t for t in (16, 12, 8, 4, 0) if t > steps[-1]], steps[-1]], "sampled down to t, no further"
        if steps[-1] == 16:
            index = work.forget.batch(k, work.task, "forget")["index"].tolist()
            noise = torch.randn(1, 8, 8, generator=generator_of(0, "esd", k, index[0]))
            assert torch.equal(seen[-1][1][0], noise.double())
    assert {t for t, _ in seen} == {16, 12, 8, 4, 0}


def test_a_forgotten_class_is_no_longer_made_and_the_others_are():
    work, engine = points_problem(copy.deepcopy(trained_points()))
    sampler = Sampler(steps=10)
    assert min(recognised(work.subject.module, work.task, sampler)) > 0.95
    done = run(ESD(steps=100, sampler=replace(sampler, guidance_scale=3.0)), work, engine)
    *others, forgotten = recognised(done.state.module, work.task, sampler)
    assert forgotten < 0.1
    assert min(others) > 0.9


def test_a_model_without_the_class_that_means_no_class_is_refused():
    task = replace(POINTS, num_classes=5)
    work, engine = points_problem(trained_points(0))
    work.task = task.prepare(work.subject.module, work.forget.batch(0, task, "evaluate"))
    method = ESD(steps=1, sampler=Sampler(steps=5)).resolved(work, engine)
    with pytest.raises(SettingError, match="no class"):
        method.step(method.start(work, engine), 0)


@pytest.mark.parametrize("wrong", [{"eta": 0.0}, {"eta": -1.0}, {"samples": 0}, {"steps": 0}, {"decay": "linear"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        make("esd", wrong)


def test_the_sampler_is_set_in_a_recipe_as_a_mapping():
    assert make("esd", {"sampler": {"guidance_scale": 1.5}}).sampler == Sampler(steps=50, guidance_scale=1.5)


def test_some_samples_of_a_class_cannot_be_forgotten():
    work, engine = problem(denoiser())
    work.retain = Stream(pictures(12, 3, [0, 1, 2]), "retain", engine, 6)
    with pytest.raises(SettingError, match="esd forgets whole classes or concepts, and the retain set holds"):
        run(ESD(steps=1), work, engine)
