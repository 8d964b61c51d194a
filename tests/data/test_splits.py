import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Subset as TorchSubset

from helpers.sets import check_apart
from untrain.data.sources import Arrays, Source
from untrain.data.splits import Split, Subset, make_split
from untrain.errors import DataError, EmptySet, Overlap, SettingError, StaleFile, UnknownName

CLASSES = ("cat", "dog", "owl", "10")


@pytest.fixture
def source() -> Arrays:
    """A hundred samples of four classes; sample i is filled with i and called `r-i`."""
    pixels = torch.arange(100, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(100, 1, 2, 2).clone()
    return Arrays(pixels, torch.arange(100) % 4, CLASSES, [f"r-{i}" for i in range(100)])


def check_parts(split: Split, everything: set[int]) -> None:
    """Disjoint, ascending, within the data; nothing is lost but held-out samples of forgotten classes."""
    parts = [split.forget.tolist(), split.retain.tolist(), split.holdout.tolist()]
    assert all(part == sorted(part) for part in parts)
    union = [index for part in parts for index in part]
    assert len(union) == len(set(union)) and set(union) <= everything


# ── kinds of requests ──


def test_fraction_is_seeded_and_of_the_training_set(source: Source) -> None:
    split = make_split(source, fraction=0.1, holdout=0.2, seed=3)
    check_parts(split, set(range(100)))
    assert [len(part) for part in (split.forget, split.retain, split.holdout)] == [8, 72, 20]
    assert make_split(source, fraction=0.1, holdout=0.2, seed=3).hash == split.hash
    assert make_split(source, count=8, holdout=0.2, seed=3).forget.tolist() == split.forget.tolist()
    assert make_split(source, fraction=0.1, holdout=0.2, seed=4).forget.tolist() != split.forget.tolist()


def test_classes_by_number_and_by_name(source: Source) -> None:
    split = make_split(source, classes=["owl", 0])
    check_parts(split, set(range(100)))
    assert source.labels[split.forget].unique().tolist() == [0, 2] and len(split.forget) == 50
    assert source.labels[split.retain].unique().tolist() == [1, 3]
    assert split.spec["classes"] == ["cat", "owl"]
    # "10" is the name of class 3; "1" is no name, so it is a number.
    assert source.labels[make_split(source, classes=["10"]).forget].unique().tolist() == [3]
    assert source.labels[make_split(source, classes=["1"]).forget].unique().tolist() == [1]


def test_held_out_samples_of_a_forgotten_class_are_in_no_part(source: Source) -> None:
    shared = make_split(source, count=1, holdout=0.4, seed=5).holdout
    split = make_split(source, classes=[1], holdout=0.4, seed=5)
    check_parts(split, set(range(100)))
    of_class = shared[source.labels[shared] == 1].tolist()
    assert of_class
    assert split.holdout.tolist() == [i for i in shared.tolist() if i not in of_class]
    assert not set(of_class) & {*split.forget.tolist(), *split.retain.tolist()}
    assert set(split.forget.tolist()) == {i for i in range(100) if i % 4 == 1} - set(of_class)


def test_all_requests_of_a_seed_share_the_held_out_part(source: Source) -> None:
    kinds: list[dict[str, Any]] = [{"fraction": 0.3}, {"fraction": 0.05}, {"count": 7}]
    held = [make_split(source, holdout=0.25, seed=1, **kind).holdout.tolist() for kind in kinds]
    assert held[0] == held[1] == held[2] and len(held[0]) == 25
    assert make_split(source, count=7, holdout=0.25, seed=2).holdout.tolist() != held[0]


def test_requested_records_are_forgotten_even_if_the_seed_would_hold_them_out(source: Source) -> None:
    shared = make_split(source, count=1, holdout=0.4, seed=5).holdout.tolist()
    wanted = [*shared[:3], next(i for i in range(100) if i not in shared)]
    split = make_split(source, indices=wanted, holdout=0.4, seed=5)
    check_parts(split, set(range(100)))
    assert split.forget.tolist() == sorted(wanted)
    assert split.holdout.tolist() == shared[3:]
    assert len(split.retain) == 100 - len(shared) - 1


def test_within_takes_a_part_of_the_data(source: Source) -> None:
    pool = torch.arange(0, 100, 2)
    for kind in ({"fraction": 0.2}, {"classes": [2]}, {"indices": [4, 8]}):
        check_parts(make_split(source, holdout=0.2, within=pool, **kind), set(pool.tolist()))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"not within the training data .first: 5"):
        make_split(source, indices=[4, 5], within=pool)
    for wrong in ([], [1, 1], [-1], [100]):
        with pytest.raises(DataError, match="within must hold different indices from 0 to 99"):
            make_split(source, count=1, within=torch.tensor(wrong, dtype=torch.int64))


