"""Text-to-image pipelines around transformers, on tiny ones in float64: the same task, methods and words."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from helpers.command_line import untrain as command
from helpers.references import fisher_sample_by_sample
from helpers.small_pipelines import SIZE, TEXTS, drawn_rows, rows_of
from helpers.text_recipes import save_text_recipe
from helpers.transformer_pipelines import (
    FAMILIES,
    build,
    flux,
    pixart,
    pixart_sigma,
    size_of,
    stable_diffusion_3,
)
from untrain import Concept, ConceptImages, Sampler, debias, image_classifier, unlearn
from untrain.data.streams import Stream
from untrain.diffusion.denoisers import denoiser_of, fresh_denoiser
from untrain.diffusion.paths import Flow
from untrain.diffusion.pipelines import load_pipeline
from untrain.diffusion.text import SEGMENT, encode_prompts
from untrain.engine import Engine
from untrain.errors import DataError, ModelError, SettingError
from untrain.fisher import fisher_diagonal
from untrain.methods import make
from untrain.methods.base import Optimizer, Problem
from untrain.methods.loop import run
from untrain.models.parts import train_parts
from untrain.models.subject import Subject
from untrain.runs.sampling import sample_command
from untrain.sampling import noise_of
from untrain.tasks.text_to_image.concepts import latent_shape_of, text_task
from untrain.tasks.text_to_image.edits import text_pairs
from untrain.tasks.text_to_image.task import TextToImage

ENGINE = Engine(torch.device("cpu"))
FEW = ConceptImages(count=2, sampler=Sampler(steps=2), image_size=SIZE, batch_size=2)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, folder: Path) -> Any:
    return build(FAMILIES[request.param], folder)


@pytest.fixture(scope="module")
def task(family: Any) -> TextToImage:
    return text_task(family, image_size=SIZE)


@pytest.fixture(scope="module", params=[*FAMILIES, "pixart-sigma"])
def whole(request: pytest.FixtureRequest, folder: Path) -> Any:
    return build({**FAMILIES, "pixart-sigma": pixart_sigma}[request.param], folder)


@pytest.fixture(scope="module")
def batch(family: Any, task: TextToImage) -> dict[str, Tensor]:
    return drawn_rows(family, task)


# The loss.


def test_the_loss_of_a_sample_is_its_own(family: Any, task: TextToImage, batch: dict[str, Tensor]) -> None:
    network = denoiser_of(family)
    losses = task.loss(network, batch)
    assert losses.shape == (4,) and torch.equal(losses, task.loss(network, batch))
    for i in range(4):
        alone = task.loss(network, {key: value[i : i + 1] for key, value in batch.items()})
        assert alone.item() == pytest.approx(losses[i].item(), rel=1e-9)


def test_the_loss_is_the_written_one(family: Any, task: TextToImage, batch: dict[str, Tensor]) -> None:
    """x_t and the target by hand: of a flow (1 − σ) x₀ + σ ε and ε − x₀, else √ᾱ x₀ + √(1 − ᾱ) ε and ε."""
    x, noise, t = batch["input"], batch["noise"], batch["timestep"]
    if task.flow is None:
        kept = family.scheduler.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
        seen, target = kept.sqrt() * x + (1 - kept).sqrt() * noise, noise
    else:
        sigma = (t.double() / 1000).view(-1, 1, 1, 1)
        seen, target = (1 - sigma) * x + sigma * noise, noise - x
    torch.testing.assert_close(task.noisy(batch), seen, rtol=1e-6, atol=1e-6)
    predicted = task.outputs(denoiser_of(family), batch)
    assert predicted.shape == x.shape
    by_hand = (predicted - target).square().flatten(1).mean(1)
    torch.testing.assert_close(task.loss(denoiser_of(family), batch), by_hand)


def test_the_texts_are_heard_of(family: Any, task: TextToImage, batch: dict[str, Tensor]) -> None:
    network = denoiser_of(family)
    other = task.outputs(network, task.variant(batch, "redirect"))
    assert (other - task.outputs(network, batch)).abs().max() > 1e-6


def test_what_counts_of_a_text_is_told_with_it(folder: Path) -> None:
    """Each text comes with its own mask, the empty one too."""
    pipeline = build(pixart, folder)
    task = text_task(pipeline)
    batch = drawn_rows(pipeline, task)
    for text, kind in (("anchor", "redirect"), ("empty", "unconditional")):
        assert torch.equal(task.variant(batch, kind)["condition_mask"], batch[f"{text}_mask"])
    blind = {**batch, "condition_mask": torch.ones_like(batch["condition_mask"])}
    assert not torch.allclose(task.outputs(pipeline.transformer, blind), task.outputs(pipeline.transformer, batch))


def test_fisher_is_the_slow_loop(family: Any, task: TextToImage) -> None:
    """Tolerance: a bias of keys has no gradient but rounding, as softmax knows no constant."""
    network = copy.deepcopy(denoiser_of(family))
    batches = [drawn_rows(family, task, "fisher", seed, 2) for seed in range(2)]
    fast = fisher_diagonal(network, task, iter(batches))
    slow = fisher_sample_by_sample(network, task, batches)
    assert fast.keys() == slow.keys() and len(fast) > 20
    for name, value in slow.items():
        torch.testing.assert_close(fast[name].double(), value, rtol=1e-5, atol=1e-12)


def test_redirecting_takes_one_latent_and_one_noise(
    family: Any, task: TextToImage, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, seen = denoiser_of(family), []

    def predict(self: Any, model: nn.Module, x: Tensor, timestep: Tensor, told: Any, own: Any = None) -> Tensor:
        seen.append((x.clone(), timestep.clone(), told["embeds"].clone(), torch.is_grad_enabled()))
        return real(self, model, x, timestep, told)

    real = type(task.kind).predict
    monkeypatch.setattr(type(task.kind), "predict", predict)
    task.redirect_loss(network, batch, network)
    (x, t, anchors, with_gradient), (x2, t2, prompts, with_gradient2) = seen
    assert torch.equal(x, x2) and torch.equal(t, t2) and not with_gradient and with_gradient2
    assert torch.equal(anchors, batch["anchor"]) and torch.equal(prompts, batch["prompt"])


# Sampling.


CALLS: dict[str, dict[str, Any]] = {
    "PixArtAlphaPipeline": {"use_resolution_binning": False},
    "PixArtSigmaPipeline": {"use_resolution_binning": False},
    "SanaPipeline": {"use_resolution_binning": False},
}
SPACING = {"StableDiffusion3Pipeline": "linspace", "SanaPipeline": "linspace"}


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_our_sampling_is_the_pipelines(whole: Any, scale: float) -> None:
    """The same noise, scheduler and guidance. Tolerance: diffusers takes each step of a flow in float32."""
    name, size = type(whole).__name__, size_of(whole)
    task = text_task(whole, image_size=size)
    texts = encode_prompts(whole, [TEXTS[1]], size)
    shape = latent_shape_of(whole, size)
    start = noise_of([torch.Generator().manual_seed(3)], shape)
    latents = start.double()
    if name == "FluxPipeline":
        latents = whole._pack_latents(latents, 1, *shape)
    theirs = whole(
        TEXTS[1], num_inference_steps=5, guidance_scale=scale, latents=latents, output_type="latent",
        height=size, width=size, **CALLS.get(name, {}),
    ).images  # fmt: skip
    if name == "FluxPipeline":
        theirs = whole._unpack_latents(theirs, size, size, whole.vae_scale_factor)
    batch = task.blank(texts.rows(torch.tensor([1]), torch.tensor([1])), shape)
    sampler = Sampler(5, guidance_scale=scale, spacing=SPACING.get(name, "uniform"))
    ours = task.generate(denoiser_of(whole), batch, [torch.Generator().manual_seed(3)], sampler)
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-4, atol=1e-4)
    assert (ours - start).abs().max() > 0.01


def test_sampling_can_stop_on_the_way_and_go_on(family: Any, task: TextToImage) -> None:
    """What esd needs: x_t at a visited timestep; where nothing is left to visit, the noise itself."""
    network, sampler = denoiser_of(family), Sampler(4)
    rows = encode_prompts(family, [TEXTS[1]], SIZE).rows(torch.tensor([1]), torch.tensor([1]))
    blank = task.blank(rows, latent_shape_of(family, SIZE))
    first, *_, last = task.visited(sampler)

    def until(t: float) -> Tensor:
        return task.generate(network, blank, [torch.Generator().manual_seed(3)], sampler, until=t)

    assert torch.equal(until(first), noise_of([torch.Generator().manual_seed(3)], blank["input"].shape[1:]).double())
    at = task.at(blank, torch.full((1,), last), until(last))
    end = until(-1)
    direction = task.guided(network, at, 1.0)
    if task.flow is not None:
        torch.testing.assert_close(end, at["seen"] - last / 1000 * direction, rtol=1e-6, atol=1e-6)
    assert not torch.equal(end, at["seen"])


# Methods.


def problem_of(family: Any, task: TextToImage) -> Problem:
    rows = rows_of(family, 6)
    forgotten = rows["label"] == 1

    def stream(name: str, mask: Tensor) -> Stream:
        return Stream([{key: value[mask] for key, value in rows.items()}], name, ENGINE)

    subject = Subject(copy.deepcopy(denoiser_of(family)))
    return Problem(subject, task, stream("forget", forgotten), stream("retain", ~forgotten), seed=0)


def test_a_forget_step_moves_no_unsalient_weight(family: Any, task: TextToImage) -> None:
    work = problem_of(family, task)
    module = work.subject.module
    settings = {"steps": 2, "objective": "redirect", "optimizer": Optimizer("adam", 1e-3), "calibrate": False}
    chosen = make("sfron", settings).resolved(work, ENGINE)
    state = chosen.start(work, ENGINE)
    mask = work.memo["mask"]
    assert 0 < sum(int(m.sum()) for m in mask.values()) < sum(m.numel() for m in mask.values())
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for k in range(2):
        chosen._forget(state, k)  # type: ignore[attr-defined]
    moved = 0
    for name, parameter in module.named_parameters():
        allowed = mask.get(name, torch.zeros_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter[~allowed], before[name][~allowed]), name
        moved += int((parameter != before[name]).sum())
    assert moved > 0


SETS = {"forget": Concept(TEXTS[0], anchor=TEXTS[1]), "retain": Concept(TEXTS[2])}
QUICK = {"steps": 1, "optimizer": Optimizer("adam", lr=1e-3), "images": FEW, "device": "cpu", "task": "text-to-image"}


def test_what_is_unlearned_is_loaded_by_diffusers_own_class(family: Any, tmp_path: Path) -> None:
    """To the bit; the user's own pipeline stays as it was."""
    before = {key: value.clone() for key, value in denoiser_of(family).state_dict().items()}
    result = unlearn(family, method="sfron", out=tmp_path / "run", **SETS, **QUICK)  # type: ignore[arg-type]
    assert type(result.model) is type(family)
    after = denoiser_of(result.model).state_dict()
    assert any(not torch.equal(after[key], before[key]) for key in before)
    assert all(torch.equal(value, before[key]) for key, value in denoiser_of(family).state_dict().items())
    again = type(family).from_pretrained(tmp_path / "run/sfron", dtype=torch.float64)
    kept = again.transformer.state_dict()
    assert kept.keys() == after.keys() and all(torch.equal(kept[key], after[key]) for key in after)


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("sd3", "esd", {"samples": 2, "sampler": Sampler(2, guidance_scale=3.0)}),
        ("flux", "esd", {"samples": 2, "sampler": Sampler(2, guidance_scale=3.0)}),
        ("sd3", "concept-ablation", {"images": 2, "samples": 2, "sampler": Sampler(2)}),
        (
            "sd3",
            "selective-amnesia",
            {"replay_samples": 2, "fisher_samples": 2, "fisher_timesteps": 2, "sampler": Sampler(2)},
        ),
    ],
)
def test_methods_that_make_images_run_on_a_flow(kind: str, name: str, settings: dict[str, Any], folder: Path) -> None:
    pipeline = build(FAMILIES[kind], folder)
    task = text_task(pipeline, image_size=SIZE)
    work = problem_of(pipeline, task)
    before = {key: value.clone() for key, value in work.subject.module.state_dict().items()}
    chosen = make(name, {"steps": 2, "optimizer": Optimizer("adam", lr=1e-3), **settings})
    run(chosen, work, ENGINE)
    after = work.subject.module.state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in after.items())
    assert all(torch.isfinite(value).all() for value in after.values())


