"""`untrain sample` on small models that diffusers saved: every form, prompts, going on, seeds, and what is refused."""

import errno
import io
import json
import os

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline
from PIL import Image
from untrain.sample_command import sample, sample_command

import untrain.io as io_of_files
from helpers.command_line import files, untrain
from helpers.documents import ROOT, commands
from helpers.small_pipelines import TEXTS, stable_diffusion
from untrain.diffusion.denoisers import build_denoiser
from untrain.diffusion.images import to_uint8
from untrain.diffusion.latents import decode
from untrain.engine import generator_of
from untrain.errors import CheckpointError, DataError, FolderError, ModelError, SettingError, UnknownName
from untrain.models.checkpoints import save
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion

QUICK = ("--steps", "3", "--device", "cpu")


def unet(channels=1):
    return build_denoiser(
        "unet-small", num_classes=4, in_channels=channels, image_size=8,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A UNet2DModel that was saved alone."""
    folder = tmp_path_factory.mktemp("models") / "unet"
    unet().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    """A DiTPipeline: latents 4×8×8, images 16×16, four classes, of which two have a name in common."""
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
    transformer = build_denoiser("dit-tiny", num_classes=4, in_channels=4, image_size=8, **small)
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **blocks)
    scheduler = DDIMScheduler(20, beta_end=0.3)
    folder = tmp_path_factory.mktemp("models") / "dit"
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {"0": "tench, Tinca tinca", "1": "crane", "2": "crane, machine", "3": "7"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def run(*words):
    sample_command([str(word) for word in words])


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_a_grid(saved, tmp_path, capsys):
    run(saved, "--classes", "3,1", "--count", "2", "--out", tmp_path / "a.png", *QUICK)
    assert pixels(tmp_path / "a.png").shape == (66, 66)
    assert capsys.readouterr().out == f"{tmp_path}/a.png: 4 images made.\n"
    record = json.loads((tmp_path / "a.png.samples.json").read_text())
    assert record["counts"] == {"3": 2, "1": 2}
    assert record["sampler"] == {"steps": 3, "eta": 0.0, "spacing": "uniform", "guidance_scale": 1.0}


def test_the_images_are_those_of_the_task(saved, tmp_path):
    """A folder, so that every image is alone; at most one level apart, as the batch is of another size."""
    words = ("--steps", "4", "--eta", "1", "--spacing", "quadratic", "--guidance", "0.5", "--seed", "7")
    run(saved, "--form", "folder", "--count", "1", "--out", tmp_path / "set", *words, "--device", "cpu")
    model, task = unet(), ClassDiffusion(num_classes=4, null_class=4)
    labels = torch.arange(4)
    expected = task.generate(
        model,
        task.blank(labels, (1, 8, 8)),
        [generator_of(7, "sample", c, 0) for c in range(4)],
        Sampler(4, 1.0, "quadratic", 0.5),
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
        assert path.read_bytes() == content or np.abs(pixels(path) - _decoded(content)).max() <= 1


def _decoded(content):
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


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
    path = sample(str(folder), steps=20, eta=1.0, count=1, out=str(tmp_path / "a.png"), device="cpu")
    record = json.loads((tmp_path / "a.png.samples.json").read_text())
    assert record["task"]["timesteps"] == 20 and record["task"]["beta_end"] == 0.3
    assert record["task"]["clip_samples"] is True
    assert pixels(path).shape == (4 * 32 + 6, 32, 3)
    with pytest.raises(SettingError, match="20 steps cannot be sampled in 21"):
        sample(str(folder), steps=21, out=str(tmp_path / "b.png"), device="cpu")


def test_latents_go_through_the_pipelines_vae(dit, tmp_path):
    run(dit, "--form", "folder", "--classes", "Tinca tinca,3", "--count", "1", "--out", tmp_path / "set", *QUICK)
    pipeline = DiTPipeline.from_pretrained(dit)
    task = ClassDiffusion(num_classes=4, null_class=4, timesteps=20, beta_end=0.3, clip_samples=False)
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
    with pytest.raises(UnknownName, match=r"called 'tensh'.*tench.*Known: 0 tench, Tinca tinca, 1 crane"):
        run(dit, "--classes", "tensh", "--out", tmp_path / "x.png", *QUICK)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A run's folder as far as this command looks at it by itself, and what was opened of it."""
    folder, opened = tmp_path / "run", []
    folder.mkdir()
    (folder / "config.yaml").write_text("name: run\ntask: class-diffusion\nmethods: {sfron: {}, salun: {}}\n")
    for name in ("original", "retrained", "sfron", "judge"):
        save(unet(), folder / f"{name}.safetensors")
    save({"x": torch.ones(1)}, folder / "sfron.mask.safetensors")

    def open_generator(path, name):
        opened.append((path, name))
        return unet(), ClassDiffusion(num_classes=4, null_class=4), (1, 8, 8), ("a", "b", "c", "d"), None

    monkeypatch.setattr("untrain.runs.stages.open_generator", open_generator, raising=False)
    return folder, opened


def test_models_of_a_run(run_folder):
    folder, opened = run_folder
    run(folder, "--count", "1", *QUICK)
    run(folder, "--model", "original", "--classes", "b,d", "--count", "1", *QUICK)
    assert opened == [(folder, "sfron"), (folder, "original")]
    assert sorted(path.name for path in (folder / "samples").glob("*.png")) == ["original.png", "sfron.png"]
    with pytest.raises(UnknownName, match="unknown model of .*'finetune'.*Known: original, retrained, sfron"):
        run(folder, "--model", "finetune", *QUICK)
    with pytest.raises(UnknownName, match="'judge'"):
        run(folder, "--model", "judge", *QUICK)


def test_a_run_of_several_methods_needs_a_name(run_folder):
    folder, _ = run_folder
    save(unet(), folder / "salun.safetensors")
    with pytest.raises(SettingError, match=r"several unlearned models \(sfron, salun\): choose one with --model"):
        run(folder, *QUICK)
    for name in ("sfron", "salun"):
        (folder / f"{name}.safetensors").unlink()
    with pytest.raises(SettingError, match="no unlearned model yet"):
        run(folder, *QUICK)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("--classes", "cat"), UnknownName, "none of the 4 classes is called 'cat'.*Known: 0, 1, 2, 3"),
        (("--classes", "4"), UnknownName, "called '4'"),
        (("--count", "0"), SettingError, "--count must be at least 1, not 0"),
        (("--batch-size", "0"), SettingError, "--batch-size must be at least 1, not 0"),
        (("--steps", "1001"), SettingError, "1000 steps cannot be sampled in 1001"),
        (("--eta", "2"), SettingError, "η in"),
        (("--form", "gif"), SettingError, "--form must be 'grid' or 'folder' or 'npz', not 'gif'"),
        (("--form", "npz"), SettingError, r"ends in \.npz"),
        (("--count", "three"), SettingError, "--count must be a whole number, not 'three'"),
        (("--counts", "3"), SettingError, "unknown flag '--counts'. Did you mean '--count'"),
        (("--eta",), SettingError, "expected one argument"),
        (("more",), SettingError, "unrecognized arguments: more"),
        (("--model", "original"), SettingError, "is none. Leave --model out"),
        (("--device", "cuda:99"), SettingError, "cannot be used"),
    ],
)
def test_bad_words(saved, tmp_path, words, error, message):
    with pytest.raises(error, match=message):
        run(saved, "--out", tmp_path / "a.png", *QUICK, *words)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_bad_sources(tmp_path):
    (tmp_path / "letters").mkdir()
    with pytest.raises(CheckpointError, match="neither a run folder nor one that diffusers saved"):
        run(tmp_path / "letters")
    with pytest.raises(CheckpointError, match="does not exist"):
        run(tmp_path / "missing")
    with pytest.raises(SettingError, match="give a SOURCE"):
        run("--count", "3")


