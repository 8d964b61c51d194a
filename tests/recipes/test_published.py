"""recipes/published: every entry takes a few of its steps on a tiny network, and means what its comments say."""

import io
import json
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline
from PIL import Image
from torch import nn

import untrain
from helpers.command_line import untrain as command
from helpers.documents import ROOT
from helpers.small_generators import denoiser, pictures
from helpers.small_pipelines import stable_diffusion, vae
from helpers.text_recipes import save_judge
from untrain.diffusion.denoisers import build_denoiser
from untrain.methods.descent import Descent
from untrain.methods.selective_amnesia import SelectiveAmnesia
from untrain.methods.sfron import SFRon
from untrain.models.checkpoints import load_state
from untrain.runs.recipe import read
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.text_to_image.concepts import Concept

FOLDER = ROOT / "recipes/published"
RECIPES = {path.stem: read(path) for path in sorted(FOLDER.glob("*.yaml"))}
ENTRIES = [(stem, name) for stem, recipe in RECIPES.items() for name in recipe.methods]


def short(method):
    """The method with the fewest steps that show all of it."""
    if isinstance(method, SFRon):
        return replace(method, steps=2, retain_steps=1)
    if isinstance(method, SelectiveAmnesia):
        few = {"replay_samples": 6, "fisher_samples": 4, "fisher_timesteps": 2}
        return replace(method, steps=3, sampler=Sampler(2, 1.0, guidance_scale=3.0), **few)
    return replace(method, steps=3) if isinstance(method, Descent) else method


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip


def sets():
    g = torch.Generator().manual_seed(0)
    return {
        name: [(torch.randn(n, 3, 8, 8, generator=g), torch.randint(0, 10, (n,), generator=g))]
        for name, n in (("forget", 12), ("retain", 40))
    }


def given(recipe):
    """Model, sets and task of a small problem of a recipe's kind."""
    if recipe.task == "classification":
        return network(), sets(), recipe.task
    if recipe.task == "text-to-image":
        return pipeline_and_concepts(recipe)
    kind = "dit-learned" if recipe.sections.model.name is None else "unet"
    model, few = denoiser(kind), {"forget": pictures(8, 1, [2]), "retain": pictures(24, 2, [0, 1])}
    own = {"timesteps": 20, "beta_end": 0.3, "shift": 1}  # of three classes
    return model, few, ClassDiffusion(**asdict(recipe.sections.diffusion) | own)