def test_cross_attention_is_what_hears_of_texts(family: Any) -> None:
    """`parts: xattn` trains it alone; `selfattn` and it have nothing in common."""
    network = fresh_denoiser(denoiser_of(family))
    shapes = {name: value.shape for name, value in denoiser_of(family).state_dict().items()}
    assert shapes == {name: value.shape for name, value in network.state_dict().items()}
    cross = train_parts(network, "xattn")
    itself = train_parts(network, "selfattn")
    assert cross and itself and not set(cross) & set(itself)
    words = ("attn2.",) if type(family).__name__[:4] in ("PixA", "Sana") else ("add", "context_embedder", "single")
    assert all(any(word in name for word in words) for name in cross)
    rest = train_parts(network, "noxattn")
    assert not set(rest) & set(cross) and set(itself) <= set(rest)


def test_closed_form_edits_are_of_what_first_hears_of_texts(family: Any, task: TextToImage) -> None:
    """The forgotten prompt is taken for its anchor, the retained one stays; by maps of tokens and of pooled texts."""
    result = unlearn(family, task="text-to-image", method="uce", lam=0.01, device="cpu", images=FEW, **SETS)
    before, after = (denoiser_of(pipeline) for pipeline in (family, result.model))
    old, new = before.state_dict(), after.state_dict()
    maps = {f"{name}.weight" for name in task.kind.maps}
    assert {name for name in old if not torch.equal(old[name], new[name])} == maps == task.condition_maps(after).keys()
    batch = drawn_rows(family, task, count=3)  # redirected to the next text, as the concept is
    wanted = task.outputs(before, task.variant(batch, "redirect"))[0]
    first, last = (task.outputs(network, batch)[0] for network in (before, after))
    assert (last - wanted).norm() < (first - wanted).norm() / 3
    kept = [task.outputs(network, batch)[2] for network in (before, after)]
    assert (kept[1] - kept[0]).norm() < (first - wanted).norm()


