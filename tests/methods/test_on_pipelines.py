"""Every method runs on text-to-image pipelines: tiny ones of the kinds of Stable Diffusion and XL, in float64."""

import copy
import math
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch.utils.data import StackDataset

from helpers.small_pipelines import drawn_rows, rows_of, stable_diffusion, stable_diffusion_xl
from untrain.data.streams import Stream
from untrain.engine import Engine, generator_of
from untrain.errors import SettingError
from untrain.methods import METHODS, make
from untrain.methods.base import Optimizer, Problem, check_runs
from untrain.methods.esd import ESD
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.loop import Checkpoints, run
from untrain.methods.sfron import SFRon
from untrain.models.adapters import Adapters, attach
from untrain.models.parts import train_parts
from untrain.models.subject import Subject
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.concepts import text_task

ENGINE = Engine(torch.device("cpu"))
ADAM = Optimizer("adam", 1e-3)
SFRON = {"steps": 3, "retain_steps": 2, "optimizer": ADAM, "fisher_draws": 2}
FEW = Sampler(steps=2, guidance_scale=3.0)
UNION = ("random-label", "salun", "proximal-gradient")
PLAIN = (*UNION, "bad-teacher", "scrub", "neggrad-plus", "gradient-ascent", "l1-sparse", "finetune", "retrain")
ERASE = ("shrink-perturb", "masked-small-gradients", "noisy-finetune", "eu-k", "cf-k")
SETTINGS = {
    "sfron": SFRON,
    "shrink-sfron": {**SFRON, "keep": 0.8},
    "sfron-original": {**SFRON, "teacher": "original"},
    "sfron-ascent": {**SFRON, "objective": "ascent"},
    "ssd": {},
    "concept-ablation": {"steps": 4, "samples": 2, "images": 4, "sampler": FEW, "optimizer": ADAM},
    "concept-ablation-on-the-way": {"steps": 4, "samples": 2, "images": 0, "sampler": FEW, "optimizer": ADAM},
    "esd-from": {"steps": 4, "samples": 2, "sampler": FEW, "erase_from": "anchor"},
    "uce": {},
    "mace-refine": {},
    "esd": {"steps": 4, "samples": 2, "sampler": FEW},
    "leco": {"steps": 4, "samples": 2, "sampler": FEW},
    "selective-amnesia": {"steps": 4, "replay_samples": 4, "fisher_samples": 3, "fisher_timesteps": 3, "sampler": FEW},
    **{name: {"steps": 4, "optimizer": ADAM} for name in (*PLAIN, *ERASE)},
    **{f"{name}-original": {"steps": 4, "optimizer": ADAM, "teacher": "original"} for name in UNION},
}


def method(name):
    return make(next(known for known in METHODS if name.startswith(known)), SETTINGS[name])


def test_every_method_is_here():
    there = {method(name).name for name in SETTINGS}
    assert there | {"transpose"} == {name for name, kind in METHODS.items() if not kind.classifies}


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return {"sd": stable_diffusion(folder), "xl": stable_diffusion_xl(folder)}


def problem(pipe, part="full", retained=(2, 3)):
    """Text 1 is to be forgotten, and redirected to text 2."""
    module, whole = copy.deepcopy(pipe.unet), rows_of(pipe, 12)
    train_parts(module, part)

    def stream(name, numbers):
        rows = torch.isin(whole["label"], torch.tensor(numbers))
        data = StackDataset(**{key: value[rows] for key, value in whole.items() if key != "index"})
        return Stream(data, name, ENGINE, 3)

    sets = {"forget": stream("forget", [1]), "retain": stream("retain", list(retained))}
    task = replace(text_task(pipe), drop=0.3)
    task = task.prepare(module, sets["forget"].batch(0, task, "evaluate"))
    subject = Subject(module, init=lambda: type(module).from_config(module.config).double())
    return Problem(subject, task, **sets)


@pytest.mark.parametrize("kind", ["sd", "xl"])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_runs_and_changes_what_is_trained_alone(name, kind, pipes):
    work = problem(pipes[kind], "xattn")
    before = {key: value.clone() for key, value in work.subject.module.state_dict().items()}
    chosen = method(name)
    check_runs(chosen, work.task)
    done = run(chosen, work, ENGINE)
    assert len(done.history) == done.method.total
    after = done.state.module.state_dict()
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    if name == "retrain":
        return
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved
    assert all(".attn2." in key for key in moved)


@pytest.mark.parametrize("name", ["sfron", "sfron-original", "proximal-gradient", "esd", "concept-ablation"])
def test_a_killed_run_goes_on_to_the_same_bits(name, pipes, tmp_path, monkeypatch):
    chosen = method(name)
    whole = run(chosen, problem(pipes["sd"], "xattn"), ENGINE)
    saver = Checkpoints(tmp_path / "resume.pt", "mark", resume=True, every=0.0)
    step = type(chosen).step

    def killed(self, state, k):
        if k == 2:
            raise KeyboardInterrupt
        return step(self, state, k)

    with monkeypatch.context() as patch:
        patch.setattr(type(chosen), "step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(chosen, problem(pipes["sd"], "xattn"), ENGINE, checkpoints=saver)
    again = run(chosen, problem(pipes["sd"], "xattn"), ENGINE, checkpoints=saver)
    assert again.history == whole.history
    expected = whole.state.module.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state.module.state_dict().items())