def pipeline_and_concepts(recipe):
    """A tiny pipeline, and the recipe's concepts with a few images of each, under letters that it can write."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = stable_diffusion(Path(folder))
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=g)
    concepts = recipe.sections.concepts
    anchors = {each.anchor for each in concepts.forget} - {None}
    assert anchors <= {each.prompt for each in concepts.retain}, "what is redirected to is kept too"
    return pipe, {"forget": Concept("nude", images, "clothes"), "retain": Concept("clothes", images)}, recipe.task


@pytest.mark.parametrize(("stem", "name"), ENTRIES)
def test_every_entry_runs(stem, name):
    recipe = RECIPES[stem]
    method, (model, data, task) = short(recipe.methods[name]), given(recipe)
    if method.name == "esd":
        method = replace(method, sampler=replace(method.sampler, steps=2))
    result = untrain.unlearn(
        model, **data, task=task, method=method, init=network, device="cpu", batch_size=40, parts=recipe.parts
    )
    assert len(result.history) == result.method.total > 0
    before, after = (getattr(each, "unet", each) for each in (model, result.model))
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(moved)
    assert all(bool(torch.isfinite(p).all()) for p in after.parameters())
    changed = {f.name for f in fields(method) if getattr(result.method, f.name) != getattr(method, f.name)}
    found = {name for name in changed if getattr(method, name) is not None}
    assert found <= {"optimizer"}, "nothing but what the recipe left open is found for the user"
    if found:
        assert method.name == "salun"
        assert replace(method.optimizer, weight_decay=0.0) == result.method.optimizer
        assert any("weight decay" in note for note in result.notes)


def test_every_method_of_the_published_tables_is_there():
    cifar = {method.name for method in RECIPES["cifar10-resnet18"].methods.values()}
    paper = "finetune gradient-ascent random-label salun bad-teacher scrub neggrad-plus ssd l1-sparse sfron"
    assert cifar == set(paper.split()) <= untrain.methods().keys()
    tiny = {method.name for method in RECIPES["tiny-imagenet-swin"].methods.values()}
    assert tiny == cifar - {"l1-sparse", "ssd", "neggrad-plus"}
    ddpm = {method.name for method in RECIPES["ddpm-cifar10"].methods.values()}
    assert ddpm == {"sfron", "salun", "neggrad-plus", "selective-amnesia"}
    imagenette = {method.name for method in RECIPES["sd-imagenette"].methods.values()}
    assert imagenette == {"salun", "random-label", "proximal-gradient", "neggrad-plus"}


def test_scales_of_losses_are_those_of_sums_over_pixels():
    """tests/methods/test_published_losses.py says why."""
    methods, pixels = RECIPES["ddpm-cifar10"].methods, 3 * 32 * 32
    assert methods["salun"].balanced and methods["salun"].retain_weight == pytest.approx(1e-3 * pixels)
    assert methods["salun"].max_norm == pytest.approx(pixels / 2)
    assert methods["sfron-rl"].alpha == pytest.approx(10 / pixels, rel=1e-4)
    ascent = methods["salun-ga"]
    assert ascent.beta / (1 - ascent.beta) == pytest.approx(1e-3, rel=1e-5)
    assert ascent.max_norm == pytest.approx(1 - ascent.beta, rel=1e-6)
    for entry in ("gradient-ascent-retain", "gradient-ascent-mask"):
        imagenette = RECIPES["sd-imagenette"].methods[entry]
        assert imagenette.beta / (1 - imagenette.beta) == pytest.approx(0.1, rel=1e-4)


# The recipes of generators, whole, on tiny data and models.

TINY = ("--device", "cpu", "--judge.name", "small-cnn", "--judge.train.steps", "2", "--generation.samples", "2")
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def parquet(path, labels, size):
    """A table as the hub has them, with the names of CIFAR-10's classes."""
    import pyarrow
    import pyarrow.parquet

    g = np.random.default_rng(len(labels))
    rows = []
    for _ in labels:
        buffer = io.BytesIO()
        Image.fromarray(g.integers(0, 256, (size, size, 3), np.uint8)).save(buffer, format="PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    table = pyarrow.table({"img": rows, "label": labels})
    told = '{"info": {"features": {"label": {"names": ["' + '", "'.join(NAMES) + '"]}}}}'
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": told}), path)


def test_the_ddpm_recipe_forgets_on_a_few_images(tmp_path):
    for part, count in (("train", 40), ("test", 10)):
        parquet(tmp_path / f"{part}-00000-of-00001.parquet", [i % 10 for i in range(count)], 32)
    small = "{block_out_channels: [8, 8, 8, 8], norm_num_groups: 4, attention_head_dim: 8, layers_per_block: 1}"
    words = ["unlearn", FOLDER / "ddpm-cifar10.yaml", "--data.path", tmp_path, "--model.options", small, *TINY]
    words += ["--train.steps", "1", "--batch_size", "8", "--methods.sfron.steps", "20", "--out", tmp_path / "run"]
    recipe = tmp_path / "one.yaml"  # its SFR-on alone
    text = (FOLDER / "ddpm-cifar10.yaml").read_text()
    recipe.write_text(text[: text.index("  sfron-separate:")])
    words[1] = recipe
    code, _, err = command(*words)
    assert code == 0, err
    _, facts = load_state(tmp_path / "run/sfron.safetensors")
    assert (facts["settings"]["steps"], facts["settings"]["alpha"], facts["settings"]["fisher"]) == (20, 10, "batch")
    history = (tmp_path / "run/sfron.history.jsonl").read_text().splitlines()
    assert len(history) == 20
    assert 0 < facts["mask"]["density"] < 1


def tiny_dit(folder):
    """A DiTPipeline of random weights: two named classes more than the data have, latents 4×8×8 of 16×16 pixels."""
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "learned_variance": True}
    transformer = build_denoiser("dit-tiny", num_classes=4, in_channels=4, image_size=8, **small)
    torch.manual_seed(0)
    names = {0: "tench, Tinca tinca", 1: "goldfish", 2: "golden retriever", 3: "crane"}
    DiTPipeline(transformer, vae(), DDIMScheduler(clip_sample=False)).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": names}))


