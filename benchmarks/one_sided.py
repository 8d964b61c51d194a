"""One-sided requests: half of a class is to be forgotten, and the other half stays.

    python benchmarks/one_sided.py --cifar10 FOLDER          # seeds 21 22 23, half an hour of a core
    python benchmarks/one_sided.py --data table --seeds 21   # one set that needs no folder

2,900 images, 150 of about 290 of one class to be forgotten, 400 held out. `small-cnn` knows Fashion-MNIST at 14×14 and
CIFAR-10 (FOLDER: parquet) at 16×16 by heart; the table is Fashion-MNIST's 7×7 pixels as columns of an MLP with
BatchNorm1d. What `untrain.unlearn` makes with a budget and no method, with and without held-out data, and SFR-on by its
name, beside three retrained models.
"""

import argparse
import copy
from dataclasses import dataclass
from statistics import mean

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

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

TRAINED, HELD_OUT, FORGOTTEN, EPOCHS, PEAK, BATCH = 2900, 400, 150, 30, 0.1, 128
CLASSES = {"fashion": 6, "cifar10": 3, "table": 6}
"""Data → the class of which half is forgotten: shirts, cats."""
ASKED: dict[str, dict[str, object]] = {
    "default": {},
    "sfron": {"method": "sfron"},
}


@dataclass(frozen=True)
class Work:
    """The sets of one seed; `forget` and `retain` together are the training set."""

    forget: TensorDataset
    retain: TensorDataset
    holdout: TensorDataset
    test: TensorDataset
    label: int

    def scores(self, module: nn.Module) -> list[float]:
        """Accuracy in % on forgotten samples, on test samples of their class, on retained and on test samples."""
        x, y = self.test.tensors
        mine = y == self.label
        sets = (self.forget.tensors, (x[mine], y[mine]), self.retain.tensors, (x, y))
        with torch.no_grad():
            return [100 * float((module.eval()(a).argmax(1) == b).float().mean()) for a, b in sets]


def tensors(name: str, part: str, folder: str | None) -> TensorDataset:
    """A set as numbers around 0, its images halved, for the table quartered."""
    if name == "cifar10":
        source = load("cifar10", part, path=folder, limit=6000 if part == "train" else 3000)
    else:
        source = load("fashion", part)
    images = F.avg_pool2d(source.input.float() / 255, 4 if name == "table" else 2).sub(0.3).div(0.33)
    return TensorDataset(images.flatten(1) if name == "table" else images, source.labels)


def divide(name: str, seed: int, folder: str | None) -> Work:
    """Draws the sets of a seed."""
    whole, test = (tensors(name, part, folder) for part in ("train", "test"))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1000 + seed))
    trained, held_out = order[:TRAINED], order[TRAINED : TRAINED + HELD_OUT]
    mine = whole.tensors[1][trained] == CLASSES[name]
    forget = trained[mine][:FORGOTTEN]
    retain = torch.cat([trained[mine][FORGOTTEN:], trained[~mine]])
    parts = (TensorDataset(*(t[rows] for t in whole.tensors)) for rows in (forget, retain, held_out))
    return Work(*parts, test, CLASSES[name])


def network(name: str, seed: int) -> nn.Module:
    """A new network."""
    if name != "table":
        return build("small-cnn", num_classes=10, in_channels=3 if name == "cifar10" else 1, seed=seed)
    torch.manual_seed(seed)
    layers = [(nn.Linear(n, 128), nn.BatchNorm1d(128), nn.ReLU()) for n in (49, 128)]
    return nn.Sequential(*(module for layer in layers for module in layer), nn.Linear(128, 10))


def train(name: str, data: TensorDataset, seed: int) -> tuple[nn.Module, int]:
    """A new network trained on a set, and its steps."""
    engine, task = Engine(torch.device("cpu")), Classification(num_classes=10)
    stream = Stream(data, "retain", engine, BATCH, seed)
    method = Retrain(epochs=EPOCHS, optimizer=Optimizer("sgd", PEAK, 0.9, 5e-4))
    done = run(method, Problem(Subject(network(name, seed)), task, stream, stream, seed=seed), engine)
    return done.state.module.eval(), done.method.total


def one(name: str, seed: int, folder: str | None, budget: float) -> dict[str, list[float]]:
    """What every model of a seed has right."""
    work = divide(name, seed, folder)
    both = TensorDataset(*(torch.cat(pair) for pair in zip(work.forget.tensors, work.retain.tensors, strict=True)))
    original, steps = train(name, both, 100 * seed)
    retrained = [work.scores(train(name, work.retain, 100 * seed + 50 + k)[0]) for k in range(3)]
    found = {"original": work.scores(original), "retrained": [mean(column) for column in zip(*retrained, strict=True)]}
    for asked, settings in ASKED.items():
        for held_out in (True, False):
            sets = {"forget": work.forget, "retain": work.retain} | ({"holdout": work.holdout} if held_out else {})
            result = untrain.unlearn(
                copy.deepcopy(original), **sets, **settings, budget=budget, train_steps=steps, seed=seed
            )
            found[f"{asked}, {'with' if held_out else 'no'} held-out data"] = work.scores(result.model)
    return found


def main() -> None:
    """Prints a table for each set: means over the seeds, and each seed's distance to the retrained models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=sorted(CLASSES), default=["fashion", "cifar10", "table"])
    parser.add_argument("--cifar10", metavar="FOLDER", help="CIFAR-10 as parquet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--budget", type=float, default=0.2)
    args = parser.parse_args()
    if "cifar10" in args.data and args.cifar10 is None:
        parser.error("cifar10 needs --cifar10 FOLDER; --data fashion table needs none.")
    for name in args.data:
        seeds = []
        for seed in args.seeds:
            seeds.append(one(name, seed, args.cifar10, args.budget))
            print(name, seed, {model: [round(v, 1) for v in found] for model, found in seeds[-1].items()}, flush=True)
        print(
            f"\n{name}, budget {args.budget:g}\n\n| model | forgotten | class, test | kept | test |\n"
            + "|---" * 5
            + "|"
        )
        for model in seeds[0]:
            cells = []
            for i in range(4):
                values = [found[model][i] for found in seeds]
                apart = mean(found[model][i] - found["retrained"][i] for found in seeds)
                cells.append(f"{mean(values):.1f}" + ("" if model == "retrained" else f" ({apart:+.1f})"))
            print(f"| {model} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