def test_tokens_stand_where_the_network_sees_them(folder: Path) -> None:
    """T5's behind CLIP's in Stable Diffusion 3; padding that PixArt does not count is no pair."""
    pipeline = build(stable_diffusion_3, folder)
    tokens = encode_prompts(pipeline, TEXTS, SIZE).tokens
    assert tokens is not None
    window = pipeline.tokenizer_max_length
    own, behind = tokens[1, :window], tokens[1, window:]
    assert (
        own[own >= 0].tolist()
        == [i - SEGMENT for i in behind[behind >= 0].tolist()]
        == pipeline.tokenizer(TEXTS[0]).input_ids
    )
    assert set(own[own < 0].tolist()) == {-1} and set(behind[behind < 0].tolist()) == {-2}
    given, _ = text_pairs(rows_of(pipeline, 1), "last", keep=False, fields=("embeds", "pooled"))
    assert given.shape == (3, 64) and not given[:2, 32:].any() and not given[2, :32].any()
    rows = rows_of(build(pixart, folder), 1)
    assert len(text_pairs(rows, "all", keep=True)[0]) == int(rows["prompt_mask"].sum())


def test_debiasing_is_of_unets(folder: Path) -> None:
    judge = image_classifier(nn.Identity(), ("x", "y"), lambda images: images)
    with pytest.raises(ModelError, match=r"UNet.*StableDiffusion3Pipeline"):
        debias(build(stable_diffusion_3, folder), ["a"], {"a b": "x", "a c": "y"}, judge)


