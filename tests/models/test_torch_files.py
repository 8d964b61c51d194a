"""Files as training scripts write them: which entry holds the weights, and what is read of all else."""

import pickle
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from untrain.errors import CheckpointError
from untrain.models.checkpoints import load_into, load_state, state_hash


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def state_of(path: Path, **how: Any) -> str:
    """The hash of what a file's weights make of a network."""
    module = network(9)
    load_into(module, load_state(path, **how)[0])
    return state_hash(module)


# ── which entry ──

PLAIN, AVERAGE = network(1), network(2)


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (lambda p, a, o: {"model": p, "ema": a, "opt": o}, "ema"),
        (lambda p, a, o: {"state_dict": p, "state_dict_ema": a, "arch": "x"}, "state_dict_ema"),
        (lambda p, a, o: {"ema": {"state_dict": a}, "net": p}, "ema"),
    ],
)
def test_an_average_is_taken_where_there_is_one(tmp_path: Path, content: Any, taken: str) -> None:
    optimizer = torch.optim.SGD(PLAIN.parameters(), 0.1).state_dict()
    torch.save(content(PLAIN.state_dict(), AVERAGE.state_dict(), optimizer), tmp_path / "a.pt")
    assert state_of(tmp_path / "a.pt") == state_hash(AVERAGE)
    (note,) = load_state(tmp_path / "a.pt")[1]["reading"]
    assert taken in note and "model.entry" in note
    other = next(key for key in ("model", "state_dict", "net") if key in note.rpartition(":")[2])
    assert state_of(tmp_path / "a.pt", entry=other) == state_hash(PLAIN)
    with pytest.raises(CheckpointError, match="no weights under 'opt'"):
        load_state(tmp_path / "a.pt", "opt")


def test_of_a_list_the_entry_is_named(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(PLAIN.parameters(), 2e-4).state_dict()
    torch.save([PLAIN.state_dict(), optimizer, 800_000, AVERAGE.state_dict()], tmp_path / "ckpt.pth")
    with pytest.raises(CheckpointError, match=r"several sets.*0 \(9 tensors\), 3 \(9 tensors\).*model\.entry"):
        load_state(tmp_path / "ckpt.pth")
    for entry, model in ((0, PLAIN), ("0", PLAIN), (3, AVERAGE)):
        assert state_of(tmp_path / "ckpt.pth", entry=entry) == state_hash(model)
    assert load_state(tmp_path / "ckpt.pth", 3)[1] == {"optimizer_lr": 2e-4}
    torch.save([PLAIN.state_dict(), optimizer], tmp_path / "one.pth")
    assert state_of(tmp_path / "one.pth") == state_hash(PLAIN), "there is no choice"
    torch.save(PLAIN.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match=r"leave model\.entry out"):
        load_state(tmp_path / "plain.pth", 0)


def test_an_averaged_model_of_torch(tmp_path: Path) -> None:
    torch.save(AveragedModel(PLAIN).state_dict(), tmp_path / "swa.pt")
    assert state_of(tmp_path / "swa.pt") == state_hash(PLAIN)


# ── Lightning ──


def test_lightnings_checkpoint_is_read_without_its_classes(tmp_path: Path) -> None:
    """Callbacks by class, settings in a class of its own, a partial function: none is there when the file is read."""
    path = tmp_path / "last.ckpt"
    code = f"""
import functools, sys, torch, types
from collections import OrderedDict
lightning, own = types.ModuleType("pytorch_lightning"), types.ModuleType("their_project")
def add(module, cls):
    cls.__module__ = module.__name__
    setattr(module, cls.__name__, cls)
add(lightning, type("ModelCheckpoint", (), {{}}))
add(lightning, type("AttributeDict", (dict,), {{}}))
add(own, type("Settings", (), {{"__init__": lambda self: setattr(self, "depth", 3)}}))
sys.modules |= {{"pytorch_lightning": lightning, "their_project": own}}
torch.manual_seed(1)
from torch import nn
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
state = OrderedDict((f"net.{{name}}", tensor) for name, tensor in net.state_dict().items())
state["criterion.weight"] = torch.ones(2)
optimizer = torch.optim.SGD(net.parameters(), 0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=10)
torch.save({{
    "pytorch-lightning_version": "1.4.9", "epoch": 3, "global_step": 9, "state_dict": state,
    "callbacks": {{lightning.ModelCheckpoint: {{"best": 0.5}}}}, "optimizer_states": [optimizer.state_dict()],
    "hyper_parameters": lightning.AttributeDict(lr=0.1, own=own.Settings(), made=functools.partial(torch.optim.SGD)),
}}, {str(path)!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    before = set(sys.modules)
    state, facts = load_state(path)
    assert not {"pytorch_lightning", "their_project"} & (set(sys.modules) - before)
    module = network(9)
    notes = load_into(module, state)
    assert state_hash(module) == state_hash(network(1))
    assert facts["optimizer_lr"] == 0.4, "the peak, not the rate that the schedule begins with"
    assert any("net." in note for note in notes) and any("criterion.weight" in note for note in notes)


class Runs:
    """Its pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "function", [subprocess.Popen, eval, exec, getattr, __import__, pickle.loads], ids=lambda f: f.__name__
)
def test_what_only_an_attack_names_is_refused(tmp_path: Path, function: Any) -> None:
    content = {"state_dict": network().state_dict(), "callbacks": Runs(function, "1")}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="was refused"):
        load_state(tmp_path / "a.ckpt")


