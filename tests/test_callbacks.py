"""Callbacks hear of every step and preview, and trackers of experiments are told of them."""

import math
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from untrain.callbacks import Callback, TrackerCallback
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import SettingError, UnknownName
from untrain.methods import make
from untrain.methods.base import Optimizer, Problem
from untrain.methods.loop import run
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification

STEPS = 4


class Noted(Callback):
    def __init__(self):
        self.calls = []

    def on_step(self, step, total, record):
        self.calls.append(("step", step, total, dict(record)))

    def on_evaluate(self, name, values):
        self.calls.append(("evaluate", name, dict(values)))


class FakeTracker:
    """As accelerate's trackers are used."""

    def __init__(self):
        self.calls = []

    def start(self):
        self.calls.append(("start",))

    def store_init_configuration(self, values):
        self.calls.append(("settings", values))

    def log(self, values, step=None):
        self.calls.append(("log", step, values))

    def finish(self):
        self.calls.append(("finish",))


def ran(callbacks, *, process=0, **options):
    """A run of `finetune`, with a preview after every second step; this process looks as if it were one of several."""
    torch.manual_seed(0)
    engine = Engine(torch.device("cpu"))
    data = TensorDataset(torch.randn(40, 6), torch.randint(0, 3, (40,)))
    sets = {name: Stream(data, name, engine, 20) for name in ("forget", "retain")}
    problem = Problem(Subject(nn.Linear(6, 3)), Classification(num_classes=3), **sets)
    engine.process = process
    method = make("finetune", {"steps": STEPS, "optimizer": Optimizer("sgd", 0.1)})
    how = {"evaluate": lambda module, step: {"accuracy": step / 10}, "evaluate_every": 2} | options
    return run(method, problem, engine, callbacks=callbacks, **how)


def test_steps_and_previews_are_told_in_their_order():
    noted = Noted()
    history = ran([noted], title="mine").history
    kinds = [call[0] for call in noted.calls]
    assert kinds == ["step", "step", "evaluate", "step", "step", "evaluate"]
    steps = [call for call in noted.calls if call[0] == "step"]
    assert [call[1:3] for call in steps] == [(k + 1, STEPS) for k in range(STEPS)]
    for (*_, record), line in zip(steps, history, strict=True):
        assert record == {key: value for key, value in line.items() if key != "accuracy"}
    assert [call[1:] for call in noted.calls if call[0] == "evaluate"] == [
        ("mine", {"accuracy": 0.2}),
        ("mine", {"accuracy": 0.4}),
    ]


def test_callbacks_change_nothing():
    class Meddler(Callback):
        def on_step(self, step, total, record):
            record["retain_loss"] = math.nan
            torch.rand(3)

    without, meddled = ran([]), ran([Meddler()])
    assert without.history == meddled.history
    pairs = zip(without.state.module.parameters(), meddled.state.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_only_the_main_process_tells():
    noted = Noted()
    ran([noted], process=1)
    assert not noted.calls


def test_what_a_callback_raises_ends_the_run():
    class Stop(Callback):
        def on_step(self, step, total, record):
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        ran([Stop()])


def test_a_tracker_is_told_of_losses_rates_previews_and_settings():
    tracker = FakeTracker()
    settings = {"steps": STEPS, "optimizer": {"name": "sgd", "lr": 0.1}, "floor": None, "classes": [1, 2]}
    with TrackerCallback(tracker, settings=settings) as callback:
        assert not tracker.calls
        callback.on_stage("finetune", "begin")
        ran([callback], title="finetune")
        callback.on_stage("finetune", "end")
    assert tracker.calls[:2] == [
        ("start",),
        (
            "settings",
            {"steps": STEPS, "optimizer.name": "sgd", "optimizer.lr": 0.1, "floor": "None", "classes": "[1, 2]"},
        ),
    ]
    assert tracker.calls[-1] == ("finish",)
    logged = tracker.calls[2:-1]
    assert [step for _, step, _ in logged] == [1, 2, 2, 3, 4, 4]
    assert set(logged[0][2]) == {"finetune/retain_loss", "finetune/lr"}
    assert logged[2][2] == {"finetune/accuracy": 0.2}


def test_a_tracker_counts_steps_through_all_models():
    tracker = FakeTracker()
    callback = TrackerCallback(tracker)
    for name in ("original", "sfron"):
        callback.on_stage(name, "begin")
        for step in (1, 2, 3):
            callback.on_step(step, 3, {"step": step - 1, "retain_loss": 0.5})
        callback.on_stage(name, "end")
    callback.on_stage("evaluate", "begin")
    callback.on_evaluate("sfron", {"accuracy": {"forget": 0.1, "retain": None}, "missing": {"mia": "no data"}})
    logged = [call[1:] for call in tracker.calls if call[0] == "log"]
    assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6, 6]
    assert [set(values) for _, values in logged][2:] == [
        {"original/retain_loss"},
        *([{"sfron/retain_loss"}] * 3),
        {"sfron/accuracy/forget"},
    ]


def test_a_tracker_counts_on_in_runs_without_stages():
    tracker = FakeTracker()
    callback = TrackerCallback(tracker)
    for step in (1, 2, 1, 2):
        callback.on_step(step, 2, {"step": step - 1, "forget_loss": 0.5})
    assert [call[1:] for call in tracker.calls if call[0] == "log"] == [
        (step, {"forget_loss": 0.5}) for step in (1, 2, 3, 4)
    ]


def test_unknown_and_missing_trackers_are_errors(monkeypatch):
    with pytest.raises(UnknownName, match="tensorboard, wandb"):
        TrackerCallback("tensorbored")
    monkeypatch.setattr("untrain.callbacks.find_spec", lambda name: None)
    with pytest.raises(SettingError, match="wandb"):
        TrackerCallback("wandb")


def test_tensorboard_holds_the_curves_and_settings(tmp_path):
    with TrackerCallback("tensorboard", folder=tmp_path, name="run", settings={"lam": 0.5}) as callback:
        callback.on_stage("finetune", "begin")
        history = ran([callback], title="finetune").history
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    curve = events.Scalars("finetune/retain_loss")
    assert [point.step for point in curve] == [1, 2, 3, 4]
    assert [point.value for point in curve] == pytest.approx([line["retain_loss"] for line in history], rel=1e-6)
    assert [point.step for point in events.Scalars("finetune/accuracy")] == [2, 4]
    assert "lam: 0.5" in next((tmp_path / "run").glob("*/hparams.yml")).read_text()


def test_wandb_is_started_with_project_name_and_folder(tmp_path, monkeypatch):
    """Against a stand-in for the library, which would talk to its server."""
    told = []

    class Run:
        def log(self, values, step=None):
            told.append((step, values))

        def finish(self):
            told.append("finish")

    class Config:
        def update(self, values, allow_val_change):
            told.append(values)

    from types import ModuleType

    fake = ModuleType("wandb")
    fake.init = lambda **kwargs: told.append(kwargs) or Run()
    fake.config = Config()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("untrain.callbacks.find_spec", lambda name: name == "wandb")
    with TrackerCallback("wandb", folder=tmp_path, name="run", settings={"lam": 0.5}) as callback:
        callback.on_step(1, 1, {"step": 0, "retain_loss": 0.5})
    assert told == [
        {"project": "untrain", "name": "run", "dir": str(tmp_path)},
        {"lam": 0.5},
        (1, {"retain_loss": 0.5}),
        "finish",
    ]