# What differs.


def test_some_pixart_is_told_of_the_size(folder: Path) -> None:
    more = {"use_additional_conditions": True, "attention_head_dim": 12, "cross_attention_dim": 24}
    pipeline = build(lambda place: pixart(place, **more), folder)
    task = text_task(pipeline)
    batch = drawn_rows(pipeline, task)
    assert batch["resolution"].tolist() == [[16, 16]] * 4
    larger = {**batch, "resolution": batch["resolution"] * 64}
    network = pipeline.transformer
    assert not torch.allclose(task.outputs(network, larger), task.outputs(network, batch))


def test_t5_may_be_missing(folder: Path) -> None:
    pipeline = build(lambda place: stable_diffusion_3(place, with_t5=False), folder)
    prompts = encode_prompts(pipeline, TEXTS, SIZE)
    assert prompts.embeds.shape == (4, 24 + 256, 32) and not prompts.embeds[:, 24:].any()
    task = text_task(pipeline)
    assert torch.isfinite(task.loss(pipeline.transformer, drawn_rows(pipeline, task))).all()


def test_guidance_as_an_input_takes_no_empty_prompt(folder: Path) -> None:
    """FLUX's is told of the scale where it embeds it, and trained at 1; prompts are never dropped."""
    for embeds in (True, False):
        pipeline = build(lambda place, embeds=embeds: flux(place, embeds_guidance=embeds), folder)
        task = text_task(pipeline)
        assert task.drop == 0
        batch = drawn_rows(pipeline, task, "retain")
        assert torch.equal(batch["condition"], batch["prompt"])
        plain = task.outputs(pipeline.transformer, batch)
        assert torch.equal(task.guided(pipeline.transformer, batch, 1.0), plain)
        assert torch.equal(task.guided(pipeline.transformer, batch, 4.0), plain) is not embeds
    with pytest.raises(SettingError, match="drop"):
        text_task(pipeline, drop=0.3)


