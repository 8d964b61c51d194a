"""The task of text-to-image pipelines, on tiny ones in float64."""

import copy
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.references import fisher_sample_by_sample
from helpers.small_pipelines import TEXTS, drawn_rows, rows_of, scheduler, stable_diffusion, stable_diffusion_xl
from untrain.data.streams import Stream
from untrain.diffusion.text import encode_prompts, own_size
from untrain.engine import Engine
from untrain.errors import DataError, ModelError, SettingError
from untrain.fisher import fisher_diagonal
from untrain.methods import make
from untrain.methods.base import Optimizer, Problem
from untrain.methods.loop import run
from untrain.methods.steps import descend
from untrain.models.parts import train_parts
from untrain.models.subject import Subject
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.text_to_image.concepts import (
    ConceptImages,
    latent_shape_of,
    text_task,
)
from untrain.tasks.text_to_image.task import CONDITIONS, TextToImage, conditioned
from untrain.types import GenerativeTask, Task

ENGINE = Engine(torch.device("cpu"))
drawn = partial(drawn_rows, count=6)
FEW = ConceptImages(count=3, sampler=Sampler(steps=2, guidance_scale=2.0), batch_size=2)


def by_hand(pipeline: Any, task: TextToImage, batch: dict[str, Tensor], i: int) -> Tensor:
    """The loss of one sample, written out: ᾱ as a product over β = (linear in √β)², one plain call of the UNet."""
    betas = torch.linspace(0.01**0.5, 0.2**0.5, 20, dtype=torch.float32) ** 2
    t = int(batch["timestep"][i])
    a = math.prod(1 - beta for beta in betas[: t + 1].tolist())
    x, noise, told = (batch[key][i : i + 1] for key in ("input", "noise", "prompt"))
    added = None
    if "time_ids" in batch:
        added = {"text_embeds": batch["prompt_pooled"][i : i + 1], "time_ids": batch["time_ids"][i : i + 1]}
    seen = math.sqrt(a) * x + math.sqrt(1 - a) * noise
    out = pipeline.unet(seen, torch.tensor([t]), encoder_hidden_states=told, added_cond_kwargs=added).sample
    target = noise if task.prediction == "epsilon" else math.sqrt(a) * noise - math.sqrt(1 - a) * x
    return (out - target).square().mean()


