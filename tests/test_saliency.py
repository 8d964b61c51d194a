import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.references import REFERENCE
from untrain.errors import DataError, FolderError, SettingError, StaleFile
from untrain.saliency import density, load_mask, saliency_mask, save_mask

VECTORS = load_file(REFERENCE / "fisher.safetensors")


def part(prefix):
    return {name.removeprefix(prefix): value for name, value in VECTORS.items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    ("expected", "estimator", "gamma", "eps"),
    [("mask.gamma1.", "sample", 1, 0), ("mask.gamma3.", "sample", 3, 0), ("published_mask.gamma1.", "batch", 1, 1e-15)],
)
def test_reference_masks(expected, estimator, gamma, eps):
    fishers = part(f"{estimator}.forget."), part(f"{estimator}.retain.")
    found, wanted = saliency_mask(*fishers, gamma=gamma, eps=eps), part(expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_rule_in_closed_form():
    forget = {"w": torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0])}
    retain = {"w": torch.tensor([0.0, 1.0, 1.0, 2.0, 1.0])}
    kept = {(1, 0): [0, 0, 1, 0, 1], (2, 0): [0, 0, 0, 0, 1], (0, 0): [0, 0, 1, 1, 1], (1, 0.5): [1, 0, 1, 0, 1]}
    for (gamma, eps), expected in kept.items():
        mask = saliency_mask(forget, retain, gamma=gamma, eps=eps)["w"]
        assert mask.dtype == torch.bool
        assert mask.int().tolist() == expected


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["gamma", "eps"])
def test_settings_out_of_range(name, value):
    with pytest.raises(SettingError, match=name):
        saliency_mask({"w": torch.ones(2)}, {"w": torch.ones(2)}, **{name: value})


def test_fishers_that_do_not_belong_together():
    good = {"w": torch.ones(2)}
    with pytest.raises(DataError, match="'v'"):
        saliency_mask(good, {"v": torch.ones(2)})
    with pytest.raises(DataError, match=r"'w' has shape \(2,\).*\(3,\)"):
        saliency_mask(good, {"w": torch.ones(3)})
    for bad in (math.nan, math.inf, -1.0):
        with pytest.raises(DataError, match=r"retain set's .*'w'"):
            saliency_mask(good, {"w": torch.tensor([1.0, bad])})


def test_density():
    mask = {"a": torch.tensor([True, False]), "b": torch.tensor([[True] * 3] * 2), "none": torch.zeros(0).bool()}
    assert density(mask) == (7 / 8, {"a": 0.5, "b": 1.0, "none": 0.0})
    assert density({}) == (0.0, {})


def test_saved_masks_come_back_and_name_their_weights(tmp_path):
    path = tmp_path / "new" / "mask.safetensors"
    shared = torch.tensor([True, False, True])
    mask = {"a": shared, "b": shared, "c": torch.ones(2, 3).bool().T}
    save_mask(mask, path, weights_hash="abc", gamma=3.0)
    found = load_mask(path, weights_hash="abc")
    assert found.keys() == mask.keys()
    assert all(torch.equal(found[name], mask[name]) for name in mask)
    with pytest.raises(StaleFile, match="weights with hash abc"):
        load_mask(path, weights_hash="abd")
    assert [p.name for p in path.parent.iterdir()] == ["mask.safetensors"]
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    about = json.loads(json.loads(header[8 : 8 + length])["__metadata__"]["untrain"])
    assert len(about.pop("sha256")) == 64
    assert about == {"gamma": 3.0, "kind": "saliency mask", "weights_hash": "abc"}


def test_files_that_are_no_masks(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_mask(tmp_path / "missing.safetensors", weights_hash="abc")
    (tmp_path / "broken.safetensors").write_bytes(b"not a mask at all")
    with pytest.raises(DataError, match="cannot be read"):
        load_mask(tmp_path / "broken.safetensors", weights_hash="abc")
    save_file({"w": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match="not a saliency mask"):
        load_mask(tmp_path / "weights.safetensors", weights_hash="abc")


def test_mask_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot be written"):
        save_mask({"w": torch.ones(2).bool()}, tmp_path / "file" / "mask.safetensors", weights_hash="abc")