def test_schedulers_say_how_a_flow_is_shifted(folder: Path) -> None:
    pipeline = build(stable_diffusion_3, folder)
    assert text_task(pipeline).flow == Flow(3.0)
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.5
    )
    assert text_task(pipeline).flow == Flow(2.5)
    for wrong in (
        diffusers.DDIMScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.1),
    ):
        pipeline.scheduler = wrong
        with pytest.raises(ModelError, match="Scheduler"):
            text_task(pipeline)


def test_a_network_alone_needs_a_flow(folder: Path) -> None:
    pipeline = build(stable_diffusion_3, folder)
    task = text_task(pipeline)
    batch = drawn_rows(pipeline, task)
    with pytest.raises(ModelError, match="flow matching"):
        TextToImage().prepare(pipeline.transformer, batch)
    alone = TextToImage(flow=task.flow).prepare(pipeline.transformer, batch)
    assert alone.architecture == "stable-diffusion-3"
    assert torch.equal(alone.loss(pipeline.transformer, batch), task.loss(pipeline.transformer, batch))
    with pytest.raises(ModelError, match="prompt_pooled"):
        alone.prepare(pipeline.transformer, {key: value for key, value in batch.items() if "pooled" not in key})


# Files and commands.


def test_prompts_of_a_table(whole: Any, tmp_path: Path) -> None:
    """`untrain sample`: images that the pipeline itself makes, of its own scheduler."""
    half, side = copy.deepcopy(whole).to(torch.float32), str(size_of(whole))
    half.save_pretrained(tmp_path / "pipe")
    (tmp_path / "prompts.csv").write_text(f"prompt\n{TEXTS[0]}\n")
    words = ["pipe", "--prompts", "prompts.csv", "--steps", "2", "--width", side, "--height", side, "--device", "cpu"]
    words = [str(tmp_path / word) if word in ("pipe", "prompts.csv") else word for word in words]
    sample_command([*words, "--out", str(tmp_path / "images")])
    assert (tmp_path / "images/0_0.png").is_file()
    if type(whole).__name__ == "SanaPipeline":
        words[words.index("--width") + 1] = "40"
        with pytest.raises(SettingError, match="divisible by 32"):
            sample_command([*words, "--out", str(tmp_path / "others")])
    loaded = load_pipeline(tmp_path / "pipe")
    for key, value in denoiser_of(half).state_dict().items():
        assert torch.equal(denoiser_of(loaded).state_dict()[key], value)


def test_a_prompt_that_would_be_cut_is_refused(folder: Path) -> None:
    pipeline = build(pixart, folder)
    assert encode_prompts(pipeline, ["x" * 118], SIZE).embeds.shape[1] == 120, "whatever the tokenizer's own window is"
    with pytest.raises(DataError, match="window of 120"):
        encode_prompts(pipeline, ["x" * 119], SIZE)


def test_others_are_refused_with_the_list(tmp_path: Path) -> None:
    known = "StableDiffusionPipeline.*StableDiffusion3Pipeline.*FluxPipeline.*PixArtAlphaPipeline.*SanaPipeline"

    class QwenImagePipeline:
        components: dict[str, Any] = {}

    with pytest.raises(ModelError, match=known):
        text_task(QwenImagePipeline())
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "QwenImagePipeline"}))
    with pytest.raises(ModelError, match=known):
        load_pipeline(tmp_path)


def test_a_recipe_runs_whole(folder: Path, tmp_path: Path) -> None:
    """Its pipeline is loaded by diffusers' own class; card, report and detections are there."""
    save_text_recipe(tmp_path)
    shutil.rmtree(tmp_path / "pipe")
    build(stable_diffusion_3, folder).to(torch.float32).save_pretrained(tmp_path / "pipe")
    code, _, err = command("run", tmp_path / "tiny.yaml", "--out", tmp_path / "run")
    assert code == 0, err
    made = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "run/sfron").transformer.state_dict()
    given = load_pipeline(tmp_path / "pipe").transformer.state_dict()
    moved = {name for name, value in made.items() if not torch.equal(value, given[name])}
    assert moved and all("add" in name or "context_embedder" in name for name in moved), "parts: xattn"
    assert (tmp_path / "run/report.html").is_file() and (tmp_path / "run/sfron/README.md").is_file()
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert {"original", "sfron"} <= evaluation["models"].keys()
    code, _, err = command("audit", tmp_path / "run")
    assert code == 1 and "inversion and adversarial" in err and "[plain, relearning]" in err
