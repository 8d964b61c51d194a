"""What methods leave of forgotten samples at a small share of the training's cost: a pilot of a few minutes.

    python benchmarks/traces.py                               # Fashion-MNIST at 14×14, seed 1, a fifth of the training
    python benchmarks/traces.py --data digits --seeds 2 3 --budgets 0.1 0.2 0.4
    python benchmarks/traces.py --data cifar10 --path FOLDER --methods shrink-sfron "shrink-sfron keep=0.4 split=1"
    python benchmarks/traces.py --data cifar10 --path FOLDER --not-ours --sizes 3000 1000 400 --epochs 40

Twins of `small-cnn`, or of the network without batch normalisation that `not_ours.py` trains itself, are trained on a
base that all keep and on the samples of a pool that coins give them; each method is told to forget these, at the same
cost. The audit's attack on outputs and on the last layer then says what is left of the originals' advantage (without
relearning, which would take longer than the rest), and accuracies stand beside those of models that were retrained on
the base alone.
"""

import argparse
import copy
import json
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Subset, TensorDataset

import untrain
from untrain import methods
from untrain.data.sources import load
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.methods.base import Method, Optimizer, Problem
from untrain.methods.loop import run
from untrain.methods.retrain import Retrain
from untrain.models.classifiers import build
from untrain.models.subject import Subject
from untrain.tasks.classification.signals import ask_classifier
from untrain.tasks.classification.task import Classification

BATCH = 128
ENGINE, TASK = Engine(torch.device("cpu")), Classification(num_classes=10)
SIZES = {"fashion": (1000, 800, 200), "digits": (300, 300, 100), "cifar10": (4000, 1400, 600)}
"""Samples of base, pool and held-out set."""
METHODS = ("finetune", "sfron", "shrink-perturb", "shrink-sfron")
GROUPS = ("outputs", "inside", "exposed")
DIVISORS = {"fashion": 255, "digits": 16, "cifar10": 255}


@dataclass(frozen=True)
class Setting:
    """What a pilot is made of.

    Attributes:
        data: name of the set.
        path: its folder, where it needs one.
        sizes: samples of base, pool and held-out set.
        epochs: passes of a training.
        peak: its largest learning rate; None: the network and its training are those of `not_ours.py`, which tells
            the library how long it was, and no rate.
        halved: whether images larger than 8×8 are taken at half their size.
    """

    data: str
    path: str | None
    sizes: tuple[int, ...]
    epochs: float
    peak: float | None
    halved: bool = True

    def tensors(self, part: str) -> TensorDataset:
        """A set as numbers around 0."""
        source = load(self.data, part, path=self.path)
        images = source.input.float() / DIVISORS[self.data]
        if self.halved and self.data != "digits":
            images = F.avg_pool2d(images, 2)
        return TensorDataset(images.sub(0.3).div(0.33), source.labels)

    @property
    def optimizer(self) -> Optimizer:
        """Of every training."""
        return Optimizer("sgd", self.peak, 0.9, 5e-4)


@dataclass(frozen=True)
class Pilot:
    """Twins and retrained models of one seed.

    Attributes:
        setting: what it was made of.
        sets: "base", "pool", "holdout" and "test".
        coins: whether twin k was trained on sample x, bool [K, N].
        originals: the twins.
        retrained: models of the base alone.
        steps: steps of a twin's training.
    """

    setting: Setting
    sets: dict[str, TensorDataset]
    coins: np.ndarray
    originals: list[nn.Module]
    retrained: list[nn.Module]
    steps: int

    def forget(self, k: int) -> Subset:
        """Returns what twin k is told to forget."""
        return Subset(self.sets["pool"], np.flatnonzero(self.coins[k]).tolist())


def train(setting: Setting, data: TensorDataset, seed: int) -> tuple[nn.Module, int]:
    """A new network trained on a set, and its steps."""
    if setting.peak is None:
        from not_ours import train as train_theirs

        return train_theirs(data, seed, round(setting.epochs)), round(setting.epochs) * -(-len(data) // BATCH)
    module = build("small-cnn", num_classes=10, in_channels=data.tensors[0].shape[1], seed=seed)
    stream = Stream(data, "retain", ENGINE, BATCH, seed)
    method = Retrain(epochs=setting.epochs, optimizer=setting.optimizer)
    done = run(method, Problem(Subject(module), TASK, stream, stream, seed=seed), ENGINE)
    return done.state.module.eval(), done.method.total


def make(setting: Setting, seed: int, twins: int, references: int) -> Pilot:
    """Trains everything of one seed."""
    whole, test = (setting.tensors(part) for part in ("train", "test"))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1000 + seed))
    parts = order[: sum(setting.sizes)].split(list(setting.sizes))
    named = zip(("base", "pool", "holdout"), parts, strict=True)
    sets = {n: TensorDataset(*(t[part] for t in whole.tensors)) for n, part in named} | {"test": test}
    coins = np.random.default_rng(77 + seed).random((twins, len(sets["pool"]))) < 0.5
    originals, steps = [], 0
    for k in range(twins):
        given = torch.from_numpy(np.flatnonzero(coins[k]))
        both = zip(sets["base"].tensors, (t[given] for t in sets["pool"].tensors), strict=True)
        module, steps = train(setting, TensorDataset(*(torch.cat(pair) for pair in both)), 100 * seed + k)
        originals.append(module)
    retrained = [train(setting, sets["base"], 100 * seed + 50 + k)[0] for k in range(references)]
    return Pilot(setting, sets, coins, originals, retrained, steps)