class Spy(nn.Module):
    """A model that writes down what it is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked: list[tuple[Tensor, Tensor, Tensor, bool]] = []

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, **more: Any) -> Any:
        self.asked.append((x.clone(), t.clone(), encoder_hidden_states.clone(), torch.is_grad_enabled()))
        return self.model(x, t, encoder_hidden_states=encoder_hidden_states, **more)


# The loss.


def test_it_is_a_task_of_generators(pipe: Any) -> None:
    task = text_task(pipe)
    assert isinstance(task, Task) and isinstance(task, GenerativeTask)


def test_the_schedule_is_the_one_of_the_other_task(pipe: Any) -> None:
    task = text_task(pipe)
    other = ClassDiffusion(timesteps=20, schedule="scaled_linear", beta_start=0.01, beta_end=0.2)
    assert torch.equal(task.alphas_cumprod, other.alphas_cumprod)
    torch.testing.assert_close(task.alphas_cumprod.float(), pipe.scheduler.alphas_cumprod, rtol=1e-5, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_pure_and_of_each_sample_alone(pipe: Any, prediction: Any, reduction: Any) -> None:
    task = replace(text_task(pipe), prediction=prediction, reduction=reduction)
    batch = drawn(pipe, task)
    before = {key: value.clone() for key, value in batch.items()}
    losses = task.loss(pipe.unet, batch)
    assert losses.shape == (6,) and torch.equal(losses, task.loss(pipe.unet, batch))
    assert all(torch.equal(value, before[key]) for key, value in batch.items())
    for i in range(6):
        alone = task.loss(pipe.unet, {key: value[i : i + 1] for key, value in batch.items()})
        assert alone.item() == pytest.approx(losses[i].item(), rel=1e-10)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_the_loss_is_the_papers(pipe: Any, xl: Any, prediction: Any, kind: str) -> None:
    pipeline = pipe if kind == "sd" else xl
    task = replace(text_task(pipeline), prediction=prediction)
    batch = drawn(pipeline, task)
    losses = task.loss(pipeline.unet, batch)
    for i in range(6):
        assert losses[i].item() == pytest.approx(by_hand(pipeline, task, batch, i).item(), rel=1e-9)


def test_noise_and_velocity_are_those_of_diffusers(pipe: Any) -> None:
    """float32: diffusers keeps ᾱ no wider."""
    from diffusers import DDPMScheduler

    task = replace(text_task(pipe), prediction="v_prediction")
    theirs = DDPMScheduler.from_config(pipe.scheduler.config)
    batch = drawn(pipe, task)
    x, noise, t = batch["input"], batch["noise"], batch["timestep"]
    torch.testing.assert_close(task.noisy(batch), theirs.add_noise(x, noise, t), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(task.target(batch), theirs.get_velocity(x, noise, t), rtol=1e-5, atol=1e-5)


def test_what_a_pipeline_predicts_is_read_off_its_scheduler(folder: Path) -> None:
    v = stable_diffusion(folder, "v_prediction")
    assert text_task(v).prediction == "v_prediction" and text_task(v).timesteps == 20
    v.scheduler = scheduler("sample")
    with pytest.raises(ModelError, match="'sample'"):
        text_task(v)


def test_a_model_of_another_precision_sees_its_own(pipe: Any) -> None:
    task = text_task(pipe)
    batch = drawn(pipe, task)
    narrow = {key: value.float() if value.is_floating_point() else value for key, value in batch.items()}
    half = task.loss(copy.deepcopy(pipe.unet).to(torch.bfloat16), narrow)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), task.loss(pipe.unet, batch), rtol=0.1, atol=0.1)  # 8 bits of mantissa


# What is drawn.


def test_prompts_are_dropped_in_training_alone(pipe: Any) -> None:
    task = replace(text_task(pipe), drop=0.5)
    for role in ("forget", "fisher", "evaluate"):
        batch = drawn(pipe, task, role)
        assert torch.equal(batch["condition"], batch["prompt"])
    dropped = []
    for seed in range(20):
        for role in ("train", "retain"):
            batch = drawn(pipe, task, role, seed)
            empty = (batch["condition"] == batch["empty"]).flatten(1).all(1)
            own = (batch["condition"] == batch["prompt"]).flatten(1).all(1)
            assert bool((empty ^ own).all()), "each row has one of the two"
            assert batch["label"].tolist() == [1, 2, 3, 1, 2, 3]
            dropped += empty.tolist()
    assert 0.35 < sum(dropped) / len(dropped) < 0.65  # 120 draws of one half, twice: 3.3 standard deviations


def test_pooled_embeddings_are_dropped_with_the_others(xl: Any) -> None:
    batch = drawn(xl, replace(text_task(xl), drop=0.5), "train", 1)
    empty = (batch["condition"] == 0).flatten(1).all(1)  # SDXL's own "no text" is zeros
    assert torch.equal(empty, (batch["condition_pooled"] == 0).all(1)) and 0 < int(empty.sum()) < 6


def test_timesteps_come_in_pairs_and_latents_are_drawn_once(pipe: Any) -> None:
    task = text_task(pipe)
    batch, again, other = drawn(pipe, task), drawn(pipe, task), drawn(pipe, task, seed=1)
    t = batch["timestep"]
    assert torch.equal(t[:3] + t[3:], torch.full((3,), 19))
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert not torch.equal(batch["input"], other["input"])
    redrawn = task.draw(batch, torch.Generator().manual_seed(5), "forget")
    assert torch.equal(redrawn["input"], batch["input"]) and not torch.equal(redrawn["noise"], batch["noise"])


def test_what_a_batch_lacks_is_said(pipe: Any, xl: Any) -> None:
    task, g = text_task(pipe), torch.Generator()
    full = rows_of(pipe, 6)
    with pytest.raises(DataError, match="prompt"):
        task.draw({key: value for key, value in full.items() if key != "prompt"}, g, "train")
    with pytest.raises(DataError, match="latent_mean"):
        task.draw({key: value for key, value in full.items() if key != "latent_std"}, g, "train")
    with pytest.raises(DataError, match="encode"):
        task.draw({**full, "input": torch.zeros(6, 3, 16, 16, dtype=torch.uint8)}, g, "train")
    with pytest.raises(SettingError, match="anchor"):
        task.variant({key: value for key, value in drawn(pipe, task).items() if key != "anchor"}, "redirect")
    with pytest.raises(ModelError, match="time_ids"):
        text_task(xl).prepare(xl.unet, drawn(pipe, task))
    with pytest.raises(ModelError, match="cannot be called"):
        task.prepare(pipe.unet, {**drawn(pipe, task), "input": torch.zeros(6, 9, 8, 8, dtype=torch.float64)})
    assert task.prepare(pipe.unet, drawn(pipe, task)) is task


# Redirection.


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_redirect_uses_one_latent_and_one_noise(pipe: Any, xl: Any, kind: str) -> None:
    pipeline = pipe if kind == "sd" else xl
    task = replace(text_task(pipeline), drop=0.9)
    spy = Spy(pipeline.unet)
    batch = drawn(pipeline, task, "retain")  # whatever was dropped, the prompt itself is redirected
    loss = task.redirect_loss(spy, batch, spy)
    (x, t, anchor, with_gradient), (other_x, other_t, prompt, own_gradient) = spy.asked
    assert torch.equal(x, other_x) and torch.equal(t, other_t) and torch.equal(t, batch["timestep"])
    assert torch.equal(anchor, batch["anchor"]) and torch.equal(prompt, batch["prompt"])
    assert own_gradient and not with_gradient
    assert loss.shape == (6,) and bool((loss > 0).all())


def test_no_gradient_flows_through_the_target(pipe: Any) -> None:
    """With the model as its own teacher the gradient is the one of a constant target."""
    task, batch, unet = text_task(pipe), drawn(pipe, text_task(pipe)), pipe.unet
    target = task.outputs(unet, conditioned(batch, "anchor")).detach()
    constant = (task.outputs(unet, batch) - target).square().flatten(1).mean(1)
    parameters = list(unet.parameters())
    own = torch.autograd.grad(task.redirect_loss(unet, batch, unet).sum(), parameters)
    for a, b in zip(own, torch.autograd.grad(constant.sum(), parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    same = {**batch, "anchor": batch["prompt"]}
    assert float(task.redirect_loss(unet, same, unet).detach().abs().max()) == 0.0


# Sampling.


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_images_are_those_of_the_pipeline_itself(folder: Path, kind: str, prediction: str, guidance: float) -> None:
    """Against the pipeline's own call with DDIMScheduler, on the same guidance scale. float32 in its schedule."""
    pipeline = stable_diffusion(folder) if kind == "sd" else stable_diffusion_xl(folder)
    pipeline.scheduler = scheduler(prediction, offset=0)
    task = text_task(pipeline)
    prompts = encode_prompts(pipeline, TEXTS, 16)
    rows = prompts.rows(torch.tensor([1, 3]), torch.tensor([0, 0]))
    batch = task.blank(rows, (4, 8, 8))
    made = task.generate(
        pipeline.unet,
        batch,
        [torch.Generator().manual_seed(i) for i in range(2)],
        Sampler(steps=5, guidance_scale=guidance),
    )
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]).double()
    theirs = pipeline(
        [TEXTS[0], TEXTS[2]],
        num_inference_steps=5,
        guidance_scale=guidance,
        latents=noise,
        output_type="latent",
        height=16,
        width=16,
    ).images
    torch.testing.assert_close(made, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_a_stop_on_the_way_and_the_modes(pipe: Any) -> None:
    task = text_task(pipe)
    batch = drawn(pipe, task)
    pipe.unet.train()
    generators = [torch.Generator().manual_seed(i) for i in range(6)]
    made = task.generate(pipe.unet, batch, generators, Sampler(steps=4), until=10)
    assert pipe.unet.training and made.shape == batch["input"].shape and not made.requires_grad
    pipe.unet.eval()
    seen = task.at(batch, torch.full((6,), 10), made)
    assert torch.equal(task.noisy(seen), made) and torch.equal(seen["timestep"], torch.full((6,), 10))
    other = task.surrogate(batch, torch.Generator().manual_seed(0))
    assert float(other["input"].abs().max()) <= 1 and torch.equal(other["condition"], batch["prompt"])
    assert torch.equal(task.condition(other), batch["label"])


# Fisher and methods.


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_fisher_is_the_slow_reference(pipe: Any, xl: Any, kind: str) -> None:
    """float64; entries that cancel to nothing have no relative accuracy, so it is that of a tensor's largest."""
    pipeline = pipe if kind == "sd" else xl
    task = text_task(pipeline)
    whole = drawn(pipeline, task, "fisher")
    batches = [{key: value[rows] for key, value in whole.items()} for rows in (slice(4), slice(4, 6))]
    expected = fisher_sample_by_sample(pipeline.unet, task, batches)
    found = fisher_diagonal(pipeline.unet, task, batches)
    noise = 1e-24 * max(float(value.max()) for value in expected.values())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= 1e-9 * float(value.max()) + noise, name


def problem(pipeline: Any, module: nn.Module) -> Problem:
    task = text_task(pipeline)
    whole = rows_of(pipeline, 6)
    sets = {
        "forget": [{key: value[whole["label"] == 1] for key, value in whole.items()}],
        "retain": [{key: value[whole["label"] != 1] for key, value in whole.items()}],
    }
    streams = {name: Stream(data, name, ENGINE, 4) for name, data in sets.items()}
    return Problem(Subject(module), task, **streams, seed=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sfron", {"steps": 2, "objective": "redirect", "gamma": 1.0}),
        ("sfron", {"steps": 2, "objective": "ascent", "gamma": 1.0}),
        ("salun", {"steps": 2}),
        ("random-label", {"steps": 2}),
        ("esd", {"steps": 2, "samples": 2, "sampler": Sampler(steps=2, guidance_scale=3.0)}),
        ("gradient-ascent", {"steps": 2}),
        ("finetune", {"steps": 2}),
    ],
)
def test_methods_run_and_change_what_is_trained_alone(pipe: Any, name: str, settings: dict[str, Any]) -> None:
    module = copy.deepcopy(pipe.unet)
    names = train_parts(module, "xattn")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    run(make(name, settings), problem(pipe, module), ENGINE)
    moved = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and moved <= set(names)


