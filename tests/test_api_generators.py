"""`untrain.unlearn` and `untrain.evaluate` on generators: a noise predictor of diffusers, and a whole pipeline."""

import copy
import json

import pytest
import torch
from diffusers import DiTPipeline, UNet2DModel
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

import untrain
from helpers.command_line import files
from helpers.command_line import untrain as command
from helpers.tiny_recipes import SMALL, dit_pipeline
from untrain.diffusion.denoisers import build_denoiser
from untrain.diffusion.latents import encode_data
from untrain.errors import ModelError, SettingError
from untrain.models.classifiers import build
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion

TASK = ClassDiffusion(timesteps=20, beta_end=0.3)
QUICK = {"steps": 3, "optimizer": untrain.Optimizer("adam", 1e-3), "device": "cpu", "batch_size": 8}
MEASURES = {"judge": None, "samples": 5, "sampler": Sampler(3), "device": "cpu", "batch_size": 16}


def images(count, labels, size=8, channels=1):
    g = torch.Generator().manual_seed(count)
    x = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=g)
    return TensorDataset(x, torch.tensor(labels).repeat(count)[:count])


def unet():
    return build_denoiser("unet-small", num_classes=3, in_channels=1, image_size=8, **SMALL).eval()


def bits(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


SETS = {"forget": images(8, [2]), "retain": images(24, [0, 1])}
PICTURES = {"forget": images(4, [3], 16, 3), "retain": images(12, [0, 1, 2], 16, 3)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("whole", [False, True])
def test_weights_of_fewer_bits_are_trained_in_float32(dtype, whole, tmp_path):
    """What comes back, and what a folder holds for diffusers, is the result of float32, rounded."""
    given, sets = (dit_pipeline(), PICTURES) if whole else (unet(), SETS)
    task, part = ("class-diffusion", "transformer") if whole else (TASK, "")
    narrow = copy.deepcopy(given).to(dtype)
    given = copy.deepcopy(narrow).to(torch.float32)  # with the bits of the narrow one
    wide = untrain.unlearn(given, **sets, task=task, **QUICK).model
    result = untrain.unlearn(narrow, **sets, task=task, **QUICK, out=tmp_path / "run")
    expected = {name: value.to(dtype) for name, value in bits(getattr(wide, part, wide)).items()}
    found = getattr(result.model, part, result.model)
    assert found.dtype == dtype
    assert same(expected, bits(found))
    stored = load_file(tmp_path / "run/sfron" / part / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in expected.items())
    assert "still differ when they are rounded back" in result.notes[-1]


@pytest.mark.parametrize("inplace", [False, True])
def test_a_noise_predictor_forgets(inplace):
    model = unet()
    before = bits(model)
    result = untrain.unlearn(model, **SETS, task=TASK, inplace=inplace, **QUICK)
    assert isinstance(result.model, UNet2DModel) and not result.model.training
    assert (result.model is model) == inplace
    assert same(before, bits(model)) != inplace
    assert not same(before, bits(result.model))
    assert len(result.history) == 3 and {"forget_loss", "retain_loss"} <= result.history[0].keys()
    assert result.mask.keys() == dict(result.model.named_parameters()).keys()
    again = untrain.unlearn(unet(), **SETS, task=TASK, **QUICK)
    assert same(bits(again.model), bits(result.model))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_pipeline_forgets_in_latents(inplace):
    pipeline = dit_pipeline()
    before, vae = bits(pipeline.transformer), bits(pipeline.vae)
    result = untrain.unlearn(pipeline, **PICTURES, task="class-diffusion", inplace=inplace, **QUICK)
    assert isinstance(result.model, DiTPipeline)
    assert (result.model is pipeline) == inplace
    assert result.model.vae is pipeline.vae and result.model.scheduler is pipeline.scheduler
    assert same(vae, bits(pipeline.vae))
    assert same(before, bits(pipeline.transformer)) != inplace
    assert not same(before, bits(result.model.transformer))
    result.model.set_progress_bar_config(disable=True)
    made = result.model([3], num_inference_steps=2, guidance_scale=1.0, output_type="np").images
    assert made.shape == (1, 16, 16, 3)


def test_a_pipeline_is_its_module_on_latents_with_its_schedule():
    """The same weights, to the last bit, as unlearning the transformer on data that were encoded by hand."""
    from untrain.engine import Engine

    pipeline, engine = dit_pipeline(), Engine.start("cpu")
    by_hand = {name: encode_data(pipeline.vae, data, engine, name=name) for name, data in PICTURES.items()}
    task = ClassDiffusion(timesteps=20, beta_end=0.3, clip_samples=False)
    ours = untrain.unlearn(pipeline, **PICTURES, task="class-diffusion", **QUICK)
    theirs = untrain.unlearn(pipeline.transformer, **by_hand, task=task, **QUICK)
    assert same(bits(ours.model.transformer), bits(theirs.model))


def judge(channels, classes=3):
    return build("small-cnn", num_classes=classes, in_channels=channels, image_size=8, width=4)


def test_a_noise_predictor_is_judged():
    model = unet()
    before, mode = bits(model), model.training
    chosen = MEASURES | {"judge": judge(1), "classes": ["a", "b", "c"]}
    found = untrain.evaluate(model, **SETS, task=TASK, **chosen)
    assert isinstance(found.FA, float) and 0 <= found.FA <= 100 and 0 <= found.RA <= 100
    assert found.samples == {"forgotten": 5, "retained": 10}
    assert found.by_class["recognised"].keys() == {"a", "b", "c"}
    assert found.by_class["recognised"]["c"] == found.FA
    assert (found.FD is None) == ("FD" in found.missing) and found.FID is None
    assert same(before, bits(model)) and model.training == mode
    same_again = untrain.evaluate(
        model, **SETS, task=TASK, **MEASURES | {"judge": judge(1), "classes": ["a", "b", "c"]}
    )
    assert same_again == found


def test_a_pipeline_is_judged_by_its_images():
    pipeline = dit_pipeline()
    before = bits(pipeline.transformer)
    found = untrain.evaluate(pipeline, **PICTURES, task="class-diffusion", **MEASURES | {"judge": judge(3, 4)})
    assert found.samples == {"forgotten": 5, "retained": 15}
    assert found.by_class["recognised"].keys() == {"0", "1", "2", "3"}
    assert same(before, bits(pipeline.transformer))


@pytest.mark.parametrize("kind", ["module", "pipeline"])
def test_an_evaluation_is_kept_in_the_runs_folder(kind, tmp_path):
    whole, out = kind == "pipeline", tmp_path / "run"
    model, sets, task = (dit_pipeline(), PICTURES, "class-diffusion") if whole else (unet(), SETS, TASK)
    chosen = MEASURES | {"judge": judge(3, 4) if whole else judge(1)}
    result = untrain.unlearn(model, **sets, task=task, out=out, **QUICK)
    found = untrain.evaluate({"original": model, "sfron": result.model}, **sets, task=task, out=out, **chosen)
    content = json.loads((out / "evaluation.json").read_text())
    assert (content["task"], [*content["models"]]) == ("class-diffusion", ["original", "sfron"])
    entry = content["models"]["sfron"]
    assert (entry["FA"], entry["RA"]) == (found["sfron"].FA, found["sfron"].RA)
    assert entry["seconds"] == result.seconds
    assert files(out) == [
        *("config.yaml", "evaluation.json", "history.jsonl", "manifest.json", "report.html", "sfron"),
        *("sfron.history.jsonl", "sfron.mask.safetensors", "sfron.safetensors", "split.json"),
    ]
    loaded = (DiTPipeline if whole else UNet2DModel).from_pretrained(out / "sfron")
    mine, kept = (each.transformer if whole else each for each in (result.model, loaded))
    assert same(bits(mine), bits(kept))
    (out / "report.html").unlink()
    code, _, err = command("report", out)
    assert code == 0 and (out / "report.html").exists(), err
    assert repr(found["sfron"]).startswith(f"GenerationEvaluation(FA={found['sfron'].FA:.4g}, RA=")


def test_retraining_builds_a_generator_anew():
    """By its configuration, without init=; a pipeline around it stays the same but for the predictor."""
    pipeline = dit_pipeline()
    quick = QUICK | {"method": "retrain", "steps": 1}
    result = untrain.unlearn(pipeline, **PICTURES, task="class-diffusion", **quick)
    new, old = bits(result.model.transformer), bits(pipeline.transformer)
    assert new.keys() == old.keys() and not same(old, new) and result.model.vae is pipeline.vae
    assert not same(bits(unet()), bits(untrain.unlearn(unet(), **SETS, task=TASK, **quick).model))


def test_a_generator_needs_a_judge():
    with pytest.raises(SettingError, match="judge="):
        untrain.evaluate(unet(), **SETS, task=TASK, **MEASURES)


def test_a_generator_without_classes_is_refused():
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    model = UNet2DModel(8, 1, 1, block_out_channels=(8, 16), norm_num_groups=4, **blocks)
    with pytest.raises(ModelError, match="UNet2DModel.*classes"):
        untrain.unlearn(model, **SETS, task=TASK, **QUICK)


def test_what_is_no_model_is_refused():
    with pytest.raises(ModelError, match="torch.nn.Module.*dict"):
        untrain.unlearn({}, **SETS, task=TASK, **QUICK)