Signals = dict[str, np.ndarray]


def ask(pilot: Pilot, models: list[nn.Module]) -> tuple[Signals, dict[str, float], list[np.ndarray]]:
    """Signals [K, N] by name, mean accuracies in %, and which samples of the pool each model has right."""
    streams = {n: Stream(pilot.sets[n], n, ENGINE, BATCH if n == "base" else 500) for n in ("pool", "base", "test")}
    told = [ask_classifier(model, TASK, streams, ENGINE, num_classes=10, rate=None) for model in models]
    signals = {n: np.stack([each.signals[n] for each in told]) for n in told[0].signals}
    return (
        signals,
        {n: float(np.mean([t.scores[n] for t in told])) for n in ("base", "test")},
        [t.correct for t in told],
    )


def method_of(text: str, budget: float, steps: int) -> Method:
    """The method that "NAME key=value …" says, at this share of a training of so many steps; values are JSON."""
    name, *pairs = text.split()
    settings = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in pairs)}
    takes = {each.name for each in fields(methods.find(name))}
    cost = {"budget": budget} if "budget" in takes else {"steps": max(1, round(budget * steps))}
    return methods.make(name, cost | settings)


def unlearn(pilot: Pilot, k: int, text: str, budget: float) -> nn.Module:
    """What a method makes of twin k, told the rate and length of its training as a checkpoint tells them."""
    sets = {"forget": pilot.forget(k), "retain": pilot.sets["base"], "holdout": pilot.sets["holdout"]}
    streams = {name: Stream(data, name, ENGINE, BATCH, k) for name, data in sets.items()}
    module = copy.deepcopy(pilot.originals[k])
    subject = Subject(module, peak_lr=pilot.setting.peak, train_steps=pilot.steps)
    method = method_of(text, budget, pilot.steps)
    return run(method, Problem(subject, TASK, **streams, seed=k), ENGINE).state.module.eval()


def rows(pilot: Pilot, budgets: list[float], chosen: list[str]) -> list[str]:
    """The table of one seed."""
    first, _, _ = ask(pilot, pilot.originals)
    never, target, _ = ask(pilot, pilot.retrained)
    audit = untrain.audit_scores(first, pilot.coins, first, retrained=never)
    found = [row("original", "", pilot, pilot.originals, first, target)]
    control = audit.original.control if audit.original else None
    print(f"p of retrained models: {control.p if control else None}", flush=True)
    for budget in budgets:
        for name in chosen:
            models = [unlearn(pilot, k, name, budget) for k in range(len(pilot.originals))]
            found.append(row(name, f"{budget:.0%}", pilot, models, first, target))
            print(found[-1], flush=True)
    return found


def row(name: str, budget: str, pilot: Pilot, models: list[nn.Module], first: Signals, target: dict[str, float]) -> str:
    """One method's line of the table."""
    signals, scores, correct = ask(pilot, models)
    groups = untrain.audit_scores(signals, pilot.coins, first).traces.groups
    found = [groups.get(name) for name in GROUPS]
    left = [f"{each.auc:.3f}" + ("" if each.left is None else f" ({each.left:.2f})") if each else "" for each in found]
    known, unseen = (
        100 * np.mean([c[given if mine else ~given].mean() for c, given in zip(correct, pilot.coins, strict=True)])
        for mine in (True, False)
    )
    kept = [f"{scores[n] - target[n]:+.1f}" for n in ("base", "test")]
    return f"| {name} | {budget} | " + " | ".join([*left, f"{known:.1f} / {unseen:.1f}", *kept]) + " |"


def main() -> None:
    """Prints a table for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SIZES), default="fashion")
    parser.add_argument("--path", help="folder of the data, where they do not come with a package")
    parser.add_argument("--sizes", type=int, nargs=3, help="samples of base, pool and held-out set")
    parser.add_argument("--whole", action="store_true", help="images at their own size, not at half of it")
    parser.add_argument("--not-ours", action="store_true", help="network and training of not_ours.py, for CIFAR-10")
    parser.add_argument("--epochs", type=float, default=25)
    parser.add_argument("--peak", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.2])
    parser.add_argument("--methods", nargs="+", metavar='"NAME key=value"', default=METHODS)
    parser.add_argument("--twins", type=int, default=8)
    parser.add_argument("--references", type=int, default=4)
    args = parser.parse_args()
    peak, halved = (None, False) if args.not_ours else (args.peak, not args.whole)
    setting = Setting(args.data, args.path, tuple(args.sizes or SIZES[args.data]), args.epochs, peak, halved)
    for seed in args.seeds:
        pilot = make(setting, seed, args.twins, args.references)
        table = rows(pilot, args.budgets, args.methods)
        columns = ("method", "budget", *GROUPS, "forgotten / unseen", "base", "test")
        print(f"\nseed {seed}: AUC (share of the originals' advantage that is left)\n")
        print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
        print("\n".join(table))


if __name__ == "__main__":
    main()
