"""Files with hashes: every flipped bit is seen, or changes nothing that is read."""

import random
from pathlib import Path

import pytest
import torch

from untrain.errors import DataError, StaleFile
from untrain.io import hash_file, hash_tensors
from untrain.sealed import (
    NOTES,
    check_listed,
    check_trailer,
    open_sealed,
    read_notes,
    read_sealed,
    sealed_notes,
    unsealed,
    write_sealed,
    write_sealed_text,
)


def flipped(data: bytes, count: int = 200) -> "list[bytes]":
    """The same bytes with one bit turned, at places that a seed chooses."""
    found = []
    for place in random.Random(0).sample(range(8 * len(data)), min(count, 8 * len(data))):
        other = bytearray(data)
        other[place // 8] ^= 1 << place % 8
        found.append(bytes(other))
    return found


@pytest.mark.parametrize("compact", [True, False])
def test_objects_come_back_or_are_refused(tmp_path: Path, compact: bool) -> None:
    path, content = tmp_path / "a.json", {"ü": [1, 2.5, None], "b": {"1": 0.1, "c": "text"}}
    write_sealed(path, content, compact=compact)
    assert read_sealed(path, "") == content
    for data in flipped(path.read_bytes()):
        path.write_bytes(data)
        try:
            found = read_sealed(path, "Make it anew.")
        except StaleFile as error:
            found, said = None, str(error)
        assert ({key: found[key] for key in content} == content) if found else (str(path) in said and "anew" in said)
    assert read_sealed(tmp_path / "none.json", "") is None


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a": \ud800}'])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match="cannot be read as a split"):
        read_sealed(tmp_path / "a.json", "", "a split", DataError)


def test_numbers_as_keys_are_hashed_as_they_will_be_read(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", {"a": {9: 1, 10: 2}})
    assert read_sealed(tmp_path / "a.json", "") == {"a": {"9": 1, "10": 2}}


def test_lines_come_back_or_are_refused(tmp_path: Path) -> None:
    path, text = tmp_path / "a.yaml", "seed: 0\nname: größer\n"
    write_sealed_text(path, text)
    assert unsealed(path.read_text()) == text
    assert unsealed(text) == text, "a text without a hash is itself"
    for data in flipped(path.read_bytes()):
        found = unsealed(data.decode("utf-8", "replace"))
        assert found is None or found.startswith(text), "but for the line of the hash"


def test_files_with_a_trailer_are_read_by_torch_and_every_flip_is_seen(tmp_path: Path) -> None:
    path, content = tmp_path / "a.pt", {"a": torch.arange(50.0), "b": {"c": [1, "x"]}}
    with open_sealed(path) as file:
        torch.save(content, file)
    check_trailer(path)
    found = torch.load(path, weights_only=True, mmap=True)
    assert torch.equal(found["a"], content["a"]) and found["b"] == content["b"]
    whole = path.read_bytes()
    for data in [*flipped(whole), b"", whole[:-1], whole + b"x"]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match="does not fit"):
            check_trailer(path)


def test_notes_of_tensors_fit_these_alone() -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bool)}
    notes = sealed_notes({"method": "sfron", "lr": 0.1}, tensors)
    assert notes == sealed_notes({"lr": 0.1, "method": "sfron"}, tensors, hash_tensors(tensors))
    assert read_notes(notes, tensors) == {"method": "sfron", "lr": 0.1}
    for other in ({**tensors, "a": torch.arange(3.0) + 1}, {"a": tensors["a"]}):
        with pytest.raises(ValueError, match="does not fit"):
            read_notes(notes, other)
    with pytest.raises(ValueError, match="does not fit"):
        read_notes({NOTES: notes[NOTES].replace("0.1", "0.2")}, tensors)


@pytest.mark.parametrize("text", ["{", "[1]", "null", '{"a": NaN}', "[" * 100_000, '{"a": 1e999, "b": Infinity}'])
def test_notes_that_nobody_of_ours_wrote(text: str) -> None:
    with pytest.raises(ValueError, match="not what untrain writes|nested"):
        read_notes({NOTES: text}, {})


def test_listed_files_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    listed = {"a.txt": hash_file(path)}
    check_listed(path, listed, "a.txt", "")
    check_listed(path, {}, "a.txt", "")
    path.write_text("abd")
    with pytest.raises(StaleFile, match=r"a\.txt is damaged.*Make it anew"):
        check_listed(path, listed, "a.txt", "Make it anew.")
    path.unlink()
    with pytest.raises(StaleFile, match=r"a\.txt cannot be read"):
        check_listed(path, listed, "a.txt", "")
