"""Samples of generators of classes: every form, going on, seeds, a run's models, and what is refused."""

import io
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler, DiTPipeline, UNet2DModel
from PIL import Image
from torch.utils.data import TensorDataset

from helpers.command_line import untrain
from helpers.pretrained_classifiers import classifier
from helpers.tiny_recipes import DIT, RECIPE, SMALL, dit_pipeline, save_unet
from untrain import Optimizer, unlearn
from untrain.diffusion.denoisers import build_denoiser
from untrain.diffusion.images import to_uint8
from untrain.diffusion.latents import decode
from untrain.engine import generator_of
from untrain.errors import CheckpointError, FolderError, ModelError, SettingError, UnknownName
from untrain.models.checkpoints import load_state, save
from untrain.runs.sampling import sample_command
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.domain import ClassDiffusionDomain
from untrain.tasks.class_diffusion.sample import sample_classes
from untrain.tasks.class_diffusion.task import ClassDiffusion

QUICK = ("--steps", "3", "--device", "cpu")


def unet(channels=1):
    return build_denoiser("unet-small", num_classes=4, in_channels=channels, image_size=8, **SMALL)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A UNet2DModel that was saved alone."""
    folder = tmp_path_factory.mktemp("models") / "unet"
    unet().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    """A DiTPipeline: latents 4×8×8, images 16×16, four classes, of which two have a name in common."""
    folder = tmp_path_factory.mktemp("models") / "dit"
    dit_pipeline().save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {"0": "tench, Tinca tinca", "1": "crane", "2": "crane, machine", "3": "7"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def run(*words):
    return sample_command([str(word) for word in words])


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_a_classifier_makes_no_images(tmp_path):
    classifier("vit").save_pretrained(tmp_path / "vit")
    assert not ClassDiffusionDomain.recognises(tmp_path / "vit")
    with pytest.raises(CheckpointError, match="ViTForImageClassification, a model of transformers"):
        run(tmp_path / "vit", *QUICK)


def test_a_grid(saved, tmp_path, capsys):
    assert ClassDiffusionDomain.recognises(saved)
    assert run(saved, "--classes", "3,1", "--count", "2", "--out", tmp_path / "a.png", *QUICK) == tmp_path / "a.png"
    assert pixels(tmp_path / "a.png").shape == (66, 66)
    assert capsys.readouterr().out == f"{tmp_path}/a.png: 4 images made.\n"
    record = json.loads((tmp_path / "a.png.samples.json").read_text())
    assert record["counts"] == {"3": 2, "1": 2}
    assert record["sampler"] == asdict(Sampler(3))


def test_the_images_are_those_of_the_task(saved, tmp_path):
    """A folder, so that every image is alone; at most one level apart, as the batch is of another size."""
    words = ("--steps", "4", "--eta", "1", "--spacing", "quadratic", "--guidance-scale", "1.5", "--seed", "7")
    run(saved, "--form", "folder", "--count", "1", "--out", tmp_path / "set", *words, "--device", "cpu")
    model, task = unet(), ClassDiffusion(num_classes=4, null_class=4)
    labels = torch.arange(4)
    expected = task.generate(
        model,
        task.blank(labels, (1, 8, 8)),
        [generator_of(7, "sample", c, 0) for c in range(4)],
        Sampler(4, 1.0, "quadratic", 1.5),
    )
    for c in range(4):
        difference = pixels(tmp_path / f"set/{c}/000000.png") - to_uint8(expected[c, 0]).numpy()
        assert np.abs(difference).max() <= 1


def test_a_folder_goes_on(saved, tmp_path, capsys):
    words = (saved, "--form", "folder", "--classes", "all", "--count", "3", "--out", tmp_path / "set", *QUICK)
    run(*words)
    before = {path: path.read_bytes() for path in (tmp_path / "set").glob("*/*.png")}
    assert len(before) == 12
    for path in list(before)[::4]:
        path.unlink()
    run(*words, "--batch-size", "12")
    assert capsys.readouterr().out.endswith("set: 3 images made, 9 were there.\n")
    for path, content in before.items():
        assert path.read_bytes() == content or np.abs(pixels(path) - pixels(io.BytesIO(content))).max() <= 1


def test_arrays(saved, tmp_path):
    run(saved, "--form", "npz", "--count", "2", "--batch-size", "3", "--out", tmp_path / "set.npz", *QUICK)
    with np.load(tmp_path / "set.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (8, 8, 8, 3)
        assert arrays["arr_1"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_seeds(saved, tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        run(saved, "--count", "1", "--seed", seed, "--out", tmp_path / f"{name}.png", *QUICK)
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert np.array_equal(a, b)
    assert np.abs(a - c).max() > 20


def test_without_out_it_is_written_here(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(saved, "--count", "1", *QUICK)
    assert (tmp_path / "samples/unet.png").exists()


def test_a_pipeline_says_its_diffusion(tmp_path):
    """Twenty steps of its own schedule, which differs from the default; more are refused."""
    folder = tmp_path / "ddpm"
    DDPMPipeline(unet(3), DDPMScheduler(20, beta_end=0.3)).save_pretrained(folder)
    path = sample_classes(str(folder), steps=20, eta=1.0, count=1, out=str(tmp_path / "a.png"), device="cpu")
    record = json.loads((tmp_path / "a.png.samples.json").read_text())
    assert record["task"]["timesteps"] == 20 and record["task"]["beta_end"] == 0.3
    assert record["task"]["clip_samples"] is True
    assert pixels(path).shape == (4 * 32 + 6, 32, 3)
    with pytest.raises(SettingError, match="20 .*21"):
        sample_classes(str(folder), steps=21, out=str(tmp_path / "b.png"), device="cpu")


def test_latents_go_through_the_pipelines_vae(dit, tmp_path):
    run(dit, "--form", "folder", "--classes", "Tinca tinca,3", "--count", "1", "--out", tmp_path / "set", *QUICK)
    pipeline = DiTPipeline.from_pretrained(dit)
    task = ClassDiffusion(
        num_classes=4, null_class=4, timesteps=20, beta_end=0.3, clip_samples=False, learned_variance=True
    )
    generators = [generator_of(0, "sample", c, 0) for c in (0, 3)]
    latents = task.generate(pipeline.transformer, task.blank(torch.tensor([0, 3]), (4, 8, 8)), generators, Sampler(3))
    expected = decode(pipeline.vae, latents).permute(0, 2, 3, 1).numpy()
    for name, wanted in zip(("tench, Tinca tinca", "7"), expected):
        assert np.abs(pixels(tmp_path / f"set/{name}/000000.png") - wanted).max() <= 1
    assert json.loads((tmp_path / "set/samples.json").read_text())["decoder"]


def test_classes_by_name(dit, tmp_path):
    """A whole name comes before a number, and a number before nothing at all."""
    for i, (words, counts) in enumerate(
        [
            ("crane", {"1": 1}),
            ("machine", {"2": 1}),
            ("tench, Tinca tinca", {"0": 1}),
            ("7, 0", {"3": 1, "0": 1}),
            ("2,2,1", {"2": 1, "1": 1}),
        ]
    ):
        run(dit, "--classes", words, "--count", "1", "--out", tmp_path / f"{i}.png", *QUICK)
        assert json.loads((tmp_path / f"{i}.png.samples.json").read_text())["counts"] == counts
    with pytest.raises(UnknownName, match="'tensh'.*tench.*0 tench, Tinca tinca, 1 crane"):
        run(dit, "--classes", "tensh", "--out", tmp_path / "x.png", *QUICK)


# Models of run folders.


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """The folder of a recipe's run with original, retrained and unlearned model, and a judge."""
    place = tmp_path_factory.mktemp("run")
    (place / "tiny.yaml").write_text(RECIPE)
    for command in ("train", "unlearn"):
        code, _, err = untrain(command, place / "tiny.yaml", "--out", place / "run", "--evaluate_every", "0")
        assert code == 0, err
    save({"x": torch.ones(1)}, place / "run/judge.safetensors", {})
    return place / "run"


