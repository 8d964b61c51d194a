import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.small_pipelines import stable_diffusion, stable_diffusion_xl, vae
from untrain.diffusion.denoisers import build_denoiser, denoiser_of, fresh_denoiser, load_denoiser
from untrain.diffusion.pipelines import (
    labels_of,
    load_pipeline,
    save_diffusers,
    schedule_of,
    with_denoiser,
)
from untrain.errors import CheckpointError, FolderError, ModelError, SettingError
from untrain.tasks.class_diffusion.task import ClassDiffusion

DIT = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
UNET = {"block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 8}
LABELS = {0: "tench, Tinca tinca", 1: "crane", 2: "hoist, lifting device", 3: "cat", 4: "dog"}


def dit(seed: int = 0, **options: Any) -> Any:
    return build_denoiser("dit-tiny", num_classes=5, in_channels=4, image_size=8, seed=seed, **DIT, **options)


@pytest.fixture
def pipeline() -> Any:
    from diffusers import DDIMScheduler, DiTPipeline

    made: Any = DiTPipeline(dit().eval(), vae(), DDIMScheduler(clip_sample=False), id2label=LABELS)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def folder(pipeline: Any, tmp_path: Path) -> Path:
    """A pipeline as diffusers saves it, with names of classes and with what a published folder holds besides."""
    place = tmp_path / "original"
    pipeline.save_pretrained(place)
    index = json.loads((place / "model_index.json").read_text())
    names = {str(number): name for number, name in LABELS.items()}
    (place / "model_index.json").write_text(json.dumps(index | {"id2label": names}))
    weights = place / "transformer" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    shutil.copytree(place / "transformer", place / "transformer_ema")
    (place / "LICENSE.txt").write_text("CC")
    return place


def images(pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
    return pipeline([0, 3], generator=torch.Generator().manual_seed(0), **arguments).images


def loaded(place: Path) -> Any:
    from diffusers import DiTPipeline

    return DiTPipeline.from_pretrained(place)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


# ── loading ──


@pytest.mark.parametrize("make", [stable_diffusion, stable_diffusion_xl])
def test_a_pipeline_is_loaded_whole_in_float32(make: Any, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    original = make(tmp_path / "words")
    original.to(dtype=torch.float16).save_pretrained(tmp_path / "pipeline")
    found = load_pipeline(tmp_path / "pipeline")
    assert type(found) is type(original)
    for name, part in original.components.items():
        if isinstance(part, nn.Module):
            assert same(found.components[name], part.float()), name
            assert {p.dtype for p in found.components[name].parameters()} == {torch.float32}
            assert not found.components[name].training
    assert type(found.scheduler) is type(original.scheduler) and schedule_of(found) == schedule_of(original)


def test_a_scheduler_that_clips_nothing_is_read(tmp_path: Path) -> None:
    """As PixArt's and Sana's published folders have it: diffusers writes that as -Infinity, which is no JSON."""
    from diffusers import DPMSolverMultistepScheduler

    (tmp_path / "words").mkdir()
    original = stable_diffusion(tmp_path / "words")
    betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "steps_offset": 1}
    original.scheduler = DPMSolverMultistepScheduler(**betas)
    original.save_pretrained(tmp_path / "pipeline")
    path = tmp_path / "pipeline" / "scheduler" / "scheduler_config.json"
    assert '"lambda_min_clipped": -Infinity' in path.read_text()
    found = load_pipeline(tmp_path / "pipeline")
    assert type(found.scheduler) is DPMSolverMultistepScheduler and schedule_of(found) == schedule_of(original)
    assert schedule_of(tmp_path / "pipeline") == schedule_of(original)
    path.write_text(path.read_text().replace("0.0001", "-Infinity"))
    with pytest.raises(CheckpointError, match="scheduler_config.json"):
        load_pipeline(tmp_path / "pipeline")


def test_the_safety_checker_is_not_loaded_and_not_lost(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor

    (tmp_path / "words").mkdir()
    pipeline = stable_diffusion(tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "old")
    CLIPImageProcessor().save_pretrained(tmp_path / "old" / "feature_extractor")
    CLIPConfig().save_pretrained(tmp_path / "old" / "safety_checker")  # without weights: it cannot be loaded
    index = json.loads((tmp_path / "old" / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]  # its name in Stable Diffusion 1.4
    (tmp_path / "old" / "model_index.json").write_text(json.dumps(index))
    found = load_pipeline(tmp_path / "old")
    assert found.safety_checker is None and found.feature_extractor is not None
    assert found.config.requires_safety_checker is False, "or diffusers warns"
    save_diffusers(tmp_path / "old", found.unet, tmp_path / "new", card="---\nlicense: mit\n---\n# A model\n")
    assert (tmp_path / "new" / "safety_checker" / "config.json").is_file()
    assert (tmp_path / "new" / "README.md").read_text() == "---\nlicense: mit\n---\n# A model\n"
    assert same(load_pipeline(tmp_path / "new").unet, found.unet)


def test_pipelines_that_cannot_be_loaded(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "words").mkdir()
    place = tmp_path / "pipeline"
    stable_diffusion(tmp_path / "words").save_pretrained(place)
    with pytest.raises(ModelError, match="holds a DiTPipeline; supported are StableDiffusionPipeline, Stable"):
        load_pipeline(folder)
    with pytest.raises(CheckpointError, match="holds no pipeline: it has no model_index.json"):
        load_pipeline(place / "unet")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_pipeline(tmp_path / "no" / "such" / "folder")
    for name, weight in (("unet", "conv_in.bias"), ("text_encoder", "final_layer_norm.bias")):
        path = next((place / name).glob("*.safetensors"))
        whole, state = path.read_bytes(), load_file(path)
        lost = next(key for key in state if key.endswith(weight))
        save_file({key: tensor for key, tensor in state.items() if key != lost}, path, {"format": "pt"})
        with pytest.raises(CheckpointError, match=rf"the {name} in .* lacks 1 of its weights, .*{weight}"):
            load_pipeline(place)
        path.write_bytes(whole[:1000])
        with pytest.raises(CheckpointError, match=f"the {name} in .* cannot be read"):
            load_pipeline(place)
        path.write_bytes(whole)
    (place / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="the pipeline in .* cannot be read"):
        load_pipeline(place)


# ── another noise predictor ──


def test_another_noise_predictor_shares_all_other_parts(pipeline: Any) -> None:
    before, old = images(pipeline), denoiser_of(pipeline)
    other = with_denoiser(pipeline, dit(seed=1).eval())
    assert type(other) is type(pipeline) and other.vae is pipeline.vae and other.scheduler is pipeline.scheduler
    assert other.labels == pipeline.labels and denoiser_of(other) is not old and denoiser_of(pipeline) is old
    assert not torch.equal(images(other), before)
    assert torch.equal(images(pipeline), before)
    assert torch.equal(images(with_denoiser(other, old)), before)
    compiled: Any = torch.compile(old, backend="eager")
    assert denoiser_of(with_denoiser(other, compiled)) is old


def test_a_pipeline_that_predicts_no_noise_is_refused() -> None:
    with pytest.raises(CheckpointError, match="SimpleNamespace holds neither a transformer nor a unet"):
        with_denoiser(SimpleNamespace(components={}), dit())


# ── saving ──


@pytest.mark.parametrize("given", ["folder", "pipeline"])
def test_a_saved_pipeline_has_the_new_weights_and_all_else_of_the_original(
    given: str, pipeline: Any, folder: Path, tmp_path: Path
) -> None:
    new, target = dit(seed=1), tmp_path / "runs" / "unlearned"
    save_diffusers(folder if given == "folder" else pipeline, new, target)
    found = loaded(target)
    assert same(found.transformer, new) and not same(found.transformer, pipeline.transformer)
    assert same(found.vae, pipeline.vae) and found.scheduler.config.clip_sample is False
    assert found.labels == pipeline.labels
    assert images(found).shape == (2, 3, 16, 16)
    assert torch.equal(images(found), images(with_denoiser(pipeline, new.eval())))
    assert same(load_denoiser(target), new)


def test_no_copy_of_the_old_weights_comes_along(folder: Path, tmp_path: Path) -> None:
    save_diffusers(str(folder), dit(seed=1), tmp_path / "unlearned")
    names = sorted(str(path.relative_to(tmp_path / "unlearned")) for path in (tmp_path / "unlearned").rglob("*.*"))
    weights = [name for name in names if name.endswith(".safetensors")]
    assert weights == ["transformer/" + weights[0].split("/")[1], "vae/diffusion_pytorch_model.safetensors"]
    assert "LICENSE.txt" in names
    old = (folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert all(path.read_bytes() != old for path in (tmp_path / "unlearned").rglob("*") if path.is_file())


def test_the_class_in_the_index_is_the_one_that_was_saved(folder: Path, tmp_path: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "Transformer2DModel"]  # its name before
    (folder / "model_index.json").write_text(json.dumps(index))
    save_diffusers(folder, dit(seed=1), tmp_path / "unlearned")
    saved = json.loads((tmp_path / "unlearned" / "model_index.json").read_text())
    assert saved["transformer"] == ["diffusers", "DiTTransformer2DModel"]
    assert same(loaded(tmp_path / "unlearned").transformer, dit(seed=1))


@pytest.mark.parametrize("given", ["folder", "module", "nothing"])
def test_a_model_that_was_saved_alone_is_saved_alone(given: str, tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    sizes = {"num_classes": 5, "in_channels": 1, "image_size": 8}
    old: Any = build_denoiser("unet-small", seed=0, **sizes, **UNET)
    new: Any = build_denoiser("unet-small", seed=1, **sizes, **UNET)
    old.save_pretrained(tmp_path / "old")
    original = {"folder": tmp_path / "old", "module": old, "nothing": None}[given]
    compiled: Any = torch.compile(new, backend="eager")
    save_diffusers(original, compiled, tmp_path / "new")
    assert same(UNet2DModel.from_pretrained(tmp_path / "new"), new)


def test_a_ddpm_pipeline_is_loaded_by_its_own_class(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler

    sizes = {"num_classes": 5, "in_channels": 1, "image_size": 8}
    old, new = (build_denoiser("unet-small", seed=seed, **sizes, **UNET) for seed in (0, 1))
    DDPMPipeline(old, DDPMScheduler()).save_pretrained(tmp_path / "old")
    save_diffusers(tmp_path / "old", new, tmp_path / "new")
    assert same(DDPMPipeline.from_pretrained(tmp_path / "new").unet, new)
    assert labels_of(tmp_path / "new") is None


def test_an_earlier_model_is_replaced_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "unlearned"
    for seed in (1, 2):
        save_diffusers(folder, dit(seed=seed), target)
        assert same(loaded(target).transformer, dit(seed=seed))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("")
    with pytest.raises(FolderError, match="photos holds other files than a model"):
        save_diffusers(folder, dit(seed=1), tmp_path / "photos")
    with pytest.raises(FolderError, match="is a file"):
        save_diffusers(folder, dit(seed=1), tmp_path / "photos" / "cat.png")
    with pytest.raises(FolderError, match="cat.png cannot be made: Not a directory"):
        save_diffusers(folder, dit(seed=1), tmp_path / "photos" / "cat.png" / "unlearned")
    with pytest.raises(SettingError, match="holds the original, which would be lost"):
        save_diffusers(folder, dit(seed=1), folder)
    assert same(loaded(folder).transformer, dit(seed=0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original", "photos", "unlearned"]


def test_a_failure_leaves_the_earlier_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, new = tmp_path / "unlearned", dit(seed=2)
    save_diffusers(folder, dit(seed=1), target)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(new), "save_pretrained", full)
    with pytest.raises(FolderError, match="unlearned cannot be written: No space left on device"):
        save_diffusers(folder, new, target)
    monkeypatch.undo()
    shutil.rmtree(folder / "vae")
    with pytest.raises(CheckpointError, match="is not whole: its model_index.json names vae"):
        save_diffusers(folder, new, target)
    assert same(loaded(target).transformer, dit(seed=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original", "unlearned"]


def test_a_swap_that_fails_puts_the_earlier_model_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "unlearned", Path.rename
    save_diffusers(folder, dit(seed=1), target)

    def failing(self: Path, other: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(FolderError, match="Input/output error"):
        save_diffusers(folder, dit(seed=2), target)
    assert same(loaded(target).transformer, dit(seed=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original", "unlearned"]


def test_what_cannot_be_saved_for_diffusers(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Linear is not a model of diffusers: save its state_dict"):
        save_diffusers(None, nn.Linear(2, 2), tmp_path / "new")
    with pytest.raises(CheckpointError, match="does not exist"):
        save_diffusers(tmp_path / "nothing", dit(), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_other_sinusoids_are_said_and_come_back(tmp_path: Path) -> None:
    from diffusers import DiTTransformer2DModel

    model = dit(timestep_frequencies="original")
    with pytest.warns(UserWarning, match="slightly other sinusoids than the original DiT"):
        save_diffusers(None, model, tmp_path / "new")
    x, t, label = torch.ones(1, 4, 8, 8), torch.tensor([999]), torch.tensor([1])
    with torch.no_grad():
        made, again, other = (
            each.eval()(x, t, class_labels=label).sample
            for each in (
                model,
                load_denoiser(tmp_path / "new"),
                DiTTransformer2DModel.from_pretrained(tmp_path / "new"),
            )
        )
    torch.testing.assert_close(again, made)
    assert (other - made).abs().max() > 1e-3


# ── names of classes ──


def test_names_of_classes(pipeline: Any, folder: Path) -> None:
    assert labels_of(folder) == tuple(LABELS.values())
    assert labels_of(str(folder)) == tuple(LABELS.values())
    assert labels_of(loaded(folder)) == tuple(LABELS.values())
    found = labels_of(pipeline)  # made in Python: diffusers sorts the synonyms
    assert found == ("Tinca tinca, tench", "crane", "hoist, lifting device", "cat", "dog")
    assert labels_of(folder / "transformer") is None
    pipeline.labels = {}
    assert labels_of(pipeline) is None


def test_a_class_without_a_name_keeps_its_number(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": {"2": "c", "0": "a"}}))
    assert labels_of(folder) == ("a", "1", "c")
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": {"first": "c"}}))
    with pytest.raises(CheckpointError, match="must name classes by number"):
        labels_of(folder)
    (folder / "model_index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="must hold a JSON object"):
        labels_of(folder)


# ── the schedule ──


def test_the_schedule_is_the_tasks(pipeline: Any, folder: Path) -> None:
    from diffusers import DDIMScheduler

    expected = {"timesteps": 1000, "schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    assert schedule_of(folder) == schedule_of(pipeline) == expected
    assert schedule_of(folder / "scheduler") == expected
    assert schedule_of(folder / "transformer") == {}
    other = {"num_train_timesteps": 100, "beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.01}
    for settings in (other, {"beta_schedule": "squaredcos_cap_v2"}):
        pipeline.scheduler = DDIMScheduler(**settings)
        task = ClassDiffusion(**schedule_of(pipeline))
        torch.testing.assert_close(task.alphas_cumprod.float(), pipeline.scheduler.alphas_cumprod)


def test_defaults_of_a_schedule_are_its_classes(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "PNDMScheduler"}')
    assert schedule_of(folder) == {"timesteps": 1000, "schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def test_what_is_predicted_is_told_where_the_task_allows_several(pipeline: Any, folder: Path) -> None:
    from diffusers import DDIMScheduler

    both = ("epsilon", "v_prediction")
    assert schedule_of(pipeline, both) == {**schedule_of(pipeline), "prediction": "epsilon"}
    pipeline.scheduler = DDIMScheduler(prediction_type="v_prediction")
    assert schedule_of(pipeline, both)["prediction"] == "v_prediction"
    with pytest.raises(ModelError, match="predicts 'v_prediction', as its scheduler says; only noise"):
        schedule_of(pipeline)
    pipeline.scheduler = DDIMScheduler(prediction_type="sample")
    with pytest.raises(ModelError, match=r"only noise \('epsilon'\) and velocity \('v_prediction'\) can be"):
        schedule_of(pipeline, both)
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "PNDMScheduler"}')
    assert schedule_of(folder, both)["prediction"] == "epsilon"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction_type": "v_prediction"}, "predicts 'v_prediction', as its scheduler says; only noise"),
        ({"trained_betas": [0.1, 0.2]}, "has trained_betas in its configuration, which is not supported"),
        ({"rescale_betas_zero_snr": True}, "has rescale_betas_zero_snr in its configuration"),
        ({"beta_schedule": "sigmoid", "_class_name": "DDPMScheduler"}, "has the schedule 'sigmoid'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler has no schedule of β"),
    ],
)
def test_other_diffusions_are_refused(settings: dict[str, Any], message: str, folder: Path) -> None:
    config = {"_class_name": "DDIMScheduler", **settings}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        schedule_of(folder)


def test_schedulers_that_cannot_be_read(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "MyScheduler"}')
    with pytest.raises(CheckpointError, match="is of an unknown scheduler, 'MyScheduler'"):
        schedule_of(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="scheduler_config.json cannot be read"):
        schedule_of(folder)


def test_the_module_of_a_pipeline_can_be_made_anew(pipeline: Any) -> None:
    fresh = fresh_denoiser(denoiser_of(pipeline))
    assert not same(fresh, pipeline.transformer)
    assert images(with_denoiser(pipeline, fresh.eval())).shape == (2, 3, 16, 16)
