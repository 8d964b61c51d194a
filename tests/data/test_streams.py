import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from untrain.data.sources import Arrays
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import DataError, EmptySet, SettingError
from untrain.tasks.classification.task import Classification

TASK = Classification()
ENGINE = Engine(torch.device("cpu"))


def numbered(count):
    return TensorDataset(torch.arange(count).float()[:, None], torch.arange(count) % 3)


class Noisy(Dataset):
    """A data set that augments by itself, from all three global generators."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return {"input": torch.rand(2) + np.random.rand(), "label": i % 2}


def stream(data, **options):
    return Stream(data, "retain", ENGINE, **{"batch_size": 8, **options})


def test_batch_k_is_a_function_of_seed_and_k_alone():
    first, second = stream(numbered(20)), stream(numbered(20))
    for k in (5, 0, 3):
        a, b = first.batch(k, TASK, "retain"), second.batch(k, TASK, "retain")
        assert torch.equal(a["index"], b["index"])
    other = stream(numbered(20), seed=1)
    assert not torch.equal(other.batch(0, TASK, "retain")["index"], first.batch(0, TASK, "retain")["index"])


def test_every_batch_is_full_and_every_sample_comes_equally_often():
    batches = [stream(numbered(20)).batch(k, TASK, "retain")["index"] for k in range(5)]
    assert all(len(batch) == 8 for batch in batches)
    assert torch.cat(batches).bincount().tolist() == [2] * 20
    assert sorted(torch.cat(batches)[:20].tolist()) == list(range(20))


def test_a_set_smaller_than_a_batch_is_one_batch():
    small = stream(numbered(5))
    assert sorted(small.batch(0, TASK, "retain")["index"].tolist()) == list(range(5))
    assert small.epoch == 1


def test_ready_batches_are_used_as_they_are_in_order_and_again():
    batches = [(torch.full((n, 1), float(n)), torch.zeros(n, dtype=torch.long)) for n in (3, 1, 2)]
    ready = stream(batches)
    assert len(ready) == 6
    for k in range(7):
        assert torch.equal(ready.batch(k, TASK, "forget")["input"], batches[k % 3][0])
    assert ready.batch(2, TASK, "forget")["index"].tolist() == [4, 5]


def test_once_sees_every_sample_once_and_moves_nothing():
    data = stream(numbered(20))
    before = data.batch(0, TASK, "retain")["index"]
    seen = torch.cat([batch["index"] for batch in data.once(TASK, "fisher")])
    assert seen.tolist() == list(range(20))
    assert torch.equal(data.batch(0, TASK, "retain")["index"], before)
    limited = torch.cat([batch["index"] for batch in data.once(TASK, "fisher", limit=7)])
    assert len(limited.unique()) == 7


def test_subsets_keep_the_numbers_of_their_data_set():
    base = numbered(20)
    view = Subset(Subset(base, [19, 3, 7, 11]), [3, 1])
    assert sorted(stream(view).batch(0, TASK, "retain")["index"].tolist()) == [3, 11]


def test_a_data_set_that_draws_is_repeatable_and_leaves_global_generators_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    a = stream(Noisy()).batch(4, TASK, "retain")["input"]
    assert torch.rand(1) == expected[0]
    assert np.random.rand() == expected[1]
    b = stream(Noisy()).batch(4, TASK, "retain")["input"]
    assert torch.equal(a, b)
    assert not torch.equal(a, stream(Noisy()).batch(5, TASK, "retain")["input"])


def test_workers_give_the_same_batches():
    alone, helped = stream(Noisy()), stream(Noisy(), workers=1)
    for k in (2, 3, 0):
        a, b = alone.batch(k, TASK, "retain"), helped.batch(k, TASK, "retain")
        assert torch.equal(a["input"], b["input"])
        assert torch.equal(a["index"], b["index"])


def test_arrays_are_gathered():
    arrays = Arrays(torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1), torch.arange(20) % 2)
    batch = stream(arrays).batch(0, TASK, "retain")
    assert torch.equal(batch["input"].view(-1).long(), batch["index"])


def test_empty_sets_are_refused():
    for data in ([], TensorDataset(torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)), Subset(numbered(3), [])):
        with pytest.raises(EmptySet, match="retain set is empty"):
            stream(data)


@pytest.mark.parametrize(
    "samples",
    [
        [(torch.zeros(3, 8, 8), 1), (torch.zeros(3, 8, 8), 0)],
        [(torch.zeros(3, 8, 8), torch.tensor(1))],
        [{"input": torch.zeros(3, 8, 8), "label": torch.tensor(1)}],
        [(torch.zeros(3, 8), torch.zeros(5, dtype=torch.long))],
    ],
)
def test_a_list_of_single_samples_is_refused(samples):
    with pytest.raises(DataError, match="not a batch"):
        stream(samples)


def test_nan_names_the_sample():
    x = torch.zeros(20, 2)
    x[13, 1] = float("nan")
    with pytest.raises(DataError, match="index 13"):
        list(stream(TensorDataset(x, torch.zeros(20, dtype=torch.long))).once(TASK, "evaluate"))
    with pytest.raises(DataError, match="NaN"):
        stream([(x, torch.zeros(20, dtype=torch.long))])


def test_what_is_no_data_set_is_refused():
    for data in (torch.zeros(3, 2), "folder", 7, {"a": 1}):
        with pytest.raises(DataError, match="map-style"):
            stream(data)
    with pytest.raises(SettingError, match="batch_size"):
        stream(numbered(3), batch_size=0)


def test_an_unreadable_sample_is_named():
    class Broken(Noisy):
        def __getitem__(self, i):
            if i == 4:
                raise OSError("truncated file")
            return super().__getitem__(i)

    with pytest.raises(DataError, match="sample 4 of the retain set.*truncated"):
        list(stream(Broken()).once(TASK, "evaluate"))
