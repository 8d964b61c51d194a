import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from untrain.errors import CheckpointError, FolderError
from untrain.models.checkpoints import load_into, load_state, save, state_hash


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 4, 2))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = network()


# ── writing and reading back ──


@pytest.mark.parametrize("make", [network, Tied, Wrapper])
def test_what_is_saved_comes_back(tmp_path: Path, make: Any) -> None:
    model, other = make(), make()
    save(model, tmp_path / "a.safetensors", {"epochs": 3, "lr": 0.1, "classes": ["a", "ü"]})
    state, metadata = load_state(tmp_path / "a.safetensors")
    assert metadata == {"epochs": 3, "lr": 0.1, "classes": ["a", "ü"]}
    assert state_hash(model) != state_hash(other)
    load_into(other, state)
    assert state_hash(model) == state_hash(other)
    save(other.state_dict(), tmp_path / "b.safetensors", {"classes": ["a", "ü"], "lr": 0.1, "epochs": 3})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors"]


def test_layouts_views_and_types_survive(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    state = {
        "view": base[::2],
        "shared": base[:6],
        "image": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(5),
    }
    save(state, tmp_path / "a.safetensors")
    read, metadata = load_state(tmp_path / "a.safetensors")
    assert metadata == {} and set(read) == set(state)
    assert all(torch.equal(read[name], state[name]) and read[name].dtype == state[name].dtype for name in state)


def test_only_tensors_are_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot hold 'epoch': only tensors"):
        save({"epoch": 3, "a": torch.ones(1)}, tmp_path / "a.safetensors")  # type: ignore[dict-item]
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot be written"):
        save(network(), tmp_path / "file" / "a.safetensors")


def test_hash_sees_weights_and_buffers_but_not_wrapping() -> None:
    model = network()
    before = state_hash(model)
    assert state_hash(model.to(memory_format=torch.channels_last)) == before
    assert state_hash(torch.compile(model, backend="eager")) == before  # type: ignore[arg-type]
    model(torch.rand(4, 1, 4, 4))
    assert state_hash(model) != before, "running statistics changed"


# ── files of others ──


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "ema"])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, key: str) -> None:
    model, other = network(), network()
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 9, key: wrapped, "best": 0.5}, tmp_path / "a.pt")
    state, metadata = load_state(tmp_path / "a.pt")
    assert metadata == {} and set(state) == set(model.state_dict())
    load_into(other, state)
    assert state_hash(model) == state_hash(other)


@pytest.mark.parametrize("new_format", [True, False])
def test_plain_torch_files(tmp_path: Path, new_format: bool) -> None:
    model = network()
    torch.save(model.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=new_format)
    state, _ = load_state(tmp_path / "a.pth")
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_safetensors_of_others(tmp_path: Path) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in network().state_dict().items()}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    state, metadata = load_state(tmp_path / "a.safetensors")
    assert set(state) == set(network().state_dict()) and metadata == {"format": "pt"}


def test_a_model_that_calls_its_own_part_module_keeps_its_names(tmp_path: Path) -> None:
    wrapper, other = Wrapper(), Wrapper()
    torch.save(wrapper.state_dict(), tmp_path / "a.pt")
    load_into(other, load_state(tmp_path / "a.pt")[0])
    assert state_hash(other) == state_hash(wrapper)


def test_a_compiled_module_takes_and_gives_plain_names(tmp_path: Path) -> None:
    model, other = network(), network()
    save(torch.compile(model, backend="eager"), tmp_path / "a.safetensors")  # type: ignore[arg-type]
    state, _ = load_state(tmp_path / "a.safetensors")
    assert set(state) == set(model.state_dict())
    load_into(torch.compile(other, backend="eager"), state)  # type: ignore[arg-type]
    assert state_hash(other) == state_hash(model)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict"])
def test_the_rate_of_a_stored_optimiser_is_remembered(tmp_path: Path, kind: Any, key: str) -> None:
    model = network()
    optimizer = kind(model.parameters(), lr=0.25)
    content = {"model": model.state_dict(), key: optimizer.state_dict()}
    torch.save(content, tmp_path / "a.pt")
    assert load_state(tmp_path / "a.pt")[1] == {"optimizer_lr": 0.25}
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    model(torch.rand(2, 1, 4, 4)).sum().backward()
    optimizer.step(), scheduler.step(), scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 1e-6
    torch.save({"model": model.state_dict(), key: optimizer.state_dict()}, tmp_path / "a.pt")
    assert load_state(tmp_path / "a.pt")[1] == {"optimizer_lr": 0.25}


# ── files that cannot be used ──


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trap-was-sprung",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, "a.pt")
    torch.save(Trap(), "b.pt", _use_new_zipfile_serialization=False)
    Path("c.pkl").write_bytes(pickle.dumps(Trap()))
    torch.save(network(), "d.pt")  # a whole module
    for name in ("a.pt", "b.pt", "c.pkl", "d.pt"):
        with pytest.raises(CheckpointError, match=r"was refused: .* would run code.*convert it once") as caught:
            load_state(name)
        assert name in str(caught.value)
    assert not Path("trap-was-sprung").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_missing_folders_and_damaged_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError, match="does not exist"):
        load_state(path)
    with pytest.raises(CheckpointError, match="is a folder"):
        load_state(tmp_path)
    if name == "a.pt":
        torch.save(network().state_dict(), path)
    else:
        save(network(), path)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:20], b"", b"some text that is no checkpoint"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="is damaged or is not a") as caught:
            load_state(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"model": {}}, "holds no state dict"),
        ({"weights": torch.ones(1), "epoch": 3}, "entries that are not tensors: epoch"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        load_state(tmp_path / "a.pt")


def test_every_key_that_does_not_fit_is_named() -> None:
    model = network()
    before = state_hash(model)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    del state["0.bias"], state["1.running_var"]
    state |= {"3.weight": torch.zeros(2, 7), "head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="made for another architecture") as caught:
        load_into(model, state)
    message = str(caught.value)
    assert "missing: 0.bias, 1.running_var" in message
    assert "unexpected: head.weight, head.bias" in message
    assert "of another shape: 3.weight ([2, 7], the model has [2, 16])" in message
    assert state_hash(model) == before