@pytest.mark.parametrize("part", ["full", "xattn"])
def test_a_forget_step_moves_no_unsalient_weight(pipe: Any, part: str) -> None:
    module = copy.deepcopy(pipe.unet)
    names = train_parts(module, part)
    work = problem(pipe, module)
    settings = {"steps": 3, "objective": "redirect", "optimizer": Optimizer("adam", 1e-3), "calibrate": False}
    chosen = make("sfron", settings).resolved(work, ENGINE)
    state = chosen.start(work, ENGINE)
    mask = work.memo["mask"]
    assert tuple(mask) == names, "the mask covers exactly what is trained"
    assert 0 < sum(int(m.sum()) for m in mask.values()) < sum(m.numel() for m in mask.values())
    for k in range(3):
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        chosen._forget(state, k)
        moved = 0
        for name, parameter in module.named_parameters():
            allowed = mask.get(name, torch.zeros_like(parameter, dtype=torch.bool))
            assert torch.equal(parameter[~allowed], before[name][~allowed]), name
            moved += int((parameter != before[name]).sum())
        assert moved > 0
        descend(state, "retain")


def test_conditions_are_the_ones_that_guidance_doubles() -> None:
    assert CONDITIONS[:3] == ("condition", "condition_pooled", "condition_mask") and "time_ids" in CONDITIONS


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_multistep_solver_makes_what_diffusers_makes_with_its_scheduler(pipe: Any, scale: float) -> None:
    """Tolerance: both are in float32."""
    from diffusers import LMSDiscreteScheduler

    pipe = copy.deepcopy(pipe).to(torch.float32)
    theirs = copy.copy(pipe)
    theirs.register_modules(scheduler=LMSDiscreteScheduler.from_config(pipe.scheduler.config))
    task, texts = text_task(pipe), encode_prompts(pipe, [TEXTS[1]], own_size(pipe))
    shape = latent_shape_of(pipe)
    start = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))
    known = theirs(
        prompt_embeds=texts.embeds[1:2], negative_prompt_embeds=texts.embeds[0:1], latents=start.clone(),
        num_inference_steps=9, guidance_scale=scale, output_type="latent",
    ).images  # fmt: skip
    rows = texts.rows(torch.tensor([1]), torch.tensor([1]))
    batch = task.blank(rows, shape)
    sampler = Sampler(9, guidance_scale=scale, solver="lms")
    ours = task.generate(pipe.unet, batch, [torch.Generator().manual_seed(3)], sampler)
    torch.testing.assert_close(ours, known.to(ours.dtype), rtol=1e-3, atol=1e-3)
    plain = task.generate(pipe.unet, batch, [torch.Generator().manual_seed(3)], Sampler(9, guidance_scale=scale))
    assert (plain - ours).abs().max() > 0.01, "another solver"


def test_what_the_multistep_solver_cannot_do(pipe: Any) -> None:
    task, texts = text_task(pipe), encode_prompts(pipe, [TEXTS[1]], own_size(pipe))
    batch = task.blank(texts.rows(torch.tensor([1]), torch.tensor([1])), latent_shape_of(pipe))
    lms = Sampler(4, solver="lms")
    with pytest.raises(SettingError, match="stop on the way"):
        task.generate(pipe.unet, batch, [torch.Generator()], lms, until=5)
    with pytest.raises(SettingError, match="esd stops on the way"):
        make("esd", {"sampler": lms})
    for wrong in ({"eta": 0.5}, {"clip": True}, {"spacing": "quadratic"}):
        with pytest.raises(SettingError, match="the solver lms"):
            Sampler(4, solver="lms", **wrong)
    velocity = replace(task, prediction="v_prediction")
    with pytest.raises(SettingError, match="v is not known"):
        velocity.generate(pipe.unet, batch, [torch.Generator()], lms)
