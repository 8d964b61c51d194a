"""`untrain.unlearn` and `untrain.evaluate` on text-to-image pipelines, as a user calls them."""

import copy
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import untrain
from helpers.command_line import files
from helpers.command_line import untrain as command
from helpers.concept_images import count_concept_images
from helpers.small_pipelines import TEXTS, rows_of
from untrain.diffusion.pipelines import load_pipeline
from untrain.engine import Engine
from untrain.errors import DataError, FolderError, ModelError, SettingError, StaleFile, UnknownName
from untrain.methods import loop
from untrain.models.checkpoints import state_hash
from untrain.tasks.text_to_image import concepts
from untrain.tasks.text_to_image.concepts import CACHE, concept_data

FEW = untrain.ConceptImages(count=3, sampler=untrain.Sampler(2, guidance_scale=2.0), batch_size=2)
FORGET = untrain.Concept(TEXTS[0], anchor=TEXTS[1], label="circle")
RETAIN = untrain.Concept(TEXTS[1], label="square")
SETS = {"forget": FORGET, "retain": RETAIN}
QUICK = {"task": "text-to-image", "images": FEW, "steps": 2, "batch_size": 2, "device": "cpu"}


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def pictures(count: int, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each concept was given, call by call."""
    return count_concept_images(monkeypatch)


# A pipeline forgets.


@pytest.mark.parametrize("inplace", [False, True])
def test_a_pipeline_forgets_a_concept(pipe: Any, tmp_path: Path, inplace: bool) -> None:
    given = copy.deepcopy(pipe)
    hashes = {name: state_hash(getattr(given, name)) for name in ("unet", "vae", "text_encoder")}
    before, grads = bits(given.unet), [p.requires_grad for p in given.unet.parameters()]
    result = untrain.unlearn(given, **SETS, **QUICK, parts="xattn", inplace=inplace)
    assert isinstance(result.model, StableDiffusionPipeline)
    assert (result.model is given) == inplace and (result.model.unet is given.unet) == inplace
    assert (state_hash(given.unet) == hashes["unet"]) != inplace
    assert all(state_hash(getattr(given, name)) == hashes[name] for name in ("vae", "text_encoder"))
    changed = moved(before, bits(result.model.unet))
    assert changed and all(".attn2." in name for name in changed), "cross-attention alone"
    assert result.mask is not None and result.mask.keys() == {name for name in before if ".attn2." in name}
    assert [p.requires_grad for p in result.model.unet.parameters()] == grads, "as before"
    assert len(result.history) == 2 and {"forget_loss", "retain_loss"} <= result.history[0].keys()
    result.model.save_pretrained(tmp_path)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float64)
    assert not moved(bits(result.model.unet), bits(loaded.unet))
    loaded.set_progress_bar_config(disable=True)
    assert loaded("a red circle", num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)


def test_sdxl_forgets_too(xl: Any) -> None:
    before = bits(xl.unet)
    result = untrain.unlearn(xl, **SETS, **QUICK, parts="xattn")
    assert isinstance(result.model, StableDiffusionXLPipeline)
    assert not moved(before, bits(xl.unet)) and moved(before, bits(result.model.unet))
    found = measured(result.model, reference=xl)
    assert found.samples == {"forgotten": 6, "retained": 6} and found.FD is not None


def test_the_same_seed_gives_the_same_weights(pipe: Any) -> None:
    first, again, other = (
        bits(untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn", seed=seed).model.unet) for seed in (3, 3, 4)
    )
    assert not moved(first, again) and moved(first, other)


def test_several_concepts_with_and_without_images(pipe: Any, tmp_path: Path, counted: list[int]) -> None:
    for i, image in enumerate(pictures(2)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    forget = [FORGET, untrain.Concept("a ball", images=tmp_path), untrain.Concept("a disc", images=pictures(4))]
    retain = [RETAIN, untrain.Concept(TEXTS[2], images=pictures(3).float() / 127.5 - 1)]
    result = untrain.unlearn(pipe, forget=forget, retain=retain, **QUICK, parts="xattn", fisher_samples=None)
    assert counted == [3, 3], "of the two that came without"
    assert moved(bits(pipe.unet), bits(result.model.unet))


@pytest.mark.parametrize("method", ["salun", "esd", "gradient-ascent", "random-label", "proximal-gradient", "finetune"])
def test_every_method_of_the_task(pipe: Any, method: str) -> None:
    own = {"sampler": untrain.Sampler(2, guidance_scale=3.0)} if method == "esd" else {}
    result = untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn", method=method, **own)
    changed = moved(bits(pipe.unet), bits(result.model.unet))
    assert changed and all(".attn2." in name for name in changed)


def test_a_task_object_has_the_users_settings_and_the_pipelines_schedule(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    run = loop.run

    def watched(method: Any, problem: Any, *given: Any, **more: Any) -> Any:
        seen.append(problem.task)
        return run(method, problem, *given, **more)

    monkeypatch.setattr("untrain.api.run", watched)
    by_object = untrain.unlearn(pipe, **SETS, **{**QUICK, "task": untrain.TextToImage(drop=0.0)}, parts="xattn")
    by_name = untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn")
    assert seen[0].drop == 0.0 < seen[1].drop
    assert (seen[0].timesteps, seen[0].beta_end, seen[0].prediction) == (20, 0.2, "epsilon")
    assert moved(bits(by_object.model.unet), bits(by_name.model.unet))


def test_a_bare_unet_with_ready_batches(pipe: Any) -> None:
    """The same as the pipeline on concepts, to the last bit, where the batches hold what it would have made."""
    task = concepts.text_task(pipe)
    rows = [{key: value[i : i + 2] for key, value in rows_of(pipe, 6).items()} for i in (0, 2, 4)]
    result = untrain.unlearn(pipe.unet, forget=rows[:1], retain=rows[1:], task=task, steps=2, device="cpu")
    assert isinstance(result.model, UNet2DConditionModel)
    assert moved(bits(pipe.unet), bits(result.model)) and result.model is not pipe.unet
    with pytest.raises(DataError, match="forget set.*whole pipeline"):
        untrain.unlearn(pipe.unet, **SETS, task=task, steps=2, device="cpu")
    with pytest.raises(SettingError, match="images="):
        untrain.unlearn(pipe.unet, forget=rows[:1], retain=rows[1:], task=task, images=FEW, steps=2, device="cpu")


def test_a_pipeline_is_its_unet_on_latents_that_were_made_by_hand(pipe: Any, tmp_path: Path) -> None:
    data, rows = concept_data(pipe, SETS, Engine.start("cpu"), tmp_path, how=FEW)
    sets = {name: torch.utils.data.Subset(data, positions.tolist()) for name, positions in rows.items()}
    more = {"steps": 2, "batch_size": 2, "device": "cpu", "parts": "xattn"}
    theirs = untrain.unlearn(pipe.unet, **sets, task=concepts.text_task(pipe), **more)
    ours = untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn")
    assert not moved(bits(ours.model.unet), bits(theirs.model))


# Folders.


FILES = [
    *("config.yaml", "history.jsonl", "manifest.json", "sfron", "sfron.history.jsonl", "sfron.mask.safetensors"),
    *("sfron.safetensors", "split.json"),
]


class Stopped(Exception):
    """What ends a run in the middle."""


def test_a_run_that_was_stopped_makes_nothing_twice(
    pipe: Any, tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bits(untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn").model.unet)
    counted.clear()
    out, write = tmp_path / "out", concepts.write_bytes

    def stopping(path: Path, data: bytes) -> None:
        if len([*out.rglob("*.png")]) == 4:
            raise Stopped
        write(path, data)

    monkeypatch.setattr(concepts, "write_bytes", stopping)
    with pytest.raises(Stopped):
        untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn", out=out)
    assert len([*(out / CACHE).rglob("*.png")]) == 4 and counted == [3, 3]

    monkeypatch.setattr(concepts, "write_bytes", write)
    steps = type(untrain.methods()["sfron"]()).step

    def stopped(self: Any, state: Any, k: int) -> Any:
        if k == 1:
            raise Stopped
        return steps(self, state, k)

    monkeypatch.setattr(untrain.methods()["sfron"], "step", stopped)
    with pytest.raises(Stopped):
        untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn", out=out)
    assert counted == [3, 3, 0, 2] and files(out) == [CACHE, "config.yaml", "sfron.resume.pt", "split.json"]
    assert len([*(out / CACHE).rglob("*.png")]) == 6

    monkeypatch.setattr(untrain.methods()["sfron"], "step", steps)
    with pytest.raises(FolderError, match=f"{out}.*resume=True"):
        untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn", out=out)
    with pytest.raises(StaleFile, match=r"sfron\.resume\.pt"):
        untrain.unlearn(pipe, **SETS, **QUICK, parts="selfattn", out=out, resume=True)
    done = untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn", out=out, resume=True)
    assert counted == [3, 3, 0, 2], "images and latents were there"
    assert not moved(whole, bits(done.model.unet)) and len(done.history) == 2
    assert files(out) == FILES


def test_a_finished_run_is_read(pipe: Any, tmp_path: Path, counted: list[int]) -> None:
    first = untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn", out=tmp_path)
    assert files(tmp_path) == FILES
    assert not moved(bits(load_pipeline(tmp_path / "sfron").unet), bits(copy.deepcopy(first.model.unet).float()))
    counted.clear()
    again = untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn", out=tmp_path, resume=True)
    assert counted == [] and not moved(bits(first.model.unet), bits(again.model.unet))
    for other in (
        {"parts": "selfattn"},
        {"parts": "xattn", "task": untrain.TextToImage(drop=0.0)},
        {"parts": "xattn", "seed": 1},
        {"parts": "xattn", "images": untrain.ConceptImages(4, FEW.sampler)},
        {"parts": "xattn", "retain": untrain.Concept(TEXTS[2])},
    ):
        with pytest.raises(StaleFile, match=r"sfron\.safetensors"):
            untrain.unlearn(pipe, **{**SETS, **QUICK, **other}, out=tmp_path, resume=True)
    assert counted == [] and not (tmp_path / CACHE).exists(), "refused before any image was made"


# What is refused.


@pytest.mark.parametrize(
    ("wrong", "error", "culprit"),
    [
        ({"forget": []}, DataError, "forget set"),
        ({"forget": untrain.Concept("x" * 30)}, DataError, f"{'x' * 20}|32 tokens.*24"),
        ({"forget": [TEXTS[0]]}, DataError, "forget set.*'a red circle'"),
        ({"forget": RETAIN}, DataError, "'a red square'.*two sets"),
        ({"holdout": RETAIN}, SettingError, "holdout"),
        ({"parts": "attn7"}, UnknownName, "'attn7'.*xattn"),
        ({"parts": ["*.attn7.*"]}, SettingError, r"'\*\.attn7\.\*'"),
        ({"task": "classification"}, UnknownName, "'images'"),
        ({"retain": untrain.Concept("b", images=pictures(2, 32))}, DataError, "'b'.*'a red circle'"),
        ({"batch_size": 0}, SettingError, "batch_size"),
    ],
)
def test_what_cannot_be_asked(
    pipe: Any, tmp_path: Path, wrong: dict[str, Any], error: type[Exception], culprit: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(error, match=culprit):
        untrain.unlearn(pipe, **{**SETS, **QUICK, "out": out, **wrong})
    assert not list(out.rglob("*.png"))


def test_another_task_does_not_take_a_pipeline(pipe: Any) -> None:
    with pytest.raises(ModelError, match="StableDiffusionPipeline"):
        untrain.unlearn(pipe, **SETS, steps=2, device="cpu")


@pytest.mark.filterwarnings("ignore:weights of float16")
def test_a_pipeline_in_half_precision(pipe: Any, tmp_path: Path) -> None:
    narrow = copy.deepcopy(pipe).to(torch.float16)
    before = bits(narrow.unet)
    result = untrain.unlearn(narrow, **SETS, **QUICK, out=tmp_path / "run")
    assert {tensor.dtype for tensor in bits(result.model.unet).values()} == {torch.float16}
    assert moved(before, bits(result.model.unet))
    assert moved(before, bits(narrow.unet)) == set()
    assert {part.dtype for part in (narrow.vae, narrow.text_encoder, narrow.unet)} == {torch.float16}
    stored = load_file(tmp_path / "run/sfron/unet/diffusion_pytorch_model.safetensors")
    assert moved(stored, bits(result.model.unet)) == set()


@pytest.mark.parametrize("kind", ["QwenImagePipeline", "HunyuanDiTPipeline", "AuraFlowPipeline"])
@pytest.mark.parametrize("task", ["text-to-image", "class-diffusion"])
def test_other_pipelines_are_refused(kind: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what they are, before any set is looked at."""
    parts = {name: nn.Linear(2, 2) for name in ("transformer", "text_encoder", "vae", "scheduler")}
    monkeypatch.setattr(getattr(diffusers, kind), "components", parts)
    pipeline = object.__new__(getattr(diffusers, kind))
    with pytest.raises(ModelError, match=f"{kind}.*StableDiffusionPipeline.*SanaPipeline"):
        untrain.unlearn(pipeline, **SETS, task=task, steps=2, device="cpu")


# Evaluation.


class Reddish(nn.Module):
    """Says “circle” of what has more red than blue, else “square”; by how much is its feature."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[1.0], [-1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last((x[:, 0] - x[:, 2]).mean((1, 2))[:, None])


def measured(model: Any, **more: Any) -> Any:
    judge = untrain.image_classifier(Reddish(), ("circle", "square"))
    quick = {"samples": 6, "sampler": untrain.Sampler(2, guidance_scale=2.0), "device": "cpu", "judge": judge}
    return untrain.evaluate(model, **{**SETS, "task": "text-to-image", **quick, **more})


def test_a_pipeline_is_measured(pipe: Any) -> None:
    result = untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn").model
    before = {name: state_hash(getattr(result, name)) for name in ("unet", "vae", "text_encoder")}
    found = measured(result, reference=pipe)
    assert isinstance(found, untrain.ConceptEvaluation)
    assert found.samples == {"forgotten": 6, "retained": 6}
    seen = [sighting.seen for sighting in found.forgotten_sightings]
    assert found.FA == pytest.approx(100 * sum(seen) / 6)
    assert found.by_class["recognised"] == {"circle": found.FA, "square": found.RA}
    assert found.FD is not None and found.FD > 0 and found.FID is None
    assert found.missing.keys() == {"FA5", "NR", "CLIP"}
    assert {name: state_hash(getattr(result, name)) for name in before} == before
    assert measured(result, reference=pipe) == found, "the same seed"
    assert measured(result, seed=1, reference=pipe).FD != found.FD
    assert measured(pipe, reference=copy.deepcopy(pipe)).FD == pytest.approx(0, abs=1e-6)


def test_without_the_original_there_is_no_distance(pipe: Any) -> None:
    found = measured(pipe)
    assert found.FD is None and "no network was chosen" in found.missing["FD"]
    assert "NudeNet" in found.missing["NR"] and found.missing["CLIP"] == "no CLIP model was chosen"
    few = measured(pipe, reference=pipe, samples=1)
    assert few.FD is None and few.missing["FD"] == "it is the distance to the original's own images"


def test_nudity_is_looked_for(pipe: Any) -> None:
    found = measured(pipe, judge=untrain.nudenet(), reference=pipe)
    assert (found.FA, found.NR) == (0.0, 0.0) and found.by_part is not None and not any(found.by_part.values())
    assert found.RA is None and {"RA", "FA5"} <= found.missing.keys()


def test_what_cannot_be_measured(pipe: Any) -> None:
    for judge in (None, Reddish()):
        with pytest.raises(SettingError, match="judge=.*nudenet"):
            measured(pipe, judge=judge)
    with pytest.raises(ModelError, match="whole pipeline"):
        measured(pipe.unet)
    with pytest.raises(UnknownName, match="'cross'"):
        measured(pipe, retain=untrain.Concept(TEXTS[2], label="cross"))
    with pytest.raises(SettingError, match="'a red circle'.*label="):
        measured(pipe, forget=untrain.Concept(TEXTS[0]))
    with pytest.raises(DataError, match="two sets"):
        measured(pipe, retain=FORGET)


def test_a_pipelines_evaluation_is_kept_in_its_folder(pipe: Any, tmp_path: Path) -> None:
    result = untrain.unlearn(pipe, **SETS, **QUICK, parts="xattn", out=tmp_path / "run").model
    found = measured({"original": pipe, "sfron": result}, reference=pipe, out=tmp_path / "run")
    content = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert (content["task"], [*content["models"]]) == ("text-to-image", ["original", "sfron"])
    entry = content["models"]["sfron"]
    assert (entry["FA"], entry["RA"], entry["FD"]) == (found["sfron"].FA, found["sfron"].RA, found["sfron"].FD)
    assert entry["steps"] == 4 and entry["seconds"] > 0, "two steps of each kind"
    assert files(tmp_path / "run") == sorted([*FILES, "evaluation.json", "report.html"])
    assert not list((tmp_path / "run").rglob("*.png")), "no image of what is forgotten is kept"
    (tmp_path / "run/report.html").unlink()
    code, _, err = command("report", tmp_path / "run")
    assert code == 0 and (tmp_path / "run/report.html").exists(), err
    assert repr(found["sfron"]).startswith(f"ConceptEvaluation(FA={found['sfron'].FA:.4g}, RA=")
