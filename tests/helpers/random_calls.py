"""Calls of the public Python functions with arguments drawn at random, right and wrong ones mixed.

Every call must end in success or in an `UntrainError`. What a call writes, it writes into the current folder.
"""

import datetime
import decimal
import warnings
from collections import UserDict, deque
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import untrain
from untrain.data.columns import Columns
from untrain.data.samples import Arrays
from untrain.methods import METHODS

FEATURES, CLASSES = 6, 3


class OwnError(Exception):
    """What a user's own code raises."""


class HostileError(Exception):
    def __str__(self):
        raise OwnError("no message either")


class Hostile:
    """Raises whatever is asked of it."""

    def __repr__(self):
        raise OwnError("repr")

    __str__ = __repr__

    def __eq__(self, other):
        raise OwnError("eq")

    __hash__ = None

    def __bool__(self):
        raise OwnError("bool")


ANYTHING = (
    lambda: None,
    lambda: "x",
    lambda: "",
    lambda: "../x",
    lambda: "a/b",
    lambda: "a\x00b",
    lambda: "\ud800",
    lambda: b"x",
    lambda: 0,
    lambda: -1,
    lambda: 1,
    lambda: 2**63,
    lambda: 2**64,
    lambda: 1.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: True,
    lambda: False,
    list,
    dict,
    lambda: (),
    object,
    lambda: len,
    lambda: np.int64(3),
    lambda: np.float32(0.5),
    lambda: np.array([1, 2]),
    lambda: np.bool_(True),
    lambda: torch.tensor(1),
    lambda: torch.tensor([1.0, 2.0]),
    lambda: torch.device("meta"),
    lambda: int,
    lambda: Path("x"),
    lambda: Path("a\x00b"),
    Hostile,
    lambda: [Hostile()],
    lambda: nn.Linear(2, 2),
    set,
    lambda: (i for i in range(3)),
    lambda: datetime.date(2020, 1, 1),
    lambda: decimal.Decimal("0.5"),
    lambda: 1j,
    lambda: "long " * 10000,
    lambda: 10**5000,
    lambda: -(10**400),
    lambda: ["x", 3],
    lambda: {"x": 1},
    lambda: {3: "x"},
    lambda: range(4),
    lambda: bytearray(b"x"),
    lambda: slice(3),
    lambda: OwnError,
    lambda: "ü" * 300,
)
"""Values that hardly any argument can be."""


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────────────


def mlp(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 4), *layers, nn.ReLU(), nn.Linear(4, CLASSES))


class Forward(nn.Module):
    """A network whose forward pass does something else."""

    def __init__(self, change=lambda outputs: outputs, after=0, only_in_training=False):
        super().__init__()
        self.inner, self.change, self.after, self.only_in_training = mlp(), change, after, only_in_training
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        outputs = self.inner(x)
        if self.calls <= self.after or (self.only_in_training and not self.training):
            return outputs
        return self.change(outputs)


def raising(error):
    def change(outputs):
        raise error

    return change


class NoDeepcopy(Forward):
    def __deepcopy__(self, memo):
        raise OwnError("there can be but one")


class TwoArguments(nn.Linear):
    def forward(self, x, y):
        return super().forward(x)


def with_nan(module):
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] = float("nan")
    return module


def with_integers(module):
    module.counts = nn.Parameter(torch.arange(3), requires_grad=False)
    return module


def mixed(module):
    module[-1].double()
    return module


GOOD_MODELS = (
    mlp,
    mlp,
    mlp,
    lambda: mlp(nn.BatchNorm1d(4)),
    lambda: mlp(nn.Dropout()),
    lambda: mlp(nn.LayerNorm(4)),
)
ODD_MODELS = (
    lambda: mlp().to("meta"),
    lambda: mixed(mlp()),
    lambda: mlp().double(),
    lambda: mlp().half(),
    lambda: mlp().bfloat16(),
    lambda: with_integers(mlp()),
    lambda: nn.Sequential(nn.Flatten()),
    nn.Identity,
    lambda: with_nan(mlp()),
    lambda: mlp().requires_grad_(False),
    lambda: nn.Sequential(nn.LazyLinear(CLASSES)),
    lambda: Forward(raising(OwnError("mine"))),
    lambda: Forward(raising(OwnError()), after=3),
    lambda: Forward(raising(HostileError()), only_in_training=True),
    lambda: Forward(raising(KeyError("x"))),
    lambda: Forward(raising(StopIteration()), after=2),
    lambda: Forward(lambda y: None),
    lambda: Forward(lambda y: "x"),
    lambda: Forward(lambda y: (y, y)),
    lambda: Forward(lambda y: y.sum()),
    lambda: Forward(lambda y: y[:1], after=1),
    lambda: Forward(lambda y: y[:, :0]),
    lambda: Forward(lambda y: y.detach()),
    lambda: Forward(lambda y: y.long()),
    lambda: Forward(lambda y: y * float("inf"), after=2),
    lambda: Forward(lambda y: y.to(torch.complex64)),
    lambda: Forward(lambda y: {"logits": y}),
    lambda: Forward(lambda y: y.half()),
    lambda: Forward(lambda y: y.to("meta")),
    NoDeepcopy,
    lambda: TwoArguments(FEATURES, CLASSES),
    lambda: mlp().to(torch.complex64),
    lambda: nn.DataParallel(mlp()),
    lambda: mlp,
    lambda: nn.Linear,
    lambda: mlp().state_dict(),
    lambda: [mlp()],
    lambda: "resnet18",
    nn.Module,
    lambda: nn.Linear(FEATURES, 1),
    lambda: nn.Embedding(3, 3),
    lambda: nn.Linear(5, CLASSES),
    nn.ParameterList,
)


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────


