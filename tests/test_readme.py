"""The README is run as it is written: its Python on a model and data that are not ours, its commands by their parts."""

import copy
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

import untrain
from small_pipelines import stable_diffusion, text_encoder
from untrain.cli import COMMANDS
from untrain.diffusion.denoisers import build_denoiser
from untrain.runs.recipe import read
from untrain.small_pipeline import tokenizer_of

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_BLOCK = re.compile(r"(?:<!-- (?P<mark>\w+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path, language, mark=None):
    """The fenced blocks of a page in one language; with a mark, those alone that stand under `<!-- MARK -->`."""
    found = [m for m in _BLOCK.finditer(path.read_text(encoding="utf-8")) if m["language"] == language]
    return [m["code"] for m in found if mark is None or m["mark"] == mark]


class Net(nn.Module):
    """A user's network: two convolutions, group norm, dropout, a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Dropout(0.1),
        )  # fmt: skip
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, x):
        return self.head(self.body(x))


def fitted(samples, epochs=8):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for x, y in DataLoader(samples, 64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


@cache
def trained():
    """Sets and models as a user has them: scikit-learn's digits, 1,000 to train on, 100 of them to forget."""
    digits = load_digits()
    inputs = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    data = TensorDataset(inputs, torch.tensor(digits.target))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    parts = {"forget": order[:100], "retain": order[100:1000], "holdout": order[1000:1300], "test": order[1300:]}
    sets = {f"{name}_set": Subset(data, indices) for name, indices in parts.items()}
    model = fitted(ConcatDataset([sets["forget_set"], sets["retain_set"]]))
    return {**sets, "model": model, "retrained": fitted(sets["retain_set"])}


def users_things():
    """A namespace with the names that the README uses; the models are copies."""
    things = trained()
    return {name: copy.deepcopy(value) if isinstance(value, nn.Module) else value for name, value in things.items()}


@cache
def trained_generator():
    """A tiny UNet, a tiny pipeline around a transformer, images of three kinds of stripes, and who tells them apart."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(40)
    wave = torch.sin(torch.arange(16)[None] * (labels[:, None] + 1.0) / 2)
    images = 0.7 * wave[:, None, None, :] + 0.1 * torch.randn(120, 3, 16, 16, generator=generator)
    data = TensorDataset(images.clamp(-1, 1), labels)
    known = {"num_classes": 3, "image_size": 16}
    small = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
    unet = build_denoiser("unet-small", in_channels=3, seed=0, **known, **small).eval()
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
    dit = build_denoiser("dit-tiny", in_channels=4, seed=0, **{**known, "image_size": 8}, **small).eval()
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16, **blocks)
        layers = nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
        classifier = nn.Sequential(*layers)
    adam = torch.optim.Adam(classifier.parameters(), 3e-2)
    for _ in range(100):
        adam.zero_grad()
        nn.functional.cross_entropy(classifier(data.tensors[0]), labels).backward()
        adam.step()
    sets = {
        "forget_set": Subset(data, [i for i in range(120) if labels[i] == 2]),
        "retain_set": Subset(data, [i for i in range(120) if labels[i] != 2]),
    }
    pipeline = DiTPipeline(dit, vae, DDIMScheduler(clip_sample=False))
    return {**sets, "model": unet, "pipeline": pipeline, "classifier": classifier}


def generator_things():
    """A namespace with the names that pages about generators use; the modules are copies."""
    things = trained_generator()
    return {**things, **{name: copy.deepcopy(things[name]) for name in ("model", "pipeline", "classifier")}}


def text_to_image_things(page, place):
    """Saves a tiny pipeline where a page loads one from, and images; the texts of the page's concepts are its words.

    A namespace with nothing in it is given: pages on text-to-image load what they need.
    """
    from diffusers import DDIMScheduler
    from PIL import Image

    with torch.random.fork_rng():
        torch.manual_seed(0)
        (place / "tokenizer").mkdir()
        pipeline = stable_diffusion(place / "tokenizer")
        tokens = tokenizer_of(re.findall(r'"(an? [a-z ]+)"', page.read_text(encoding="utf-8")))
        schedule = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
        pipeline.register_modules(tokenizer=tokens, text_encoder=text_encoder(tokens, 12), scheduler=schedule)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.float()
    pipeline.save_pretrained(place / "path/to/stable-diffusion")
    images = place / "path/to/images"
    images.mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(images / f"{i}.png")
    return {"model": None}


def few_images(monkeypatch):
    """Of concepts without images, few are made: the default is a thousand."""
    few = untrain.ConceptImages(count=6, sampler=untrain.Sampler(steps=3, guidance_scale=7.5), batch_size=6)
    monkeypatch.setattr("untrain.given.ConceptImages", lambda: few)


def mean_loss(model, samples):
    x, y = next(iter(DataLoader(samples, len(samples))))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


def test_the_python_of_the_readme_does_what_it_says(capsys):
    code, *others = blocks(README, "python")
    assert len(others) == 2, "the README has three blocks of Python, and every one must be run"
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    things = users_things()
    before = copy.deepcopy(things["model"].state_dict())
    exec(compile(code, "README.md", "exec"), things)
    model, result, scores = things["model"], things["result"], things["scores"]

    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert type(result.model) is Net
    assert not result.model.training
    forget, test = things["forget_set"], things["test_set"]
    aim = mean_loss(things["retrained"], forget)
    gaps = [abs(mean_loss(m, forget) - aim) for m in (model, result.model)]
    assert gaps[1] < 0.8 * gaps[0], "by default the forget set comes nearer to what retraining makes of it"
    assert mean_loss(result.model, test) < 1.5 * mean_loss(model, test), "and what is new is treated as before"
    assert scores.RA > 98
    printed = capsys.readouterr().out
    assert f"forget {scores.FA:.1f} %" in printed
    assert f"Avg.D {scores.AvgD:.2f}" in printed


def test_the_python_of_the_readme_for_generators(capsys, monkeypatch, tmp_path):
    from diffusers import DiTPipeline

    monkeypatch.chdir(tmp_path)
    _, code, _ = blocks(README, "python")
    things = {"untrain": untrain, **generator_things()}
    pipeline = things["pipeline"]
    before = copy.deepcopy(pipeline.transformer.state_dict())
    exec(compile(code, "README.md", "exec"), things)
    result, scores = things["result"], things["scores"]

    assert all(torch.equal(before[name], tensor) for name, tensor in pipeline.transformer.state_dict().items())
    assert type(result.model) is DiTPipeline
    assert len(result.history) == 50
    saved = DiTPipeline.from_pretrained(tmp_path / "unlearned").transformer.state_dict()
    made = result.model.transformer.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in made.items())
    assert any(not torch.equal(before[name], tensor) for name, tensor in made.items())
    assert scores.samples == {"forgotten": 250, "retained": 500}
    assert f"forgotten class {scores.FA:.1f} %" in capsys.readouterr().out


def test_the_python_of_the_readme_for_text_to_image(monkeypatch, tmp_path):
    from diffusers import StableDiffusionPipeline

    monkeypatch.chdir(tmp_path)
    few_images(monkeypatch)
    *_, code = blocks(README, "python")
    things = {"untrain": untrain, **text_to_image_things(README, tmp_path)}
    exec(compile(code, "README.md", "exec"), things)
    pipe, result = things["pipe"], things["result"]

    original = StableDiffusionPipeline.from_pretrained(tmp_path / "path/to/stable-diffusion").unet.state_dict()
    assert all(torch.equal(original[name], tensor) for name, tensor in pipe.unet.state_dict().items())
    assert type(result.model) is StableDiffusionPipeline
    assert len(result.history) == 100
    assert (result.method.objective, result.method.retain_steps) == ("redirect", 1)
    saved = StableDiffusionPipeline.from_pretrained(tmp_path / "sd-without-nudity").unet.state_dict()
    moved = {name for name, tensor in saved.items() if not torch.equal(tensor, original[name])}
    assert all(torch.equal(saved[name], tensor) for name, tensor in result.model.unet.state_dict().items())
    assert moved and all(".attn2." in name for name in moved), "cross-attention alone"
    losses = [record["forget_loss"] for record in result.history]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10]), "what is drawn of the prompt nears what is drawn of its anchor"


def test_the_same_seed_gives_the_same_result():
    """Whatever other code drew before: the network has dropout."""
    ends = []
    for noise in (1, 2):
        things = users_things()
        sets = {name: things[f"{name}_set"] for name in ("forget", "retain", "holdout")}
        torch.manual_seed(noise)
        ends.append(untrain.unlearn(things["model"], **sets, steps=2, seed=5).model.state_dict())
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())


def commands(path):
    """The shell commands of a page, continued lines joined."""
    code = "".join(blocks(path, "")).replace("\\\n", " ")
    return [shlex.split(line) for line in code.splitlines() if line.strip()]


def check_untrain(words):
    """A command of `untrain` exists, and its recipe is there and takes its flags."""
    command, *rest = words
    assert command in COMMANDS, words
    rest = [word for word in rest if word not in ("--resume", "--help")]
    if command == "compare" and "--jobs" in rest:
        at = rest.index("--jobs")
        assert int(rest[at + 1]) > 0
        del rest[at : at + 2]
    if command in ("run", "train", "unlearn", "evaluate") and rest and rest[0].startswith("--"):
        assert read(None, rest).methods
    if rest and rest[0].endswith((".yaml", ".yml")):
        recipe = ROOT / rest[0]
        assert recipe.exists(), f"{rest[0]} is named in the documents, but is not there"
        assert read(recipe, rest[1:]).methods


@pytest.mark.parametrize("words", [w for w in commands(README) if w[0] == "untrain"], ids=" ".join)
def test_commands_of_the_readme_can_be_run(words):
    check_untrain(words[1:])


def test_make_targets_of_the_readme_exist():
    targets = [words[1] for words in commands(README) if words[0] == "make"]
    assert {"demo", "test"} <= set(targets)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{re.escape(target)}\s*:", makefile, re.MULTILINE), f"make {target} is not in the Makefile"


def test_every_command_of_the_readme_is_checked_here():
    assert {words[0] for words in commands(README)} == {"make", "untrain"}
