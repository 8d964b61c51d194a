"""Our SFR-on beside the published algorithm as its authors run it: fidelity, and seconds of the processor.

    python benchmarks/side_by_side.py                                   # Fashion-MNIST, small-cnn
    python benchmarks/side_by_side.py --data cifar10 --path FOLDER      # 10,000 images, ResNet-20
    python benchmarks/side_by_side.py --seeds 0 --size 300 --epochs 3   # whether it runs

`publish` is the authors' algorithm in plain PyTorch, without this library's steps: the Fisher of batch means over all
data, one optimiser for both kinds of step, five retain steps to a forget step. It takes as many passes as theirs, whose
300 × 5 batches of 128 are 4.3 passes over 45,000 images. Ours runs with its defaults (nothing told, the learning rate
found), and with shares of its default steps. They take turns within each seed, every second seed in reverse order.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Subset

import untrain
from untrain.data.sources import load
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.methods.base import Optimizer, Problem
from untrain.methods.loop import run
from untrain.methods.retrain import Retrain
from untrain.models.classifiers import build
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification

ENGINE, BATCH, PEAK = Engine(torch.device("cpu")), 128, 0.1
PASSES = 300 * 5 * BATCH / 45_000
"""Passes over the retain set that the published run takes."""
SHARES = (0.1, 0.2, 0.3, 0.45, 0.7)
MEASURES = ("FA", "RA", "TA", "MIA", "AvgD", "KL")
PUBLISHED, DEFAULT = "published", "default"

Pair = tuple[Tensor, Tensor]


class Batches(Protocol):
    """What `publish` needs of a set."""

    def once(self) -> Iterator[Pair]:
        """Inputs and labels of every sample once, not augmented."""

    def batch(self, k: int) -> Pair:
        """Inputs and labels of the k-th batch of an endless chain, augmented."""


SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)


# ── the published algorithm ─────────────────────────────────────────────────────────────────────────────────────


def squared_batch_means(model: nn.Module, batches: Iterator[Pair]) -> list[Tensor]:
    """The mean over batches of the squared gradient of a batch's mean loss, in evaluation mode."""
    model.eval()
    squares, count = [torch.zeros_like(p) for p in model.parameters()], 0
    for x, y in batches:
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        for square, gradient in zip(squares, gradients, strict=True):
            square += gradient**2
        count += 1
    return [square / count for square in squares]


def publish(
    original: nn.Module,
    forget: Batches,
    retain: Batches,
    *,
    steps: int,
    retain_steps: int = 5,
    alpha: float = 25.0,
    lam: float = 0.5,
    gamma: float = 1.0,
    max_norm: float = 7.0,
    optimizer: Callable[..., torch.optim.Optimizer] = SGD,
    eps: float = 1e-15,
) -> nn.Module:
    """SFR-on as its authors run it, with their settings for CIFAR-10 and a random tenth; returns a copy.

    tests/benchmarks/test_side_by_side.py holds it to the reference vectors of their algorithm.
    """
    model = copy.deepcopy(original)
    f, r = (squared_batch_means(model, batches.once()) for batches in (forget, retain))
    mask = [a + eps >= gamma * (b + eps) for a, b in zip(f, r, strict=True)]
    parameters = list(model.parameters())
    chosen = optimizer(parameters)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(chosen, steps * retain_steps)
    model.train()
    for k in range(steps):
        x, y = forget.batch(k)
        losses = F.cross_entropy(model(x), y, reduction="none")
        weights = 1 / (losses.detach() ** lam + eps)
        scale = alpha * (1 + math.cos(math.pi * k / steps)) / 2
        chosen.zero_grad()
        (-scale * (weights * losses).sum() / weights.sum()).backward()
        for parameter, salient in zip(parameters, mask, strict=True):
            parameter.grad *= salient
        nn.utils.clip_grad_norm_(parameters, max_norm)
        chosen.step()
        for i in range(retain_steps):
            x, y = retain.batch(k * retain_steps + i)
            chosen.zero_grad()
            F.cross_entropy(model(x), y).backward()
            chosen.step()
            schedule.step()
    return model.eval()


# ── what both begin with ────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Drawn:
    """Batches of a stream, as the library draws them for both sides."""

    stream: Stream
    task: Classification

    def once(self) -> Iterator[Pair]:
        """Every sample once."""
        for batch in self.stream.once(self.task, "fisher"):
            yield batch["input"], batch["label"]

    def batch(self, k: int) -> Pair:
        """Batch k, augmented."""
        batch = self.stream.batch(k, self.task, "retain")
        return batch["input"], batch["label"]


@dataclass
class Start:
    """Models and sets of one seed: a tenth to forget, a tenth of the rest of the file held out."""

    task: Classification
    sets: dict[str, Subset]
    test: object
    models: dict[str, nn.Module]