@pytest.fixture
def run_folder(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


def test_models_of_a_run(run_folder):
    run(run_folder, "--count", "1", "--device", "cpu")
    run(run_folder, "--model", "original", "--classes", "1,3", "--count", "1", *QUICK)
    assert sorted(path.name for path in (run_folder / "samples").glob("*.png")) == ["original.png", "sfron.png"]
    paths = {name: run_folder / f"samples/{name}.png.samples.json" for name in ("original", "sfron")}
    records = {name: json.loads(path.read_text()) for name, path in paths.items()}
    for name, record in records.items():
        assert record["weights"] == load_state(run_folder / f"{name}.safetensors")[1]["hash"]
        assert (record["task"]["timesteps"], record["task"]["beta_end"]) == (20, 0.3)
    assert records["sfron"]["sampler"] == asdict(Sampler(3, guidance_scale=1.5))
    assert records["original"]["counts"] == {"1": 1, "3": 1}
    with pytest.raises(UnknownName, match="'finetune'.*original, retrained, sfron"):
        run(run_folder, "--model", "finetune", *QUICK)
    with pytest.raises(UnknownName, match="'judge'"):
        run(run_folder, "--model", "judge", *QUICK)


def test_a_run_of_several_methods_needs_a_name(run_folder):
    content = yaml.safe_load((run_folder / "config.yaml").read_text())
    content["methods"]["finetune"] = {"method": "finetune"}
    (run_folder / "config.yaml").write_text(yaml.safe_dump(content))
    shutil.copy(run_folder / "sfron.safetensors", run_folder / "finetune.safetensors")
    with pytest.raises(SettingError, match=r"finetune, sfron.*--model"):
        run(run_folder, *QUICK)
    for name in ("sfron", "finetune"):
        (run_folder / f"{name}.safetensors").unlink()
    with pytest.raises(SettingError, match="no unlearned model.*--model"):
        run(run_folder, *QUICK)


def images(count, labels, size, channels):
    g = torch.Generator().manual_seed(count)
    x = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=g)
    return TensorDataset(x, torch.tensor(labels).repeat(count)[:count])