def test_the_dit_recipe_forgets_on_a_tiny_pipeline(tmp_path):
    g = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("Tinca tinca", "golden retriever"):
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(g.integers(0, 256, (16, 16, 3), np.uint8)).save(place / f"{i}.png")
    tiny_dit(tmp_path / "pipeline")
    words = ["unlearn", FOLDER / "dit-imagenet.yaml", "--data.name", "folder", "--data.path", tmp_path / "images"]
    words += ["--data.image_size", "16", "--workers", "0", "--model.checkpoint", tmp_path / "pipeline", *TINY]
    words += ["--forget.classes", "[golden retriever]", "--out", tmp_path / "run"]
    words += [word for name in RECIPES["dit-imagenet"].methods for word in (f"--methods.{name}.steps", "4")]
    words += ["--model.vae", "null", "--diffusion.shift", "1"]  # of the four classes that this one knows
    code, _, err = command(*words)
    assert code == 0, err
    saved = DiTPipeline.from_pretrained(tmp_path / "run/sfron")
    weights, facts = load_state(tmp_path / "run/sfron.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in saved.transformer.state_dict().items())
    assert facts["settings"]["objective"] == "ascent"
    assert facts["settings"]["retain_max_norm"] is None


def test_each_ablation_adds_one_part_to_the_one_before():
    ladder = RECIPES["cifar10-ablation"].methods
    assert list(ladder) == ["R", "R-on", "FR-on", "SFR-on"]
    parts = {
        "R-on": {"online": True, "steps": 300, "retain_steps": 5, "alpha": 1.0},
        "FR-on": {"objective": None, "alpha": 25.0},
        "SFR-on": {"gamma": 1.0, "fisher_samples": None},
    }
    before = ladder["R"]
    assert (before.online, before.objective, before.gamma) == (False, "ascent", None)
    for name, added in parts.items():
        now = ladder[name]
        different = {f.name for f in fields(now) if getattr(now, f.name) != getattr(before, f.name)}
        expected = {key: value for key, value in added.items() if getattr(before, key) != value}
        assert {key: getattr(now, key) for key in different} == expected, name
        before = now
    assert ladder["SFR-on"] == RECIPES["cifar10-resnet18"].methods["sfron"]
    assert ladder["R"].steps == ladder["R-on"].steps * ladder["R-on"].retain_steps, "as many retain batches"
    forgetting = [ladder[name].alpha * ladder[name].steps for name in ("R", "R-on")]
    assert forgetting[0] == pytest.approx(forgetting[1]), "as much forgetting"


class PerClass(untrain.Classification):
    """Divergences averaged over the classes, as the published code of bad-teacher has them."""

    def divergence(self, outputs, targets, temperature=1.0):
        return super().divergence(outputs, targets, temperature) / outputs.shape[1]


def test_a_tenth_of_the_rate_is_a_mean_over_ten_classes():
    """In float64, where only the order of multiplications differs."""
    methods = RECIPES["cifar10-resnet18"].methods
    double = {name: [(x.double(), y) for x, y in batches] for name, batches in sets().items()}
    ends = [
        untrain.unlearn(
            network().double(),
            **double,
            task=task,
            method=short(methods[name]),
            init=lambda: network().double(),
            device="cpu",
        )
        for task, name in ((PerClass(), "bad-teacher"), ("classification", "bad-teacher-tenth"))
    ]
    for a, b in zip(*(end.model.parameters() for end in ends), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


# The recipes of classifiers and text-to-image pipelines that have a method or two, whole.


@pytest.mark.parametrize("stem", ["cifar100-resnet18", "svhn-resnet18", "tiny-imagenet-vit"])
def test_a_classifiers_recipe_forgets_on_a_few_images(tmp_path, stem):
    test = "valid" if stem.startswith("tiny") else "test"
    for part, count in (("train", 60), (test, 20)):
        parquet(tmp_path / f"{part}-00000-of-00001.parquet", [i % 10 for i in range(count)], 16)
    words = ["run", FOLDER / f"{stem}.yaml", "--data.path", tmp_path, "--data.image_size", "20", "--device", "cpu"]
    words += ["--model.name", "small-cnn", "--model.options", "{}", "--train.steps", "2", "--workers", "0"]
    words += ["--batch_size", "16", "--methods.sfron.steps", "3", "--out", tmp_path / "run"]
    code, _, err = command(*words)
    assert code == 0, err
    _, facts = load_state(tmp_path / "run/sfron.safetensors")
    expected = RECIPES[stem].methods["sfron"]
    assert (facts["settings"]["alpha"], facts["settings"]["fisher"]) == (expected.alpha, "batch")
    models = json.loads((tmp_path / "run/evaluation.json").read_text())["models"]
    assert {"original", "retrained", "sfron"} <= set(models)


def test_the_stl10_recipe_forgets_on_a_few_images(tmp_path):
    for part, count in (("train", 40), ("test", 10)):
        parquet(tmp_path / f"{part}-00000-of-00001.parquet", [i % 10 for i in range(count)], 48)
    small = "{block_out_channels: [8, 8, 8, 8, 8], norm_num_groups: 4, attention_head_dim: 8, layers_per_block: 1}"
    words = ["unlearn", FOLDER / "ddpm-stl10.yaml", "--data.path", tmp_path, "--data.image_size", "32", *TINY]
    blocks = {
        name: RECIPES["ddpm-stl10"].sections.model.options[name] for name in ("down_block_types", "up_block_types")
    }
    assert [kind.startswith("Attn") for kind in blocks["down_block_types"]] == [False, False, True, False, False]
    words += ["--model.options", small[:-1] + "".join(f", {k}: [{', '.join(v)}]" for k, v in blocks.items()) + "}"]
    words += ["--train.steps", "1", "--batch_size", "8", "--method", "sfron", "--out", tmp_path / "run"]
    code, _, err = command(*words)
    assert code == 0, err


def test_the_imagenette_recipe_forgets_on_a_tiny_pipeline(tmp_path):
    place = tmp_path / "images"
    g = np.random.default_rng(0)
    for name in ("a", "b"):
        (place / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(g.integers(0, 256, (20, 17, 3), np.uint8)).save(place / name / f"{i}.png")
    stable_diffusion(tmp_path).to(torch.float32).save_pretrained(tmp_path / "pipe")
    save_judge(tmp_path / "judge.safetensors", ("circle", "square"))
    forget = f"[{{prompt: a red circle, anchor: a red square, label: circle, images: {place}/a}}]"
    retain = f"[{{prompt: a red square, label: square, images: {place}/b}}]"
    judge = f"{{name: small-cnn, checkpoint: {tmp_path}/judge.safetensors, classes: [circle, square], image_size: 16, "
    judge += "mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], options: {width: 4}}"
    words = ["run", FOLDER / "sd-imagenette.yaml", "--model.checkpoint", tmp_path / "pipe", "--device", "cpu"]
    words += ["--concepts.forget", forget, "--concepts.retain", retain, "--concepts.images.image_size", "16"]
    words += ["--concepts.images.sampler.steps", "2", "--judge", judge]
    words += ["--generation.features", "judge", "--detection.real_images", place]
    words += ["--generation.sampler.steps", "2", "--generation.samples", "2", "--out", tmp_path / "run"]
    words += [word for name in RECIPES["sd-imagenette"].methods for word in (f"--methods.{name}.steps", "2")]
    code, _, err = command(*words)
    assert code == 0, err
    models = json.loads((tmp_path / "run/evaluation.json").read_text())["models"]
    assert set(models) == {"original", *RECIPES["sd-imagenette"].methods}
    assert all((tmp_path / f"run/detections/{name}.csv").is_file() for name in models)
    _, facts = load_state(tmp_path / "run/gradient-ascent-mask.safetensors")
    assert facts["mask"]["density"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("stem", ["sd-nudity", "sd-esd"])
def test_a_recipe_with_nudenet_forgets_on_a_tiny_pipeline(tmp_path, stem):
    stable_diffusion(tmp_path).to(torch.float32).save_pretrained(tmp_path / "pipe")
    words = ["run", FOLDER / f"{stem}.yaml", "--model.checkpoint", tmp_path / "pipe", "--device", "cpu"]
    words += ["--concepts.forget", "[{prompt: a red circle, anchor: a red square}, a blue cross]"]
    words += ["--concepts.retain", "[a red square]", "--concepts.images.count", "2", "--detection.clip", "null"]
    words += ["--concepts.images.sampler.steps", "2", "--generation.sampler.steps", "2", "--generation.samples", "2"]
    words += ["--methods.esd.steps", "2", "--methods.esd.sampler.steps", "2", "--out", tmp_path / "run"]
    words += ["--methods.sfron.steps", "2"] if stem == "sd-nudity" else []
    code, _, err = command(*words)
    assert code == 0, err
    content = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert content["detector"]["threshold"] == 0.0 and content["sampler"]["solver"] == "lms"
    assert set(content["models"]) == {"original", *RECIPES[stem].methods}
