"""Samples that two sets share are found under any nesting of views; equal ones by their content."""

import time

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from helpers.sets import check_apart
from untrain.data import content, samples
from untrain.data.checks import check_places, compare_content
from untrain.data.columns import Columns
from untrain.data.content import MOST_READ, content_of, contents_of
from untrain.data.sameness import places_of, repeated
from untrain.data.samples import Images
from untrain.data.sources import load
from untrain.data.splits import Subset as View
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import DataError, Overlap

ENGINE = Engine(torch.device("cpu"))
X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3
WHOLE = TensorDataset(X, Y)
COLUMNS = Columns({"input": X, "label": Y})
TABLE = datasets.Dataset.from_dict({"input": X.tolist(), "label": Y.tolist()})


class Computed(Dataset):
    """A user's own data set, which nobody can look into."""

    def __len__(self):
        return 60

    def __getitem__(self, i):
        return {"input": X[i], "label": int(Y[i])}


OWN = Computed()
BASES = {"tensors": WHOLE, "own": OWN, "columns": COLUMNS, "table": TABLE}
NESTED = {
    "subset": lambda base, rows: Subset(base, rows),
    "subset of a subset": lambda base, rows: Subset(Subset(base, range(59, -1, -1)), [59 - i for i in rows]),
    "chained": lambda base, rows: ConcatDataset([Subset(base, rows[:2]), Subset(base, rows[2:])]),
    "subset of chained sets": lambda base, rows: Subset(
        ConcatDataset([TensorDataset(X + 9, Y), Subset(base, range(60))]), [60 + i for i in rows]
    ),
    "loader": lambda base, rows: DataLoader(Subset(base, rows), 2, shuffle=True),
    "loader of a nested view": lambda base, rows: DataLoader(Subset(ConcatDataset([base]), rows), 4),
}


@pytest.mark.parametrize("a", NESTED)
@pytest.mark.parametrize("b", NESTED)
@pytest.mark.parametrize("base", BASES)
def test_a_shared_sample_is_found_under_any_nesting(base, a, b):
    first, second = (lambda rows, make=NESTED[kind]: make(BASES[base], rows) for kind in (a, b))
    check_apart(first([1, 2, 3, 4]), second([5, 6, 7, 8]))
    with pytest.raises(Overlap, match=r"2 samples.*index 3\)"):
        check_apart(first([1, 2, 3, 4]), second([9, 4, 3, 8]))


@pytest.mark.parametrize(
    ("shown", "shared"),
    [
        (TABLE.select(range(4, 9)), True),
        (TABLE.select([8, 4, 7]), True),
        (TABLE.shuffle(seed=0).select(range(50)), True),
        (TABLE.select(range(30)).select([9, 4]), True),
        (TABLE.with_format("torch").select(range(4, 9)), True),
        (TABLE.rename_column("label", "y").select([4]), True),
        (TABLE.filter(lambda row: row["label"] == 1), True),
        (datasets.concatenate_datasets([TABLE.select(range(40, 50)), TABLE.select(range(3, 5))]), True),
        (ConcatDataset([TABLE.select(range(9, 20)), TABLE.select([4])]), True),
        (TABLE.select(range(5, 60)), False),
        (TABLE.select([5, 59, 7]), False),
        (TABLE.select(range(30)).select([9, 14]), False),
        (TABLE.train_test_split(0.5, shuffle=False)["test"], False),
        (datasets.concatenate_datasets([TABLE.select(range(40, 50)), TABLE.select(range(5, 9))]), False),
    ],
)
def test_views_of_a_table(shown, shared):
    for forget in (TABLE.select(range(5)), TABLE.select([4, 0, 2]), Subset(TABLE, [4])):
        if shared:
            with pytest.raises(Overlap):
                check_apart(forget, shown)
        else:
            check_apart(forget, shown)


def test_views_of_a_source():
    nested = View(View(COLUMNS, range(10, 30)), [0, 5])
    check_apart(nested, Subset(COLUMNS, range(10)))
    with pytest.raises(Overlap, match="index 15"):
        check_apart(nested, ConcatDataset([Subset(COLUMNS, range(10)), Subset(COLUMNS, [15])]))


