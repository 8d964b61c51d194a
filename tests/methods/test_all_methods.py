"""What holds for every method: it resumes to the bit, shows an effect by default, and refuses what it cannot do."""

import copy
from dataclasses import dataclass, fields, is_dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import untrain
from helpers import methods_in_processes
from helpers.processes import run_in_processes
from helpers.small_classifiers import SGD, clusters, mlp, problem
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods import METHODS, make
from untrain.methods.base import Choice, Optimizer, Problem, Range, check_runs
from untrain.methods.loop import Checkpoints, run
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification

NAMES = (
    *("gradient-ascent", "random-label", "salun", "proximal-gradient", "bad-teacher", "scrub", "neggrad-plus"),
    *("ssd", "l1-sparse", "shrink-perturb", "masked-small-gradients", "noisy-finetune", "eu-k", "cf-k", "amun"),
    *("delete", "shrink-sfron"),
)
"""Those that look at forget and retain set alone, and run on a network without convolutions."""


def settings(name, steps):
    if name == "ssd":
        return {}
    return {"steps": steps, "optimizer": SGD, **({"layers": 1} if name in ("eu-k", "cf-k") else {})}


# Resuming.


class Killed(BaseException):
    """What no handler catches."""


@pytest.mark.parametrize("at", [0, 1, 8])
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_to_the_same_bits(name, at, tmp_path, monkeypatch):
    """Dropout too; `at` is the step before which the run dies."""

    def begun():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3))
        return problem(model.append(nn.Linear(32, 5)).double())

    method = make(name, settings(name, 14))
    at = min(at, method.total - 1) if method.total else at
    whole = run(method, *begun())
    saver = Checkpoints(tmp_path / "resume.pt", "mark", resume=True, every=0.0)
    step = type(method).step

    def killed(self, state, k):
        if k == at:
            raise Killed
        return step(self, state, k)

    with monkeypatch.context() as patch:
        patch.setattr(type(method), "step", killed)
        with pytest.raises(Killed):
            run(method, *begun(), checkpoints=saver)
    again = run(method, *begun(), checkpoints=saver)
    assert again.history == whole.history
    assert len(again.history) == whole.method.total
    for (key, a), b in zip(
        again.state.module.state_dict().items(), whole.state.module.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), key
    for key, teacher in whole.state.frozen.items():
        for a, b in zip(again.state.frozen[key].state_dict().values(), teacher.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    assert again.state.problem.memo.keys() == whole.state.problem.memo.keys()


# The claim.


@pytest.fixture(scope="module")
def trained():
    """A network that knows its training set by heart, its sets, and held-out samples."""
    engine, data = Engine(torch.device("cpu")), clusters(800, 1)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    stream = Stream(data, "train", engine, 64)
    for k in range(400):
        batch = stream.batch(k, Classification(num_classes=5), "train")
        optimizer.zero_grad()
        F.cross_entropy(model(batch["input"]), batch["label"]).backward()
        optimizer.step()
        schedule.step()
    return model.eval(), data, clusters(800, 2)


def scores(model, data, rows=slice(None)):
    """Mean loss in nats and accuracy in %."""
    x, y = (t[rows] for t in data.tensors)
    with torch.no_grad():
        logits = model.eval()(x)
    return float(F.cross_entropy(logits, y)), 100 * float((logits.argmax(1) == y).double().mean())


@pytest.mark.parametrize("name", NAMES)
def test_by_default_the_forget_loss_rises_and_retained_accuracy_holds(name, trained):
    """What is known by heart is forgotten: the forget loss rises towards that of samples never seen."""
    model, data, unseen = trained
    engine = Engine(torch.device("cpu"))
    parts = {"forget": range(80), "retain": range(80, 800)}
    streams = {n: Stream(torch.utils.data.Subset(data, list(r)), n, engine, 64) for n, r in parts.items()}
    subject = Subject(copy.deepcopy(model), peak_lr=0.1)
    chosen = {"ssd": {"fraction": 0.05}, "eu-k": {"layers": 1}, "cf-k": {"layers": 1}}.get(name, {})  # so few weights
    done = run(make(name, chosen), Problem(subject, Classification(num_classes=5), **streams), engine)
    first, _ = scores(model, data, slice(80))
    last, _ = scores(done.state.module, data, slice(80))
    kept, before = scores(done.state.module, data, slice(80, None))[1], scores(model, data, slice(80, None))[1]
    tested, tested_before = scores(done.state.module, unseen)[1], scores(model, unseen)[1]
    assert last > 1.03 * first, (first, last)
    assert last < 4 * scores(model, unseen)[0]
    assert kept > before - 8, (before, kept)
    assert tested > tested_before - 8


# Several processes.


def test_two_processes_give_what_one_gives(tmp_path):
    """Tolerance 1e-10 of the largest weight: float64, sums in another order."""
    methods_in_processes.main(tmp_path / "1.pt", *NAMES)
    run_in_processes(2, tmp_path, methods_in_processes.main, tmp_path / "2.pt", *NAMES)
    found = {count: torch.load(tmp_path / f"{count}.pt", weights_only=True) for count in (1, 2)}
    assert (found[1].pop("processes"), found[2].pop("processes")) == (1, 2)
    assert {key.split("/")[0] for key in found[1]} == set(NAMES)
    for key, value in found[1].items():
        assert (value - found[2][key]).abs().max() <= 1e-10 * value.abs().max(), key


# Settings.

WRONG = [
    ("gradient-ascent", {"steps": 0}), ("gradient-ascent", {"max_norm": 0.0}), ("random-label", {"epochs": 0.0}),
    ("random-label", {"decay": "linear"}), ("salun", {"fraction": 0.0}), ("salun", {"fraction": 1.5}),
    ("bad-teacher", {"temperature": 0.0}), ("scrub", {"temperature": -1.0}), ("scrub", {"max_steps": -1}),
    ("scrub", {"alpha": -0.1}), ("scrub", {"gamma": float("nan")}), ("neggrad-plus", {"beta": 0.0}),
    ("neggrad-plus", {"beta": 1.1}), ("ssd", {"alpha": 0.0}), ("ssd", {"lam": -1.0}), ("ssd", {"fraction": 0.0}),
    ("ssd", {"fraction": 1.5}), ("ssd", {"fisher": "exact"}), ("l1-sparse", {"gamma": -1e-4}),
    ("proximal-gradient", {"fraction": 0.0}), ("proximal-gradient", {"fraction": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=lambda value: str(value))
def test_settings_out_of_range_are_refused(name, wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        make(name, wrong)


@pytest.mark.parametrize("name", [*NAMES, "finetune", "sfron"])
def test_what_a_search_tries_are_settings_in_their_range(name):
    kind = METHODS[name]
    assert 1 <= len(kind.space) <= 3
    for path, space in kind.space.items():
        for value in (space.low, space.high) if isinstance(space, Range) else space.values:
            outer, _, inner = path.partition(".")
            default = {f.name: f.default for f in fields(kind)}[outer]
            if inner:
                assert inner in {f.name for f in fields(default if is_dataclass(default) else Optimizer)}
            made = make(name, {outer: {inner: value}} if inner else {outer: value})
            found = getattr(made, outer)
            assert (getattr(found, inner) if inner else found) == value


@pytest.mark.parametrize("wrong", [(1.0, 1.0, False), (2.0, 1.0, False), (0.0, 1.0, True), (0.0, float("inf"), False)])
def test_ranges_and_choices_check_themselves(wrong):
    with pytest.raises(SettingError, match="range"):
        Range(*wrong)
    with pytest.raises(SettingError, match="choice"):
        Choice(())


# What a task must have.


@dataclass(frozen=True)
class Plain(Classification):
    """A task that cannot redirect."""

    variants = ()


@pytest.mark.parametrize("name", NAMES)
def test_a_method_that_cannot_run_on_a_task_says_so_before_anything_is_done(name):
    x, y = torch.randn(30, 12).double(), torch.arange(30) % 5
    sets = {"forget": [(x[:10], y[:10])], "retain": [(x[10:], y[10:])]}
    check_runs(METHODS[name], Classification())
    if name not in ("random-label", "salun", "proximal-gradient"):
        check_runs(METHODS[name], Plain())
        return
    with pytest.raises(
        SettingError, match=rf"'{name}' cannot run on task 'Plain'.*'redirect'.*run on it: .*finetune.*ssd"
    ) as error:
        untrain.unlearn(mlp(), task=Plain(), method=name, **sets)
    assert "random-label," not in str(error.value)
