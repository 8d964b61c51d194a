"""What a run keeps of its samples by name: read back, refused where it is nothing that a run writes."""

import json

import numpy as np
import pytest
import torch

from untrain.data.kept import KeptRecords, keep_records, sample_digests
from untrain.data.samples import Arrays, Relabelled
from untrain.data.splits import Split, make_split
from untrain.errors import DataError, StaleFile
from untrain.io import write_json


def source_of(pixels, ids, labels=None, classes=("a", "b")):
    return Arrays(pixels, np.zeros(len(pixels), np.int64) if labels is None else labels, classes, ids)


@pytest.fixture
def source():
    return source_of(np.arange(48, dtype=np.uint8).reshape(12, 1, 2, 2), [f"r-{i}" for i in range(12)])


def keep(source, split, **how):
    parts = {part: getattr(split, part) for part in ("forget", "retain", "holdout", "earlier")}
    return keep_records(source, parts, tested={"test": source_of(np.zeros((1, 1, 2, 2), np.uint8), ["t"])}, **how)


@pytest.mark.parametrize("hashed", [False, True])
def test_a_split_comes_back_by_positions_or_by_hashes(source, tmp_path, hashed):
    split = make_split(source, count=3, holdout=0.2)
    records = keep(source, split, hashed=hashed)
    split.save(tmp_path / "split.json", records)
    again = Split.load(tmp_path / "split.json", source)
    assert again.hash == split.hash
    read = KeptRecords.of_json(json.loads((tmp_path / "split.json").read_text())["records"])
    assert read.parts == records.parts
    assert ("r-3" in (tmp_path / "split.json").read_text()) == (not hashed)
    for part in ("forget", "retain", "holdout"):
        wanted = {source.ids[i] for i in getattr(split, part).tolist()}
        assert {name for name in source.ids if records.part_of[records.key(name)] == part} == wanted


def test_content_is_that_of_a_sample_whatever_its_place_and_the_number_of_its_class(source):
    every = torch.arange(12)
    digests = sample_digests(source, every)
    assert len(set(digests)) == 12
    order = torch.tensor([7, 3, 0])
    assert sample_digests(source, order) == [digests[i] for i in order]
    assert sample_digests(source.select(order), torch.arange(3)) == [digests[i] for i in order]
    assert sample_digests(Relabelled(source, [1, 0], ["b", "a"]), every) == digests
    other = source_of(source.input, source.ids, classes=("c", "b"))
    assert not set(sample_digests(other, every)) & set(digests)


def test_nothing_is_kept_of_the_content_of_what_is_forgotten(source):
    split = make_split(source, count=3, holdout=0.2)
    assert keep(source, split).content.keys() == {"retain", "holdout"}


FLAWS = {
    "nothing": {},
    "a number": 3,
    "a list": [],
    "parts": {"parts": 3},
    "a part": {"parts": {"forget": "abc"}},
    "another part": {"parts": {"lost": []}},
    "numbers": {"parts": {"forget": [1]}},
    "content": {"content": {"retain": ["x"]}},
    "statistics": {"statistics": {"mean": ["x"]}},
    "classes": {"classes": "ab"},
    "salt": {"salt": 3},
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_records_that_no_run_writes_are_refused(source, tmp_path, flaw):
    split = make_split(source, count=3)
    records = keep(source, split).to_json()
    given = {**records, **FLAWS[flaw]} if flaw not in ("nothing", "a number", "a list") else FLAWS[flaw]
    write_json(tmp_path / "split.json", {**split.to_json(), "records": given})
    with pytest.raises((DataError, StaleFile), match="split"):
        Split.load(tmp_path / "split.json", source)