def test_tensors_that_share_memory():
    check_apart(TensorDataset(X[:9], Y[:9]), TensorDataset(X[9:], Y[9:]))
    with pytest.raises(Overlap, match=r"1 samples.*index 8\)"):
        check_apart(TensorDataset(X[:9], Y[:9]), TensorDataset(X[8:], Y[8:]))
    with pytest.raises(Overlap, match="index 8"):
        check_apart([(X[:9], Y[:9])], TensorDataset(X[8:], Y[8:]))
    one = torch.zeros(1, 3).expand(60, 3)  # whose rows have no memory of their own
    check_apart(TensorDataset(one, Y), TensorDataset(one, Y))


def test_lists_of_batches():
    batches = [{"x": x, "y": y} for x, y in zip(X.split(7), Y.split(7), strict=True)]
    check_apart(batches[:3], batches[3:])
    with pytest.raises(Overlap):
        check_apart(batches[:3], batches[2:])
    copied = [{name: value.clone() for name, value in batch.items()} for batch in batches]
    check_apart(batches, copied)


def test_ids_are_names_of_samples_or_nothing():
    class Named(Computed):
        def __init__(self, ids):
            self.ids = ids

    with pytest.raises(Overlap, match="60 samples"):
        check_apart(Named(list(range(60))), Named(list(range(60))))
    for meaning_something_else in ([1, 2, 3], [7] * 60, "letters", torch.zeros(60, 4)):
        check_apart(Named(meaning_something_else), Named(meaning_something_else))


def test_a_sample_that_comes_twice_in_a_set():
    assert repeated(places_of(WHOLE)) is None
    assert repeated(places_of(ConcatDataset([Subset(WHOLE, [1, 2]), Subset(WHOLE, [3])]))) is None
    assert repeated(places_of(TABLE.select([5, 6, 5]))) == 5
    with pytest.raises(DataError, match="index 2 comes twice in the forget set"):
        check_places({"forget": ConcatDataset([Subset(WHOLE, [1, 2]), Subset(WHOLE, [2])])})


# ── content ─────────────────────────────────────────────────────────────────────────────────────────────────────


def streams(**sets):
    return check_places(sets), {name: Stream(data, name, ENGINE) for name, data in sets.items()}


COPIES = {
    "tensors": lambda rows: TensorDataset(X[rows].clone(), Y[rows]),
    "table": lambda rows: datasets.Dataset.from_dict({"image_vector": X[rows].tolist(), "label": Y[rows].tolist()}),
    "named": lambda rows: [{"pixel_values": X[rows].clone(), "labels": Y[rows]}],
    "loader": lambda rows: DataLoader(TensorDataset(X[rows].clone(), Y[rows]), 4),
    "chained": lambda rows: ConcatDataset([TensorDataset(X[rows].clone(), Y[rows])]),
    "columns": lambda rows: Columns({"input": X[rows].clone(), "label": Y[rows]}),
    "own": lambda rows: Subset(Computed(), rows),
}


@pytest.mark.parametrize("a", COPIES)
@pytest.mark.parametrize("b", COPIES)
def test_equal_content_is_a_warning_however_it_is_handed_over(a, b):
    with pytest.warns(UserWarning, match="2 samples of the forget set are equal.*number 2 and number 0"):
        compare_content(*streams(forget=COPIES[a]([1, 2, 3, 4]), retain=COPIES[b]([3, 4, 8])))
    assert compare_content(*streams(forget=COPIES[a]([1, 2, 3, 4]), retain=COPIES[b]([5, 6, 8]))) == []


def test_duplicates_within_a_set_are_a_note():
    data = TensorDataset(torch.cat([X[:9], X[:2]]), Y[:11])
    assert "forget: 2 samples" in compare_content(*streams(forget=data, retain=TensorDataset(X[20:], Y[20:])))[0]


def test_views_of_one_data_set_are_not_read():
    class Costly(Computed):
        def __getitem__(self, i):
            raise AssertionError("it was read")

    base = Costly()
    assert compare_content(*streams(forget=Subset(base, [1]), retain=Subset(base, [2]))) == []


def test_of_a_large_set_that_is_computed_a_part_is_read_and_a_note_says_so():
    class Large(Computed):
        def __len__(self):
            return 10 * MOST_READ

        def __getitem__(self, i):
            return torch.tensor([float(i)]), 0

    found = content_of(Stream(Large(), "retain", ENGINE))
    assert len(found.hashes) == MOST_READ
    assert not found.whole
    with pytest.warns(UserWarning, match="equal"):
        notes = compare_content(*streams(forget=Large(), retain=Large()))
    assert [f"{MOST_READ:,} samples" in note for note in notes] == [True, True]