@pytest.mark.parametrize("kind", ["pipeline", "module"])
def test_a_model_unlearned_in_python_is_sampled_from_its_folder(kind, tmp_path):
    """As one sampled in memory by hand, with the schedule that it was unlearned on."""
    if kind == "pipeline":
        model, task, shape = dit_pipeline(), "class-diffusion", (16, 3)
    else:
        model, task, shape = unet(), ClassDiffusion(timesteps=20, beta_end=0.3), (8, 1)
    sets = {"forget": images(4, [3], *shape), "retain": images(12, [0, 1, 2], *shape)}
    quick = {"steps": 2, "batch_size": 4, "optimizer": Optimizer("adam", 1e-3), "device": "cpu"}
    result = unlearn(model, **sets, task=task, out=tmp_path / "run", **quick)
    run(tmp_path / "run", "--count", "1", "--classes", "3", "--form", "folder", *QUICK)
    record = json.loads((tmp_path / "run/samples/sfron/samples.json").read_text())
    assert (record["task"]["timesteps"], record["task"]["beta_end"]) == (20, 0.3)
    (path,) = (tmp_path / "run/samples/sfron").glob("*/*.png")
    known = {"num_classes": 4, "null_class": 4, "timesteps": 20, "beta_end": 0.3}
    own = ClassDiffusion(**known, clip_samples=kind == "module", learned_variance=kind == "pipeline")
    module = result.model.transformer if kind == "pipeline" else result.model
    noise, blank = [generator_of(0, "sample", 3, 0)], own.blank(torch.tensor([3]), (shape[1], 8, 8))
    if kind == "pipeline":
        blank = own.blank(torch.tensor([3]), (4, 8, 8))
    made = own.generate(module, blank, noise, Sampler(3))
    made = decode(result.model.vae, made) if kind == "pipeline" else to_uint8(made)
    assert np.abs(pixels(path) - made[0].permute(1, 2, 0).numpy().squeeze()).max() <= 1
    with pytest.raises(SettingError, match=str(tmp_path / "run")):
        run(tmp_path / "run", "--model", "original", *QUICK)


