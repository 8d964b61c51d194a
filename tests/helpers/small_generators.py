"""Small generators and problems for the tests of methods on them, in float64."""

from functools import cache

import torch
from torch import nn
from torch.utils.data import TensorDataset

from untrain.data.streams import Stream
from untrain.diffusion.denoisers import build_denoiser
from untrain.engine import Engine
from untrain.methods.base import Problem
from untrain.models.subject import Subject
from untrain.tasks.class_diffusion.task import ClassDiffusion

UNET = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
DIT = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
TASK = ClassDiffusion(timesteps=20, beta_end=0.3)


def denoiser(kind="unet", seed=0, **options):
    """A tiny UNet, a tiny DiT, or one that learns its variance, of three classes and "no class" on 8×8 images."""
    name, settings = ("unet-small", UNET) if kind == "unet" else ("dit-tiny", DIT)
    settings = {**settings, **({"learned_variance": True} if kind == "dit-learned" else {}), **options}
    return build_denoiser(name, num_classes=3, in_channels=1, image_size=8, seed=seed, **settings).double()


def pictures(count, seed, labels):
    """Images [count, 1, 8, 8] of each class's own stripes, and their labels, which come in turns."""
    g = torch.Generator().manual_seed(seed)
    y = torch.tensor(labels).repeat(count)[:count]
    wave = torch.sin(torch.arange(8, dtype=torch.float64)[None] * (y[:, None] + 1))
    x = 0.7 * wave[:, None, None, :].expand(count, 1, 8, 8)
    return TensorDataset(x + 0.1 * torch.randn(count, 1, 8, 8, generator=g, dtype=torch.float64), y)


def problem(model, task=TASK, *, forget=12, retain=30, batch_size=6, seed=0):
    """Class 2 is to be forgotten, 0 and 1 to be retained."""
    engine = Engine(torch.device("cpu"))
    sets = {"forget": pictures(forget, 1, [2]), "retain": pictures(retain, 2, [0, 1])}
    streams = {name: Stream(data, name, engine, batch_size, seed) for name, data in sets.items()}
    first = streams["forget"].batch(0, task, "evaluate")
    subject = Subject(model, init=lambda: type(model).from_config(model.config).double())
    return Problem(subject, task.prepare(model, first), **streams, seed=seed), engine


# A generator that really generates: four points in four dimensions.

CENTRES = 0.7 * torch.tensor([[1, 1, -1, -1], [-1, 1, 1, -1], [1, -1, 1, -1], [-1, -1, -1, 1]], dtype=torch.float64)
POINTS = ClassDiffusion(timesteps=50, beta_end=0.25)


class Points(nn.Module):
    """Noise of [B, 4, 1, 1] from x, the timestep and the class."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.class_embedding = nn.Embedding(5, 24)
        self.time = nn.Linear(8, 24)
        self.layers = nn.Sequential(
            nn.Linear(52, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 4)
        )
        self.double()

    def forward(self, x, t, class_labels):
        angles = t[:, None].to(x.dtype) / 50 * torch.tensor([1, 3, 9, 27], dtype=x.dtype)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        return self.layers(torch.cat([x.flatten(1), time, self.class_embedding(class_labels)], 1)).view_as(x)


def points(count, seed, labels):
    """[count, 4, 1, 1] around the centres of classes that come in turns."""
    g = torch.Generator().manual_seed(seed)
    y = torch.tensor(labels).repeat(count)[:count]
    x = CENTRES[y] + 0.1 * torch.randn(count, 4, generator=g, dtype=torch.float64)
    return TensorDataset(x[:, :, None, None], y)


def points_problem(model, batch_size=64):
    """Class 3 is to be forgotten."""
    engine = Engine(torch.device("cpu"))
    sets = {"forget": points(200, 1, [3]), "retain": points(600, 2, [0, 1, 2])}
    streams = {name: Stream(data, name, engine, batch_size) for name, data in sets.items()}
    task = POINTS.prepare(model, streams["forget"].batch(0, POINTS, "evaluate"))
    return Problem(Subject(model, init=Points), task, **streams), engine


@cache
def trained_points(steps=1500):
    """A generator of all four classes; one for all tests, who take copies."""
    model = Points()
    stream = Stream(points(800, 3, [0, 1, 2, 3]), "train", Engine(torch.device("cpu")), 128)
    task = POINTS.prepare(model, stream.batch(0, POINTS, "evaluate"))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for k in range(steps):
        optimizer.zero_grad()
        task.loss(model, stream.batch(k, task, "train")).mean().backward()
        optimizer.step()
        schedule.step()
    return model


def recognised(model, task, sampler, count=64):
    """Share of each class's samples that lie nearest to their class's centre and near it, by class."""
    shares = []
    for label in range(4):
        batch = task.blank(torch.full((count,), label), (4, 1, 1))
        batch["input"] = batch["input"].double()
        generators = [torch.Generator().manual_seed(1000 * label + i) for i in range(count)]
        made = task.generate(model, batch, generators, sampler).flatten(1)
        distances = torch.cdist(made, CENTRES)
        near = (distances.argmin(1) == label) & (distances[:, label] < 0.6)
        shares.append(float(near.double().mean()))
    return shares
