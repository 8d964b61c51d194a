import errno
import json
import os
from pathlib import Path

import pytest
import torch

from untrain.errors import DataError, FolderError
from untrain.io import hash_file, hash_json, hash_tensors, write_bytes, write_json, write_text


def test_files_are_written_whole_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    write_json(path, {"KL": None, "a": [1]})
    assert json.loads(path.read_text()) == {"KL": None, "a": [1]}
    assert os.listdir(path.parent) == ["a.txt"]


def test_json_refuses_what_json_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"KL": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "Free some space"), (errno.EACCES, "Get permission")])
def test_no_space_and_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def fails(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(FolderError, match=remedy) as caught:
        write_bytes(path, b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(FolderError, match="choose another folder"):
        write_text(tmp_path / "a" / "b.txt", "")
    with pytest.raises(FolderError, match="choose another name"):
        write_text(tmp_path, "")


def test_an_interrupt_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "text")
    assert os.listdir(tmp_path) == []


def test_hash_of_tensors_sees_content_and_nothing_else() -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    state = {"a": weight, "b": torch.tensor(3, dtype=torch.int64)}
    other_layout = {"b": state["b"], "a": weight.to(memory_format=torch.channels_last)}
    assert hash_tensors(state) == hash_tensors(other_layout)
    changes = [
        {"a": weight, "c": state["b"]},
        {"a": weight.reshape(2, 1, 3, 4), "b": state["b"]},
        {"a": weight, "b": torch.tensor(4)},
        {"a": weight.view(torch.int32), "b": state["b"]},
    ]
    assert len({hash_tensors(state), *map(hash_tensors, changes)}) == 5
    assert hash_tensors([weight, weight + 1]) != hash_tensors([weight + 1, weight])
    kinds = [torch.ones(3, dtype=kind) for kind in (torch.bool, torch.bfloat16, torch.complex64)]
    assert hash_tensors([*kinds, torch.empty(0)]) == hash_tensors([*kinds, torch.empty(0)])


def test_tensors_are_hashed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {"a": torch.arange(10.0).reshape(2, 5), "b": torch.tensor(2.0), "c": torch.empty(0, 3)}
    narrow = {name: tensor.bfloat16() for name, tensor in wide.items()}
    expected = hash_tensors(wide)
    seen: list[int] = []

    def brought(piece: torch.Tensor) -> torch.Tensor:
        seen.append(len(piece))
        return piece.float()

    monkeypatch.setattr("untrain.io.PIECE", 4)
    assert hash_tensors(wide) == hash_tensors(narrow, brought) == expected
    assert max(seen) == 4


def test_hashes_of_files_and_values(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # The test vector of FIPS 180-2.
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1}) != hash_json({"a": 1, "b": 3})
    with pytest.raises(DataError, match="cannot be read"):
        hash_file(tmp_path / "missing")