# What is refused.


@pytest.mark.parametrize(
    ("words", "error", "culprit"),
    [
        (("--classes", "cat"), UnknownName, "'cat'.*0, 1, 2, 3"),
        (("--classes", "4"), UnknownName, "'4'"),
        (("--count", "0"), SettingError, "--count.*0"),
        (("--batch-size", "0"), SettingError, "--batch-size.*0"),
        (("--steps", "1001"), SettingError, "1000 .*1001"),
        (("--eta", "2"), SettingError, "η.*2"),
        (("--form", "gif"), SettingError, "--form.*gif"),
        (("--form", "npz"), SettingError, r"\.npz"),
        (("--count", "three"), SettingError, "--count.*'three'"),
        (("--counts", "3"), SettingError, "'--counts'.*'--count'"),
        (("--eta",), SettingError, "--eta"),
        (("more",), SettingError, "'more'"),
        (("--model", "original"), SettingError, "--model"),
        (("--device", "cuda:99"), SettingError, "cuda:99"),
        (("--width", "16"), SettingError, "--width"),
    ],
)
def test_bad_words(saved, tmp_path, words, error, culprit):
    with pytest.raises(error, match=culprit):
        run(saved, "--out", tmp_path / "a.png", *QUICK, *words)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_models_that_cannot_do_it(tmp_path):
    """Without classes, and latents without their VAE."""
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    small = {"sample_size": 8, "block_out_channels": (8,), "norm_num_groups": 4, **blocks}
    UNet2DModel(in_channels=1, out_channels=1, **small).save_pretrained(tmp_path / "free")
    latent = build_denoiser("dit-tiny", num_classes=4, in_channels=4, image_size=8, **DIT)
    latent.save_pretrained(tmp_path / "latent")
    with pytest.raises(ModelError, match="UNet2DModel.*classes"):
        run(tmp_path / "free", *QUICK)
    with pytest.raises(SettingError, match="4 channels.*VAE"):
        run(tmp_path / "latent", *QUICK)


def test_guidance_needs_a_class_for_none(tmp_path):
    """Ten rows for ten classes: none is left for “no class”."""
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    save_unet(tmp_path / "unet", classes=9)  # and a tenth row
    words = ("--model.checkpoint", tmp_path / "unet", "--model.name", "null", "--model.options", "{}")
    words += ("--generation.sampler.guidance_scale", "1", "--methods.sfron.steps", "1", "--out", tmp_path / "run")
    code, _, err = untrain("unlearn", tmp_path / "tiny.yaml", *words)
    assert code == 0, err
    run(tmp_path / "run", "--count", "1", *QUICK)
    with pytest.raises(SettingError, match="guidance"):
        run(tmp_path / "run", "--guidance-scale", "2", "--out", tmp_path / "a.png", *QUICK)
    assert not (tmp_path / "a.png").exists()


def test_out_that_holds_something_else(saved, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(FolderError, match=str(tmp_path)):
        run(saved, "--form", "folder", "--out", tmp_path, *QUICK)
    run(saved, "--form", "folder", "--count", "1", "--out", tmp_path / "set", *QUICK)
    with pytest.raises(FolderError, match="seed differs"):
        run(saved, "--form", "folder", "--count", "1", "--out", tmp_path / "set", "--seed", "1", *QUICK)


def test_a_folder_of_anything_else_is_no_source(tmp_path):
    (tmp_path / "letters").mkdir()
    for name in ("letters", "missing"):
        with pytest.raises(CheckpointError, match=name):
            run(tmp_path / name)