def test_models_that_cannot_do_it(tmp_path):
    """Without classes, without a class for none of them, and latents without their VAE."""
    from diffusers import UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    small = {"sample_size": 8, "block_out_channels": (8,), "norm_num_groups": 4, **blocks}
    models = {
        "free": UNet2DModel(in_channels=1, out_channels=1, **small),
        "latent": build_denoiser(
            "dit-tiny",
            num_classes=4,
            in_channels=4,
            image_size=8,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
        ),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    with pytest.raises(ModelError, match="no embedding of classes"):
        run(tmp_path / "free", *QUICK)
    with pytest.raises(SettingError, match="give the whole pipeline with its VAE"):
        run(tmp_path / "latent", *QUICK)


def test_guidance_needs_a_class_for_none(run_folder, monkeypatch):
    folder, _ = run_folder
    opened = unet(), ClassDiffusion(num_classes=5, drop=0.0), (1, 8, 8), tuple("abcde"), None
    monkeypatch.setattr("untrain.runs.stages.open_generator", lambda path, name: opened)
    with pytest.raises(SettingError, match="guidance needs a model that was trained with dropped classes"):
        run(folder, "--guidance", "1", *QUICK)


def test_out_that_holds_something_else(saved, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(FolderError, match="something else.* Choose another --out"):
        run(saved, "--form", "folder", "--out", tmp_path, *QUICK)
    run(saved, "--form", "folder", "--count", "1", "--out", tmp_path / "set", *QUICK)
    with pytest.raises(FolderError, match="seed differs. Choose another --out"):
        run(saved, "--form", "folder", "--count", "1", "--out", tmp_path / "set", "--seed", "1", *QUICK)


# Prompts.


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    """A StableDiffusionPipeline of single letters, in float32: images of 16×16, a window of 24 tokens."""
    pipeline = stable_diffusion(tmp_path_factory.mktemp("tokenizer"))
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.float()
    folder = tmp_path_factory.mktemp("models") / "small-sd"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text(
        f'\ufeffprompt,case_number,evaluation_seed,evaluation_guidance,,\n"{TEXTS[0]}",7,123,3.0,,\n{TEXTS[1]},9,,,,\n',
        encoding="utf-8",
    )
    return path


def test_prompts_of_a_table(sd, table, tmp_path, capsys):
    """The table's seed and guidance are diffusers' own; the other prompt has what the flags say."""
    from diffusers import StableDiffusionPipeline

    words = (sd, "--prompts", table, "--guidance", "2", "--count", "2", "--out", tmp_path / "set", *QUICK)
    run(*words)
    assert capsys.readouterr().out == f"{tmp_path}/set: 4 images made.\n"
    assert files(tmp_path / "set") == ["7_0.png", "7_1.png", "9_0.png", "9_1.png", "samples.json"]
    record = json.loads((tmp_path / "set/samples.json").read_text())
    assert record["sampler"] == {"steps": 3, "guidance_scale": 3.0, "width": None, "height": None, "seed": 0}
    pipeline = StableDiffusionPipeline.from_pretrained(sd)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(123)
    (image,) = pipeline(TEXTS[0], num_inference_steps=3, guidance_scale=3.0, generator=generator).images
    assert np.abs(pixels(tmp_path / "set/7_0.png") - np.asarray(image)).max() <= 1
    run(*words, "--batch-size", "1")
    assert capsys.readouterr().out == f"{tmp_path}/set: 0 images made, 4 were there.\n"


def test_prompts_without_out_and_of_another_size(sd, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(sd, "--prompts", table, "--width", "24", "--height", "32", *QUICK)
    assert pixels("samples/small-sd/9_0.png").shape == (32, 24, 3)


def test_seeds_of_prompts(sd, table, tmp_path):
    """The table's seed stays; the other prompt's follows the flag."""
    for seed in (0, 1):
        run(sd, "--prompts", table, "--seed", seed, "--out", tmp_path / str(seed), *QUICK)
    same, other = (pixels(tmp_path / "0" / name) - pixels(tmp_path / "1" / name) for name in ("7_0.png", "9_0.png"))
    assert not same.any() and np.abs(other).max() > 5


def test_a_disk_that_fills(sd, table, tmp_path, monkeypatch):
    """What is whole stays, nothing half is left, the exit code says so, and the same command goes on."""
    sync, done = os.fsync, []

    def full(handle):
        done.append(handle)
        if len(done) == 4:  # the record, two images
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    words = ("sample", sd, "--prompts", table, "--count", 2, "--batch-size", 3, "--out", tmp_path / "set", *QUICK)
    monkeypatch.setattr(io_of_files.os, "fsync", full)
    code, out, err = untrain(*words)
    monkeypatch.undo()
    assert (code, out) == (1, "")
    assert "9_0.png cannot be written: No space left on device. Free some space or choose another folder." in err
    assert files(tmp_path / "set") == ["7_0.png", "7_1.png", "samples.json"]
    code, out, err = untrain(*words)
    assert code == 0 and out.endswith("set: 2 images made, 2 were there.\n")


@pytest.mark.filterwarnings("default:.*longer than the text encoder")
def test_long_prompts_are_said_on_the_command_line(sd, tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt\na cat\n" + "a red circle " * 3 + "\n")
    code, _, err = untrain("sample", sd, "--prompts", path, "--out", tmp_path / "set", *QUICK)
    assert code == 0
    assert "untrain: warning: 1 of 2 prompts are longer than the text encoder's window and are cut" in err
    assert "case 1, line 3: 32 tokens" in err


@pytest.fixture
def text_run(sd, tmp_path):
    """The folder of a run of task text-to-image, as far as this command looks at it."""
    folder = tmp_path / "text-run"
    folder.mkdir()
    recipe = {
        "name": "text-run",
        "task": "text-to-image",
        "model": {"checkpoint": str(sd)},
        "methods": {"sfron": {}, "esd": {}},
        "concepts": {"forget": [{"prompt": TEXTS[0]}], "retain": [{"prompt": TEXTS[1]}]},
        "generation": {"sampler": {"steps": 4, "guidance_scale": 2.5}},
    }
    (folder / "config.yaml").write_text(json.dumps(recipe))
    (folder / "sfron").symlink_to(sd)
    return folder


def test_prompts_of_a_run(text_run, table, capsys):
    """As the run samples: its steps, and guidance in the scale of pipelines."""
    run(text_run, "--prompts", table, "--device", "cpu")
    record = json.loads((text_run / "samples/sfron/samples.json").read_text())
    assert (record["sampler"]["steps"], record["sampler"]["guidance"]) == (4, 2.5)
    run(text_run, "--prompts", table, "--model", "original", *QUICK)
    assert files(text_run / "samples/original") == ["7_0.png", "9_0.png", "samples.json"]
    with pytest.raises(UnknownName, match="unknown model of .*'esd'.*Known: original, sfron"):
        run(text_run, "--prompts", table, "--model", "esd", *QUICK)
    with pytest.raises(SettingError, match=r"a run of task text-to-image: .* --prompts FILE\.csv"):
        run(text_run, *QUICK)


def test_the_original_that_a_run_has_trained(text_run, sd, table):
    """Its recipe has no checkpoint; the manifest says where it was kept."""
    path = text_run / "config.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": {}, "data": {"name": "shapes"}}))
    words = (text_run, "--prompts", table, "--model", "original", *QUICK)
    with pytest.raises(CheckpointError, match="does not tell where its original pipeline is"):
        run(*words)
    (text_run / "manifest.json").write_text(json.dumps({"models": {"original": {"source": str(sd)}}}))
    run(*words)
    assert files(text_run / "samples/original") == ["7_0.png", "9_0.png", "samples.json"]


def test_a_run_of_classes_knows_no_prompts(run_folder, table):
    with pytest.raises(SettingError, match="run of task class-diffusion, which knows no prompts"):
        run(run_folder[0], "--prompts", table, *QUICK)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--classes", "1"), "--classes does not go with --prompts"),
        (("--eta", "1"), "--eta does not go with --prompts"),
        (("--spacing", "quadratic"), "--spacing does not go with --prompts"),
        (("--form", "npz"), "--form does not go with --prompts"),
        (("--width", "17"), "width must be a multiple of 8 pixels, not 17"),
        (("--steps", "0"), "steps ≥ 1"),
        (("--guidance", "-1"), "guidance ≥ 0"),
        (("--count", "0"), "--count must be at least 1"),
        (("--model", "original"), "is none. Leave --model out"),
    ],
)
def test_bad_words_with_prompts(sd, table, tmp_path, words, message):
    with pytest.raises(SettingError, match=message):
        run(sd, "--prompts", table, "--out", tmp_path / "set", *QUICK, *words)
    assert not (tmp_path / "set").exists()


