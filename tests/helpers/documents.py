"""The pages of the repository as tests read them: their code, their commands, and the things that their code uses."""

import copy
import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

import helpers.shapes  # noqa: F401, makes the example's modules importable
import untrain
from helpers.small_pipelines import stable_diffusion, text_encoder, vae
from untrain.cli import COMMANDS
from untrain.diffusion.denoisers import build_denoiser
from untrain.runs.plan import read_memory
from untrain.runs.recipe import read

ROOT = Path(__file__).parents[2]
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
    from diffusers import DDIMScheduler, DiTPipeline

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
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = vae()
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
    pipeline = DiTPipeline(dit, autoencoder, DDIMScheduler(clip_sample=False))
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

    from parts import build_tokenizer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        (place / "tokenizer").mkdir()
        pipeline = stable_diffusion(place / "tokenizer")
        tokens = build_tokenizer(re.findall(r'"(an? [a-z ]+)"', page.read_text(encoding="utf-8")))
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
    monkeypatch.setattr(import_module("untrain.tasks.text_to_image.domain"), "ConceptImages", lambda: few)


def mean_loss(model, samples):
    x, y = next(iter(DataLoader(samples, len(samples))))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


def commands(path):
    """The shell commands of a page, continued lines joined."""
    code = "".join(each for language in ("", "sh") for each in blocks(path, language)).replace("\\\n", " ")
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
    if command == "plan":
        rest = [word for word in rest if word != "--json"]
        if "--memory" in rest:
            at = rest.index("--memory")
            assert read_memory(rest[at + 1])
            del rest[at : at + 2]
    if command in ("run", "train", "unlearn", "evaluate") and rest and rest[0].startswith("--"):
        assert read(None, rest).methods
    if rest and rest[0].endswith((".yaml", ".yml")):
        recipe = ROOT / rest[0]
        assert recipe.exists(), f"{rest[0]} is named in the documents, but is not there"
        assert read(recipe, rest[1:]).methods