FILES = {
    "a.txt": "3\n 17\n\n5\n",
    "b.csv": "3\n17\n5\n",
    "c.csv": "number,name\n3,x\n17,y\n5,z\n",
    "d.csv": "name,Index\nx,3\ny,17\nz,5\n",
    "e.csv": "\ufeffindex\r\n3\r\n17\r\n5\r\n",
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_indices(source: Source, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    split = make_split(source, indices=tmp_path / name)
    assert split.forget.tolist() == [3, 5, 17]
    assert split.spec["indices"]["file"] == name


@pytest.mark.parametrize(
    "given", [np.array([17, 3, 5]), torch.tensor([5, 3, 17]), [3, 5, 17], (17, 3, 5), range(3, 18, 7)]
)
def test_indices_from_python(source: Source, tmp_path: Path, given: Any) -> None:
    expected = sorted(int(i) for i in given)
    assert make_split(source, indices=given).forget.tolist() == expected
    np.save(tmp_path / "a.npy", np.array([int(i) for i in given]))
    assert make_split(source, indices=str(tmp_path / "a.npy")).forget.tolist() == expected


def test_files_of_ids(source: Source, tmp_path: Path) -> None:
    for name, text in (
        ("a.txt", "r-3\nr-17\n"),
        ("b.csv", "r-3\nr-17\n"),
        ("c.csv", 'note,id\n"a, quoted",r-17\nb,r-3\n'),
    ):
        (tmp_path / name).write_text(text)
        split = make_split(source, ids=tmp_path / name)
        assert split.forget.tolist() == [3, 17] and split.kind == "ids"
    np.save(tmp_path / "d.npy", np.array(["r-3", "r-17"]))
    assert make_split(source, ids=tmp_path / "d.npy").forget.tolist() == [3, 17]
    split.save(tmp_path / "split.json")
    assert "r-17" not in (tmp_path / "split.json").read_text()  # who asked to be deleted is not written down


# ── requests that cannot be met ──


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({}, SettingError, "exactly one of classes, .* got nothing"),
        ({"classes": [1], "fraction": 0.1}, SettingError, "got classes and fraction"),
        ({"indices": [1], "ids": ["r-1"]}, SettingError, "got indices and ids"),
        ({"fraction": 0.1, "count": 3}, SettingError, "fraction and count"),
        ({"fraction": 0.0}, SettingError, "fraction must lie between 0 and 1, not at 0.0"),
        ({"fraction": 1.0}, SettingError, "fraction must lie between 0 and 1"),
        ({"fraction": 0.001}, EmptySet, "the forget set is empty"),
        ({"count": 0}, EmptySet, "the forget set is empty"),
        ({"count": -1}, SettingError, "count must lie from 1 to 99"),
        ({"count": 101}, SettingError, "count must lie from 1 to 99"),
        ({"count": 100}, EmptySet, "the forget set is everything"),
        ({"classes": [0, 1, 2, 3]}, EmptySet, "the forget set is everything"),
        ({"indices": range(100)}, EmptySet, "the forget set is everything"),
        ({"indices": []}, EmptySet, "indices lists no record"),
        ({"count": 1, "holdout": 1.0}, SettingError, "holdout must lie in"),
        ({"count": 1, "holdout": -0.1}, SettingError, "holdout must lie in"),
        ({"classes": ["cow"]}, UnknownName, "unknown class 'cow'.*Known: 0 cat, 1 dog, 2 owl, 3 10"),
        ({"classes": [4]}, UnknownName, "unknown class '4'"),
        ({"classes": [-1]}, UnknownName, "unknown class '-1'"),
        ({"indices": [3, 100]}, DataError, "index 100 is out of range, which is 0 to 99"),
        ({"indices": [3, -1]}, DataError, "index -1 is out of range"),
        ({"indices": [3, 5, 3]}, DataError, "index 3 comes twice"),
        ({"indices": [1.5]}, DataError, "1.5 is not an index"),
        ({"indices": [True]}, DataError, "True is not an index"),
        ({"ids": ["r-1", "r-x"]}, UnknownName, "1 unknown ids .first: 'r-x'.* look like 'r-0'"),
        ({"ids": ["r-1", "r-1"]}, DataError, "id r-1 comes twice"),
    ],
)
def test_requests_that_cannot_be_met(
    source: Source, request_: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_split(source, **request_)


def test_a_class_without_samples(source: Arrays) -> None:
    some = Arrays(source.input[:4:2], source.labels[:4:2], CLASSES)
    with pytest.raises(EmptySet, match=r"the forget set is empty: classes \['dog'\] chose no sample"):
        make_split(some, classes=["dog"])
    with pytest.raises(SettingError, match="has no ids"):
        make_split(some, ids=["r-1"])


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.txt", b"", EmptySet, "lists no record"),
        ("a.csv", b"index\n", EmptySet, "lists no record"),
        ("a.txt", b"3\nfour\n", DataError, "'four' is not an index"),
        ("a.csv", b"name,index\nx,3\ny\n", DataError, "the row 'y' has no column 2"),
        ("a.txt", b"\xff\xfe\x00", DataError, "cannot be read as a list of indices"),
        ("a.npy", b"no array", DataError, "cannot be read as a list of indices"),
        ("a.txt", b"3\n250\n", DataError, "index 250 is out of range"),
        ("a.csv", b"3\n3\n", DataError, "index 3 comes twice"),
    ],
)
def test_files_that_cannot_be_used(
    source: Source, tmp_path: Path, name: str, content: bytes, error: type[Exception], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        make_split(source, indices=tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_file_and_a_folder(source: Source, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            make_split(source, indices=path)


def test_a_file_of_objects_runs_no_code(source: Source, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        make_split(source, indices=tmp_path / "a.npy")


# ── files of splits ──


def test_a_saved_split_comes_back(source: Source, tmp_path: Path) -> None:
    split = make_split(source, classes=[1], holdout=0.1, seed=2)
    split.save(tmp_path / "split.json")
    again = Split.load(tmp_path / "split.json", source)
    assert (again.hash, again.kind, again.spec) == (split.hash, split.kind, split.spec)
    for part in ("forget", "retain", "holdout"):
        assert torch.equal(getattr(again, part), getattr(split, part)) and getattr(again, part).dtype == torch.int64
    make_split(source, fraction=0.5).save(tmp_path / "none.json")
    assert len(Split.load(tmp_path / "none.json", source).holdout) == 0


def test_a_stale_split_is_refused(source: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    make_split(source, count=3).save(path)
    changed = source.input.clone()
    changed[7, 0, 0, 0] += 1
    with pytest.raises(StaleFile, match="made of other data"):
        Split.load(path, Arrays(changed, source.labels, CLASSES))
    content = json.loads(path.read_text())
    content["forget"] = content["forget"][1:]
    path.write_text(json.dumps(content))
    with pytest.raises(StaleFile, match="was changed after it was written"):
        Split.load(path, source)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"forget": ["a"], "retain": [], "holdout": []}'])
def test_files_that_are_no_splits(source: Source, tmp_path: Path, text: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(DataError, match="cannot be read as a split"):
        Split.load(tmp_path / "split.json", source)
    with pytest.raises(DataError, match="cannot be read as a split"):
        Split.load(tmp_path / "missing.json", source)


# ── views ──


def test_a_subset_keeps_the_numbers_of_its_source(source: Source) -> None:
    view = Subset(source, [40, 7, 91])
    assert isinstance(view, Source)
    assert [int(sample["index"]) for sample in (view[0], view[1], view[2])] == [40, 7, 91]
    batch = view.batch(torch.tensor([2, 0]))
    assert batch["index"].tolist() == [91, 40] and batch["input"][:, 0, 0, 0].tolist() == [91, 40]
    assert view.labels.tolist() == [0, 3, 3] and view.ids == ("r-40", "r-7", "r-91") and view.classes == CLASSES
    nested = Subset(view, torch.tensor([2, 1]))
    assert next(iter(DataLoader(nested, batch_size=2)))["index"].tolist() == [91, 7]
    apart = view.select(torch.tensor([1]))
    assert int(apart[0]["index"]) == 0 and apart.ids == ("r-7",)
    assert view.fingerprint() != Subset(source, [7, 40, 91]).fingerprint()
    assert view.to("cpu") is view and Subset(source, []).to("meta").source is source.to("meta")
    with pytest.raises(IndexError):
        view[3]
    for wrong in ([100], [-1]):
        with pytest.raises(DataError, match="from 0 to 99"):
            Subset(source, wrong)


# ── sets that must be apart ──


def test_overlap_by_index(source: Source) -> None:
    plain = TensorDataset(torch.rand(10, 2), torch.arange(10))
    for kind, base in ((Subset, source), (TorchSubset, source), (TorchSubset, plain)):
        check_apart(kind(base, [1, 2]), kind(base, [3, 4]))  # type: ignore[operator]
        with pytest.raises(Overlap, match=r"2 samples are in both .*first: index 2.*Remove them"):
            check_apart(kind(base, [3, 1, 2]), kind(base, [2, 3, 4]))  # type: ignore[operator]
        with pytest.raises(Overlap, match="first: index 1"):
            check_apart(kind(base, [1]), base)  # type: ignore[operator]
    with pytest.raises(Overlap, match="first: index 7"):
        check_apart(TorchSubset(Subset(source, [5, 6, 7]), [2]), TorchSubset(source, [7]))
    check_apart(TorchSubset(Subset(source, [5, 6, 7]), [1, 2]), TorchSubset(source, [1, 2]))


def test_overlap_by_id(source: Arrays) -> None:
    other = Arrays(source.input[:2], [0, 1], CLASSES, ["x-0", "r-41"])
    check_apart(Subset(source, [40]), other)
    with pytest.raises(Overlap, match=r"1 samples are in both .*first: id r-41"):
        check_apart(Subset(source, [40, 41]), TorchSubset(other, [1]))
    batches = [
        {"input": torch.rand(2, 2), "id": torch.tensor([3, 4])},
        {"input": torch.rand(1, 2), "id": torch.tensor([5])},
    ]
    with pytest.raises(Overlap, match="first: id 5"):
        check_apart(batches, [{"input": torch.rand(1, 2), "id": torch.tensor([5])}])
    # Without ids, and without a common data set, nothing is known.
    check_apart([(torch.zeros(1, 2), torch.zeros(1))], [(torch.zeros(1, 2), torch.zeros(1))])


def test_a_csv_file_written_by_the_csv_module(source: Source, tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["index", "why"], [8, 'asked, "twice"'], [9, "asked"]])
    assert make_split(source, indices=tmp_path / "a.csv").forget.tolist() == [8, 9]