# SFR-on.


def test_sfron_redirects_by_default_and_its_rate_fits_the_size(pipes):
    work = problem(pipes["sd"])
    found = SFRon().resolved(work, ENGINE)
    assert (found.objective, found.teacher, found.calibrate, found.retain_steps) == ("redirect", "current", False, 1)
    assert found.optimizer == found.forget_optimizer == Optimizer("adam", 3e-4)
    assert (found.total, found.retain_decay, found.retain_max_norm) == (100, "constant", 1.0)
    assert SFRon(objective="adaptive").resolved(work, ENGINE).objective == "adaptive"


def test_with_the_original_as_teacher_the_prompt_nears_the_anchor_as_it_was(pipes):
    """Nothing is retained here: then the current model's own target runs away, and the original's stays."""
    original, found = pipes["sd"].unet.eval(), {}
    for teacher in ("current", "original"):
        work = problem(pipes["sd"])
        batch = work.forget.batch(0, work.task, "evaluate")
        settings = {"gamma": None, "decay": "constant", "forget_optimizer": Optimizer("sgd", 0.1)}
        chosen = SFRon(steps=20, optimizer=Optimizer("sgd", 1e-9), teacher=teacher, **settings)
        unlearned = run(chosen, work, ENGINE).state.module
        with torch.no_grad():
            first, last = (float(work.task.redirect_loss(m, batch, original).mean()) for m in (original, unlearned))
        found[teacher] = last / first
    assert found["original"] < 0.5
    assert found["current"] > 1


# Concept ablation.


def test_a_step_of_concept_ablation_is_both_losses_on_images_of_the_anchor(pipes):
    chosen = replace(method("concept-ablation"), lam=0.5, optimizer=Optimizer("sgd", 0.1))
    work = problem(pipes["sd"], "xattn")
    state = chosen.start(work, ENGINE)
    made = work.memo["anchors"]
    assert made["images"].shape[:2] == (len(work.forget), 1)
    slow, task = copy.deepcopy(work.subject.module), work.task
    log = chosen.step(state, 0)
    batch = work.forget.batch(0, task, "forget")
    batch = {key: value[:2] for key, value in batch.items()}
    rows = [made["index"].tolist().index(int(i)) for i in batch["index"]]
    g = generator_of(0, "concept-ablation", 0)
    torch.randint(1, (2,), generator=g)
    batch = task.draw({**batch, "input": made["images"][rows, 0]}, g, "forget")
    x, t = task.noisy(batch), batch["timestep"]
    forgotten, anchor = (slow(x, t, encoder_hidden_states=batch[text]).sample for text in ("prompt", "anchor"))
    loss = (forgotten - anchor.detach()).square().mean() + 0.5 * (anchor - batch["noise"]).square().mean()
    loss.backward()
    assert log["forget_loss"] == pytest.approx(loss.item(), rel=1e-9)
    for (name, found), expected in zip(work.subject.module.named_parameters(), slow.parameters(), strict=True):
        if found.requires_grad:
            assert torch.allclose(found, expected - 0.1 * expected.grad, atol=1e-12), name


def test_without_images_a_step_is_both_distances_to_the_original_on_the_way_to_the_anchor(pipes):
    """x_t of the original down to a visited t; what the original predicts there in the place of the noise."""
    chosen = replace(method("concept-ablation-on-the-way"), lam=0.5, optimizer=Optimizer("sgd", 0.1))
    work = problem(pipes["sd"], "xattn")
    state, original = chosen.start(work, ENGINE), copy.deepcopy(work.subject.module)
    chosen.step(state, 0)
    slow, task = copy.deepcopy(work.subject.module), work.task
    log = chosen.step(state, 1)
    assert "anchors" not in work.memo
    batch = {key: value[:2] for key, value in work.forget.batch(1, task, "forget").items()}
    t = FEW.visited(20)[int(torch.randint(2, (), generator=generator_of(0, "concept-ablation", 1)))]
    noise = [generator_of(0, "concept-ablation", 1, int(i)) for i in batch["index"]]
    x = task.generate(original, task.variant(batch, "redirect"), noise, FEW, until=t)
    forgotten, anchor, target = (
        model(x, torch.tensor([t, t]), encoder_hidden_states=batch[text]).sample
        for model, text in ((slow, "prompt"), (slow, "anchor"), (original, "anchor"))
    )
    loss = (forgotten - anchor.detach()).square().mean() + 0.5 * (anchor - target.detach()).square().mean()
    loss.backward()
    assert log["forget_loss"] == pytest.approx(loss.item(), rel=1e-9)
    for (name, found), expected in zip(work.subject.module.named_parameters(), slow.parameters(), strict=True):
        if found.requires_grad:
            assert torch.allclose(found, expected - 0.1 * expected.grad, atol=1e-12), name