def tensors(count=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, FEATURES, generator=g), torch.randint(0, CLASSES, (count,), generator=g)


class Records(Dataset):
    """A map-style data set of functions: its length, and what sample i is."""

    def __init__(self, sample=None, size=lambda: 12, seed=0):
        self.x, self.y = tensors(12, seed)
        self.sample, self.size = sample or (lambda x, y, i: (x, y)), size

    def __len__(self):
        return self.size()

    def __getitem__(self, i):
        return self.sample(self.x[i], self.y[i], i)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(*tensors(), strict=True))


class OwnTensors(TensorDataset):
    """Gives other samples than the tensors that it holds."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x.flip(0), y


class Batching(Records):
    """Has something of its own by the name of `batch`, as data sets of Hugging Face have."""

    def batch(self, batch_size):
        return self


def fail(error):
    raise error


def batches(change=lambda x, y, k: (x, y), count=3):
    return [change(*tensors(4, k), k) for k in range(count)]


def good_data(seed):
    x, y = tensors(12, seed)
    return (
        *(lambda: TensorDataset(x, y), lambda: Records(seed=seed), lambda: batches(count=2 + seed % 2)),
        *(lambda: Subset(TensorDataset(x, y), [0, 3, 5]), lambda: Arrays(x, y), lambda: OwnTensors(x, y)),
        *(
            lambda: Columns({"input": x, "label": y}),
            lambda: Records(lambda x, y, i: {"input": x, "label": y}, seed=seed),
        ),
        *(lambda: Records(lambda x, y, i: (x.numpy(), int(y)), seed=seed), lambda: Batching(seed=seed)),
        *(lambda: DataLoader(TensorDataset(x, y), 4).dataset, lambda: TensorDataset(x, y.int())),
    )


ODD_SAMPLES = (
    lambda x, y, i: None,
    lambda x, y, i: "text",
    lambda x, y, i: x,
    lambda x, y, i: (x, "cat"),
    lambda x, y, i: (x[: i % 3 + 1], y),
    lambda x, y, i: (x.double() if i % 2 else x, y),
    lambda x, y, i: (x, float(y)),
    lambda x, y, i: (x.numpy().astype(object), y),
    lambda x, y, i: (x.to_sparse(), y),
    lambda x, y, i: (x.to("meta"), y),
    lambda x, y, i: (x.to(torch.complex64), y),
    lambda x, y, i: (x, y + 7),
    lambda x, y, i: (x, y - 5),
    lambda x, y, i: (x, y > 0),
    lambda x, y, i: (x, y[None]),
    lambda x, y, i: (x, y, i),
    lambda x, y, i: {},
    lambda x, y, i: {"input": x},
    lambda x, y, i: {"input": x, "label": y, "index": "a"},
    lambda x, y, i: {"input": x, "label": y, "index": 0.5},
    lambda x, y, i: {0: x, 1: y},
    lambda x, y, i: {"input": x, "label": y, **({"z": y} if i % 2 else {})},
    lambda x, y, i: UserDict(input=x, label=y),
    lambda x, y, i: fail(OwnError("item")),
    lambda x, y, i: fail(HostileError()),
    lambda x, y, i: fail(StopIteration()) if i == 5 else (x, y),
    lambda x, y, i: (x * float("nan"), y),
    lambda x, y, i: (x.requires_grad_(), y),
    lambda x, y, i: (x, Hostile()),
    lambda x, y, i: (decimal.Decimal(1), y),
    lambda x, y, i: (np.datetime64("2020"), y),
)
"""(x, y, number) → what a sample is."""
ODD_BATCHES = (
    lambda x, y, k: (x, y[:2]),
    lambda x, y, k: (x[:0], y[:0]),
    lambda x, y, k: (x[:0], y[:0]) if k else (x, y),
    lambda x, y, k: {"input": x, "label": y, **({"z": y} if k else {})},
    lambda x, y, k: {"input": x, "label": y} if k else {"label": y},
    lambda x, y, k: (x.double() if k else x, y),
    lambda x, y, k: (x.tolist(), y.tolist()),
    lambda x, y, k: (x.numpy(), y.numpy()),
    lambda x, y, k: (x.numpy().astype(object), y),
    lambda x, y, k: (x.to_sparse(), y),
    lambda x, y, k: (torch.nested.nested_tensor([x, x[:2]]), y),
    lambda x, y, k: None,
    lambda x, y, k: (x[0, 0], y[0]),
    lambda x, y, k: (x, y.float()),
    lambda x, y, k: (x, y + 3),
    lambda x, y, k: (x.to("meta"), y.to("meta")),
    lambda x, y, k: {"input": x, "label": y, "index": y.float()},
    lambda x, y, k: {},
)
"""(x, y, number) → what a batch is."""
ODD_DATA = (
    *(partial(Records, sample) for sample in ODD_SAMPLES),
    *(partial(batches, change) for change in ODD_BATCHES),
    lambda: Records(size=lambda: -3),
    lambda: Records(size=lambda: "x"),
    lambda: Records(size=lambda: 2.5),
    lambda: Records(size=lambda: fail(OwnError("len"))),
    lambda: Records(size=lambda: 0),
    lambda: Records(size=lambda: 99),
    lambda: Records(size=lambda: 2**80),
    lambda: Records(size=lambda: None),
    lambda: [tensors()[0]],
    lambda: [3],
    lambda: ["x"],
    lambda: [None],
    lambda: [[]],
    lambda: [Hostile()],
    lambda: tuple(batches()),
    lambda: deque(batches()),
    lambda: tensors(),
    lambda: iter(batches()),
    lambda: Stream(),
    lambda: {"input": tensors()[0], "label": tensors()[1]},
    lambda: {"input": [1, 2], "label": [0, 1]},
    lambda: tensors()[0].numpy(),
    lambda: tensors()[0],
    lambda: "folder",
    lambda: DataLoader(TensorDataset(*tensors()), 4),
    lambda: Subset(Records(), [0, 99]),
    lambda: Subset(Records(), [0.5, 1]),
    lambda: Subset(Records(), ["a"]),
    lambda: Subset(Records(), [[0], [1]]),
    lambda: Subset(Records(), [True, False]),
    lambda: Subset(Records(), [1, 1]),
    lambda: Subset(Records(size=lambda: -1), [0]),
    lambda: Subset(Records(), 3),
    lambda: TensorDataset(tensors()[0]),
    lambda: TensorDataset(*tensors(), tensors()[1]),
    lambda: TensorDataset(tensors()[0], tensors()[0]),
    lambda: TensorDataset(tensors()[0].to_sparse(), tensors()[1]),
    lambda: TensorDataset(tensors()[0], tensors()[1].to(torch.uint8)),
    lambda: TensorDataset(tensors()[0].requires_grad_() * 2, tensors()[1]),
    lambda: TensorDataset(tensors()[0], tensors()[1].bool()),
    lambda: Records,
    lambda: Dataset(),
    lambda: 3,
    lambda: None,
    lambda: untrain.Concept("a cat"),
    object,
)


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────


class Ear:
    """Hears without being derived from Callback."""

    def on_stage(self, name, state): ...

    def on_step(self, step, total, record): ...

    def on_evaluate(self, name, values): ...


ARGUMENTS = {
    "seed": (lambda: 0, lambda: 7, lambda: np.int64(3), lambda: 2**63 - 1),
    "batch_size": (lambda: 4, lambda: 5, lambda: 100, lambda: np.int32(6), lambda: 2**31 - 1),
    "device": (lambda: "cpu", lambda: None, lambda: torch.device("cpu")),
    "precision": (lambda: "no", lambda: "bf16"),
    "task": (lambda: "classification", lambda: untrain.Classification(), lambda: untrain.Classification(CLASSES)),
    "inplace": (lambda: False, lambda: True),
    "parts": (lambda: None, lambda: "full", lambda: ["0.*"], lambda: "*weight"),
    "callbacks": (lambda: (), lambda: [untrain.Callback()], lambda: [Ear()]),
    "init": (lambda: None, lambda: mlp),
    "holdout": (lambda: None, *good_data(3)),
    "reference": (lambda: None, mlp, lambda: [mlp(), mlp()]),
    "classes": (lambda: None, lambda: ["a", "b", "c"], lambda: ("a", "b")),
    "svc_attacks": (lambda: False,),
    "resume": (lambda: False, lambda: True),
}
ODD = {
    "device": ("gpu", "cuda:99", "meta", "cpu:3", "mps", "xla", "hpu", 0, torch.device("cuda", 3)),
    "precision": ("fp8", "bf32", "BF16", 16),
    "task": ("nope", "class-diffusion", "text-to-image", "os:system", untrain.Classification, 3),
    "parts": ("nope", "xattn", "*.nope", ["0.*", "nope*"], [], [3], [""], "["),
    "callbacks": ([3], [object()], 3, "xy", [None], [untrain.Callback]),
    "init": (lambda: None, lambda: nn.Linear(2, 2), lambda: fail(OwnError("init")), lambda x: mlp(), 3, mlp()),
    "reference": ([3], "x", [], mlp().to("meta"), nn.Linear(3, 3), {"a": mlp()}, [None]),
    "classes": ([], ["a"], [1, 2, 3], "abc", [["a"], ["b"], ["c"]], ["a", "a", "a"], [None] * 3),
    "out": ("a\0b", "\ud800", "x" * 5000, "/dev/null/x", "/proc/x", 3, "", ".", Path("a\0b"), b"x"),
    "resume": ("yes", 1, None),
    "inplace": ("a/b", 1, None),
}  # fmt: skip


class Dice:
    """Draws; how often something wrong differs from call to call: never, once in a while, or often."""

    def __init__(self, rng):
        self.rng = rng
        self.share = rng.choice((0, 0.08, 0.08, 0.15, 0.15, 0.4))

    def __getattr__(self, name):
        return getattr(self.rng, name)

    def is_odd(self):
        return self.random() < self.share


def _argument(rng, name):
    """A value of an argument: right, of the right kind but wrong, or anything."""
    if name in ARGUMENTS and not rng.is_odd():
        return rng.choice(ARGUMENTS[name])()
    if name in ODD and rng.random() < 0.6:
        return rng.choice(ODD[name])
    return rng.choice(ANYTHING)()


def _model(rng):
    if not rng.is_odd():
        return rng.choice(GOOD_MODELS)()
    return rng.choice(ODD_MODELS if rng.random() < 0.9 else ANYTHING)()


def _data(rng, seed):
    if not rng.is_odd():
        return rng.choice(good_data(seed))()
    return rng.choice(ODD_DATA if rng.random() < 0.9 else ANYTHING)()


def _settings(rng, kind):
    """Settings of a method: few steps, and now and then something wrong."""
    names = [name for name in kind.__dataclass_fields__ if name not in ("steps", "epochs")]
    given = {"steps": rng.choice((1, 2))} if "steps" in kind.__dataclass_fields__ else {}
    if rng.random() < 0.85 and "optimizer" in names:
        given["optimizer"] = untrain.Optimizer(rng.choice(("sgd", "adam", "adamw")), rng.choice((0.01, 0.1, 1e9)))
    for name in rng.sample(names, 2) if rng.is_odd() and len(names) > 1 else ():
        given[name] = _setting(rng)
    if rng.random() < rng.share / 4:
        given[rng.choice(("steps", "epochs", "stepz", "alpha", "images"))] = rng.choice((-1, "x", None, 0, 0.5, True))
    return given


def _setting(rng):
    number = rng.choice(
        (0, 1, 2, -1, 0.5, 1e-9, 1e300, 1e-300, -0.5, float("nan"), float("inf"), np.float32(0.3), np.int64(2))
    )
    return number if rng.random() < 0.6 else rng.choice([v for v in ANYTHING if v not in HUGE])()


HUGE = [value for value in ANYTHING if value is not Hostile and type(value()) is int and abs(value()) > 10]
"""Would be steps without end."""


# ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _unlearn(rng):
    name = rng.choice([*METHODS, "sfron", "sfron", "finetune"])
    given = {"forget": _data(rng, 1), "retain": _data(rng, 2), "device": "cpu", "method": name, "batch_size": 6}
    given |= _settings(rng, METHODS[name])
    others = ("seed", "batch_size", "device", "precision", "task", "inplace", "parts", "callbacks", "init", "holdout")
    for other in rng.sample((*others, "resume"), rng.choice((0, 0, 1, 1, 2))):
        given[other] = _argument(rng, other)
    if rng.random() < 0.12:
        given["out"] = _argument(rng, "out") if rng.is_odd() else f"out-{rng.random()}"
    if rng.random() < rng.share / 4:
        given["method"] = rng.choice(("nope", METHODS[name], METHODS[name](), 3, None, nn.Linear, Hostile()))
    if rng.random() < rng.share / 8:
        del given[rng.choice([*given])]
        given |= {"steps": 1}
    return untrain.unlearn, (_model(rng),), given


def _evaluate(rng):
    given = {"forget": _data(rng, 1), "retain": _data(rng, 2), "test": _data(rng, 3), "device": "cpu"}
    others = ("seed", "batch_size", "device", "precision", "task", "reference", "classes", "svc_attacks", "out")
    for other in rng.sample((*others, "judge", "samples"), rng.choice((0, 1, 1, 2))):
        given[other] = _argument(rng, other)
    model = _model(rng)
    if rng.random() < 0.1:
        model = rng.choice(({"a": model, "b": mlp()}, {}, {3: model}, {"../x": model}))
    return untrain.evaluate, (model,), given


def _fisher(rng):
    task = _argument(rng, "task")
    given = {"estimator": rng.choice(("sample", "batch", "x", 3))} if rng.random() < 0.3 else {}
    if rng.random() < 0.3:
        given["seed"] = _argument(rng, "seed")
    return untrain.fisher_diagonal, (_model(rng), task, _data(rng, 1)), given


def _mask(rng):
    def fisher():
        good = {"a": torch.rand(3), "b": torch.rand(2, 2)}
        odd = (
            {"a": torch.rand(3)},
            {"a": -torch.rand(3)},
            {"a": 3},
            {"a": torch.rand(3) * float("nan")},
            {3: torch.rand(3)},
            {},
            {"a": torch.rand(3).to("meta")},
            {"a": torch.ones(3, dtype=torch.complex64), "b": torch.rand(2, 2)},
            {"a": torch.rand(3).to_sparse(), "b": torch.rand(2, 2)},
            {"a": np.ones(3)},
            {"a": torch.rand(3) > 0, "b": torch.rand(2, 2) > 0},
            {"a": torch.rand(3).half(), "b": torch.ones(2, 2).int()},
            rng.choice(ANYTHING)(),
        )
        return good if rng.random() < 0.5 else rng.choice(odd)

    given = {n: rng.choice((_setting(rng), 1.0)) for n in rng.sample(("gamma", "eps"), rng.choice((0, 1, 2)))}
    return untrain.saliency_mask, (fisher(), fisher()), given


def _construct(rng):
    """An object of a public class, its fields right or not."""
    kinds = [untrain.Optimizer, untrain.Sampler, untrain.Concept, untrain.ConceptImages, untrain.Classification]
    kind = rng.choice([*kinds, untrain.ClassDiffusion, untrain.TextToImage, *METHODS.values()])
    names = [name for name, field in kind.__dataclass_fields__.items() if field.init]
    given = {name: _setting(rng) for name in rng.sample(names, min(len(names), rng.choice((1, 1, 2, 3))))}
    if kind is untrain.Concept:
        given.setdefault("prompt", "a cat")
    return kind, (), given


def _others(rng):
    folder = {"folder": _argument(rng, "out")} if rng.random() < 0.5 else {}
    tracker = rng.choice(("tensorboard", "nope", "", *(value() for value in ANYTHING)))
    labels = rng.choice((["a", "b", "c"], "abc", [1], [], None, 3))
    return rng.choice(
        (
            (untrain.TrackerCallback, (tracker,), {**folder, "name": rng.choice(ANYTHING)()}),
            (untrain.image_classifier, (_model(rng), labels), {"prepare": rng.choice((None, len, 3, "x"))}),
            (untrain.nudenet, (rng.choice(ANYTHING)(),), {}),
            (untrain.methods, (), {}),
            (untrain.tasks, (), {}),
        )
    )


KINDS = (_unlearn,) * 10 + (_evaluate,) * 5 + (_fisher,) * 4 + (_construct,) * 4 + (_mask, _others)


def random_call(rng):
    """Draws a call by a `random.Random`, or hypothesis's: what it is, in words, and a function that makes it."""
    rng = Dice(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about odd models and data
        function, args, given = rng.choice(KINDS)(rng)
    words = [*(_told(value) for value in args), *(f"{name}={_told(value)}" for name, value in given.items())]
    description = f"{function.__name__}({', '.join(words)})"

    def call():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **given)

    return description, call


def _told(value):
    try:
        text = repr(value)
    except Exception:
        text = type(value).__name__
    return " ".join(text.split())[:60]