def test_bad_tables_and_sources_of_prompts(sd, saved, dit, table, tmp_path):
    path = tmp_path / "bad.csv"
    for text, message in (("text\na\n", "no column called prompt"), ("prompt,x\na,1\n,2\n", "line 3: the prompt is")):
        path.write_text(text)
        code, _, err = untrain("sample", sd, "--prompts", path, "--out", tmp_path / "set", *QUICK)
        assert code == 1 and "bad.csv" in err and message in err
    with pytest.raises(DataError, match=r"missing\.csv cannot be read"):
        run(sd, "--prompts", tmp_path / "missing.csv", *QUICK)
    with pytest.raises(ModelError, match="a DiTPipeline; supported are StableDiffusionPipeline and StableDiffusionXL"):
        run(dit, "--prompts", table, "--out", tmp_path / "set", *QUICK)
    with pytest.raises(CheckpointError):
        run(saved, "--prompts", table, "--out", tmp_path / "set", *QUICK)
    with pytest.raises(SettingError, match=r"holds a StableDiffusionPipeline: .* --prompts FILE\.csv"):
        run(sd, "--out", tmp_path / "a.png", *QUICK)
    with pytest.raises(SettingError, match="--width goes with --prompts alone"):
        run(saved, "--width", "16", "--out", tmp_path / "a.png", *QUICK)
    assert not (tmp_path / "set").exists() and not (tmp_path / "a.png").exists()


# The page and the help.


PAGE = ROOT / "docs/sampling.md"


@pytest.mark.parametrize("words", [words for words in commands(PAGE) if words[0] == "untrain"], ids=" ".join)
def test_commands_of_the_page_run(words, dit, run_folder, sd, text_run, table, tmp_path, monkeypatch):
    """On small models in the place of the page's, in three steps."""
    monkeypatch.chdir(tmp_path)
    assert words[1] == "sample" and table == tmp_path / "prompts.csv"
    runs, folders = (text_run, sd) if "--prompts" in words else (run_folder[0], dit)
    source = runs if words[2].startswith("runs/") else folders
    run(source, *words[3:], "--count", "1", *QUICK)
    assert [path for path in tmp_path.rglob("*samples.json") if path.is_file()]


def test_help_explains_every_flag(capsys):
    sample_command(["--help"])
    text = capsys.readouterr().out
    for flag in (
        *("--model", "--classes", "--count", "--seed", "--steps", "--eta", "--spacing", "--guidance"),
        *("--batch-size", "--form", "--out", "--device", "--precision"),
        *("--prompts", "--width", "--height", "--config"),
    ):
        assert f"\n  {flag} " in text
    assert "(1 + s) ε(x, c) − s ε(x, ∅)" in text