def prepare(data: str, path: str | None, seed: int, size: int | None, epochs: int) -> Start:
    """An original and two models retrained on the retain set, 0.1 at the peak."""
    limit = size or {"fashion": None, "cifar10": 10_000}[data]
    train, test = (load(data, part, path=path, limit=limit, seed=seed) for part in ("train", "test"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    tenth = len(train) // 10
    parts = order.split([tenth, tenth, len(train) - 2 * tenth])
    sets = {n: Subset(train, p.tolist()) for n, p in zip(("holdout", "forget", "retain"), parts, strict=True)}
    pixels = train.input[parts[2]].float().div(255).movedim(1, 0).flatten(1)
    mean, std = (tuple(values.tolist()) for values in (pixels.mean(1), pixels.std(1)))
    task = Classification(10, mean, std, flip=data == "cifar10")
    both = Subset(train, torch.cat(parts[1:]).tolist())
    networks = {"fashion": ("small-cnn", 1), "cifar10": ("resnet20", 3)}

    def trained(samples: Subset, number: int) -> nn.Module:
        name, channels = networks[data]
        module = build(name, num_classes=10, in_channels=channels, seed=1000 * number + seed)
        stream = Stream(samples, "retain", ENGINE, BATCH, 1000 * number + seed)
        method = Retrain(epochs=epochs, optimizer=Optimizer("sgd", PEAK, 0.9, 5e-4))
        problem = Problem(Subject(module.to(memory_format=torch.channels_last)), task, stream, stream, seed=seed)
        return run(method, problem, ENGINE).state.module.eval()

    named = {"original": both, "retrained": sets["retain"], "retrained again": sets["retain"]}
    return Start(task, sets, test, {name: trained(s, k) for k, (name, s) in enumerate(named.items())})


# ── side by side ────────────────────────────────────────────────────────────────────────────────────────────────


def contenders(start: Start, seed: int, shares: Sequence[float]) -> dict[str, Callable[[], nn.Module]]:
    """What is compared, by name: each makes an unlearned model of the original."""
    original = start.models["original"]
    streams = {name: Stream(start.sets[name], name, ENGINE, BATCH, seed) for name in ("forget", "retain")}
    drawn = {name: Drawn(stream, start.task) for name, stream in streams.items()}
    published = math.ceil(PASSES * streams["retain"].epoch / 5)

    def ours(**settings: object) -> nn.Module:
        return untrain.unlearn(original, **start.sets, task=start.task, seed=seed, **settings).model

    whole = max(20, math.ceil(3.5 * streams["retain"].epoch / 3))  # as SFR-on's docstring says
    found = {PUBLISHED: partial(publish, original, drawn["forget"], drawn["retain"], steps=published), DEFAULT: ours}
    return found | {f"{share:.0%}": partial(ours, steps=math.ceil(share * whole)) for share in shares}


Figures = dict[str, dict[str, float | None]]


def measure(start: Start, seed: int, number: int, shares: Sequence[float]) -> Figures:
    """Fidelity and seconds of the processor of all contenders; they take turns."""
    chosen = contenders(start, seed, shares)
    order = list(chosen) if number % 2 == 0 else list(reversed(chosen))
    models, seconds = dict(start.models), dict[str, float]()
    for name in order:
        began = time.process_time()
        models[name] = chosen[name]()
        seconds[name] = time.process_time() - began
        print(f"seed {seed}, {name}: {seconds[name]:.1f} s", flush=True)
    sets = {"forget": start.sets["forget"], "retain": start.sets["retain"], "test": start.test}
    target, found = start.models["retrained"], Figures()
    for name, model in models.items():
        values = untrain.evaluate(model, **sets, task=start.task, reference=target)
        found[name] = {m: getattr(values, m) for m in MEASURES} | {"seconds": seconds.get(name)}
    return found


def cell(values: list[float | None], digits: int = 2) -> str:
    """Mean and standard deviation over seeds."""
    numbers = [v for v in values if v is not None]
    if len(numbers) < len(values):
        return "–"
    spread = f" ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.{digits}f}{spread}"


def share_to_reach(found: list[Figures], shares: Sequence[float]) -> list[str]:
    """Names of the contenders of ours whose mean Avg.D and KL are no worse than the published algorithm's."""

    def average(name: str, measure: str) -> float:
        return mean(float(each[name][measure] or 0.0) for each in found)

    ours = [f"{share:.0%}" for share in sorted(shares)] + [DEFAULT]
    return [n for n in ours if all(average(n, m) <= average(PUBLISHED, m) for m in ("AvgD", "KL"))]


def ratio(found: list[Figures], name: str) -> str:
    """Seconds beside the published algorithm's, seed by seed."""
    shares = [float(each[name]["seconds"] or 0.0) / float(each[PUBLISHED]["seconds"] or 0.0) for each in found]
    return f"{cell(list(shares))} of its time (by seed {', '.join(f'{s:.2f}' for s in shares)})"


def main() -> None:
    """Prints a table, and what it says of time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("fashion", "cifar10"), default="fashion")
    parser.add_argument("--path", help="folder of CIFAR-10's parquet files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, help="training images; default: 7,000 or 10,000")
    parser.add_argument("--epochs", type=int, default=30, help="of the original's training")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of our default's outer steps")
    args = parser.parse_args()
    found = []
    for number, seed in enumerate(args.seeds):
        start = prepare(args.data, args.path, seed, args.size, args.epochs)
        found.append(measure(start, seed, number, args.shares))
    columns = [*MEASURES, "seconds"]
    print("| model | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name in found[0]:
        print(f"| {name} | " + " | ".join(cell([f[name][c] for f in found]) for c in columns) + " |")
    print(f"the default takes {ratio(found, DEFAULT)}")
    reached = share_to_reach(found, args.shares)
    if reached:
        print(f"as near to the retrained model as published, in Avg.D and KL: {reached[0]}, {ratio(found, reached[0])}")
    else:
        print("none of ours came as near to the retrained model as the published one in both Avg.D and KL")


if __name__ == "__main__":
    main()