def test_stand_ins_call_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    theirs = types.ModuleType("their_module")
    theirs.act = lambda *given: called.append(given)  # type: ignore[attr-defined]
    theirs.act.__qualname__, theirs.act.__module__ = "act", "their_module"
    monkeypatch.setitem(sys.modules, "their_module", theirs)
    torch.save({"model": network(1).state_dict(), "extra": Runs(theirs.act, 1)}, tmp_path / "a.pt")
    torch.save({"model": Runs(theirs.act, 1)}, tmp_path / "b.pt")
    assert state_of(tmp_path / "a.pt") == state_hash(network(1))
    with pytest.raises(CheckpointError, match="was refused"):
        load_state(tmp_path / "b.pt")
    assert not called


# ── what is told of the training ──


@pytest.mark.parametrize(
    ("schedule", "peak"),
    [
        (lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=50), 0.1),
        (lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50), 0.02),
        (lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.01, 1.0, 10), 0.02),
    ],
)
def test_the_rate_is_the_peak_of_the_schedule(tmp_path: Path, schedule: Any, peak: float) -> None:
    optimizer = torch.optim.SGD(PLAIN.parameters(), 0.02)
    planned = schedule(optimizer)
    for _ in range(3):
        optimizer.step()
        planned.step()
    torch.save({"model": PLAIN.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    assert load_state(tmp_path / "a.pt")[1]["optimizer_lr"] == pytest.approx(peak)


@pytest.mark.parametrize(("name", "value", "told"), [("acc", 95.2, 95.2), ("best_acc1", torch.tensor(0.9), 90.0)])
def test_an_accuracy_that_was_noted(tmp_path: Path, name: str, value: Any, told: float) -> None:
    torch.save({"net": PLAIN.state_dict(), name: value}, tmp_path / "a.pt")
    assert load_state(tmp_path / "a.pt")[1]["accuracy"] == pytest.approx(told)


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({f"entry-{n}": n for n in range(20)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"20, such as entry-0, entry-1, entry-2\."):
        load_state(tmp_path / "a.pt")
    torch.save({"first": OrderedDict(a=torch.ones(1)), "second": OrderedDict(a=torch.ones(1))}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match=r"first \(1 tensors\), second \(1 tensors\)"):
        load_state(tmp_path / "b.pt")