# ESD.


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_steps_of_esd_equal_the_formulas_written_out(kind, pipes):
    """One image after another through the pipeline's own UNet; x_t of the changed model, target of the original."""
    pipe = pipes[kind]
    work = problem(pipe)
    chosen = ESD(
        steps=3, eta=1.5, samples=2, sampler=Sampler(steps=4, guidance_scale=3.0), optimizer=Optimizer("sgd", 0.05)
    )
    state = chosen.start(work, ENGINE)
    slow, original = copy.deepcopy(pipe.unet).eval(), pipe.unet.eval()
    kept = torch.cumprod(1 - torch.linspace(0.01**0.5, 0.2**0.5, 20, dtype=torch.float32).double() ** 2, 0)

    def said(model, x, t, batch, i, text):
        added = None
        if kind == "xl":
            added = {"text_embeds": batch[f"{text}_pooled"][i : i + 1], "time_ids": batch["time_ids"][i : i + 1]}
        told = batch[text][i : i + 1]
        return model(x, torch.tensor([t]), encoder_hidden_states=told, added_cond_kwargs=added).sample

    for k in range(3):
        log = chosen.step(state, k)
        until = [15, 10, 5, 0][int(torch.randint(4, (), generator=generator_of(0, "esd", k)))]
        batch = work.forget.batch(k, work.task, "forget")
        losses = []
        for i, index in enumerate(batch["index"][:2].tolist()):
            x = torch.randn(4, 8, 8, generator=generator_of(0, "esd", k, index)).double()[None]
            with torch.no_grad():
                for t in (15, 10, 5):
                    if t <= until:
                        break
                    noise = 3 * said(slow, x, t, batch, i, "prompt") - 2 * said(slow, x, t, batch, i, "empty")
                    a, b = float(kept[t]), float(kept[t - 5])
                    clean = (x - math.sqrt(1 - a) * noise) / math.sqrt(a)
                    x = math.sqrt(b) * clean + math.sqrt(1 - b) * noise
                with_text, without = (said(original, x, until, batch, i, text) for text in ("prompt", "empty"))
            target = without - 1.5 * (with_text - without)
            losses.append((said(slow, x, until, batch, i, "prompt") - target).square().mean())
        loss = torch.stack(losses).mean()
        assert log["forget_loss"] == pytest.approx(loss.item(), rel=1e-8)
        for p, g in zip(slow.parameters(), torch.autograd.grad(loss, list(slow.parameters())), strict=True):
            p.data -= 0.05 * g
    for found, expected in zip(state.module.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_esd_refuses_a_concept_that_is_retained_too(pipes):
    work = problem(pipes["sd"], retained=(1, 2, 3))
    with pytest.raises(SettingError, match="esd forgets whole classes or concepts, and the retain set holds"):
        run(method("esd"), work, ENGINE)


# Learning rates.


def test_a_rate_is_never_searched_for_on_a_pipeline(pipes, monkeypatch):
    monkeypatch.setattr(import_module("untrain.methods.learning_rate"), "range_test", None)
    work = problem(pipes["sd"])
    for given in (None, Optimizer("adam"), Optimizer("adamw", weight_decay=0.01)):
        assert with_learning_rate(given, work, ENGINE, 100, None).lr == 3e-4
    assert ESD().resolved(work, ENGINE).optimizer == Optimizer("adam", 1e-4)


def test_the_rate_falls_with_the_width_to_the_published_one(pipes):
    from diffusers import UNet2DConditionModel, UNet2DModel

    task = text_task(pipes["sd"])
    with torch.device("meta"):
        large = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        classes = UNet2DModel(sample_size=64, num_class_embeds=10)
    work = replace(problem(pipes["sd"]), subject=Subject(large))
    assert sum(p.numel() for p in large.parameters()) == 859_520_964
    assert Subject(large).defaults(task)["optimizer"] == {"name": "adam", "lr": 1e-5}
    assert ESD().resolved(work, ENGINE).optimizer == Optimizer("adam", 1e-5), "as published"
    assert Subject(classes).defaults(task)["optimizer"]["lr"] == 3e-4
    assert Subject(pipes["xl"].unet).defaults(task)["optimizer"]["lr"] == 3e-4
    attach(large, Adapters(rank=4, targets="xattn"), seed=0)
    assert Subject(large).defaults(task)["optimizer"]["lr"] == 1e-4, "as is usual of adapters"


def test_the_rate_falls_with_the_width_of_a_transformer_too(pipes):
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        large = SD3Transformer2DModel()
    rate = Subject(large).defaults(text_task(pipes["sd"]))["optimizer"]["lr"]
    assert rate == pytest.approx(3e-4 * (1e6 / sum(p.numel() for p in large.parameters())) ** 0.5, rel=0.05)


def test_the_fixture_redirects_to_another_text(pipes):
    batch = drawn_rows(pipes["sd"], text_task(pipes["sd"]), count=6)
    assert not torch.equal(batch["prompt"], batch["anchor"])
