"""Lists of records: how they are read, and which samples they mean."""

import json
import os
import unicodedata

import numpy as np
import pytest

from untrain.data.records import Names, Request, find_records, hash_id, read_records
from untrain.data.samples import Arrays
from untrain.errors import DataError, EmptySet, SettingError, UnknownName

IDS = ("train/ann/1.png", "train/ann/2.png", "train/bob/1.png", "train/bob/Ü 3.png", "train/cy/12.png")


@pytest.fixture
def source():
    return Arrays(np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1), np.array([0, 0, 1, 1, 2]), ids=IDS)


# ── lists ──

LISTS = {
    "a.csv": "person,file\n7,train/ann/2.png\n8,12.png\n",
    "b.csv": 'File ;note\ntrain/ann/2.png;"a; b"\n12.png;\n',
    "c.tsv": "note\tFILE_NAME\nx\ttrain/ann/2.png\ny\t12.png\n",
    "d.csv": "\ufefffilename\r\ntrain/ann/2.png\r\n\r\n12.png\r\n",
    "e.csv": "train/ann/2.png\n12.png\n",
    "f.json": json.dumps(["train/ann/2.png", "12.png"]),
    "g.json": json.dumps([{"file": "train/ann/2.png", "person": 7}, {"file": "12.png", "person": 8}]),
    "h.txt": "\ntrain/ann/2.png\n  12.png  \n",
}


@pytest.mark.parametrize("name", LISTS)
def test_every_kind_of_list_says_the_same(source, tmp_path, name):
    (tmp_path / name).write_text(LISTS[name], encoding="utf-8", newline="")
    found = find_records(source, "ids", tmp_path / name, Request())
    assert found.positions == [1, 4]
    assert found.spec["ids"]["file"] == name


@pytest.mark.parametrize("column", ["Photo", " photo", "PHOTO "])
def test_a_column_is_named(source, tmp_path, column):
    (tmp_path / "a.csv").write_text("id,Photo \n7,train/ann/2.png\n8,12.png\n")
    found = find_records(source, "ids", tmp_path / "a.csv", Request(column))
    assert found.positions == [1, 4]
    assert found.spec["ids"]["column"] == column


def test_a_column_that_is_not_there(source, tmp_path):
    (tmp_path / "a.csv").write_text("person,photo\n7,train/ann/2.png\n")
    with pytest.raises(UnknownName, match=r"'foto'.*Did you mean 'photo'"):
        find_records(source, "ids", tmp_path / "a.csv", Request("foto"))
    with pytest.raises(UnknownName, match="7.*Its columns: person, photo"):
        find_records(source, "ids", tmp_path / "a.csv", Request())
    (tmp_path / "a.txt").write_text("train/ann/2.png\n")
    with pytest.raises(SettingError, match=r"a\.txt"):
        find_records(source, "ids", tmp_path / "a.txt", Request("photo"))


def test_a_header_that_is_no_known_one_is_told(source, tmp_path):
    (tmp_path / "a.csv").write_text("Bild\n1.png\ntrain/ann/2.png\n".replace("1.png\n", "12.png\n", 1))
    with pytest.warns(UserWarning, match="'Bild' is taken for the header"):
        assert find_records(source, "ids", tmp_path / "a.csv", Request()).positions == [4, 1]


@pytest.mark.parametrize("text", ['{"a": 1}', "[1.5]", "[null]", '["a", {"file": "b"}]', "[" * 100, "nothing"])
def test_json_that_is_no_list(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        read_records(tmp_path / "a.json", "ids")


# ── names ──


def test_names_are_paths_within_the_data(source, tmp_path, monkeypatch):
    root = tmp_path / "data"
    (root / "train" / "ann").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    for place in (root, "data", tmp_path / "link", "link"):
        names = Names(IDS, place)
        spelled = {
            "train/ann/2.png": 1,
            "./train/ann/2.png": 1,
            "train\\ann\\2.png": 1,
            "ann/2.png": 1,
            "2.png": 1,
            "bob/1.png": 2,
            "12.png": 4,
            str(root / "train/ann/2.png"): 1,
            str(tmp_path / "link/train/ann/2.png"): 1,
            "data/train/ann/2.png": 1,
            unicodedata.normalize("NFD", "Ü 3.png"): 3,
            "/elsewhere/train/ann/2.png": None,
            str(tmp_path / "train/ann/2.png"): None,
            "nn/2.png": None,
            "ann": None,
            "": None,
            "2": None,
        }
        assert {text: names.find(text) for text in spelled} == spelled
        with pytest.raises(DataError, match="any of 2 samples"):
            names.find("1.png")


def test_an_exact_id_comes_before_the_end_of_one():
    names = Names(["1.png", "a/1.png"])
    assert names.find("1.png") == 0
    assert names.find("a/1.png") == 1
    assert Names(["7", "07"]).find("7") == 0


def test_the_same_sample_twice_is_told_however_it_is_spelled(source, tmp_path):
    from untrain.data.splits import make_split

    with pytest.raises(DataError, match=r"train/ann/2\.png comes twice"):
        make_split(source, ids=["train/ann/2.png", "2.png"])
    with pytest.raises(SettingError, match="id_column"):
        make_split(source, count=1, id_column="file")


# ── what is not there ──


def test_missing_records_are_refused_or_skipped_by_reason(source):
    elsewhere = {"in the cellar": lambda name: name.startswith("old"), "sold": lambda name: name == "x.png"}
    asked = ["12.png", "old-1.png", "x.png", "nobody.png", "old-2.png"]
    with pytest.raises(UnknownName, match=r"4 unknown ids.*2 in the cellar.*1 sold.*1 unknown"):
        find_records(source, "ids", asked, Request(elsewhere=elsewhere))
    with pytest.warns(UserWarning, match="4 records are skipped"):
        found = find_records(source, "ids", asked, Request(missing="skip", elsewhere=elsewhere))
    assert found.positions == [4]
    assert found.skipped == {"in the cellar": ["old-1.png", "old-2.png"], "sold": ["x.png"], "unknown": ["nobody.png"]}
    for missing in ("refuse", "skip"):
        with pytest.raises(EmptySet, match="2 in the cellar"):
            find_records(source, "ids", ["old-1.png", "old-2.png"], Request(missing=missing, elsewhere=elsewhere))
        with pytest.raises(UnknownName, match="nobody"):
            find_records(source, "ids", ["old-1.png", "nobody"], Request(missing=missing, elsewhere=elsewhere))


def test_a_hash_depends_on_the_salt():
    assert hash_id("a", "1") == hash_id("a", "1") != hash_id("a", "2")
    assert len(hash_id("a")) == 32
    assert hash_id(os.fsdecode(b"\xff.png"))