def test_ids_as_tokens_are_content():
    mask = torch.ones(4, 5)
    sets = streams(
        forget=[{"ids": torch.zeros(4, 5) + torch.arange(4)[:, None], "mask": mask, "target": Y[:4]}],
        retain=[{"ids": torch.zeros(4, 5) + torch.arange(4, 8)[:, None], "mask": mask.clone(), "target": Y[:4]}],
    )
    assert compare_content(*sets) == []


def test_cost():
    """50,000 samples in seconds: places take milliseconds, content of tensors a second."""
    x = torch.randn(50_000, 3, 8, 8)
    data = TensorDataset(x, torch.zeros(50_000, dtype=torch.long))
    halves = ConcatDataset([Subset(data, range(25_000)), Subset(data, range(25_000, 50_000))])
    rows = datasets.Dataset.from_dict({"input": torch.arange(50_000.0).tolist(), "label": [0] * 50_000})
    start = time.perf_counter()
    check_places({"forget": Subset(halves, range(500)), "retain": Subset(data, range(500, 50_000))})
    check_places({"forget": rows.select(range(0, 50_000, 2)), "retain": rows.select(range(1, 50_000, 2))})
    places = time.perf_counter() - start
    compare_content(*streams(forget=Subset(data, range(500)), retain=Subset(data, range(500, 50_000))))
    assert places < 3
    assert time.perf_counter() - start < 10


def test_of_many_image_files_equal_files_are_told(tmp_path, monkeypatch):
    """By their bytes, which were read when they were looked at; nothing is decoded for it."""
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.random.default_rng(0 if (name, i) == ("b", 0) else i + 9 * (name == "b")).integers(
                0, 256, (8, 8)
            )
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "train" / name / f"{i}.png")
    monkeypatch.setattr(samples, "DECODED_FIRST", 2)
    source = load("folder", "train", path=tmp_path)
    monkeypatch.setattr(Images, "decode", lambda self, i, data: pytest.fail("an image is decoded"))
    with pytest.warns(UserWarning, match=r"1 samples of the forget set are equal .* number 0 and number 1"):
        compare_content(*streams(forget=View(source, [0, 1]), retain=View(source, [2, 3, 4])))
    assert compare_content(*streams(forget=View(source, [0, 1]), retain=View(source, [2, 4]))) == []
    values = Columns({"input": torch.randn(4, 3), "label": torch.arange(4)})
    (note,) = compare_content(*streams(forget=View(source, [0]), retain=values))
    assert note.startswith("forget was compared by its files, retain by its values")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_sets_in_memory_are_compared_by_a_few_bytes_as_by_all(dtype):
    """Of rows that differ in their last number alone, too, which these bytes do not show."""
    x = torch.randint(0, 200, (3000, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    x[1000:1500] = x[:500]
    x[1000:1400, -1, -1, -1] += 1
    x[2500:2510] = x[2]
    y = torch.arange(3000)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(1)).tolist()
    sets = {"forget": Subset(TensorDataset(x, y), order), "retain": TensorDataset(x[2000:], y[2000:])}
    sets["holdout"] = [(x[10:30], y[10:30])]
    read = {name: Stream(data, name, ENGINE) for name, data in sets.items()}
    quick, whole = contents_of(read), {name: content_of(stream) for name, stream in read.items()}
    for name in read:
        assert quick[name].duplicates == whole[name].duplicates
        assert [quick[name].equal_to(quick[other]) for other in read] == [
            whole[name].equal_to(whole[other]) for other in read
        ]
    assert (quick["forget"].duplicates, quick["retain"].duplicates) == (100, 9)
    assert len(quick["holdout"].equal_to(quick["forget"])) == 20


def test_of_sets_in_memory_most_samples_are_not_hashed_whole(monkeypatch):
    hashed: list[int] = []
    take = content.take
    monkeypatch.setattr(content, "take", lambda values, rows: hashed.append(len(rows)) or take(values, rows))
    x = torch.rand(2000, 300, generator=torch.Generator().manual_seed(0))
    x[1500] = x[3]
    sets = {"forget": TensorDataset(x[:100], Y[:1].expand(100)), "retain": TensorDataset(x[100:], torch.zeros(1900))}
    found = contents_of({name: Stream(data, name, ENGINE) for name, data in sets.items()})
    assert found["forget"].equal_to(found["retain"]) == [(3, 1400)]
    assert sum(hashed) <= 4 * 2  # two samples, each of an input, a label and an index
